// From what is there to what is wanted, a step at a time: what starts, what stops, how a roll goes.
#include <algorithm>

#include "services/balancer/core/balancer.h"

namespace dray {

void Balancer::reconcile(Now now, Out& out) {
  for (auto& [name, d] : goal_.deployments) reconcile(d, work_[name], now, out);
  for (auto& [id, r] : replicas_)
    if (goal_.deployments.count(r.deployment) == 0 && !r.leaving) stop(r);
}

void Balancer::reconcile(DeploymentGoal& d, Work& work, Now now, Out& out) {
  Count c = count(d, now);
  watch(d, work, c, now, out);
  c = count(d, now);
  stop_stale(d, work, c, now, out);
  stop_surplus(d, work, c, now, out);
  c = count(d, now);
  start_missing(d, work, c, now, out);
  settle_roll(d, work, c, now, out);
}

bool Balancer::is_stale(const DeploymentGoal& d, const Replica& r) const {
  const Node& node = nodes_.at(r.node);
  return r.version != d.current || node.draining || goal_.drained.count(r.node) != 0;
}

Balancer::Count Balancer::count(const DeploymentGoal& d, Now now) const {
  Count c;
  for (const auto& [id, r] : replicas_)
    if (r.deployment == d.name && !r.leaving && r.version != d.current) c.is_rolling = true;
  for (const auto& [id, r] : replicas_) {
    if (r.deployment != d.name) continue;
    if (r.leaving) {
      c.leaving.push_back(id);
      continue;
    }
    if (is_stale(d, r)) {
      c.stale.push_back(id);
      if (r.is_ready()) ++c.ready;
      continue;
    }
    c.fresh.push_back(id);
    if (!r.is_ready()) {
      ++c.starting;
      continue;
    }
    ++c.ready;
    const bool proved = r.good_since != kNever && now.mono - r.good_since >= options_.prove;
    if (proved || !c.is_rolling) ++c.good;
  }
  return c;
}

// Replicas that do not come up or do not get well.
void Balancer::watch(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out) {
  const DeploymentSpec& s = d.spec();
  // The worker has the first word about both; this is for one that says nothing.
  const Duration start_limit = std::chrono::milliseconds(s.start_timeout_ms * 5 / 4 + 10'000);
  const Duration ill_limit =
      std::chrono::milliseconds(std::max<int64_t>(s.health_check_timeout_ms, 1'000));
  for (uint64_t id : std::vector<uint64_t>(c.fresh)) {
    Replica& r = replicas_.at(id);
    const bool late = r.state == ReplicaState::starting && now.mono - r.created > start_limit;
    const bool ill = r.bad_since != kNever && now.mono - r.bad_since > ill_limit;
    if (!late && !ill) continue;
    if (late) fail(r, "not ready within start_timeout_s", now, out);
    if (ill)
      decide(work, now, out, d.name, "replaced an unhealthy replica on " + r.node, r.status.error);
    stop(r);
  }
  std::erase_if(work.avoid, [&](const auto& entry) { return entry.second <= now.mono; });
}

void Balancer::stop_stale(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out) {
  const int64_t wanted = d.replicas();
  auto& stale = c.stale;
  // Those that do not serve go at once. Then the oldest versions, of them the least busy.
  std::stable_sort(stale.begin(), stale.end(), [&](uint64_t a, uint64_t b) {
    const Replica& x = replicas_.at(a);
    const Replica& y = replicas_.at(b);
    return std::tuple(x.is_ready(), x.version, x.status.ongoing) <
           std::tuple(y.is_ready(), y.version, y.status.ongoing);
  });
  auto left = static_cast<int64_t>(stale.size());
  for (uint64_t id : stale) {
    Replica& r = replicas_.at(id);
    if (r.is_ready() && left + c.good <= wanted) break;
    decide(work, now, out, d.name, "stopped an old replica on " + r.node,
           r.version != d.current ? "version " + std::to_string(r.version) + " is replaced"
                                  : "its node is drained");
    stop(r);
    --left;
  }
}

void Balancer::stop_surplus(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out) {
  const int64_t surplus = static_cast<int64_t>(c.fresh.size()) - d.replicas();
  if (surplus <= 0) return;
  // Not ready yet first, then the suspect, then the least busy, then the youngest.
  std::stable_sort(c.fresh.begin(), c.fresh.end(), [&](uint64_t a, uint64_t b) {
    const Replica& x = replicas_.at(a);
    const Replica& y = replicas_.at(b);
    return std::tuple(x.is_ready(), !nodes_.at(x.node).suspect, x.status.ongoing, ~x.id) <
           std::tuple(y.is_ready(), !nodes_.at(y.node).suspect, y.status.ongoing, ~y.id);
  });
  for (int64_t i = 0; i < surplus; ++i) {
    Replica& r = replicas_.at(c.fresh[static_cast<size_t>(i)]);
    decide(work, now, out, d.name, "stopped a replica on " + r.node,
           std::to_string(d.replicas()) + " are wanted");
    stop(r);
  }
}

void Balancer::start_missing(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out) {
  const int64_t wanted = d.replicas();
  auto fresh = static_cast<int64_t>(c.fresh.size());
  const auto stale = static_cast<int64_t>(c.stale.size());
  const int64_t most = stale > 0 ? wanted + d.spec().max_surge.of(wanted) : wanted;
  if (fresh >= wanted) {
    work.no_room_since = kNever;
    return;
  }
  if (!is_settled(now) || now.mono < work.retry_at) return;
  std::string why;
  while (fresh < wanted && fresh + stale < most) {
    if (auto refused = place_one(d, work, c.is_rolling, now)) {
      why = std::move(*refused);
      break;
    }
    ++counters_.starts;
    ++fresh;
    ++c.starting;
    c.fresh.push_back(next_id_);
    decide(work, now, out, d.name, "started a replica on " + replicas_.at(next_id_).node,
           std::to_string(wanted) + " are wanted, " + std::to_string(fresh - 1) + " were there");
  }
  if (why.empty()) {
    work.no_room_since = kNever;
    return;
  }
  work.trouble = "no room: " + why;
  if (work.no_room_since == kNever) {
    work.no_room_since = now.mono;
    decide(work, now, out, d.name, "no room for another replica", why);
  }
  // A full fleet can only be rolled by letting one old replica go first.
  const bool waited = now.mono - work.no_room_since >= options_.room_wait;
  if (!waited || !c.is_rolling || c.starting > 0) return;
  for (uint64_t id : c.stale) {
    Replica& r = replicas_.at(id);
    if (r.version == d.current) continue;
    decide(work, now, out, d.name, "stopped an old replica on " + r.node + " first",
           "no node has room for one more");
    stop(r);
    work.no_room_since = kNever;
    return;
  }
}

// The end of a roll, or of a first start.
void Balancer::settle_roll(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out) {
  const int64_t wanted = d.replicas();
  if (c.good < wanted || !c.stale.empty() || c.starting > 0) return;
  const bool proved = std::all_of(c.fresh.begin(), c.fresh.end(), [&](uint64_t id) {
    const Replica& r = replicas_.at(id);
    return r.good_since != kNever && now.mono - r.good_since >= options_.prove;
  });
  work.trouble.clear();
  if (!proved || wanted == 0) return;
  work.failures = 0;
  work.retry_at = {};
  if (d.stable == d.current) return;
  d.stable = d.current;
  goal_dirty_ = true;
  decide(work, now, out, d.name, "version " + std::to_string(d.current) + " is stable",
         "its replicas stayed well");
}

void Balancer::roll_back(DeploymentGoal& d, Work& work, const std::string& why, Now now, Out& out) {
  ++counters_.rolled_back;
  d.failed_version = d.current;
  d.failed_why = why;
  decide(
      work, now, out, d.name,
      "rolled back from version " + std::to_string(d.current) + " to " + std::to_string(d.stable),
      std::to_string(work.failures) + " failures, the last: " + why);
  d.go_back_to(d.stable);
  work.failures = 0;
  work.retry_at = {};
  work.avoid.clear();
  goal_dirty_ = dirty_ = true;
}

// Out of its worker's list; it is forgotten when the worker says that it is gone.
void Balancer::stop(Replica& r) {
  ++counters_.stops;
  r.leaving = true;
  r.good_since = r.is_ready() ? r.good_since : kNever;
}

}  // namespace dray
