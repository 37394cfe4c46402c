// Replicas that share their device with queued tasks: the window in which calls gather for them,
// and asking for the device. The worker decides (its LaneShare); here is only when a batch is due.
#include <algorithm>

#include "services/router/core/call_lane.h"

namespace dray {
namespace {
constexpr Duration kGatherMax = 1s;  // workers are believed so far
constexpr Duration kQuantumMax = 10s;
constexpr Duration kAskAgain = 500ms;  // if the answer was lost
}  // namespace

void CallLane::on_share(uint32_t worker, const Share& m) {
  Worker& w = workers_[worker];
  for (size_t k = 0; k < m.rows.size(); ++k) {
    const ShareRow row = m.rows[k];
    if (row.handler >= w.replicas.size() || w.replicas[row.handler] == kNoSlot) continue;
    const uint32_t i = w.replicas[row.handler];
    Replica& r = replicas_[i];
    r.gather = std::min<Duration>(std::chrono::microseconds(row.gather_us), kGatherMax);
    r.quantum = std::min<Duration>(std::chrono::microseconds(row.quantum_us), kQuantumMax);
    r.allowed = std::max(r.allowed, row.batches);
    if (r.allowed > r.sent && r.asked) answered_.push_back(i);
    if (r.allowed > r.sent || !is_shared(r)) r.asked = false;
    deployments_[r.deployment]->free_turn = 0;
    dirty_ = true;
  }
}

bool CallLane::is_shared(const Replica& r) const { return r.quantum > Duration{}; }

// The least that any of the replicas wants: one that does not share takes calls as they come.
Duration CallLane::gather_of(const Deployment& d) const {
  Duration least = kGatherMax;
  for (uint32_t i : d.replicas)
    if (!workers_[replicas_[i].worker].draining) least = std::min(least, replicas_[i].gather);
  return least;
}

// Nothing of this queue may be sent now. If a batch of it is due, asks those who would have to
// agree.
void CallLane::ask(uint32_t deployment, uint32_t key, Now now) {
  Deployment& d = *deployments_[deployment];
  const KeyQueue& q = d.keys[key];
  const bool any = std::any_of(d.replicas.begin(), d.replicas.end(),
                               [this](uint32_t i) { return is_shared(replicas_[i]); });
  if (!any || q.calls.empty()) return;
  const CallRecord& head = table_[q.calls.top().call];
  const uint32_t target = std::max<uint32_t>(d.target(head.deadline - head.arrived), head.items);
  const bool full = q.items >= target || q.bytes >= d.max_batch_bytes;
  const Time at = full ? now.mono : launch_at(d, q, target, gather_of(d));
  for (uint32_t i : d.replicas) {
    Replica& r = replicas_[i];
    if (!is_shared(r) || r.allowed > r.sent || workers_[r.worker].draining) continue;
    if (r.asked && now.mono < r.asked_at + kAskAgain) {
      wake_at_ = std::min(wake_at_, r.asked_at + kAskAgain);
      continue;
    }
    if (at > now.mono) {
      wake_at_ = std::min(wake_at_, at);
      continue;
    }
    r.asked = true;
    r.asked_at = now.mono;
    wake_at_ = std::min(wake_at_, r.asked_at + kAskAgain);
    want(r, static_cast<uint32_t>(std::min<uint64_t>(q.items, UINT32_MAX)),
         now.mono - head.arrived);
  }
}

void CallLane::want(const Replica& r, uint32_t items, Duration head) {
  WantRow row;
  row.sent = r.sent;
  row.handler = r.handler;
  row.items = items;
  row.head_us = static_cast<uint32_t>(std::clamp<int64_t>(to_us(head), 0, UINT32_MAX));
  workers_[r.worker].runs.want(row);
  touch_worker(r.worker);
}

// Whoever agreed holds the device for us: not longer than we need it.
void CallLane::decline_unused() {
  for (uint32_t i : answered_) {
    const Replica& r = replicas_[i];
    if (r.worker != kNoSlot && is_shared(r) && r.allowed > r.sent) want(r, 0, {});
  }
  answered_.clear();
}

}  // namespace dray
