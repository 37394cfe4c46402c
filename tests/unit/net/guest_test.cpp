// Guests of the loop (LoopPair): short ones run in its thread, a long one does not stop it. And
// reading one message at a time: nobody is missed, and silence is judged all the same.
#include <sys/resource.h>

#include <catch2/catch.hpp>

#include "tests/unit/net/net_support.h"

using namespace dray;
using namespace dray::test;

namespace {
HostOptions guest_options(const std::string& endpoint) {
  HostOptions options;
  options.link = link_options(Role::broker, 1);
  options.listen = {{1, endpoint}};
  options.guests = true;
  return options;
}

// A listener that can be told to take a guest, and a dialer that asks it all the time.
struct Scene {
  Scene() : server(guest_options(fresh_ipc())) {
    server.host.set_on_turn([this](Now, Lanes&) {
      loop_thread = std::this_thread::get_id();
      if (!wanted || !server.host.can_have_guest()) return;
      wanted = false;
      server.host.run_guest([this] { guest(); });
    });
    REQUIRE(server.start());
    client = dialer(server.host.endpoint(1));
    client->core.on_opened = [](SessionId id, Lanes& out) { out.now.push_back(query(id, 1)); };
    client->core.on_answer = [this](SessionId from, const Envelope& e, Message&, Lanes& out) {
      answers = e.req;
      out.now.push_back(query(from, e.req + 1));
    };
    REQUIRE(client->start());
    REQUIRE(wait_for([&] { return answers > 10; }, 5s));
    REQUIRE(wait_for([&] { return server.host.can_have_guest(); }, 1s));
  }
  ~Scene() {
    released = true;
    client->stop();
    server.stop();
  }
  void guest() {
    guest_thread = std::this_thread::get_id();
    ++entered;
    while (blocks && !released) std::this_thread::sleep_for(1ms);
    ++returned;
  }
  void invite() {
    wanted = true;
    server.host.wake();
  }

  Runner server;
  std::unique_ptr<Runner> client;
  std::atomic<bool> wanted{false}, blocks{false}, released{false};
  std::atomic<int> entered{0}, returned{0};
  std::atomic<uint64_t> answers{0};
  std::atomic<std::thread::id> loop_thread{}, guest_thread{};
};
}  // namespace

TEST_CASE("guest: a short one runs in the loop's thread, and the loop goes on") {
  Scene scene;
  for (int i = 1; i <= 200; ++i) {
    scene.invite();
    REQUIRE(wait_for([&] { return scene.returned == i; }, 2s));
  }
  CHECK(scene.guest_thread.load() != std::thread::id{});
  const uint64_t before = scene.answers;
  CHECK(wait_for([&] { return scene.answers > before + 100; }, 2s));
}

TEST_CASE("guest: a long one loses the loop to the spare, and comes back as the spare") {
  Scene scene;
  scene.blocks = true;
  scene.invite();
  REQUIRE(wait_for([&] { return scene.entered == 1; }, 2s));
  const uint64_t before = scene.answers;
  CHECK(wait_for([&] { return scene.answers > before + 1000; }, 5s));
  CHECK(scene.returned == 0);
  CHECK(scene.loop_thread.load() != scene.guest_thread.load());
  // Nobody would take over from a second one, so there is none.
  CHECK(!scene.server.host.can_have_guest());
  scene.invite();
  CHECK(!wait_for([&] { return scene.entered == 2; }, 100ms));
  scene.released = true;
  REQUIRE(wait_for([&] { return scene.returned == 2; }, 2s));
  CHECK(wait_for([&] { return scene.server.host.can_have_guest(); }, 2s));
}

TEST_CASE("guest: the host ends while one is stuck") {
  auto scene = std::make_shared<Scene>();
  scene->blocks = true;
  scene->invite();
  REQUIRE(wait_for([&] { return scene->entered == 1; }, 2s));
  const Time before = read_mono();
  scene->server.stop();
  CHECK(scene->server.ok);
  CHECK(read_mono() - before < 5s);
  CHECK(scene->returned == 0);
  scene->released = true;
  CHECK(wait_for([&] { return scene->returned == 1; }, 2s));
}

TEST_CASE("guest: none without a second thread") {
  auto server = listener(fresh_ipc());
  REQUIRE(server->start());
  CHECK(!server->host.can_have_guest());
}

