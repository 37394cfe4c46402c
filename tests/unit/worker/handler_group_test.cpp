// HandlerGroup with real executors: the fewest runs first, waiting, and what is surely not run.
#include "services/worker/shell/handler_group.h"

#include <signal.h>

#include <set>
#include <thread>

#include "services/worker/shell/processes.h"
#include "tests/unit/worker/child_rig.h"

namespace dray::worker {
namespace {
using namespace std::chrono_literals;
using Out = TaskOutput::Kind;
using Clock = std::chrono::steady_clock;

struct Group {
  TaskOutput run(const std::string& payload, Clock::duration deadline = 20s,
                 std::atomic<bool>* cancelled = nullptr) {
    TaskView v = ChildRig::view(payload);
    v.deadline_ns = (Clock::now() + deadline).time_since_epoch().count();
    v.cancelled = cancelled;
    TaskOutput out;
    group.run(handler, {&v, 1}, {&out, 1});
    return out;
  }
  HandlerGroup::Place place(ChildRig& rig, uint32_t limit = 0) {
    return {rig.child, rig.ready().place("child.act"), limit};
  }
  Handler handler;
  HandlerGroup group;
};

}  // namespace

TEST_CASE("handler group: the one with the fewest runs is next") {
  ChildRig a, b;
  Group g;
  g.group.set({g.place(a), g.place(b)}, false);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back([&] { g.run("block"); });
  while (a.child->ongoing() + b.child->ongoing() < 6) std::this_thread::sleep_for(1ms);
  CHECK(a.child->ongoing() == 3);
  CHECK(b.child->ongoing() == 3);
  g.group.set({g.place(a), g.place(b)}, false);  // they keep their counts
  std::thread one([&] { g.run("block"); });
  threads.push_back(std::move(one));
  while (a.child->ongoing() + b.child->ongoing() < 7) std::this_thread::sleep_for(1ms);
  a.child->kill("test");
  b.child->kill("test");
  for (std::thread& t : threads) t.join();
}

TEST_CASE("handler group: a limit holds and who waits gives up with its deadline or flag") {
  ChildRig a;
  Group g;
  g.group.set({g.place(a, 1)}, false);
  std::thread first([&] { g.run("block"); });
  while (a.child->ongoing() < 1) std::this_thread::sleep_for(1ms);
  const auto began = Clock::now();
  CHECK(g.run("x", 100ms).kind == Out::not_started);
  CHECK(Clock::now() - began >= 100ms);
  std::atomic<bool> cancelled{true};
  CHECK(g.run("x", 20s, &cancelled).kind == Out::not_started);
  CHECK(a.child->ongoing() == 1);
  a.child->kill("test");
  first.join();
}

TEST_CASE("handler group: waits while one is expected and not otherwise") {
  ChildRig a;  // outlives the group, which keeps its process
  Group g;
  g.group.set({}, false);
  const TaskOutput out = g.run("x");
  CHECK(out.kind == Out::not_started);
  CHECK(out.text == "no executor of it is running");
  g.group.set({}, true);
  TaskOutput later;
  std::thread waits([&] { later = g.run("x"); });
  g.group.set({g.place(a)}, false);
  waits.join();
  CHECK(later.bytes == "x");
}

TEST_CASE("handler group: a run that a dead executor never got goes to another") {
  ChildRig a, b;
  Group g;
  g.group.set({g.place(a), g.place(b)}, false);
  ::kill(a.child->pid(), SIGKILL);
  a.wait(ProcessEvent::Kind::gone);
  for (int i = 0; i < 3; ++i) CHECK(g.run("x").bytes == "x");
  ::kill(b.child->pid(), SIGKILL);
  b.wait(ProcessEvent::Kind::gone);
  CHECK(g.run("x", 100ms).kind == Out::not_started);  // nobody said yet what comes instead
  TaskOutput later;
  std::thread waits([&] { later = g.run("x"); });
  ChildRig c;
  g.group.set({g.place(c)}, false);
  waits.join();
  CHECK(later.bytes == "x");
  g.group.set({}, false);
}

TEST_CASE("processes: orders are carried out and news come back") {
  std::vector<std::string> known;
  std::vector<Runner*> runners;
  ProcessesOptions o;
  o.program = executor_program();
  o.worker_name = "w1";
  o.threads = 4;
  o.wake = [] {};
  o.add_handler = [&](const HandlerInfo& info, Runner& runner) {
    known.push_back(info.name);
    runners.push_back(&runner);
  };
  Processes processes(std::move(o));
  std::vector<ProcessEvent> events;
  const auto next = [&](ProcessEvent::Kind kind) {
    const auto until = Clock::now() + 20s;
    while (Clock::now() < until) {
      processes.wait(50ms);
      processes.drain(events);
      for (const ProcessEvent& e : events)
        if (e.kind == kind) return e;
    }
    FAIL("no such news");
    return ProcessEvent{};
  };
  ProcessStart start;
  start.process = 5;
  start.spec.id = 77;
  start.spec.deployment = "dep";
  start.spec.code = ChildRig::probe();
  start.spec.handlers = {"child.act"};
  start.spec.user_config = "hello";
  start.environment = {{"CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b"}};
  ProcessOrders orders;
  orders.start = {start};
  processes.carry_out(std::move(orders));
  const ProcessEvent ready = next(ProcessEvent::Kind::ready);
  CHECK(ready.process == 5);
  REQUIRE(ready.handlers.size() == 1);
  CHECK(ready.handlers[0].offer.max_ongoing == 7);

  orders.routes = {{3, "child.act", false, {{5, 0, 0}}, false}};
  orders.ping = {5, 99};
  orders.config = {{5, "other", 2}};
  processes.carry_out(std::move(orders));
  CHECK(known == std::vector<std::string>{"child.act"});
  CHECK(next(ProcessEvent::Kind::pong).ok);
  Handler handler;
  const auto run = [&](const std::string& payload) {
    const TaskView v = ChildRig::view(payload);
    TaskOutput out;
    runners.at(0)->run(handler, {&v, 1}, {&out, 1});
    return out.bytes;
  };
  CHECK(run("env") == "GPU-a,GPU-b");
  CHECK(run("config") == "other");
  orders.stop = {{5, 1s}};
  processes.carry_out(std::move(orders));
  CHECK(next(ProcessEvent::Kind::gone).ok);
  orders.kill = {{5, "late"}};  // nobody there any more
  processes.carry_out(std::move(orders));
  orders.start = {start};
  orders.start[0].process = 6;
  processes.carry_out(std::move(orders));
  next(ProcessEvent::Kind::ready);
  processes.end(2s);
  CHECK_FALSE(processes.wait(0ms));
}

}  // namespace dray::worker
