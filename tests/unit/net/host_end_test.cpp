// How a host ends: draining, time limits, errors of the durable step, signals.
#include <pthread.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "tests/unit/net/net_support.h"

using namespace dray;
using namespace dray::test;

namespace {
struct DrainingCore : EchoCore {
  void begin_drain(Now, Lanes&) { ++begun; }
  bool drained() const { return finished; }
  std::atomic<int> begun{0};
  std::atomic<bool> finished{false};
};

// Says something to whom it knows when it begins to drain, and is done at once.
struct LastWordsCore : EchoCore {
  static constexpr int kWords = 3;
  void begin_drain(Now, Lanes& out) {
    Envelope e;
    for (int i = 0; i < kWords; ++i) out.now.push_back(reply_to(last, e, Ok{}));
  }
};

struct FailingDurable {
  template <class Out>
  Status persist(Out&) {
    if (fail) return make_error(Errc::no_space, "full");
    return {};
  }
  Status load(Send&) { return {}; }
  std::atomic<bool> fail{false};
};

template <class Core, class Durable>
struct Loop {
  explicit Loop(HostOptions options) : host(std::move(options), core, durable) {
    REQUIRE(host.open());
    thread = std::thread([this] {
      status = host.run();
      done = true;
    });
  }
  ~Loop() {
    host.request_stop();
    core_finish();
    thread.join();
  }
  void core_finish() {
    if constexpr (requires { core.finished = true; }) core.finished = true;
    host.wake();
  }
  Core core;
  Durable durable;
  Host<Core, Durable> host;
  Status status;
  std::atomic<bool> done{false};
  std::thread thread;
};

HostOptions options_for(const std::string& endpoint) {
  HostOptions options;
  options.link = link_options(Role::broker, 1);
  options.listen = {{1, endpoint}};
  return options;
}
}  // namespace

TEST_CASE("host end: drains first, begins once") {
  Loop<DrainingCore, NoDurable> loop(options_for(fresh_ipc()));
  loop.host.request_stop();
  loop.host.request_stop();
  REQUIRE(wait_for([&] { return loop.core.begun == 1; }, 1s));
  std::this_thread::sleep_for(150ms);
  CHECK_FALSE(loop.done);
  loop.core_finish();
  REQUIRE(wait_for([&] { return loop.done.load(); }, 1s));
  CHECK(loop.status);
  CHECK(loop.core.begun == 1);
}

TEST_CASE("host end: last words are read before the connection ends") {
  for (int round = 0; round < 20; ++round) {
    const std::string endpoint = fresh_ipc();
    auto client = dialer(endpoint);
    std::atomic<int> words{0};
    client->core.on_answer = [&](SessionId, const Envelope&, Message&, Lanes&) { ++words; };
    {
      Loop<LastWordsCore, NoDurable> loop(options_for(endpoint));
      REQUIRE(client->start());
      REQUIRE(wait_for([&] { return client->core.opened == 1; }, 5s));
    }
    REQUIRE(wait_for([&] { return client->core.closed == 1; }, 5s));
    CHECK(client->core.reason == CloseReason::bye);
    CHECK(words == LastWordsCore::kWords);
  }
}

TEST_CASE("host end: the drain has a time limit") {
  HostOptions options = options_for(fresh_ipc());
  options.drain_timeout = 200ms;
  Loop<DrainingCore, NoDurable> loop(options);
  Time begin = read_clock().mono;
  loop.host.request_stop();
  REQUIRE(wait_for([&] { return loop.done.load(); }, 2s));
  CHECK(read_clock().mono - begin >= 200ms);
  CHECK(read_clock().mono - begin < 1s);
}

TEST_CASE("host end: an error of the durable step ends the host, and nothing is promised") {
  std::string endpoint = fresh_ipc();
  Loop<EchoCore, FailingDurable> loop(options_for(endpoint));
  auto client = dialer(endpoint);
  std::atomic<int> promised{0};
  loop.core.on_answer = [&](SessionId from, const Envelope& e, Message&, Lanes& out) {
    out.now.clear();
    loop.durable.fail = true;
    out.after_sync.push_back(reply_to(from, e, Ok{}));
  };
  client->core.on_opened = [](SessionId id, Lanes& out) { out.now.push_back(query(id, 1)); };
  client->core.on_answer = [&](SessionId, const Envelope&, Message&, Lanes&) { ++promised; };
  REQUIRE(client->start());
  REQUIRE(wait_for([&] { return loop.done.load(); }, 3s));
  REQUIRE_FALSE(loop.status);
  CHECK(loop.status.error().code == Errc::no_space);
  std::this_thread::sleep_for(50ms);
  CHECK(promised == 0);
}

TEST_CASE("host end: signals interrupt nothing, and a handler may stop the host") {
  static Host<DrainingCore, NoDurable>* target = nullptr;
  struct sigaction action {};
  action.sa_handler = [](int number) {
    if (number == SIGUSR2) target->request_stop();
  };
  ::sigaction(SIGUSR1, &action, nullptr);
  ::sigaction(SIGUSR2, &action, nullptr);
  Loop<DrainingCore, NoDurable> loop(options_for(fresh_ipc()));
  target = &loop.host;
  loop.core.finished = true;
  for (int i = 0; i < 200; ++i) {
    pthread_kill(loop.thread.native_handle(), SIGUSR1);
    std::this_thread::sleep_for(100us);
  }
  CHECK_FALSE(loop.done);
  pthread_kill(loop.thread.native_handle(), SIGUSR2);
  REQUIRE(wait_for([&] { return loop.done.load(); }, 1s));
  CHECK(loop.status);
}

TEST_CASE("host end: a listener that dies without a word is found again") {
  std::string endpoint = fresh_ipc();
  auto client = dialer(endpoint);
  {
    Loop<EchoCore, FailingDurable> loop(options_for(endpoint));
    REQUIRE(client->start());
    REQUIRE(wait_for([&] { return client->core.opened == 1; }, 2s));
    loop.durable.fail = true;  // leaves without BYE, like a crash
    loop.host.wake();
    REQUIRE(wait_for([&] { return loop.done.load(); }, 1s));
  }
  auto server = listener(endpoint, 9);
  REQUIRE(server->start());
  CHECK(wait_for([&] { return client->core.opened == 2; }, 1500ms));
  CHECK(client->core.closed == 1);
  CHECK(client->core.reason == CloseReason::unreachable);
}
