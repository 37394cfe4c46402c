// What workers report: what they have, and how their replicas are.
#include <algorithm>
#include <set>

#include "common/base/limits.h"
#include "services/balancer/core/balancer.h"

namespace dray {
namespace {

constexpr uint8_t kHealthDegraded = 1;  // gpu::Health: ok 0, degraded 1; above them no new work

std::string place_of(const ReplicaStatus& status, const std::string& node) {
  return "replica " + std::to_string(status.id & 0xffff'ffff) + " on " + node;
}

}  // namespace

void Balancer::on_report(Node& node, NodeReport&& m, Now now, Out& out) {
  ++counters_.reports;
  if (!take_capacity(node, m)) {
    ++counters_.bad;
    out.note("bad_capacity", "node=" + node.name);
  }
  node.draining = m.draining;
  const bool first = !node.reported;
  node.acked = m.goal;
  std::set<uint64_t> named;
  for (const std::string& blob : m.replicas) {
    auto status = decode_replica_status(blob);
    if (!status || status->state > static_cast<uint8_t>(ReplicaState::failed)) {
      ++counters_.bad;
      continue;
    }
    named.insert(status->id);
    take_status(node, std::move(*status), now, out);
  }
  node.reported = true;
  dirty_ = true;
  if (!m.whole) return;
  // What it should have and does not name is gone: it knew of it before, or our word has reached
  // it. In a new session what it was sent in the last one is gone if it is not there.
  std::vector<uint64_t> missing;
  for (const auto& [id, r] : replicas_)
    if (r.node == node.name && named.count(id) == 0 &&
        (r.reported || r.leaving || first || (node.sent != 0 && m.goal >= node.sent)))
      missing.push_back(id);
  for (uint64_t id : missing) {
    Replica& r = replicas_.at(id);
    if (!r.leaving && r.reported)
      fail(r, "the worker does not have it any more", now, out);
    else if (!r.leaving && !first)
      fail(r, "the worker did not take it", now, out);
    replicas_.erase(id);
  }
}

// False if what it says makes no sense; then it has nothing to give.
bool Balancer::take_capacity(Node& node, const NodeReport& m) {
  node.devices.clear();
  node.capacity = {};
  Capacity fresh;
  bool good = true;
  for (const std::string& blob : m.devices) {
    auto info = decode_device(blob);
    if (!info) {
      good = false;
      continue;
    }
    if (info->units > 0 && info->units <= kResourceUnit)
      fresh.devices.push_back({info->uuid, info->units, info->memory_mib, info->group,
                               info->health <= kHealthDegraded});
    node.devices.push_back(std::move(*info));
  }
  fresh.pools = ResourceVec(m.resources);
  fresh.labels = m.labels;
  if (!check_capacity(fresh)) {
    fresh = {};
    good = false;
  }
  node.capacity = std::move(fresh);
  node.state = NodeState(node.capacity);
  for (DeviceState& d : node.state.devices)
    for (const DeviceInfo& info : node.devices)
      if (info.uuid == d.device.uuid) {
        d.taken_units = std::min<uint64_t>(info.taken_units, kResourceUnit);
        d.taken_mib = info.taken_mib;
        d.held_whole = info.taken_units >= kResourceUnit;
      }
  for (PoolState& pool : node.state.pools)
    for (const auto& [name, amount] : m.taken)
      if (name == pool.name) pool.taken = std::min(amount, kPoolUnitsMax);
  return good;
}

void Balancer::take_status(Node& node, ReplicaStatus&& status, Now now, Out& out) {
  const auto it = replicas_.find(status.id);
  if (it == replicas_.end()) {
    // It follows our word and still has one that is none of ours: say it again.
    if (!adopt(node, status, now) && node.sent != 0 && node.acked >= node.sent) node.sent = 0;
    return;
  }
  if (it->second.node != node.name) {
    ++counters_.bad;
    return;
  }
  take_state(it->second, std::move(status), now, out);
}

// A replica that an earlier life of ours placed, or that we gave up while its node was away. If its
// deployment is still wanted it may serve.
bool Balancer::adopt(Node& node, const ReplicaStatus& status, Now now) {
  const auto d = goal_.deployments.find(status.deployment);
  const auto state = static_cast<ReplicaState>(status.state);
  const bool lives = state == ReplicaState::starting || state == ReplicaState::ready ||
                     state == ReplicaState::unhealthy;
  // Ids of this life are ours: one that we do not know was stopped by us.
  const bool ours = node.reported && status.id >> 32 == goal_.epoch;
  if (!lives) return true;  // it goes by itself
  if (d == goal_.deployments.end() || ours || d->second.find(status.version) == nullptr)
    return false;
  Replica& r = replicas_[status.id];
  r.id = status.id;
  r.deployment = status.deployment;
  r.version = status.version;
  r.node = node.name;
  r.reported = true;
  r.state = state;
  r.status = status;
  r.created = now.mono;
  // What was ready before we came has proved itself as much as we can tell.
  if (r.is_ready()) r.good_since = now.mono - options_.prove;
  if (state == ReplicaState::unhealthy) r.bad_since = now.mono;
  r.bytes = encode_replica(spec_of(r)).size();
  return true;
}

void Balancer::take_state(Replica& r, ReplicaStatus&& status, Now now, Out& out) {
  const ReplicaState before = r.state;
  const bool was_reported = r.reported;
  r.reported = true;
  r.status = std::move(status);
  r.state = static_cast<ReplicaState>(r.status.state);
  const bool gone = r.state == ReplicaState::stopped || r.state == ReplicaState::failed;
  if (gone) {
    if (!r.leaving && r.state == ReplicaState::failed)
      fail(r, r.status.error.empty() ? "failed" : r.status.error, now, out);
    else if (!r.leaving)
      fail(r, "it was stopped by its worker", now, out);
    replicas_.erase(uint64_t{r.id});
    return;
  }
  if (r.state != ReplicaState::ready) r.good_since = kNever;
  if (r.state != ReplicaState::unhealthy) r.bad_since = kNever;
  Work& work = work_[r.deployment];
  if (r.is_ready() && !r.leaving) {
    if (before != ReplicaState::ready || !was_reported) {
      if (r.status.started_ms > 0) work.start_ms = r.status.started_ms;
      learn_handlers(r, out);
    }
    // As standby it proves nothing: nobody calls it.
    r.standby = false;
    if (r.good_since == kNever) r.good_since = now.mono;
  }
  if (r.state == ReplicaState::unhealthy && before != ReplicaState::unhealthy && !r.leaving) {
    r.bad_since = now.mono;
    fail(r, "unhealthy: " + r.status.error, now, out);
  }
}

// Counts against the version; what becomes of the replica is the caller's business.
void Balancer::fail(Replica& r, const std::string& reason, Now now, Out& out) {
  const auto d = goal_.deployments.find(r.deployment);
  if (d == goal_.deployments.end()) return;
  Work& work = work_[r.deployment];
  ++counters_.failed_starts;
  decide(work, now, out, r.deployment, place_of(r.status, r.node) + " failed", reason);
  if (r.version != d->second.current) return;
  if (work.failing != r.version) work.failures = 0;
  work.failing = r.version;
  ++work.failures;
  work.trouble = reason;
  work.avoid[r.node] = now.mono + options_.back_off_max;
  Duration wait = options_.back_off;
  for (int i = 1; i < work.failures && wait < options_.back_off_max; ++i) wait *= 2;
  work.retry_at = now.mono + std::min(wait, options_.back_off_max);
  const DeploymentGoal& goal = d->second;
  const bool can_go_back = goal.stable != 0 && goal.stable != goal.current;
  if (work.failures >= options_.roll_failures && can_go_back)
    roll_back(d->second, work, reason, now, out);
}

// Which handlers the code has is known when it runs.
void Balancer::learn_handlers(const Replica& r, Out&) {
  const auto it = goal_.deployments.find(r.deployment);
  if (it == goal_.deployments.end() || it->second.current != r.version) return;
  DeploymentGoal& d = it->second;
  if (!d.spec().handlers.empty() || r.status.handlers.empty()) return;
  if (r.status.handlers.size() > kHandlersMax || d.handlers == r.status.handlers) return;
  d.handlers = r.status.handlers;
  goal_dirty_ = true;
}

}  // namespace dray
