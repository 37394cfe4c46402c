// Calls of the client from start to end: the table of open calls, their deadlines, what a row of
// the router or the loss of a session means for each.
#include "client/core/call_core.h"

#include <algorithm>

#include "common/base/assert.h"
#include "common/base/mutant.h"

namespace dray {
namespace {

constexpr size_t kCallOverhead = 192;  // what an open call costs besides its payload
constexpr size_t kIdleLanes = 256;  // lanes without calls that are kept for the next ones
constexpr size_t kSlack = 64;  // stale entries that are not worth a sweep
constexpr std::string_view kRouterLost = "the connection to the router was lost";

bool says_not_executed(CallEnd end) { return end == CallEnd::rejected || end == CallEnd::expired; }

}  // namespace

CallCore::CallCore(CallCoreOptions options)
    : options_(options), repeats_milli_(uint64_t{options.repeats_at_start} * 1000) {}

// --- table ---------------------------------------------------------------------------------------

CallCore::Slot* CallCore::find(uint64_t number) {
  uint64_t index = number & kIndexMask;
  if (index >= slots_.size()) return nullptr;
  Slot& s = slots_[index];
  return s.phase != Phase::free && s.number == number ? &s : nullptr;
}

CallCore::Slot* CallCore::find_sent(SessionId from, uint64_t wire) {
  uint64_t index = wire & kIndexMask;
  if (index >= slots_.size()) return nullptr;
  Slot& s = slots_[index];
  bool current = s.phase == Phase::sent && s.wire == wire && s.session == from;
  return current ? &s : nullptr;
}

// Calls of a turn mostly go to the same handler, so the last lane is tried first.
uint32_t CallCore::lane_for(CallCmd& cmd) {
  if (last_lane_ != kNone) {
    const Lane& last = lanes_[last_lane_];
    if (last.handler == cmd.handler && last.key == cmd.key && last.window == cmd.window)
      return last_lane_;
  }
  lane_name_.assign(cmd.handler).push_back('\0');
  lane_name_.append(cmd.key).push_back('\0');
  lane_name_.append(reinterpret_cast<const char*>(&cmd.window), sizeof cmd.window);
  if (auto it = lane_index_.find(lane_name_); it != lane_index_.end())
    return last_lane_ = it->second;
  uint32_t i = static_cast<uint32_t>(lanes_.size());
  if (free_lanes_.empty()) {
    lanes_.emplace_back();
  } else {
    i = free_lanes_.back();
    free_lanes_.pop_back();
  }
  lanes_[i] = {lane_name_, std::move(cmd.handler), std::move(cmd.key), cmd.window, 0, kNone};
  lane_index_.emplace(lane_name_, i);
  return last_lane_ = i;
}

void CallCore::leave_lane(uint32_t i) {
  Lane& lane = lanes_[i];
  if (--lane.open > 0 || lane_index_.size() <= kIdleLanes) return;
  lane_index_.erase(lane.name);
  lane = {};
  free_lanes_.push_back(i);
  if (last_lane_ == i) last_lane_ = kNone;
}

CallCore::Slot& CallCore::take_slot() {
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  Slot& s = slots_[index];
  s.number = s.wire = next_number(index);
  s.phase = Phase::waiting;
  return s;
}

void CallCore::push_due(Time at, uint64_t number) {
  if (due_.size() > 2 * open_ + kSlack) {
    std::erase_if(due_, [this](const Due& d) { return !find(d.number); });
    std::make_heap(due_.begin(), due_.end());
  }
  due_.push_back({at, number});
  std::push_heap(due_.begin(), due_.end());
}

// So that next_deadline() does not speak of calls that are over.
void CallCore::drop_stale_due() {
  while (!due_.empty() && !find(due_[0].number)) {
    std::pop_heap(due_.begin(), due_.end());
    due_.pop_back();
  }
}

size_t CallCore::waiting() const {
  return static_cast<size_t>(std::count_if(
      slots_.begin(), slots_.end(), [](const Slot& s) { return s.phase == Phase::waiting; }));
}

// --- commands ------------------------------------------------------------------------------------

uint64_t CallCore::start(CallCmd&& cmd, Now, Out& out) {
  ++counters_.started;
  repeats_milli_ =
      std::min(repeats_milli_ + options_.repeats_permille, uint64_t{options_.repeats_saved} * 1000);
  size_t size = cmd.payload.size() + kCallOverhead;
  if (bytes_ + size > options_.bytes_max || open_ >= kIndexMask) {
    ++counters_.ended;
    CallEvent e;
    e.tag = cmd.tag;
    e.row.call = next_number(kIndexMask);
    e.row.status = static_cast<uint8_t>(CallEnd::rejected);
    e.row.code = static_cast<uint8_t>(Errc::overloaded);
    e.row.value = options_.bytes_max;
    e.own_limit = "queue_bytes";
    e.bytes = Bytes::copy("the client's own queue is full");
    uint64_t number = e.row.call;
    out.calls.push_back(std::move(e));
    return number;
  }
  Slot& s = take_slot();
  s.tag = cmd.tag;
  s.deadline = cmd.deadline;
  s.items = std::max<uint16_t>(cmd.items, 1);
  s.flags = cmd.flags;
  s.announced = cmd.window;
  s.payload = std::move(cmd.payload);
  s.lane = lane_for(cmd);
  ++lanes_[s.lane].open;
  ++open_;
  bytes_ += size;
  push_due(s.deadline, s.number);
  if (waiting_.size() > 2 * open_ + kSlack)  // ends of calls that could not be sent
    std::erase_if(waiting_, [this](uint64_t number) { return !find(number); });
  waiting_.push_back(s.number);
  return s.number;
}

void CallCore::cancel(uint64_t number, Out& out) {
  Slot* s = find(number);
  if (!s || s->unwanted) return;
  if (s->phase == Phase::waiting)
    return end_local(*s, CallEnd::cancelled, Errc::cancelled, {}, out);
  s->unwanted = true;
  if (Router* r = router(s->session)) r->cancels.push_back(s->wire);
}

void CallCore::end_all(Out& out) {
  for (Slot& s : slots_) {
    if (s.phase == Phase::free) continue;
    bool sent = s.phase == Phase::sent || s.doubtful;
    end_local(s, sent ? CallEnd::unknown : CallEnd::rejected, Errc::closed,
              "the client was shut down", out);
  }
}

// --- ends ----------------------------------------------------------------------------------------

void CallCore::leave_flight(Slot& s) {
  if (s.phase != Phase::sent) return;
  if (Router* r = router(s.session)) --r->in_flight;
  s.session = SessionId::none;
  s.phase = Phase::waiting;
}

// The only way out of the table.
void CallCore::end(Slot& s, ReplyRow row, Bytes bytes, Out& out) {
  leave_flight(s);
  row.call = s.number;
  out.calls.push_back({row, s.tag, std::move(bytes), nullptr});
  bytes_ -= s.payload.size() + kCallOverhead;
  leave_lane(s.lane);
  --open_;
  ++counters_.ended;
  uint32_t index = index_of(s);
  s = Slot{};
  free_slots_.push_back(index);
}

void CallCore::end_local(Slot& s, CallEnd how, Errc code, std::string_view text, Out& out) {
  ReplyRow row;
  row.status = static_cast<uint8_t>(how);
  row.code = static_cast<uint8_t>(code);
  end(s, row, Bytes::copy(text), out);
}

void CallCore::expire(Slot& s, Out& out) {
  if (s.phase == Phase::sent || (s.doubtful && !DRAY_MUTANT(call_refusal_counts)))
    return end_local(s, CallEnd::unknown, Errc::outcome_unknown, "no answer by the deadline", out);
  end_local(s, CallEnd::expired, Errc::expired,
            routers_.empty() ? "not sent: no connection to a router" : "not sent: no credit", out);
}

Time CallCore::next_deadline() const {
  Time at = std::min(due_.empty() ? kNever : due_[0].at, grant_at_);
  for (const Router& r : routers_)
    if (!waiting_.empty() && r.leaving_until != Time{}) at = std::min(at, r.leaving_until);
  return at;
}

void CallCore::tick(Now now, Out& out) {
  while (!due_.empty() && due_[0].at <= now.mono) {
    uint64_t number = due_[0].number;
    std::pop_heap(due_.begin(), due_.end());
    due_.pop_back();
    if (Slot* s = find(number)) expire(*s, out);
  }
  for (Router& r : routers_)
    if (r.leaving_until <= now.mono) r.leaving_until = {};
  if (grant_at_ > now.mono) return;
  grant_at_ = kNever;
  grant_now_ = true;
}

void CallCore::on_reply(SessionId from, Reply&& reply, Now now, Out& out) {
  Router* r = router(from);
  if (!r) return;
  r->credit.on_granted(reply.granted);
  size_t offset = 0;
  for (size_t i = 0; i < reply.rows.size(); ++i) {
    ReplyRow row = reply.rows[i];
    Bytes bytes = reply.bytes.slice(offset, row.len);
    offset += row.len;
    if (Slot* s = find_sent(from, row.call))
      on_row(*s, row, std::move(bytes), now, out);
    else
      ++counters_.stray_rows;
  }
}

void CallCore::on_row(Slot& s, const ReplyRow& row, Bytes bytes, Now now, Out& out) {
  auto how = static_cast<CallEnd>(row.status);
  if (how == CallEnd::part) return on_part(s, row, std::move(bytes), out);
  if (how > CallEnd::unknown) {
    ++counters_.bad_rows;
    return end_local(s, CallEnd::unknown, Errc::outcome_unknown, "unreadable answer", out);
  }
  if (how == CallEnd::rejected && !s.parted) {
    const auto code = static_cast<Errc>(row.code);
    if (code == Errc::draining) {
      Time& until = router(s.session)->leaving_until;
      until = std::max(until, now.mono + options_.leaving);
      if (s.unwanted) return end_local(s, CallEnd::cancelled, Errc::cancelled, {}, out);
      if (move(s, options_.sends_max)) return;
    }
    // It may be young, and its workers not here yet.
    const bool knows_nobody = code == Errc::unknown_handler || code == Errc::no_replica;
    const bool ask_another = knows_nobody && !s.unwanted && other_router(s.session, now);
    if (ask_another && move(s, routers_.size())) return;
  }
  // A refusal speaks for this sending only.
  if (s.doubtful && says_not_executed(how) && !DRAY_MUTANT(call_refusal_counts))
    return end_local(s, CallEnd::unknown, Errc::outcome_unknown, kRouterLost, out);
  end(s, row, std::move(bytes), out);
}

// Whatever it is: this sending was surely not executed. False: it was sent often enough.
bool CallCore::move(Slot& s, uint64_t sends_max) {
  if (s.sends >= std::min<uint64_t>(sends_max, options_.sends_max)) return false;
  s.avoid = s.session;
  leave_flight(s);
  waiting_.push_front(s.number);
  ++counters_.moved;
  return true;
}

void CallCore::on_drain(SessionId from, Out& out) {
  Router* const r = router(from);
  if (!r || DRAY_MUTANT(drained_not_heard)) return;
  r->leaving_until = kNever;
  const std::vector<uint64_t> sent = in_flight(from);
  for (auto it = sent.rbegin(); it != sent.rend(); ++it) {  // each goes to the front
    Slot& s = *find_sent(from, *it);
    if (s.parted || s.doubtful)
      end_local(s, CallEnd::unknown, Errc::outcome_unknown, kRouterLost, out);
    else if (s.unwanted)
      end_local(s, CallEnd::cancelled, Errc::cancelled, {}, out);
    else if (!move(s, options_.sends_max))
      end_local(s, CallEnd::rejected, Errc::draining, "the router is leaving", out);
  }
}

void CallCore::on_part(Slot& s, const ReplyRow& row, Bytes bytes, Out& out) {
  if (lanes_[s.lane].window == 0) {
    ++counters_.bad_rows;
    return;
  }
  s.parted = true;
  ReplyRow part = row;
  part.call = s.number;
  out.calls.push_back({part, s.tag, std::move(bytes), nullptr});
}

void CallCore::on_reject(SessionId from, uint64_t req, const Reject& reject, Out& out) {
  for (Slot& s : slots_) {
    if (s.phase != Phase::sent || s.session != from || s.req != req) continue;
    if (s.doubtful) {
      end_local(s, CallEnd::unknown, Errc::outcome_unknown, kRouterLost, out);
      continue;
    }
    ReplyRow row;
    row.status = static_cast<uint8_t>(CallEnd::rejected);
    row.code = reject.code;
    row.retry_after_ms = reject.retry_after_ms;
    row.value = reject.value;
    end(s, row, Bytes::copy(reject.detail), out);
  }
}

// --- sessions ------------------------------------------------------------------------------------

void CallCore::on_open(const SessionInfo& session) {
  routers_.emplace_back();
  routers_.back().info = session;
}

bool CallCore::may_repeat(const Slot& s, Now now) {
  if (DRAY_MUTANT(call_repeated_without_leave)) return s.deadline > now.mono;
  bool idempotent = (s.flags & kCallIdempotent) != 0;
  if (!idempotent || s.unwanted || (s.parted && !DRAY_MUTANT(parted_call_repeated))) return false;
  if (s.sends >= options_.sends_max) return false;
  if (s.deadline <= now.mono) return false;
  if (repeats_milli_ < 1000 && !DRAY_MUTANT(repeats_without_budget)) {
    ++counters_.unbudgeted;
    return false;
  }
  repeats_milli_ -= 1000;
  return true;
}

void CallCore::lose(Slot& s, Now now, Out& out, std::vector<uint64_t>& again) {
  if (!may_repeat(s, now))
    return end_local(s, CallEnd::unknown, Errc::outcome_unknown, kRouterLost, out);
  leave_flight(s);
  s.doubtful = true;
  ++counters_.repeated;
  again.push_back(s.number);
}

// Numbers of what was sent there, in the order of sending.
std::vector<uint64_t> CallCore::in_flight(SessionId id) const {
  std::vector<uint64_t> sent;
  for (const Slot& s : slots_)
    if (s.phase == Phase::sent && s.session == id) sent.push_back(s.wire);
  std::sort(sent.begin(), sent.end());
  return sent;
}

void CallCore::on_close(SessionId id, Now now, Out& out) {
  if (!router(id)) return;
  std::vector<uint64_t> again;
  for (uint64_t wire : in_flight(id))
    if (!DRAY_MUTANT(lost_session_silent)) lose(*find_sent(id, wire), now, out, again);
  waiting_.insert(waiting_.begin(), again.begin(), again.end());
  std::erase_if(routers_, [id](const Router& r) { return r.info.id == id; });
}

void CallCore::check() const {
  size_t open = 0, bytes = 0;
  std::vector<uint32_t> in_lane(lanes_.size());
  for (const Slot& s : slots_) {
    if (s.phase == Phase::free) continue;
    ++open;
    ++in_lane[s.lane];
    bytes += s.payload.size() + kCallOverhead;
    bool queued = std::find(waiting_.begin(), waiting_.end(), s.number) != waiting_.end();
    DRAY_ASSERT(queued == (s.phase == Phase::waiting));
    DRAY_ASSERT(std::any_of(due_.begin(), due_.end(), [&s](const Due& d) {
      return d.number == s.number && d.at == s.deadline;
    }));
  }
  DRAY_ASSERT(open == open_ && bytes == bytes_);
  DRAY_ASSERT(open + free_slots_.size() == slots_.size());
  DRAY_ASSERT(counters_.started == counters_.ended + open);
  DRAY_ASSERT(std::is_heap(due_.begin(), due_.end()));
  for (size_t i = 0; i < lanes_.size(); ++i) DRAY_ASSERT(lanes_[i].open == in_lane[i]);
  for (const Router& r : routers_) {
    auto mine = std::count_if(slots_.begin(), slots_.end(), [&r](const Slot& s) {
      return s.phase == Phase::sent && s.session == r.info.id;
    });
    DRAY_ASSERT(static_cast<size_t>(mine) == r.in_flight);
  }
}

}  // namespace dray
