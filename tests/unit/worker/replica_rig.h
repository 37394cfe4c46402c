// ReplicaRig: the replicas of a worker with two GPUs and four CPUs, on a virtual clock.
#pragma once

#include <catch2/catch.hpp>
#include <utility>

#include "common/resources/resources.h"
#include "services/worker/core/replicas.h"

namespace dray::worker {

inline ReplicaSpec spec(uint64_t id, const std::string& deployment = "d") {
  ReplicaSpec s;
  s.id = id;
  s.deployment = deployment;
  s.code = "code.so";
  s.graceful_ms = 1000;
  s.start_timeout_ms = 5000;
  s.health_period_ms = 1000;
  s.health_timeout_ms = 500;
  return s;
}

inline ReplicaSpec with_cpu(ReplicaSpec s, uint64_t cpus) {
  NeedInfo need;
  need.pools = {{"cpu", cpus * kResourceUnit}};
  s.needs = {encode_need(need)};
  return s;
}

inline ReplicaHandler handler(const std::string& name, uint32_t max_ongoing = 0,
                              uint32_t limit = 0) {
  ReplicaHandler h;
  h.offer.name = name;
  h.offer.max_ongoing = max_ongoing;
  h.offer.max_batch_size = 8;
  h.offer.flags = kOfferIdempotent;
  h.max_concurrency = limit;
  h.can_batch = true;
  return h;
}

inline std::vector<DeviceInfo> two_gpus(bool second_lost = false) {
  std::vector<DeviceInfo> devices(2);
  for (size_t i = 0; i < 2; ++i) {
    devices[i].uuid = "GPU-" + std::to_string(i);
    devices[i].units = kResourceUnit;
    devices[i].memory_mib = 1000;
  }
  if (second_lost) {
    devices[1].units = devices[1].memory_mib = 0;
    devices[1].health = 3;
    devices[1].reason = "XID 79";
  }
  return devices;
}

inline ReplicaSpec with_gpu(ReplicaSpec s, uint64_t units) {
  NeedInfo need;
  need.gpus = units;
  s.needs = {encode_need(need)};
  return s;
}

struct ReplicaRig {
  using Kind = ProcessEvent::Kind;
  explicit ReplicaRig(ReplicaOptions options = {})
      : node(two_gpus(), {{"cpu", 4 * kResourceUnit}}, {}),
        resources(node),
        core(std::move(options), resources) {}

  Now now() const { return {Time(at), 0}; }
  void collect() {
    core.check();
    for (const ProcessStart& s : out.orders.start) started.push_back(s);
    for (const ProcessStop& s : out.orders.stop) stopped.push_back(s.process);
    for (const ProcessKill& k : out.orders.kill) killed.push_back({k.process, k.why});
    for (uint64_t p : out.orders.ping) pinged.push_back(p);
    for (const ProcessConfig& c : out.orders.config) configs.push_back(c);
    out.clear();
  }
  Status place(std::vector<ReplicaSpec> list, uint64_t goal = 0) {
    Place m;
    m.goal = goal == 0 ? ++goals : goal;
    for (const ReplicaSpec& s : list) m.replicas.push_back(encode_replica(s));
    Status status = core.on_place(m, now(), out);
    collect();
    return status;
  }
  void say(uint64_t process, Kind kind, bool ok = true, const std::string& text = {},
           std::vector<ReplicaHandler> handlers = {}) {
    ProcessEvent e;
    e.process = process;
    e.kind = kind;
    e.ok = ok;
    e.text = text;
    e.handlers = std::move(handlers);
    std::vector<ProcessEvent> list;
    list.push_back(std::move(e));
    core.on_events(std::move(list), now(), out);
    collect();
  }
  void ready(uint64_t process, std::vector<ReplicaHandler> handlers = {handler("h")}) {
    say(process, Kind::ready, true, {}, std::move(handlers));
  }
  void crash(uint64_t process) { say(process, Kind::gone, false, "executor crashed: SIGSEGV"); }
  void go(Duration d) {
    const Duration until = at + d;
    while (core.next_deadline() <= Time(until)) {
      at = std::max(at, Duration(core.next_deadline().time_since_epoch()));
      core.tick(now(), out);
      collect();
    }
    at = until;
    core.tick(now(), out);
    collect();
  }
  std::vector<OfferedHandler> offered() const { return core.offered(now().mono); }
  ReplicaStatus status(uint64_t id) {
    for (const std::string& blob : core.statuses(true)) {
      auto s = decode_replica_status(blob);
      REQUIRE(s);
      if (s->id == id) return *s;
    }
    FAIL("no replica " << id);
    return {};
  }
  ReplicaState state(uint64_t id) { return static_cast<ReplicaState>(status(id).state); }

  Node node;
  NodeResources resources;
  Replicas core;
  WorkerOut out;
  Duration at = 100s;
  uint64_t goals = 0;
  std::vector<ProcessStart> started;
  std::vector<uint64_t> stopped;
  std::vector<std::pair<uint64_t, std::string>> killed;
  std::vector<uint64_t> pinged;
  std::vector<ProcessConfig> configs;
};

}  // namespace dray::worker
