// BalancerRig: the balancer core among workers, a router and a broker that are played here, in
// simulated time, turn by turn as the host runs it.
#pragma once

#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "services/balancer/core/balancer.h"

namespace dray {

// A worker: runs what PLACE says. Starting takes a second; versions may be told to fail.
struct PlayedWorker {
  struct Run {
    ReplicaSpec spec;
    ReplicaStatus status;
    int64_t ready_at_ms = 0;
    int64_t gone_at_ms = -1;  // stopping until then
  };
  std::string name;
  SessionId session = SessionId::none;
  BootId boot;
  Capacity capacity;
  std::map<uint64_t, Run> runs;
  uint64_t goal = 0;
  bool draining = false, silent = false, changed = true;
  int64_t start_ms = 1'000, stop_ms = 500;
  std::set<uint64_t> broken;  // versions that fail to start
  std::set<uint64_t> ill;  // versions whose health checks fail
  uint64_t places = 0;

  void place(const Place& place, int64_t now_ms) {
    ++places;
    goal = place.goal;
    changed = true;
    std::set<uint64_t> wanted;
    for (const std::string& blob : place.replicas) {
      const ReplicaSpec spec = decode_replica(blob).value();
      wanted.insert(spec.id);
      auto [it, fresh] = runs.try_emplace(spec.id);
      it->second.spec = spec;
      if (!fresh) continue;
      Run& run = it->second;
      run.ready_at_ms = now_ms + start_ms;
      run.status.id = spec.id;
      run.status.deployment = spec.deployment;
      run.status.version = spec.version;
      run.status.started_ms = static_cast<uint64_t>(start_ms);
    }
    for (auto& [id, run] : runs)
      if (wanted.count(id) == 0 && run.gone_at_ms < 0) {
        run.status.state = static_cast<uint8_t>(ReplicaState::stopping);
        run.gone_at_ms = now_ms + stop_ms;
      }
  }

  void act(int64_t now_ms) {
    for (auto it = runs.begin(); it != runs.end();) {
      Run& run = it->second;
      if (run.gone_at_ms >= 0) {
        if (now_ms >= run.gone_at_ms) {
          it = runs.erase(it);
          changed = true;
          continue;
        }
      } else if (now_ms >= run.ready_at_ms) {
        const ReplicaState state = broken.count(run.spec.version) ? ReplicaState::failed
                                   : ill.count(run.spec.version)  ? ReplicaState::unhealthy
                                                                  : ReplicaState::ready;
        if (run.status.state != static_cast<uint8_t>(state)) changed = true;
        run.status.state = static_cast<uint8_t>(state);
        run.status.error = state == ReplicaState::failed      ? "boom"
                           : state == ReplicaState::unhealthy ? "check says no"
                                                              : "";
        run.status.handlers = run.spec.handlers;
        if (run.status.handlers.empty()) run.status.handlers = {"learned"};
      }
      ++it;
    }
  }

  NodeReport report() const {
    NodeReport m;
    m.goal = goal;
    m.draining = draining;
    uint64_t gpu_units = 0;
    std::map<std::string, uint64_t> taken;
    for (const auto& [id, run] : runs) {
      m.replicas.push_back(encode_replica_status(run.status));
      if (run.spec.needs.empty()) continue;
      const NeedInfo need = decode_need(run.spec.needs[0]).value();
      gpu_units += need.gpus;
      for (const auto& [pool, units] : need.pools) taken[pool] += units;
    }
    for (const Device& d : capacity.devices) {
      DeviceInfo info;
      info.uuid = d.uuid;
      info.units = d.units;
      info.memory_mib = d.memory_mib;
      info.taken_units = std::min<uint64_t>(gpu_units, kResourceUnit);
      gpu_units -= info.taken_units;
      m.devices.push_back(encode_device(info));
    }
    m.resources = capacity.pools.amounts();
    m.taken.assign(taken.begin(), taken.end());
    m.labels = capacity.labels;
    return m;
  }

  size_t ready(uint64_t version = 0) const {
    size_t n = 0;
    for (const auto& [id, run] : runs)
      if (run.status.state == static_cast<uint8_t>(ReplicaState::ready) && !run.spec.standby &&
          (version == 0 || run.spec.version == version))
        ++n;
    return n;
  }
  size_t alive() const {
    size_t n = 0;
    for (const auto& [id, run] : runs) n += run.gone_at_ms < 0 ? 1 : 0;
    return n;
  }
};

struct BalancerRig {
  static constexpr SessionId kRouter{900'001}, kBroker{900'002};

  static BalancerOptions quick() {
    BalancerOptions o;
    o.settle = 1s;
    o.prove = 3s;
    return o;
  }

  explicit BalancerRig(BalancerOptions o = quick()) : options(o) { restart(Goal{}); }

  // A new process with what is on disk; peers have to connect again.
  void restart(Goal goal) {
    core = std::make_unique<Balancer>(std::move(goal), options);
    views.clear();
    open(kRouter, Role::router, "router");
    open(kBroker, Role::broker, "broker");
    for (auto& [name, w] : workers) connect(w);
    turn();
  }
  // As if the file were read again.
  Goal stored() const { return parse_goal(goal_doc(disk)).value(); }

