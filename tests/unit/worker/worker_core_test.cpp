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

namespace {

// As Both, with a balancer that wants replicas and a shell that has no processes.
struct Placed : Both {
  static constexpr uint64_t kBalancer = 3;
  template <class M>
  M last(uint64_t to) const {
    M found;
    for (const Send& s : out.now)
      if (s.to == SessionId{to})
        if (const auto* m = std::get_if<M>(&s.message)) found = *m;
    return found;
  }
  void place(std::vector<uint64_t> ids) {
    Place m;
    m.goal = ++goal;
    for (uint64_t id : ids) {
      ReplicaSpec spec;
      spec.id = id;
      spec.deployment = "d";
      spec.code = "d.so";
      m.replicas.push_back(encode_replica(spec));
    }
    say(kBalancer, std::move(m));
  }
  void process(uint64_t number, ProcessEvent::Kind kind, std::vector<std::string> names = {}) {
    ProcessEvent e;
    e.process = number;
    e.kind = kind;
    e.ok = true;
    for (const std::string& name : names) {
      ReplicaHandler h;
      h.offer.name = name;
      h.max_concurrency = 1;
      e.handlers.push_back(h);
    }
    std::vector<ProcessEvent> list;
    list.push_back(std::move(e));
    turn([&] { core.on_processes(std::move(list), now(), out); });
  }
  Start task(uint64_t seq, const std::string& handler) {
    Dispatch m;
    m.epoch = 1;
    m.first = seq - 1;
    TaskSpec spec;
    spec.handler = handler;
    m.specs = {encode_spec(spec)};
    m.rows = make_rows<DispatchRow>(std::vector<DispatchRow>{{TaskId{1, seq}, seq, 0, 1, 0}});
    say(kBroker, std::move(m));
    return out.start.empty() ? Start{} : out.start[0];
  }
  uint64_t goal = 0;
};

}  // namespace