TEST_CASE("one message at a time: bursts arrive whole") {
  auto server = listener(fresh_ipc());
  std::atomic<uint64_t> got{0};
  server->core.on_answer = [&](SessionId, const Envelope&, Message&, Lanes&) { ++got; };
  REQUIRE(server->start());
  auto client = dialer(server->host.endpoint(1));
  REQUIRE(client->start());
  REQUIRE(wait_for([&] { return client->core.opened == 1; }, 2s));
  uint64_t sent = 0;
  for (int i = 0; i < 300; ++i) {
    const uint64_t n = i % 50 == 49 ? 20 : 1;  // long calm, then a burst of messages of their own
    for (uint64_t k = 0; k < n; ++k)
      client->host.post([](Now, EchoCore& core, Lanes& out) {
        Send big = query(core.last, 1);
        std::get<Query>(big.message).rows = make_rows<IdRow>(std::vector<TaskId>(200));
        out.now.push_back(std::move(big));
      });
    sent += n;
    REQUIRE(wait_for([&] { return got == sent; }, 2s));
  }
  CHECK(server->host.counters().missed == 0);
  CHECK(client->host.counters().missed == 0);
}

TEST_CASE("one message at a time: a silent peer is judged while another one chats") {
  HostOptions options;
  options.link = link_options(Role::broker, 1);
  options.link.liveness = 300ms;
  options.listen = {{1, fresh_ipc()}};
  Runner server(options);
  REQUIRE(server.start());
  auto chat = dialer(server.host.endpoint(1), 2);
  chat->core.on_opened = [](SessionId id, Lanes& out) { out.now.push_back(query(id, 1)); };
  chat->core.on_answer = [](SessionId from, const Envelope& e, Message&, Lanes& out) {
    out.now.push_back(query(from, e.req + 1));
  };
  REQUIRE(chat->start());
  {
    auto silent = dialer(server.host.endpoint(1), 3);
    REQUIRE(silent->start());
    REQUIRE(wait_for([&] { return server.core.opened == 2; }, 2s));
    std::atomic<bool> over{false};
    silent->host.post([&](Now, EchoCore&, Lanes&) {  // a loop that stands still
      wait_for([&] { return over.load(); }, 10s);
    });
    CHECK(wait_for([&] { return server.core.closed == 1; }, 5s));
    CHECK(server.core.reason == CloseReason::timeout);
    over = true;
  }
}

TEST_CASE("one message at a time: posts in every turn do not keep the loop from its sockets") {
  auto server = listener(fresh_ipc());
  std::atomic<bool> over{false};
  std::function<void(Now, EchoCore&, Lanes&)> again = [&](Now, EchoCore&, Lanes&) {
    if (!over) server->host.post(again);
  };
  REQUIRE(server->start());
  server->host.post(again);
  auto client = dialer(server->host.endpoint(1));
  std::atomic<uint64_t> answers{0};
  client->core.on_opened = [](SessionId id, Lanes& out) { out.now.push_back(query(id, 1)); };
  client->core.on_answer = [&](SessionId, const Envelope&, Message&, Lanes&) { ++answers; };
  REQUIRE(client->start());
  CHECK(wait_for([&] { return answers == 1; }, 5s));
  over = true;
}

TEST_CASE("a port set without a descriptor to spare still reads") {
  Runner server([] {
    HostOptions options;
    options.link = link_options(Role::broker, 1);
    options.listen = {{1, fresh_ipc()}};
    return options;
  }());
  REQUIRE(server.start());
  PortSet ports;
  REQUIRE(ports.open({}, {{1, server.host.endpoint(1), Role::broker}}));
  Wake first, second;
  REQUIRE(first.open());
  REQUIRE(second.open());
  ports.wait(10ms, first);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit none = before;
  none.rlim_cur = 3;
  ports.send({1, 0, encode(Envelope{}, Hello{static_cast<uint8_t>(Role::client), "x", {9, 9}, 1})});
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  Packet packet;
  bool heard = false;
  for (int i = 0; i < 1000 && !heard; ++i) {
    ports.wait(10ms, second);  // everything is to be watched anew
    heard = ports.receive(packet) == Received::packet;
  }
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(heard);
  ports.close(Duration::zero());
}