  PlayedWorker& add(const std::string& name, uint64_t cpus = 4, size_t gpus = 0) {
    PlayedWorker& w = workers[name];
    w.name = name;
    w.boot = {++next_boot, 1};
    w.capacity.pools = ResourceVec({{"cpu", cpus * kResourceUnit}});
    for (size_t i = 0; i < gpus; ++i)
      w.capacity.devices.push_back({"GPU-" + std::to_string(i), kResourceUnit, 24'576, 0, true});
    connect(w);
    return w;
  }
  void connect(PlayedWorker& w) {
    w.session = SessionId{++next_session};
    w.changed = true;
    open(w.session, Role::worker, w.name, w.boot);
  }
  void lose(const std::string& name, CloseReason reason) {
    const SessionId session = workers.at(name).session;
    workers.at(name).session = SessionId::none;
    core->on_close(session, reason, now, out);
    turn();
  }
  void open(SessionId id, Role role, const std::string& name, BootId boot = {7, 7}) {
    SessionInfo info;
    info.id = id;
    info.role = role;
    info.name = name;
    info.boot = boot;
    core->on_open(info, now, out);
  }

  void say(SessionId from, Message m, uint64_t req = 0) {
    Envelope e;
    e.kind = std::visit([](const auto& x) { return x.kind; }, m);
    e.req = req;
    e.route = 5;
    core->on_message(from, e, std::move(m), now, out);
  }

  void turn() {
    if (now.mono >= core->next_deadline()) core->tick(now, out);
    core->end_turn(now, out);
    core->check();
    if (out.goal_changed) disk = core->goal();
    for (auto* lane : {&out.now, &out.after_sync})
      for (Send& s : *lane) deliver(s);
    for (const Note& note : out.notes)
      notes.emplace_back(std::string(note.event) + " " + note.fields);
    out.clear();
  }

  void deliver(const Send& s) {
    if (const auto* view = std::get_if<View>(&s.message)) views[s.to] = *view;
    if (const auto* reply = std::get_if<AdminReply>(&s.message)) answer = reply->body;
    if (const auto* reject = std::get_if<Reject>(&s.message)) refusal = *reject;
    if (const auto* place = std::get_if<Place>(&s.message))
      for (auto& [name, w] : workers)
        if (w.session == s.to) w.place(*place, ms());
  }

  // Time passes in steps of 50 ms; those who are not silent beat.
  void run(int64_t length_ms) {
    for (const int64_t end = ms() + length_ms; ms() < end;) {
      now.mono += std::chrono::milliseconds(50);
      now.wall_ms += 50;
      for (auto& [name, w] : workers) {
        if (w.session == SessionId::none) continue;
        w.act(ms());
        if (!w.silent && ms() % 1000 == 0) core->on_heard(w.session, now.mono);
        if (w.changed && !w.silent) {
          w.changed = false;
          say(w.session, w.report());
        }
      }
      turn();
    }
  }
  int64_t ms() const { return to_ms(now.mono.time_since_epoch()); }

  // The answer, or a null Doc and `refusal`.
  Doc ask(const std::string& verb, Doc args = Doc{Doc::Object{}}) {
    answer = {};
    refusal = {};
    say(kRouter, Admin{static_cast<uint8_t>(Role::balancer), verb, std::move(args)}, ++next_req);
    turn();
    return answer;
  }
  Doc deploy(const std::string& name, Doc spec, bool dry_run = false) {
    Doc args;
    args.set("name", name).set("dry_run", dry_run);
    for (auto& [field, value] : flatten(spec)) args.set("spec." + field, std::move(value));
    return ask("deploy", std::move(args));
  }
  Doc about(const std::string& name) { return ask("explain", Doc{}.set("name", name)); }
  std::string state(const std::string& name) { return std::string(about(name)["state"].as_text()); }
  void scale(const std::string& name, Doc replicas) {
    ask("scale", Doc{}.set("name", name).set("replicas", std::move(replicas)));
  }
  void load(const std::string& handler, uint64_t ongoing, uint64_t waiting = 0) {
    HandlerLoad l;
    l.handler = handler;
    l.ongoing = ongoing;
    l.waiting = waiting;
    say(kRouter, Load{{encode_handler_load(l)}});
  }
  // Load twice a second for a while.
  void run_with_load(int64_t length_ms, const std::string& handler, uint64_t ongoing) {
    for (int64_t t = 0; t < length_ms; t += 500) {
      load(handler, ongoing);
      run(500);
    }
  }

  size_t ready(uint64_t version = 0) const {
    size_t n = 0;
    for (const auto& [name, w] : workers)
      if (w.session != SessionId::none) n += w.ready(version);
    return n;
  }
  size_t alive() const {
    size_t n = 0;
    for (const auto& [name, w] : workers) n += w.alive();
    return n;
  }
  std::map<std::string, HandlerView> view() const {
    std::map<std::string, HandlerView> out_views;
    for (const std::string& blob : views.at(kRouter).handlers) {
      HandlerView h = decode_handler_view(blob).value();
      out_views[h.handler] = h;
    }
    return out_views;
  }
  bool decided(const std::string& part) const {
    for (const std::string& note : notes)
      if (note.find(part) != std::string::npos) return true;
    return false;
  }

  BalancerOptions options;
  std::unique_ptr<Balancer> core;
  Balancer::Out out;
  Now now{at_ms(1'000'000), 1'700'000'000'000};
  std::map<std::string, PlayedWorker> workers;
  std::map<SessionId, View> views;
  Goal disk;
  Doc answer;
  Reject refusal;
  std::vector<std::string> notes;
  uint64_t next_session = 0, next_boot = 0, next_req = 0;
};

inline Doc app(int64_t replicas = 1, const std::string& code = "a.so") {
  Doc doc;
  doc.set("code", code);
  doc.set("handlers", Doc{Doc::List{Doc("h")}});
  doc.set("num_replicas", replicas);
  return doc;
}

}  // namespace dray
