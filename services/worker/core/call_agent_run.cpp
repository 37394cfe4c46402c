// Batches held here: starting, outcomes, deadlines, drain.
#include <algorithm>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "common/base/mutant.h"
#include "services/worker/core/call_agent.h"

namespace dray::worker {
namespace {
constexpr Duration kStuckAfter = 6s;  // from the deadline to giving up on the thread
constexpr Duration kCancelGrace = 2s;  // from the stop flag at the end of a drain to leaving
}  // namespace

// --- starting ----------------------------------------------------------------------------------

uint32_t CallAgent::ongoing_max(uint32_t handler) const {
  const uint32_t max = options_.offers[handler].max_ongoing;
  return max != 0 ? max : UINT32_MAX;
}

void CallAgent::start_ready(Now now, Out& out) {
  const uint64_t room = pace_.ahead(stalled(now));
  for (size_t k = 0; k < waiting_.size() && running_ < room;) {
    const auto it = batches_.find(waiting_[k]);
    const uint32_t handler = it->second.handler;
    const bool taken = is_shared(handler) && !share_->call_may_start(handler);
    if (taken ||
        (ongoing_[handler] >= ongoing_max(handler) && !DRAY_MUTANT(worker_ongoing_ignored))) {
      ++k;
    } else if (!drop_dead(it, now, out)) {
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(k));
      start(it, now, out);
    }
  }
}

// Answers the calls of a waiting batch that came too late. True: no call is left, it is gone.
bool CallAgent::drop_dead(Batches::iterator it, Now now, Out& out) {
  const size_t n = DRAY_MUTANT(late_call_started) ? 0 : it->second.calls.size();
  for (size_t i = 0; i < n; ++i) {
    const Call& call = it->second.calls[i];
    if (call.ended || call.deadline > now.mono) continue;
    DoneRow row;
    row.wait_us =
        static_cast<uint32_t>(std::min<int64_t>(to_us(now.mono - it->second.arrived), UINT32_MAX));
    row.status = static_cast<uint8_t>(CallEnd::expired);
    row.code = static_cast<uint8_t>(Errc::expired);
    row.flags = kDoneNotStarted;
    if (end_call(it, i, row, {}, now, out)) return true;
  }
  return false;
}

void CallAgent::start(Batches::iterator it, Now now, Out& out) {
  Batch& batch = it->second;
  BatchStart start{it->first, batch.handler, batch.key, {}};
  if (batch.open == batch.calls.size()) {
    start.calls = std::move(batch.payloads);
  } else {
    for (size_t i = 0; i < batch.calls.size(); ++i)
      if (!batch.calls[i].ended) start.calls.push_back(std::move(batch.payloads[i]));
  }
  batch.payloads.clear();
  batch.running = true;
  batch.since = moved_at_ = now.mono;
  ++running_;
  ++ongoing_[batch.handler];
  ++counters_.started;
  arm(batch);
  if (is_shared(batch.handler)) {
    share_->call_waits(batch.handler, -1);
    share_->start_call(batch.handler, now);
  }
  out.batches.push_back(std::move(start));
}

// --- outcomes ----------------------------------------------------------------------------------

void CallAgent::on_batches(std::vector<BatchOutcome>&& outcomes, Now now, Out& out) {
  for (BatchOutcome& outcome : outcomes) on_batch(std::move(outcome), now, out);
}

void CallAgent::on_batch(BatchOutcome&& outcome, Now now, Out& out) {
  const auto it = batches_.find(outcome.batch);
  if (it == batches_.end() || !it->second.running) return;
  Batch& batch = it->second;
  if (outcome.started) pace_.on_finished(std::chrono::microseconds(outcome.run_us));
  if (is_shared(batch.handler))
    share_->end_call(batch.handler, batch.items, outcome.started ? outcome.run_us : 0, now);
  moved_at_ = now.mono;
  changed_ = true;
  DoneRow row;
  row.run_us = outcome.run_us;
  row.wait_us = static_cast<uint32_t>(
      std::min<int64_t>(to_us(batch.since - batch.arrived) + outcome.wait_us, UINT32_MAX));
  size_t next = 0;  // the outcomes are in the order of the calls
  for (size_t i = 0;; ++i) {
    const Call& call = batch.calls[i];
    if (call.ended) continue;
    CallOutcome none{it->first + i, CallEnd::failed, Errc::app_error, {}};
    CallOutcome& o = next < outcome.calls.size() ? outcome.calls[next++] : none;
    if (o.bytes.size() > kPayloadBytesMax)
      o = {o.call, CallEnd::failed, Errc::too_large, Bytes::copy("reply is larger than 4 MiB")};
    if (call.stopped && o.end != CallEnd::expired)
      o = {o.call, CallEnd::cancelled, Errc::cancelled, {}};
    row.status = static_cast<uint8_t>(o.end);
    row.code = static_cast<uint8_t>(o.code);
    row.flags = !outcome.started || o.end == CallEnd::expired ? kDoneNotStarted : uint16_t{0};
    if (end_call(it, i, row, std::move(o.bytes), now, out)) return;
  }
}

