// What a turn of the client says to the routers about calls: one CALL per router and lane, one
// CALL_CANCEL and one CALL_CREDIT per router.
#include <algorithm>
#include <tuple>

#include "client/core/call_core.h"
#include "common/base/mutant.h"

namespace dray {
namespace {

constexpr size_t kMessageBytes = 512 * 1024;  // payloads of one CALL, unless one is larger
constexpr uint32_t kRun = 64;  // calls to one router before the choice is made again
constexpr Duration kMarginMax = 1ms;
constexpr int kMarginPart = 16;

// The router is told a little less time than there is, so that its word, which knows whether the
// call was started, arrives before this client has to give up without it.
uint64_t time_to_tell(Time deadline, Now now) {
  Duration left = deadline - now.mono;
  left -= std::min(left / kMarginPart, kMarginMax);
  return static_cast<uint64_t>(std::clamp<int64_t>(to_us(left), 1, kCallDeadlineUsMax));
}

}  // namespace

CallCore::Router* CallCore::router(SessionId id) {
  for (Router& r : routers_)
    if (r.info.id == id) return &r;
  return nullptr;
}

bool CallCore::other_router(SessionId not_this, Now now) const {
  return std::any_of(routers_.begin(), routers_.end(), [&](const Router& r) {
    return r.info.id != not_this && r.leaving_until <= now.mono;
  });
}

// The router with the fewest calls in flight, of those with credit that are not leaving; equals
// take turns. The one to avoid is taken if no other has credit.
CallCore::Router* CallCore::choose(SessionId avoid, Now now) {
  Router* best = nullptr;
  auto rank = [avoid](const Router& r) {
    return std::tuple(r.info.id == avoid, r.in_flight, r.chosen);
  };
  for (Router& r : routers_) {
    if (r.credit.available() == 0 || r.leaving_until > now.mono) continue;
    if (!best || rank(r) < rank(*best)) best = &r;
  }
  if (best) best->chosen = ++choices_;
  return best;
}

CallCore::Batch& CallCore::open_batch(uint32_t lane, SessionId to) {
  if (batches_used_ == batches_.size()) batches_.emplace_back();
  lanes_[lane].batch = static_cast<uint32_t>(batches_used_);
  Batch& b = batches_[batches_used_++];
  b.lane = lane;
  b.to = to;
  b.run = 0;
  b.bytes = 0;
  b.calls.clear();
  return b;
}

// The message this call goes into; null: no router has credit.
CallCore::Batch* CallCore::batch_for(const Slot& s, Now now) {
  uint32_t at = lanes_[s.lane].batch;
  Batch* b = at == kNone ? nullptr : &batches_[at];
  Router* r = b ? router(b->to) : nullptr;
  if (!b || b->run >= kRun || b->to == s.avoid || r->credit.available() == 0) {
    r = choose(s.avoid, now);
    if (!r) return nullptr;
    if (b) b->run = 0;
  }
  bool fits = b && b->to == r->info.id && b->calls.size() < kItemsMax &&
              b->bytes + s.payload.size() <= kMessageBytes;
  return fits ? b : &open_batch(s.lane, r->info.id);
}

bool CallCore::place(Slot& s, Now now) {
  Batch* b = batch_for(s, now);
  if (!b) return false;
  Router& r = *router(b->to);
  b->calls.push_back(index_of(s));
  b->bytes += s.payload.size();
  ++b->run;
  r.credit.on_sent(1);
  ++r.in_flight;
  if (s.sends++ > 0) s.wire = next_number(index_of(s));
  s.phase = Phase::sent;
  s.session = b->to;
  return true;
}

void CallCore::fill_batches(Now now) {
  while (!waiting_.empty()) {
    Slot* s = find(waiting_.front());
    if (s && s->phase == Phase::waiting && !place(*s, now)) return;
    waiting_.pop_front();
  }
}

void CallCore::post(SessionId to, uint64_t req, Message message, Out& out) {
  Send send;
  send.to = to;
  send.req = req;
  send.message = std::move(message);
  out.now.push_back(std::move(send));
}

void CallCore::send_batch(Batch& batch, Now now, Out& out) {
  Lane& lane = lanes_[batch.lane];
  lane.batch = kNone;
  uint64_t req = slots_[batch.calls[0]].wire | kReqMark;
  RowsBuilder<CallRow> rows;
  rows.reserve(batch.calls.size());
  bool alone = batch.calls.size() == 1;
  std::string bytes;
  if (!alone) bytes.reserve(batch.bytes);
  for (uint32_t index : batch.calls) {
    Slot& s = slots_[index];
    s.req = req;
    rows.add({s.wire, time_to_tell(s.deadline, now), static_cast<uint32_t>(s.payload.size()),
              s.items, s.flags});
    if (!alone) bytes.append(s.payload.view());
  }
  Call call{lane.handler, lane.key, lane.window, rows.take(), {}};
  call.bytes = alone ? slots_[batch.calls[0]].payload : Bytes(std::move(bytes));
  counters_.sent += batch.calls.size();
  ++counters_.messages;
  post(batch.to, req, std::move(call), out);
}

void CallCore::send_cancels(Router& r, Out& out) {
  for (size_t at = 0; at < r.cancels.size(); at += kItemsMax) {
    size_t n = std::min(kItemsMax, r.cancels.size() - at);
    RowsBuilder<CallIdRow> rows;
    for (size_t i = at; i < at + n; ++i)
      if (find_sent(r.info.id, r.cancels[i])) rows.add({r.cancels[i]});
    if (!rows.empty()) post(r.info.id, 0, CallCancel{rows.take()}, out);
  }
  r.cancels.clear();
}

void CallCore::taken(uint64_t number, uint64_t bytes, Now now) {
  Slot* s = find(number);
  if (!s || s->phase != Phase::sent) return;
  s->consumed += bytes;
  uint64_t window = lanes_[s->lane].window;
  uint64_t more = s->consumed + window - s->announced;
  if (more == 0) return;
  if (!s->granting) growing_.push_back(number);
  s->granting = true;
  if (more >= window / 2) grant_now_ = true;
  grant_at_ = std::min(grant_at_, now.mono + options_.grant_delay);
}

// Small steps are collected for a while, so that a stream of small parts does not cost a message of
// credit for each.
void CallCore::collect_grants() {
  if (!grant_now_) return;
  grant_now_ = false;
  for (uint64_t number : growing_) {
    Slot* s = find(number);
    if (!s) continue;
    s->granting = false;
    Router* r = router(s->session);
    if (!r) continue;
    s->announced = s->consumed + lanes_[s->lane].window * (DRAY_MUTANT(grants_too_much) ? 2 : 1);
    r->grants.add({s->wire, s->announced});
  }
  growing_.clear();
  grant_at_ = kNever;
}

void CallCore::end_turn(Now now, Out& out) {
  if (!routers_.empty()) fill_batches(now);
  for (size_t i = 0; i < batches_used_; ++i) send_batch(batches_[i], now, out);
  batches_used_ = 0;
  collect_grants();
  for (Router& r : routers_) {
    send_cancels(r, out);
    if (!r.grants.empty()) post(r.info.id, 0, CallCredit{r.grants.take()}, out);
  }
  drop_stale_due();
}

}  // namespace dray
