// WorkerCore: who gets what, and the end that both lanes share.
#include "services/worker/core/worker_core.h"

#include <catch2/catch.hpp>

namespace dray::worker {
namespace {

struct Both {
  static AgentOptions options() {
    AgentOptions o;
    o.slots = 1;
    o.handlers = {"echo"};
    o.offers.resize(1);
    o.offers[0].name = "echo";
    return o;
  }
  explicit Both(const AgentOptions& o = options()) : core(o) {}
  Now now() const { return {Time(at), 0}; }
  template <class F>
  void turn(F&& f) {
    out.clear();
    f();
    core.end_turn(now(), out);
    core.check();
    exits += out.exit;
  }
  void open(uint64_t id, Role role) {
    SessionInfo info;
    info.id = SessionId{id};
    info.role = role;
    info.name = "peer";
    info.epoch = 1;
    turn([&] { core.on_open(info, now(), out); });
  }
  void say(uint64_t from, Message m) {
    turn([&] { core.on_message(SessionId{from}, {}, std::move(m), now(), out); });
  }
  void run_call(uint64_t first = 0) {
    Run m;
    m.first = first;
    m.keys = {""};
    m.rows = make_rows<RunRow>(std::vector<RunRow>{{first + 1, 100'000, 0, 0, 0, 0, 0, 1, 0}});
    say(kRouter, std::move(m));
  }
  void finish_call(uint64_t batch) {
    BatchOutcome o;
    o.batch = batch;
    o.calls.push_back({batch, CallEnd::reply, Errc::ok, {}});
    std::vector<BatchOutcome> list;
    list.push_back(std::move(o));
    turn([&] { core.calls().on_batches(std::move(list), now(), out); });
  }
  template <class M>
  size_t sent(uint64_t to) const {
    size_t n = 0;
    for (const Send& s : out.now)
      n += s.to == SessionId{to} && std::holds_alternative<M>(s.message);
    return n;
  }

  static constexpr uint64_t kBroker = 1;
  static constexpr uint64_t kRouter = 2;
  WorkerCore core;
  WorkerOut out;
  Duration at = 10s;
  int exits = 0;
};

}  // namespace

TEST_CASE("worker core: the broker gets ATTACH and tasks, routers get OFFER and calls") {
  Both w;
  w.open(Both::kBroker, Role::broker);
  CHECK(w.sent<Attach>(Both::kBroker) == 1);
  w.open(Both::kRouter, Role::router);
  CHECK(w.sent<Offer>(Both::kRouter) == 1);
  CHECK(w.out.now.size() == 1);
  w.run_call();
  REQUIRE(w.out.batches.size() == 1);
  w.finish_call(w.out.batches[0].batch);
  CHECK(w.sent<Done>(Both::kRouter) == 1);
  w.say(Both::kBroker, w.out.now[0].message);  // a DONE is nothing from a broker
  CHECK(w.core.calls().counters().batches == 1);
  w.turn([&] { w.core.on_close(SessionId{Both::kBroker}, CloseReason::bye, w.now(), w.out); });
  CHECK_FALSE(w.core.tasks().attached());
  CHECK(w.core.calls().routers() == 1);
}

TEST_CASE("worker core: it leaves when both lanes are done, and says so once") {
  Both w;
  w.open(Both::kBroker, Role::broker);
  w.open(Both::kRouter, Role::router);
  w.run_call();
  const uint64_t batch = w.out.batches.at(0).batch;
  w.turn([&] { w.core.begin_drain(w.now(), w.out); });
  CHECK(w.sent<Drain>(Both::kBroker) == 1);
  CHECK(w.sent<Drain>(Both::kRouter) == 1);
  CHECK(w.core.tasks().drained());
  CHECK(w.exits == 0);
  w.finish_call(batch);
  CHECK(w.exits == 0);
  w.say(Both::kRouter, Drain{true});
  CHECK(w.exits == 1);
  CHECK(w.core.drained());
  CHECK(w.core.exit_code() == 0);
  w.turn([] {});
  CHECK(w.exits == 1);
}

TEST_CASE("worker core: a drain by the broker stops calls, too, and can be undone") {
  Both w;
  w.open(Both::kBroker, Role::broker);
  w.open(Both::kRouter, Role::router);
  w.say(Both::kBroker, Drain{true});
  CHECK(w.sent<Drain>(Both::kRouter) == 1);
  CHECK(w.core.calls().draining());
  w.say(Both::kRouter, Drain{true});
  CHECK(w.exits == 0);
  w.say(Both::kBroker, Drain{false});
  CHECK_FALSE(w.core.calls().draining());
  w.run_call();
  CHECK(w.out.batches.size() == 1);
}

TEST_CASE("worker core: a call that ignores its deadline makes the worker restart") {
  Both w;
  w.open(Both::kBroker, Role::broker);
  w.open(Both::kRouter, Role::router);
  w.run_call();
  for (int i = 0; i < 100; ++i) {
    w.at += 100ms;
    if (w.core.next_deadline() <= w.now().mono) w.turn([&] { w.core.tick(w.now(), w.out); });
  }
  CHECK(w.core.tasks().leaving());
  w.say(Both::kRouter, Drain{true});
  CHECK(w.exits == 1);
  CHECK(w.core.exit_code() == 70);
}

TEST_CASE("worker: routers hear of the devices when they open and when these change") {
  AgentOptions o = Both::options();
  DeviceInfo device;
  device.uuid = "GPU-0";
  device.units = 10'000;
  device.memory_mib = 100;
  o.devices = {device};
  Both b(o);
  b.open(Both::kBroker, Role::broker);
  b.open(Both::kRouter, Role::router);
  CHECK(b.sent<CapacityNews>(Both::kRouter) == 1);
  b.turn([&] { b.core.set_devices({device}, false, b.now(), b.out); });  // mere readings
  CHECK(b.sent<CapacityNews>(Both::kRouter) == 0);
  CHECK(b.sent<CapacityNews>(Both::kBroker) == 1);
  device.units = device.memory_mib = 0;
  device.health = 3;
  b.turn([&] { b.core.set_devices({device}, true, b.now(), b.out); });
  CHECK(b.sent<CapacityNews>(Both::kRouter) == 1);
  CHECK(b.sent<CapacityNews>(Both::kBroker) == 1);
}

}  // namespace dray::worker