// True: it was the last one of its batch, which is gone.
bool CallAgent::end_call(Batches::iterator it, size_t i, DoneRow row, Bytes bytes, Now now,
                         Out& out) {
  Batch& batch = it->second;
  Call& call = batch.calls[i];
  DRAY_ASSERT(!call.ended && batch.open > 0);
  call.ended = true;
  changed_ = true;
  const bool last = --batch.open == 0;
  if (Peer* peer = find(batch.router); peer != nullptr) {
    count(static_cast<CallEnd>(row.status));
    row.call = call.theirs;
    if (row.status == static_cast<uint8_t>(CallEnd::reply) && is_shared(batch.handler))
      share_->note_latency(batch.handler, call.waited + (now.mono - batch.arrived),
                           call.waited + (call.deadline - batch.arrived), now);
    if (last && !DRAY_MUTANT(call_slot_not_freed)) row.flags |= kDoneFreesSlot;
    say(*peer, row, std::move(bytes), now, out);
    peer->calls.erase(call.theirs);
  } else {
    ++counters_.dropped;
  }
  if (last) release(it);
  return last;
}

void CallAgent::count(CallEnd end) {
  counters_.replies += end == CallEnd::reply;
  counters_.failed += end == CallEnd::failed;
  counters_.expired += end == CallEnd::expired;
  counters_.cancelled += end == CallEnd::cancelled;
}

void CallAgent::release(Batches::iterator it) {
  Batch& batch = it->second;
  payload_bytes_ -= batch.bytes;
  if (Peer* peer = find(batch.router); peer != nullptr) --peer->held;
  if (batch.running) {
    --running_;
    --ongoing_[batch.handler];
  } else {
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), it->first));
    if (is_shared(batch.handler)) share_->call_waits(batch.handler, -1);
  }
  batches_.erase(it);
}

// Its session is over.
void CallAgent::orphan(Batches::iterator it, Out& out) {
  Batch& batch = it->second;
  if (!batch.running) {
    counters_.dropped += batch.open;
    return release(it);
  }
  for (size_t i = 0; i < batch.calls.size() && !DRAY_MUTANT(orphans_run_on); ++i) stop(it, i, out);
  batch.router = SessionId::none;
  arm(batch);
}

// --- deadlines ---------------------------------------------------------------------------------

void CallAgent::stop(Batches::iterator it, size_t i, Out& out) {
  Call& call = it->second.calls[i];
  if (call.ended || call.stopped) return;
  call.stopped = true;
  if (DRAY_MUTANT(stop_not_passed_on)) return;
  out.stop_calls.push_back(it->first + i);
}

// The next deadline in the batch; when all of it is stopped, the time for the handler to return.
// limit_at_ is only a lower bound, so that ending a batch costs nothing.
void CallAgent::arm(Batch& batch) {
  Time next = kNever;
  Time last{};
  for (const Call& call : batch.calls) {
    if (call.ended) continue;
    last = std::max(last, call.deadline);
    if (!call.stopped) next = std::min(next, call.deadline);
  }
  if (next == kNever) next = batch.stuck ? kNever : last + kStuckAfter;
  batch.limit_at = next;
  limit_at_ = std::min(limit_at_, next);
}

void CallAgent::check_limits(Now now, Out& out) {
  limit_at_ = kNever;
  for (auto it = batches_.begin(); it != batches_.end(); ++it) {
    Batch& batch = it->second;
    if (!batch.running) continue;
    if (now.mono >= batch.limit_at) {
      bool stopped_now = false;
      for (size_t i = 0; i < batch.calls.size(); ++i) {
        const Call& call = batch.calls[i];
        if (call.ended || call.stopped || call.deadline > now.mono) continue;
        stop(it, i, out);
        stopped_now = true;
      }
      if (!stopped_now) {
        batch.stuck = true;
        ++counters_.stuck;
        out.note("stuck_call", "handler=" + options_.offers[batch.handler].name);
      }
    }
    arm(batch);
  }
}

void CallAgent::check_waiting(Now now, Out& out) {
  for (size_t k = 0; k < waiting_.size();)
    if (!drop_dead(batches_.find(waiting_[k]), now, out)) ++k;
  expire_at_ = kNever;
  for (uint64_t number : waiting_)
    for (const Call& call : batches_.at(number).calls)
      if (!call.ended) expire_at_ = std::min(expire_at_, call.deadline);
}

