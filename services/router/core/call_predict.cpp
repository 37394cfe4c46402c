// When a call that comes now would be done: what admission goes by.
#include <algorithm>
#include <cmath>

#include "services/router/core/call_lane.h"

namespace dray {

Time CallLane::deadline_of(const CallRow& row, Now now) const {
  if (row.deadline_us == 0) return now.mono + options_.default_deadline;
  return now.mono + std::chrono::microseconds(row.deadline_us);
}

// Batches of it that really run at once.
size_t CallLane::lanes(const Replica& r) const {
  const size_t slots = workers_[r.worker].slots;
  return r.offer.max_ongoing == 0 ? slots : std::min<size_t>(slots, r.offer.max_ongoing);
}

Time CallLane::free_at(const Replica& r, Now now) const {
  const Deployment& d = *deployments_[r.deployment];
  if (r.ongoing.size() < lanes(r)) return now.mono;
  Time first = kNever;
  for (BatchIndex i : r.ongoing) {
    const BatchRecord& b = table_.batch(i);
    first = std::min(first, std::max(now.mono, b.sent + d.may_take(b.items)));
  }
  const size_t queued = r.ongoing.size() - lanes(r);
  const double rounds = static_cast<double>(queued) / static_cast<double>(lanes(r));
  const double items = table_.batch(r.ongoing.back()).items;
  return first +
         Duration(static_cast<int64_t>(rounds * static_cast<double>(d.may_take(items).count())));
}

// Of the replica that is free first. Computed once a turn, or again when something changed.
Time CallLane::free_at(Deployment& d, Now now) {
  if (d.free_turn == turn_) return d.free_at;
  d.free_turn = turn_;
  d.free_at = kNever;
  for (uint32_t i : d.replicas) {
    const Replica& r = replicas_[i];
    if (!workers_[r.worker].draining && !r.withdrawn)
      d.free_at = std::min(d.free_at, free_at(r, now));
    if (d.free_at <= now.mono) break;
  }
  return d.free_at;
}

// Nothing was started for a while: what was learned may be wrong, so one call is let in to see.
bool CallLane::probe_due(const Deployment& d, Now now) const {
  return d.queued <= 1 && now.mono - d.last_launch >= kProbeAfter;
}

// Earliest free replica, then the full batches ahead, spread over all replicas, then its own batch.
Time CallLane::predict(Deployment& d, const CallRow& row, Now now) {
  if (!d.line.ready()) return now.mono;
  const Time deadline = deadline_of(row, now);
  const double full = std::max<uint32_t>(d.target(deadline - now.mono), row.items);
  auto finish_behind = [&](uint64_t ahead) {
    const double batches = std::floor(static_cast<double>(ahead) / full);
    const double own = batches > 0 ? full : std::min(full, static_cast<double>(ahead) + row.items);
    const double rounds = batches / static_cast<double>(std::max<size_t>(1, d.lanes));
    const auto before = static_cast<double>(d.may_take(full).count()) * rounds;
    return free_at(d, now) + Duration(static_cast<int64_t>(before)) + d.may_take(own);
  };
  const Time behind_all = finish_behind(d.tally.total());
  if (behind_all <= deadline || (d.queued == 0 && probe_due(d, now)))
    return std::min(behind_all, deadline);
  return finish_behind(d.tally.due(deadline, now.mono));
}

}  // namespace dray
