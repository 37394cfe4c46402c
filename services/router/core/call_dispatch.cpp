// What the call lane starts, and when: expiry, hedges, batches, the choice of replicas.
#include <algorithm>

#include "common/base/assert.h"
#include "common/base/mutant.h"
#include "services/router/core/call_lane.h"

namespace dray {

void CallLane::end_turn(Now now, Outbox& out) {
  ++turn_;
  settle(now);
  expire(now);
  hedge(now);
  dispatch(now);
  flush(out);
}

Time CallLane::next_deadline() const {
  return std::min({timers_.next(), hedges_.next(), wake_at_, grants_ ? kNever : settled_at_});
}

void CallLane::expire(Now now) {
  while (timers_.next() <= now.mono) {
    const CallIndex call = timers_.top().call;
    const bool queued = table_[call].state == CallState::queued;
    if (queued)
      finish(call, {.end = CallEnd::expired, .code = Errc::expired}, now);
    else
      finish(call, {.end = CallEnd::unknown, .code = Errc::outcome_unknown}, now);
  }
}

// Sends a copy of each call that runs longer than most do, if another replica has nothing to do.
void CallLane::hedge(Now now) {
  while (hedges_.next() <= now.mono) {
    const CallIndex call = hedges_.top().call;
    hedges_.remove(table_.calls(), call);
    const CallRecord& c = table_[call];
    if (c.batch == kNoSlot) continue;
    Deployment& d = *deployments_[c.deployment];
    const uint32_t replica = idle_besides(d, replicas_[table_.batch(c.batch).replica].worker);
    if (replica == kNoSlot) {  // look again later
      const Duration later = std::chrono::microseconds(std::max<uint64_t>(1000, d.hedge_after_us));
      hedges_.push(table_.calls(), now.mono + later, call);
      continue;
    }
    if (!d.hedges.spend() && !DRAY_MUTANT(hedge_budget_ignored)) continue;
    const CallIndex copy = table_.open();  // moves the table
    CallRecord& o = table_[call];
    CallRecord& h = table_[copy];
    const uint64_t number = h.number, order = h.order;
    h = o;
    h.number = number;
    h.order = order;
    h.is_hedge = true;
    h.batch = h.queue_pos = h.timer_pos = h.hedge_pos = kNoSlot;
    h.gathered = {};
    h.twin = call;
    o.twin = copy;
    ++o.attempts;
    ++totals_.hedges;
    ++d.totals.hedges;
    const BatchIndex batch = open_batch(replica, h.key, now);
    begin_run(batch, 1, h.payload.size());
    run_call(batch, copy, now);
  }
}

void CallLane::activate(uint32_t deployment) {
  Deployment& d = *deployments_[deployment];
  dirty_ = true;
  if (d.active_pos != kNoSlot) return;
  d.active_pos = static_cast<uint32_t>(active_.size());
  active_.push_back(deployment);
}

namespace {
// For heaps with the earliest deadline on top.
constexpr auto kLater = [](const auto& a, const auto& b) {
  return a.at != b.at ? a.at > b.at : a.order > b.order;
};
}  // namespace

// Deployments that have nothing waiting any more leave the list here.
void CallLane::collect_heads() {
  heads_.clear();
  for (size_t i = 0; i < active_.size();) {
    Deployment& d = *deployments_[active_[i]];
    if (d.waiting.empty()) {
      d.active_pos = kNoSlot;
      const uint32_t last = active_.back();
      active_.pop_back();
      if (i == active_.size()) continue;
      active_[i] = last;
      deployments_[last]->active_pos = static_cast<uint32_t>(i);
      continue;
    }
    for (uint32_t key : d.waiting) {
      const auto& top = d.keys[key].calls.top();
      heads_.push_back({top.at, top.order, active_[i], key});
    }
    ++i;
  }
  std::make_heap(heads_.begin(), heads_.end(), kLater);
}

void CallLane::dispatch(Now now) {
  if (!dirty_ && now.mono < wake_at_) return;
  dirty_ = false;
  wake_at_ = kNever;
  collect_heads();
  while (!heads_.empty()) {
    std::pop_heap(heads_.begin(), heads_.end(), kLater);
    Head head = heads_.back();
    heads_.pop_back();
    if (!try_launch(head.deployment, head.key, now)) continue;
    const KeyQueue& q = deployments_[head.deployment]->keys[head.key];
    if (q.calls.empty()) continue;
    head.at = q.calls.top().at;
    head.order = q.calls.top().order;
    heads_.push_back(head);
    std::push_heap(heads_.begin(), heads_.end(), kLater);
  }
  decline_unused();
}

// False if nothing of this queue can start now.
bool CallLane::try_launch(uint32_t deployment, uint32_t key, Now now) {
  Deployment& d = *deployments_[deployment];
  const uint32_t replica = choose(d, d.keys[key], now);
  if (replica == kNoSlot) {
    d.keys[key].free_since = kNever;
    ask(deployment, key, now);
    return false;
  }
  const uint32_t target = drop_late(d, key, now);
  if (target == 0) return false;  // nothing is left
  KeyQueue& q = d.keys[key];
  const bool full = q.items >= target || q.bytes >= d.max_batch_bytes;
  const Time at = full ? now.mono : launch_at(d, q, target, replicas_[replica].gather);
  if (at > now.mono) {
    q.free_since = std::min(q.free_since, now.mono);
    wake_at_ = std::min(wake_at_, at);
    return false;
  }
  launch(replica, key, target, now);
  return true;
}

// Refuses the heads that would be late in the batch to be formed, and returns what that aims for; 0
// if no call is left. The batch is never made smaller for a head: that costs far more calls.
uint32_t CallLane::drop_late(Deployment& d, uint32_t key, Now now) {
  while (!d.keys[key].calls.empty()) {
    const KeyQueue& q = d.keys[key];
    const CallIndex head = q.calls.top().call;
    const CallRecord& c = table_[head];
    // A replica that takes less may have come after it was let in.
    if (c.items > d.max_batch_size) {
      refuse_open(head, CallRefusal::batch_items, {d.max_batch_size, 0}, now);
      continue;
    }
    if (c.payload.size() > d.max_batch_bytes) {
      refuse_open(head, CallRefusal::batch_bytes, {d.max_batch_bytes, 0}, now);
      continue;
    }
    // By the time its caller gave, not by what is left of that.
    const uint32_t target = std::max<uint32_t>(d.target(c.deadline - c.arrived), c.items);
    const Duration takes = d.takes(static_cast<double>(std::min<uint64_t>(target, q.items)));
    if (now.mono + takes <= c.deadline || probe_due(d, now)) return target;
    const auto needs = static_cast<uint64_t>(to_us(now.mono + takes - c.arrived));
    refuse_open(head, CallRefusal::too_late, {needs, 0}, now);
  }
  return 0;
}

Time CallLane::launch_at(const Deployment& d, const KeyQueue& q, uint32_t target,
                         Duration gather) const {
  const CallRecord& head = table_[q.calls.top().call];
  const Time opened = q.first_at + std::max(d.batch_wait, gather);
  if (!d.line.ready()) return std::min(opened, head.arrived + (head.deadline - head.arrived) / 2);
  const auto items = static_cast<double>(std::min<uint64_t>(target, q.items + 1));
  return std::min(opened, head.deadline - d.takes(items));
}

void CallLane::launch(uint32_t replica, uint32_t key, uint32_t target, Now now) {
  Deployment& d = *deployments_[replicas_[replica].deployment];
  KeyQueue& q = d.keys[key];
  const Time gathering = std::min(q.free_since, now.mono);
  const BatchIndex batch = open_batch(replica, key, now);  // keeps the key
  scratch_.clear();
  uint64_t items = 0, bytes = 0;
  while (!q.calls.empty() && scratch_.size() < kItemsMax) {
    const CallIndex call = q.calls.top().call;
    const CallRecord& c = table_[call];
    const uint32_t most = DRAY_MUTANT(batch_too_large) ? target + 1 : target;
    if (!scratch_.empty() &&
        (items + c.items > most || bytes + c.payload.size() > d.max_batch_bytes))
      break;
    items += c.items;
    bytes += c.payload.size();
    scratch_.push_back(call);
    d.pop(table_, call);
  }
  begin_run(batch, scratch_.size(), bytes);
  for (CallIndex call : scratch_) {
    CallRecord& c = table_[call];
    c.gathered = now.mono - std::max(gathering, std::min(c.arrived, now.mono));
    if (c.attempts < 255) ++c.attempts;
    run_call(batch, call, now);
  }
  if (scratch_.size() == 1) arm_hedge(scratch_[0], now);
  q.free_since = q.blocked_since = kNever;
  if (!q.calls.empty()) q.first_at = table_[q.calls.top().call].arrived;
}

BatchIndex CallLane::open_batch(uint32_t replica, uint32_t key, Now now) {
  const BatchIndex i = table_.batches().take();
  BatchRecord& b = table_.batch(i);
  Replica& r = replicas_[replica];
  b.replica = replica;
  b.pos = static_cast<uint32_t>(r.ongoing.size());
  b.key = key;
  b.items = 0;
  b.calls.clear();
  b.sent = now.mono;
  b.at_once = r.ongoing.size() < lanes(r);
  r.ongoing.push_back(i);
  Worker& w = workers_[r.worker];
  ++w.batches;
  ++r.sent;
  r.asked = false;
  w.credit.on_sent(1);
  touch_worker(r.worker);
  Deployment& d = *deployments_[r.deployment];
  ++d.keys[key].batches;
  ++d.totals.batches;
  ++totals_.batches;
  d.last_launch = now.mono;
  d.free_turn = 0;
  use_model(replica, key);
  return i;
}

void CallLane::begin_run(BatchIndex batch, size_t calls, uint64_t bytes) {
  const BatchRecord& b = table_.batch(batch);
  const Replica& r = replicas_[b.replica];
  Worker& w = workers_[r.worker];
  w.runs.begin_batch(w.credit.sent() - 1, calls, bytes,
                     deployments_[r.deployment]->keys[b.key].name);
}

void CallLane::run_call(BatchIndex batch, CallIndex call, Now now) {
  CallRecord& c = table_[call];
  BatchRecord& b = table_.batch(batch);
  const Replica& r = replicas_[b.replica];
  c.state = CallState::running;
  c.batch = batch;
  c.sent = now.mono;
  b.calls.push_back(call);
  b.items += c.items;
  RunRow row;
  row.call = c.number;
  row.deadline_us = static_cast<uint64_t>(std::max<int64_t>(1, to_us(c.deadline - now.mono)));
  row.window = c.window;
  row.len = static_cast<uint32_t>(c.payload.size());
  row.handler = r.handler;
  row.items = c.items;
  row.waited_us =
      static_cast<uint32_t>(std::clamp<int64_t>(to_us(now.mono - c.arrived), 0, UINT32_MAX));
  workers_[r.worker].runs.add(row, c.payload);
}

void CallLane::arm_hedge(CallIndex call, Now now) {
  const CallRecord& c = table_[call];
  const Deployment& d = *deployments_[c.deployment];
  if ((c.flags & kCallHedge) == 0 || c.window != 0) return;
  if (!is_idempotent(c) && !DRAY_MUTANT(hedges_anything)) return;
  if (d.hedge_after_us == 0) return;
  hedges_.push(table_.calls(), now.mono + std::chrono::microseconds(d.hedge_after_us), call);
}

}  // namespace dray