TEST_CASE("worker core: handlers of replicas come and go for broker and routers under one index") {
  Placed w;
  w.open(Both::kBroker, Role::broker);
  w.open(Both::kRouter, Role::router);
  w.open(Placed::kBalancer, Role::balancer);
  CHECK(w.sent<NodeReport>(Placed::kBalancer) == 1);
  CHECK(w.last<NodeReport>(Placed::kBalancer).whole);
  w.place({1, 2});
  CHECK(w.out.orders.start.size() == 2);
  CHECK(w.last<NodeReport>(Placed::kBalancer).goal == 1);
  CHECK(w.sent<Handlers>(Both::kBroker) == 0);

  w.process(1, ProcessEvent::Kind::ready, {"x", "y"});
  CHECK(w.last<Handlers>(Both::kBroker).handlers == std::vector<std::string>{"echo", "x", "y"});
  CHECK(w.last<Offer>(Both::kRouter).handlers.size() == 3);
  REQUIRE(w.out.orders.routes.size() == 2);
  CHECK(w.out.orders.routes[0].handler == 1);
  CHECK(w.out.orders.routes[0].name == "x");
  CHECK(w.core.handlers() == 3);
  w.process(2, ProcessEvent::Kind::ready, {"x"});
  CHECK(w.sent<Handlers>(Both::kBroker) == 0);  // the names are the same
  REQUIRE(w.out.orders.routes.size() == 1);
  CHECK(w.out.orders.routes[0].places.size() == 2);

  CHECK(w.task(1, "x").spec->handler == 1);
  CHECK(w.task(2, "y").spec == nullptr);  // one slot: it waits
  w.place({2});  // y goes with 1
  CHECK(w.last<Handlers>(Both::kBroker).handlers == std::vector<std::string>{"echo", "x"});
  REQUIRE(w.sent<GiveBack>(Both::kBroker) == 1);
  CHECK(w.last<GiveBack>(Both::kBroker).code == static_cast<uint8_t>(Errc::unknown_handler));
  const Offer offer = w.last<Offer>(Both::kRouter);
  REQUIRE(offer.handlers.size() == 3);
  CHECK(offer.handlers[2].empty());

  Run run;  // sent before the router heard of it
  run.keys = {""};
  run.rows = make_rows<RunRow>(std::vector<RunRow>{{9, 100'000, 0, 0, 2, 0, 0, 1, 0}});
  w.say(Both::kRouter, std::move(run));
  const Done done = w.last<Done>(Both::kRouter);
  REQUIRE(done.rows.size() == 1);
  CHECK(done.rows[0].status == static_cast<uint8_t>(CallEnd::rejected));
  CHECK((done.rows[0].flags & kDoneNotStarted) != 0);
  CHECK(w.task(3, "y").spec == nullptr);
  CHECK(w.last<GiveBack>(Both::kBroker).code == static_cast<uint8_t>(Errc::unknown_handler));

  w.place({2, 3});
  w.process(3, ProcessEvent::Kind::ready, {"y"});
  REQUIRE(w.out.orders.routes.size() == 1);
  CHECK(w.out.orders.routes[0].handler == 2);  // the index it had
}

TEST_CASE("worker core: without a broker tasks of a withdrawn handler wait and then go back") {
  Placed w;
  w.open(Both::kBroker, Role::broker);
  w.open(Placed::kBalancer, Role::balancer);
  w.place({1});
  w.process(1, ProcessEvent::Kind::ready, {"x"});
  CHECK(w.task(1, "echo").token.seq == 1);  // the one slot
  CHECK(w.task(2, "x").spec == nullptr);
  w.turn([&] { w.core.on_close(SessionId{Both::kBroker}, CloseReason::timeout, w.now(), w.out); });
  w.place({});
  w.turn([&] {
    std::vector<Outcome> list;
    list.push_back({TaskId{1, 1}, Token{1, 1}, Verdict::ok, Errc::ok, true, 5, Bytes::copy("r")});
    w.core.tasks().on_outcomes(std::move(list), w.now(), w.out);
  });
  CHECK(w.out.start.empty());
  CHECK(w.core.tasks().queued() == 1);
  w.open(Both::kBroker, Role::broker);
  CHECK(w.last<Attach>(Both::kBroker).handlers == std::vector<std::string>{"echo"});
  REQUIRE(w.sent<GiveBack>(Both::kBroker) == 1);
  CHECK(w.last<GiveBack>(Both::kBroker).code == static_cast<uint8_t>(Errc::unknown_handler));
  CHECK(w.core.tasks().queued() == 0);
}

TEST_CASE("worker core: a task whose process ended is reported as crashed") {
  Placed w;
  w.open(Both::kBroker, Role::broker);
  w.open(Placed::kBalancer, Role::balancer);
  w.place({1});
  w.process(1, ProcessEvent::Kind::ready, {"x"});
  CHECK(w.task(1, "x").token.seq == 1);
  w.turn([&] {
    std::vector<Outcome> list;
    list.push_back({TaskId{1, 1}, Token{1, 1}, Verdict::crashed, Errc::worker_lost, true, 5,
                    Bytes::copy("executor crashed")});
    w.core.tasks().on_outcomes(std::move(list), w.now(), w.out);
  });
  REQUIRE(w.sent<Results>(Both::kBroker) == 1);
  CHECK(w.last<Results>(Both::kBroker).rows[0].status == static_cast<uint8_t>(Verdict::crashed));
}

TEST_CASE("worker core: replicas go on without a balancer and a bad PLACE is refused") {
  Placed w;
  w.open(Placed::kBalancer, Role::balancer);
  w.place({1});
  w.process(1, ProcessEvent::Kind::ready, {"x"});
  w.turn(
      [&] { w.core.on_close(SessionId{Placed::kBalancer}, CloseReason::timeout, w.now(), w.out); });
  CHECK(w.core.replicas().size() == 1);
  w.open(Placed::kBalancer, Role::balancer);
  const NodeReport report = w.last<NodeReport>(Placed::kBalancer);
  CHECK(report.goal == 1);
  REQUIRE(report.replicas.size() == 1);
  CHECK(decode_replica_status(report.replicas[0])->handlers == std::vector<std::string>{"x"});
  Place bad;
  bad.goal = 9;
  bad.replicas = {"nonsense"};
  w.say(Placed::kBalancer, std::move(bad));
  CHECK(w.sent<Reject>(Placed::kBalancer) == 1);
  w.open(Both::kBroker, Role::broker);  // a session that comes later
  CHECK(w.last<Attach>(Both::kBroker).handlers == std::vector<std::string>{"echo", "x"});
  w.open(Both::kRouter, Role::router);
  CHECK(w.last<Offer>(Both::kRouter).handlers.size() == 2);
}

TEST_CASE("worker core: the balancer hears soon what tasks take of the node") {
  constexpr uint64_t kBalancer = 3;
  AgentOptions o = Both::options();
  o.resources = {{"cpu", 20'000}};
  Both w(o);
  w.open(Both::kBroker, Role::broker);
  const auto dispatch = [&](uint64_t seq) {
    Dispatch m;
    m.epoch = 1;
    m.first = seq - 1;
    TaskSpec spec;
    spec.handler = "echo";
    spec.resources = {{"cpu", 10'000}};
    m.specs = {encode_spec(spec)};
    m.rows = make_rows<DispatchRow>(std::vector<DispatchRow>{{TaskId{1, seq}, seq, 0, 1, 0}});
    w.say(Both::kBroker, std::move(m));
  };
  const auto end = [&](uint64_t seq) {
    w.turn([&] {
      std::vector<Outcome> list;
      list.push_back({TaskId{1, seq}, Token{1, seq}, Verdict::ok, Errc::ok, true, 5, Bytes()});
      w.core.tasks().on_outcomes(std::move(list), w.now(), w.out);
    });
  };
  const auto pass = [&](Duration time) {
    w.at += time;
    w.turn([&] { w.core.tick(w.now(), w.out); });
    return w.sent<NodeReport>(kBalancer);
  };
  dispatch(1);  // nobody to tell: no deadline, no report
  end(1);
  CHECK(pass(5s) + pass(5s) == 0);
  CHECK(w.core.next_deadline() > Time(w.at + 500ms));
  w.open(kBalancer, Role::balancer);
  CHECK(w.sent<NodeReport>(kBalancer) == 1);

  dispatch(2);
  CHECK(w.sent<NodeReport>(kBalancer) == 0);
  CHECK(w.core.next_deadline() <= Time(w.at + 500ms));
  CHECK(pass(499ms) == 0);
  REQUIRE(pass(1ms) == 1);
  for (const Send& s : w.out.now)
    if (const auto* report = std::get_if<NodeReport>(&s.message)) {
      CHECK_FALSE(report->whole);
      CHECK(report->taken == Amounts{{"cpu", 10'000}});
    }
  CHECK(pass(5s) + pass(5s) == 0);  // once
  end(2);
  REQUIRE(pass(500ms) == 1);
  dispatch(3);
  w.turn([&] { w.core.on_close(SessionId{kBalancer}, CloseReason::timeout, w.now(), w.out); });
  CHECK(pass(1s) == 0);
  CHECK(w.core.next_deadline() > Time(w.at));
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
