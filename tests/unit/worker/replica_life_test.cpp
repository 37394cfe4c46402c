// A worker without sockets: its core, its executors and real processes; the test is the loop, the
// broker, the router and the balancer.
#include <catch2/catch.hpp>
#include <condition_variable>
#include <thread>

#include "common/net/clock.h"
#include "services/worker/shell/bridge.h"
#include "tests/unit/worker/child_rig.h"

namespace dray::worker {
namespace {
using namespace std::chrono_literals;

constexpr SessionId kBroker{1}, kRouter{2}, kBalancer{3};

struct LiveWorker {
  LiveWorker()
      : core(options()),
        executors(host, ExecutorOptions{2, {}, wake(), 0}),
        callers(host, CallExecutorOptions{2, {}, {}, wake()}),
        processes(process_options()),
        bridge(core, executors, callers, &processes) {
    open(kBroker, Role::broker);
    open(kRouter, Role::router);
    open(kBalancer, Role::balancer);
  }
  static AgentOptions options() {
    AgentOptions o;
    o.slots = o.call_slots = 2;
    o.resources = {{"cpu", 40'000}};
    return o;
  }
  std::function<void()> wake() {
    return [this] {
      std::lock_guard lock(mutex);
      woken = true;
      changed.notify_one();
    };
  }
  ProcessesOptions process_options() {
    ProcessesOptions o;
    o.program = executor_program();
    o.worker_name = "w1";
    o.threads = 4;
    o.wake = wake();
    o.add_handler = [this](const HandlerInfo& info, Runner& runner) {
      const Handler* const handler = host.add_remote(info, runner);
      executors.add_handler(handler);
      callers.add_handler(handler);
    };
    return o;
  }
  void open(SessionId id, Role role) {
    SessionInfo info;
    info.id = id;
    info.role = role;
    info.name = "peer";
    info.epoch = 1;
    core.on_open(info, read_clock(), out);
    turn();
  }
  void say(SessionId from, Message m) {
    core.on_message(from, {}, std::move(m), read_clock(), out);
    turn();
  }
  void turn() {
    const Now now = read_clock();
    bridge.poll(now, out);
    core.tick(now, out);
    core.end_turn(now, out);
    core.check();
    for (Send& s : out.now) heard.push_back(std::move(s));
    bridge.on_turn(out);
    out.clear();
  }
  template <class F>
  void until(F&& f) {
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (!f()) {
      REQUIRE(std::chrono::steady_clock::now() < end);
      {
        std::unique_lock lock(mutex);
        changed.wait_for(lock, 20ms, [this] { return woken; });
        woken = false;
      }
      turn();
    }
  }
  template <class M>
  std::vector<M> all(SessionId to) const {
    std::vector<M> list;
    for (const Send& s : heard)
      if (s.to == to)
        if (const auto* m = std::get_if<M>(&s.message)) list.push_back(*m);
    return list;
  }
  std::vector<std::string> offered() const {
    std::vector<std::string> names;
    const auto offers = all<Offer>(kRouter);
    for (const std::string& blob : offers.back().handlers)
      if (!blob.empty()) names.push_back(decode_offer(blob)->name);
    return names;
  }
  static ReplicaSpec spec(uint64_t id, const std::string& config = "") {
    ReplicaSpec s;
    s.id = id;
    s.deployment = "probe";
    s.code = ChildRig::probe();
    s.handlers = {"child.act"};
    s.user_config = config;
    s.graceful_ms = 5000;
    return s;
  }
  void place(const std::vector<ReplicaSpec>& specs) {
    Place m;
    m.goal = ++goal;
    for (const ReplicaSpec& s : specs) m.replicas.push_back(encode_replica(s));
    say(kBalancer, std::move(m));
  }
  // The router's row for the call, once it has an end.
  std::pair<DoneRow, std::string> call(const std::string& payload) {
    const uint64_t number = ++calls;
    Run m;
    m.first = calls - 1;
    m.keys = {""};
    RunRow row;
    row.call = number;
    row.deadline_us = 20'000'000;
    row.len = static_cast<uint32_t>(payload.size());
    m.rows = make_rows<RunRow>(std::vector<RunRow>{row});
    m.bytes = Bytes::copy(payload);
    say(kRouter, std::move(m));
    std::pair<DoneRow, std::string> end;
    until([&] {
      for (const Done& done : all<Done>(kRouter)) {
        size_t offset = 0;
        for (size_t i = 0; i < done.rows.size(); ++i) {
          const DoneRow r = done.rows[i];
          if (r.call == number) end = {r, std::string(done.bytes.slice(offset, r.len).view())};
          offset += r.len;
        }
      }
      return end.first.call == number;
    });
    return end;
  }
  ResultRow task(const std::string& payload) {
    const uint64_t seq = ++tasks;
    Dispatch m;
    m.epoch = 1;
    m.first = seq - 1;
    TaskSpec s;
    s.handler = "child.act";
    m.specs = {encode_spec(s)};
    DispatchRow row{TaskId{1, seq}, seq, static_cast<uint32_t>(payload.size()), 1, 0};
    m.rows = make_rows<DispatchRow>(std::vector<DispatchRow>{row});
    m.bytes = Bytes::copy(payload);
    say(kBroker, std::move(m));
    ResultRow found;
    until([&] {
      for (const Results& r : all<Results>(kBroker))
        for (size_t i = 0; i < r.rows.size(); ++i)
          if (r.rows[i].token.seq == seq) found = r.rows[i];
      return found.token.seq == seq;
    });
    return found;
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool woken = false;
  PluginHost host;
  PacedCore core;
  Executors executors;
  CallExecutors callers;
  Processes processes;
  Bridge bridge;
  WorkerOut out;
  std::vector<Send> heard;
  uint64_t goal = 0, calls = 0, tasks = 0;
};

}  // namespace

TEST_CASE("replica life: from PLACE to calls and tasks, through a crash, to another version") {
  LiveWorker w;
  CHECK(w.offered().empty());
  w.place({LiveWorker::spec(1, "v1")});
  w.until([&] { return !w.offered().empty(); });
  CHECK(w.offered() == std::vector<std::string>{"child.act"});
  CHECK(w.all<Handlers>(kBroker).back().handlers == std::vector<std::string>{"child.act"});
  CHECK(w.call("config").second == "v1");
  CHECK(w.task("hello").status == static_cast<uint8_t>(Verdict::ok));

  const auto crashed = w.call("segv");
  CHECK(crashed.first.status == static_cast<uint8_t>(CallEnd::unknown));
  CHECK(crashed.second.find("executor crashed: SIGSEGV") == 0);
  CHECK(w.call("config").second == "v1");  // it waits for the next process
  CHECK(w.task("segv").status == static_cast<uint8_t>(Verdict::crashed));
  CHECK(w.task("hello").status == static_cast<uint8_t>(Verdict::ok));

  ReplicaSpec next = LiveWorker::spec(2, "v2");
  next.version = 2;
  next.standby = true;
  w.place({LiveWorker::spec(1, "v1"), next});
  w.until([&] { return w.core.replicas().processes() == 2; });
  const auto is_ready = [&](uint64_t id) {
    for (const NodeReport& report : w.all<NodeReport>(kBalancer))
      for (const std::string& blob : report.replicas) {
        auto status = decode_replica_status(blob);
        if (status->id == id && status->state == static_cast<uint8_t>(ReplicaState::ready))
          return true;
      }
    return false;
  };
  w.until([&] { return is_ready(2); });
  CHECK(w.call("config").second == "v1");
  next.standby = false;
  w.place({next});
  CHECK(w.call("config").second == "v2");
  w.until([&] { return w.core.replicas().processes() == 1; });

  w.place({});
  w.until([&] { return w.core.replicas().processes() == 0; });
  CHECK(w.offered().empty());
  CHECK(w.all<Handlers>(kBroker).back().handlers.empty());
  CHECK(w.call("late").first.status == static_cast<uint8_t>(CallEnd::rejected));
}

TEST_CASE("replica life: a code that can not start is reported with its reason") {
  LiveWorker w;
  w.place({LiveWorker::spec(1, "throw")});
  const auto last = [&]() -> std::optional<ReplicaStatus> {
    for (const NodeReport& report : w.all<NodeReport>(kBalancer))
      for (const std::string& blob : report.replicas)
        if (auto status = decode_replica_status(blob);
            status->state == static_cast<uint8_t>(ReplicaState::failed))
          return *status;
    return std::nullopt;
  };
  w.until([&] { return last().has_value(); });
  CHECK(last()->error.find("'child.act' failed to start: no such model") != std::string::npos);
  CHECK(last()->restarts == kStartsMax);
}

}  // namespace dray::worker
