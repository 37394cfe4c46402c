// Two hosts, each in a thread, over real sockets: sessions, order, reconnects, slow readers.
#include <catch2/catch.hpp>
#include <vector>

#include "tests/system/raw_peer.h"
#include "tests/unit/net/net_support.h"

using namespace dray;
using namespace dray::test;

TEST_CASE("host: hello, welcome, request and reply, goodbye") {
  std::string endpoint = GENERATE(fresh_ipc(), std::string("tcp://127.0.0.1:0"));
  auto server = listener(endpoint);
  REQUIRE(server->start());
  auto client = dialer(server->host.endpoint(1));
  std::atomic<uint64_t> answers{0};
  client->core.on_opened = [](SessionId id, Lanes& out) { out.now.push_back(query(id, 1)); };
  client->core.on_answer = [&](SessionId from, const Envelope& e, Message& m, Lanes& out) {
    REQUIRE(std::holds_alternative<Ok>(m));
    answers = e.req;
    if (e.req < 1000) out.now.push_back(query(from, e.req + 1));
  };
  REQUIRE(client->start());
  REQUIRE(wait_for([&] { return answers == 1000; }, 5s));
  client->stop();
  CHECK(client->ok);
  CHECK(wait_for([&] { return server->core.closed == 1; }, 1s));
  CHECK(server->core.reason == CloseReason::bye);
  CHECK(server->host.counters().missed == 0);
  CHECK(client->host.counters().missed == 0);
}

TEST_CASE("host: post, poll and wake run in the loop") {
  auto server = listener(fresh_ipc());
  std::atomic<int> polled{0};
  std::atomic<int> posted{0};
  server->host.set_poll([&](Now, Lanes&) { ++polled; });
  REQUIRE(server->start());
  REQUIRE(wait_for([&] { return polled > 0; }, 1s));
  for (int i = 0; i < 100; ++i) {
    Time before = read_clock().mono;
    server->host.post([&](Now, EchoCore&, Lanes&) { ++posted; });
    REQUIRE(wait_for([&] { return posted == i + 1; }, 1s));
    CHECK(read_clock().mono - before < 80ms);  // not by the safety tick
  }
  int n = polled;
  server->host.wake();
  CHECK(wait_for([&] { return polled > n; }, 50ms));
}

TEST_CASE("host: a dialer finds a restarted listener") {
  std::string endpoint = fresh_ipc();
  auto server = listener(endpoint, 1);
  REQUIRE(server->start());
  auto client = dialer(endpoint);
  REQUIRE(client->start());
  REQUIRE(wait_for([&] { return client->core.opened == 1; }, 2s));
  server->stop();
  REQUIRE(wait_for([&] { return client->core.closed == 1; }, 1s));
  std::this_thread::sleep_for(200ms);
  server = listener(endpoint, 3);
  Time back = read_clock().mono;
  REQUIRE(server->start());
  REQUIRE(wait_for([&] { return client->core.opened >= 2; }, 3s));
  CHECK(read_clock().mono - back < 1500ms);
}

TEST_CASE("host: a peer that leaves without a word is noticed long before the next beat") {
  HostOptions options;
  options.link = link_options(Role::router, 1);
  options.link.beat = options.link.liveness = 600s;
  const std::string endpoint = fresh_ipc();
  options.listen = {{0, endpoint}};
  Runner listener(options);
  REQUIRE(listener.start());
  {
    RawPeer stays(endpoint, Role::client, "stays");
    REQUIRE(stays.dial());
    REQUIRE(stays.await_session(10s));
    {
      RawPeer leaves(endpoint, Role::client, "leaves");
      REQUIRE(leaves.dial());
      REQUIRE(leaves.await_session(10s));
    }
    CHECK(wait_for([&] { return listener.core.closed.load() == 1; }, 30s));
    CHECK(listener.core.reason.load() == CloseReason::unreachable);
    CHECK(listener.core.opened.load() == 2);
  }
}

TEST_CASE("host: a dialer that starts first, and its hellos do not pile up") {
  std::string endpoint = fresh_ipc();
  auto client = dialer(endpoint);
  REQUIRE(client->start());
  std::this_thread::sleep_for(700ms);
  auto server = listener(endpoint);
  REQUIRE(server->start());
  REQUIRE(wait_for([&] { return client->core.opened == 1; }, 1500ms));
  std::this_thread::sleep_for(50ms);
  CHECK(server->core.opened == 1);  // one HELLO arrived, not every one said meanwhile
}

TEST_CASE("host: 100,000 messages each way arrive once and in order") {
  constexpr uint64_t kCount = 100'000;
  auto server = listener(fresh_ipc());
  REQUIRE(server->start());
  auto client = dialer(server->host.endpoint(1));
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> wrong{0};
  // All requests at once: the queue behind the socket is bounded at 10,000 packets, so in steps.
  client->core.on_opened = [](SessionId id, Lanes& out) {
    for (uint64_t i = 0; i < 8000; ++i) out.now.push_back(query(id, i));
  };
  client->core.on_answer = [&](SessionId from, const Envelope& e, Message&, Lanes& out) {
    if (e.req != next) ++wrong;
    ++next;
    if (e.req + 8000 < kCount) out.now.push_back(query(from, e.req + 8000));
  };
  REQUIRE(client->start());
  REQUIRE(wait_for([&] { return next == kCount; }, 10s));
  CHECK(wrong == 0);
  CHECK(client->core.closed == 0);
  CHECK(server->core.closed == 0);
}

TEST_CASE("host: a slow reader costs bounded memory, then its session") {
  auto server = listener(fresh_ipc());
  Bytes body(std::string(256 * 1024, 'x'));
  std::atomic<bool> stalled{false};
  std::atomic<bool> release{false};
  server->host.set_poll([&](Now, Lanes& out) {
    if (!stalled || server->core.closed > 0) return;
    for (int i = 0; i < 16; ++i) {
      Send send;
      send.to = server->core.last;
      Submit submit;
      submit.bytes = body;
      send.message = submit;
      out.now.push_back(send);
    }
    server->host.wake();
  });
  REQUIRE(server->start());
  auto client = dialer(server->host.endpoint(1));
  REQUIRE(client->start());
  REQUIRE(wait_for([&] { return server->core.opened == 1; }, 2s));
  client->host.post([&](Now, EchoCore&, Lanes&) {
    stalled = true;
    wait_for([&] { return release.load(); }, 5s);
  });
  REQUIRE(wait_for([&] { return stalled.load(); }, 1s));
  server->host.wake();
  CHECK(wait_for([&] { return server->core.closed == 1; }, 4s));
  CHECK(server->core.reason == CloseReason::unreachable);
  // What libzmq took plus what waited: 64 MiB here, 32 MiB in flight, the reader's 1000 messages.
  CHECK(server->host.counters().packets_out < 1600);
  CHECK(body.owner().use_count() < 2000);
  release = true;
  REQUIRE(wait_for([&] { return server->core.opened >= 2; }, 6s));  // and it comes back
}
