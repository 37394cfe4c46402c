// How calls of the lane end, and how the runs of a call at workers come to nothing.
//
// A *run* is a call's place in a batch at a worker: the call's own record, or that of its hedge.
#include <algorithm>

#include "common/base/assert.h"
#include "common/base/mutant.h"
#include "services/router/core/call_lane.h"

namespace dray {
namespace {
uint32_t us_between(Time from, Time to) {
  return to > from ? static_cast<uint32_t>(std::min<int64_t>(to_us(to - from), 0xffffffff)) : 0;
}
}  // namespace

// The one place where a call ends. `call` is never a hedge.
void CallLane::finish(CallIndex call, End end, Now now) {
  CallRecord& c = table_[call];
  DRAY_ASSERT(!c.is_hedge && (c.state == CallState::queued || c.state == CallState::running));
  // Whoever says so speaks for the last run, or for none.
  const bool denies = end.end == CallEnd::rejected || end.end == CallEnd::expired;
  if (c.doubtful && denies && !DRAY_MUTANT(lost_run_forgotten))
    end = {.end = CallEnd::unknown, .code = Errc::outcome_unknown, .run = end.run};
  Deployment& d = *deployments_[c.deployment];
  const ReplyRow row = reply_row(c, end, now);
  if (end.done != nullptr) count_times(d, row);
  ++totals_.ends[static_cast<size_t>(end.end)];
  ++d.totals.ends[static_cast<size_t>(end.end)];
  reply(c.client, row, end.bytes);
  Client& client = clients_[c.client];
  client.open.erase(c.client_call);
  client.bytes -= c.payload.size();
  bytes_ -= c.payload.size();
  --open_;
  timers_.remove(table_.calls(), call);
  if (c.state == CallState::queued) d.pop(table_, call);
  --d.keys[c.key].users;
  d.release_key(c.key);
  if (c.twin != kNoSlot) release_run(c.twin, end.run != c.twin);
  release_run(call, end.run != call);
}

void CallLane::refuse_open(CallIndex call, CallRefusal why, Refused told, Now now) {
  if (!table_[call].doubtful) {  // else it ends as unknown
    ++totals_.refused[static_cast<size_t>(why)];
    ++deployments_[table_[call].deployment]->totals.refused[static_cast<size_t>(why)];
  }
  finish(call,
         {.end = CallEnd::rejected,
          .code = call_refusal_code(why),
          .limit = call_refusal_limit(why),
          .value = told.value,
          .retry_ms = told.retry_ms},
         now);
}

// Nobody waits for this run any more. Its slot stays as long as its batch is at the worker.
void CallLane::release_run(CallIndex run, bool stop) {
  CallRecord& c = table_[run];
  if (c.hedge_pos != kNoSlot) hedges_.remove(table_.calls(), run);
  if (c.twin != kNoSlot) table_[c.twin].twin = kNoSlot;
  c.twin = kNoSlot;
  c.payload = Bytes();
  if (c.batch == kNoSlot) return table_.free(run);
  c.state = CallState::ended;
  if (!stop || DRAY_MUTANT(nobody_is_stopped)) return;
  const uint32_t worker = replicas_[table_.batch(c.batch).replica].worker;
  workers_[worker].runs.stop(c.number);
  touch_worker(worker);
  ++totals_.stops;
}

void CallLane::requeue(CallIndex call, Now now) {
  CallRecord& c = table_[call];
  if (c.hedge_pos != kNoSlot) hedges_.remove(table_.calls(), call);
  c.batch = kNoSlot;
  deployments_[c.deployment]->push(table_, call, now.mono);
  activate(c.deployment);
}

// The run is over without an answer, and its other run goes on: forget this one.
void CallLane::drop_run(CallIndex run) {
  CallRecord& c = table_[run];
  if (c.is_hedge) return release_run(run, false);
  if (c.hedge_pos != kNoSlot) hedges_.remove(table_.calls(), run);
  c.batch = kNoSlot;
}

// The worker is gone, or says that it does not know how this ended.
void CallLane::lose_run(CallIndex run, Now now, Bytes why) {
  CallRecord& r = table_[run];
  const CallIndex call = r.is_hedge ? r.twin : run;
  table_[call].doubtful = true;
  if (r.twin != kNoSlot && table_[r.twin].batch != kNoSlot) return drop_run(run);
  if (r.is_hedge) release_run(run, false);
  CallRecord& c = table_[call];
  Deployment& d = *deployments_[c.deployment];
  const bool may_repeat = (is_idempotent(c) || DRAY_MUTANT(retries_anything)) &&
                          (!c.has_parts || DRAY_MUTANT(parts_repeated));
  const bool again = may_repeat &&
                     (c.attempts < kCallAttemptsMax || DRAY_MUTANT(retries_for_ever)) &&
                     (d.retries.spend() || DRAY_MUTANT(retry_budget_ignored));
  if (!again)
    return finish(call,
                  {.end = CallEnd::unknown,
                   .code = Errc::outcome_unknown,
                   .bytes = std::move(why),
                   .run = call},
                  now);
  ++totals_.retries;
  ++d.totals.retries;
  requeue(call, now);
}

// Surely not executed: it goes elsewhere, at no cost.
void CallLane::send_back(CallIndex run, Now now) {
  CallRecord& r = table_[run];
  const CallIndex call = r.is_hedge ? r.twin : run;
  if (r.twin != kNoSlot && table_[r.twin].batch != kNoSlot) return drop_run(run);
  if (r.is_hedge) release_run(run, false);
  CallRecord& c = table_[call];
  if (++c.returns > kCallReturnsMax)
    return refuse_open(call, CallRefusal::sent_back, {c.returns, options_.retry_ms}, now);
  if (c.attempts > 0) --c.attempts;
  ++totals_.returns;
  ++deployments_[c.deployment]->totals.returns;
  requeue(call, now);
}

bool CallLane::is_idempotent(const CallRecord& c) const {
  return (c.flags & kCallIdempotent) != 0 || deployments_[c.deployment]->idempotent;
}

ReplyRow CallLane::reply_row(const CallRecord& c, const End& end, Now now) {
  ReplyRow row;
  row.call = c.client_call;
  row.value = end.value;
  row.len = static_cast<uint32_t>(end.bytes.size());
  row.retry_after_ms = end.retry_ms;
  row.status = static_cast<uint8_t>(end.end);
  row.code = static_cast<uint8_t>(end.code);
  row.limit = static_cast<uint8_t>(end.limit);
  row.attempts = c.attempts;
  if (end.done == nullptr) {
    row.queue_us = us_between(c.arrived, now.mono);
    return row;
  }
  const CallRecord& run = table_[end.run];
  row.queue_us = us_between(c.arrived, run.sent);
  row.gather_us = us_between(Time{}, Time(run.gathered));
  row.worker_us = us_between(run.sent, now.mono);
  row.wait_us = end.done->wait_us;
  row.run_us = end.done->run_us;
  row.batch_items = run.batch == kNoSlot ? 0 : table_.batch(run.batch).items;
  return row;
}

void CallLane::count_times(Deployment& d, const ReplyRow& row) {
  if (row.status != static_cast<uint8_t>(CallEnd::reply)) return;
  d.times.total.add(uint64_t{row.queue_us} + row.worker_us);
  d.times.queue.add(row.queue_us);
  d.times.gather.add(row.gather_us);
  d.times.wait.add(row.wait_us);
  d.times.run.add(row.run_us);
  const uint64_t inside = uint64_t{row.wait_us} + row.run_us;
  d.times.wire.add(row.worker_us > inside ? row.worker_us - inside : 0);
  d.note_reply(row.worker_us);
}

}  // namespace dray