void CallAgent::tick(Now now, Out& out) {
  if (now.mono >= limit_at_) check_limits(now, out);
  if (now.mono >= expire_at_) check_waiting(now, out);
  if (leaving_ && !drained_) changed_ = true;
}

Time CallAgent::next_deadline() const {
  return std::min({limit_at_, expire_at_, drained_ ? kNever : drain_at_});
}

// --- drain -------------------------------------------------------------------------------------

void CallAgent::tell_drain(Now now, Out& out) {
  for (Peer& peer : routers_) {
    peer.drains += draining();
    send(peer, Drain{draining()}, now, out);
  }
  changed_ = true;
}

void CallAgent::set_draining(bool on, Now now, Out& out) {
  if (on == draining_) return;
  draining_ = on;
  if (!leaving_) tell_drain(now, out);
}

void CallAgent::begin_drain(Now now, Out& out) {
  if (leaving_) return;
  const bool told = draining_;
  leaving_ = true;
  drain_at_ = now.mono + options_.drain_timeout;
  changed_ = true;
  if (!told) tell_drain(now, out);
}

// Until a router answered, batches that it sent before may still be on their way.
void CallAgent::check_drain(Now now, Out& out) {
  if (!leaving_ || drained_) return;
  const bool answered = std::all_of(routers_.begin(), routers_.end(), [](const Peer& peer) {
    return peer.drains == peer.drains_answered || DRAY_MUTANT(drain_answer_not_awaited);
  });
  const bool idle = std::all_of(batches_.begin(), batches_.end(),
                                [](const auto& entry) { return entry.second.stuck; });
  if ((idle || DRAY_MUTANT(worker_leaves_early)) && answered) {
    drained_ = true;
  } else if (now.mono >= drain_at_ && drain_cancelled_) {
    out.note("call_drain_timeout", "running=" + std::to_string(running_));
    drained_ = true;
  } else if (now.mono >= drain_at_) {
    drain_cancelled_ = true;
    drain_at_ = now.mono + kCancelGrace;
    for (auto it = batches_.begin(); it != batches_.end(); ++it)
      for (size_t i = 0; it->second.running && i < it->second.calls.size(); ++i) stop(it, i, out);
  }
}

// --- invariants --------------------------------------------------------------------------------

void CallAgent::check_batch(uint64_t number, const Batch& batch) const {
  size_t open = 0;
  const Peer* peer = find(batch.router);
  for (size_t i = 0; i < batch.calls.size(); ++i) {
    const Call& call = batch.calls[i];
    if (call.ended) continue;
    ++open;
    if (!batch.running) DRAY_ASSERT(!call.stopped && expire_at_ <= call.deadline);
    if (peer == nullptr) continue;
    const auto known = peer->calls.find(call.theirs);
    DRAY_ASSERT(known != peer->calls.end() && known->second == number + i);
  }
  DRAY_ASSERT(open == batch.open && open > 0);
  DRAY_ASSERT(peer != nullptr || (batch.running && batch.router == SessionId::none));
  DRAY_ASSERT(!batch.running || limit_at_ <= batch.limit_at);
}

void CallAgent::check() const {
  std::map<SessionId, std::pair<uint64_t, size_t>> by_router;  // batches, calls
  std::vector<uint32_t> ongoing(options_.offers.size(), 0);
  size_t running = 0;
  size_t bytes = 0;
  for (const auto& [number, batch] : batches_) {
    check_batch(number, batch);
    bytes += batch.bytes;
    running += batch.running;
    ongoing[batch.handler] += batch.running;
    ++by_router[batch.router].first;
    by_router[batch.router].second += batch.open;
  }
  DRAY_ASSERT(running == running_ && bytes == payload_bytes_ && ongoing == ongoing_);
  DRAY_ASSERT(waiting_.size() == batches_.size() - running);
  DRAY_ASSERT(std::is_sorted(waiting_.begin(), waiting_.end()));
  for (size_t i = 0; i < ongoing.size(); ++i)
    DRAY_ASSERT(ongoing[i] <= ongoing_max(static_cast<uint32_t>(i)));
  for (const Peer& peer : routers_) {
    DRAY_ASSERT(peer.held == by_router[peer.session].first);
    DRAY_ASSERT(peer.calls.size() == by_router[peer.session].second);
    DRAY_ASSERT(peer.credit.received() <= peer.published && peer.drains_answered <= peer.drains);
  }
}

}  // namespace dray::worker
