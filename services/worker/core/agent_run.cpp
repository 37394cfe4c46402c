// Running tasks: starting, outcomes, time limits, tasks that wait too long, drain.
#include <algorithm>
#include <map>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "services/worker/core/agent.h"

namespace dray::worker {
namespace {
constexpr Duration kStallAfter = 20ms;  // all slots busy and nothing moved: stop prefetching
constexpr Duration kWaitMax = 500ms;  // longest wait behind busy slots
constexpr Duration kShareWaitMax = 2s;  // of a task that shares its place with calls
constexpr Duration kCheckEvery = 100ms;
constexpr size_t kLookPast = 256;  // tasks that wait for resources and may be passed
constexpr size_t kLookPastShared = 1024;  // the same for tasks that wait for their turn with calls
constexpr Duration kShortLimit = 5s;  // below, a task starts only when a slot is free
constexpr Duration kLimitGrace = 1s;  // from the cancel flag to the report
constexpr Duration kStuckAfter = 5s;  // from the report to giving up on the thread
constexpr Duration kCancelGrace = 2s;  // from the cancel flag at the end of a drain to leaving
constexpr Duration kNoBroker = 2s;  // a drain does not wait longer for a broker that is away
}  // namespace

// --- starting ----------------------------------------------------------------------------------

bool Agent::stalled(Now now) const {
  return busy() >= options_.slots && now.mono - moved_at_ > kStallAfter;
}

// Two pieces: one runs, and the next is here when it ends.
uint64_t Agent::share_ahead(Now now) const {
  uint64_t most = 0;
  for (const uint32_t h : share_->shared())
    if (share_->is_busy(h)) most = std::max<uint64_t>(most, 2 * share_->piece_goal(h, now));
  return options_.slots + std::min<uint64_t>(most, options_.prefetch_max);
}

// Whether an executor may have this task now, free or ahead of time.
bool Agent::has_slot(const HeldTask& task, Now now) const {
  if (busy() < options_.slots) return true;
  if (is_shared(task) || busy() >= pace_.ahead(stalled(now))) return false;
  // Ahead of a free slot the start is not known exactly, which a short limit can not bear; and
  // resources are for tasks that run.
  const bool short_limit = task.spec->time_limit > 0s && task.spec->time_limit < kShortLimit;
  return !short_limit && !task.spec->has_needs;
}

// In order, except that a task may pass others that wait for resources if it needs none of these:
// so nobody waits for what he does not use, and nobody is overtaken at what he waits for.
void Agent::start_ready(Now now, Out& out) {
  tell_share(now);
  std::vector<bool> awaited;
  size_t passed = 0;
  size_t passed_shared = 0;
  Index next = Holdings::kNone;
  for (Index i = held_.oldest_queued(); i != Holdings::kNone && !draining(); i = next) {
    next = held_.after(i);
    HeldTask& t = held_.at(i);
    if (!is_offered(t.spec->handler)) continue;  // it goes back when there is a session
    const bool shared = is_shared(t);
    if (passed == kLookPast || passed_shared == kLookPastShared) break;
    if (!shared && !has_slot(t, now)) break;
    const size_t piece = !shared ? 1 : has_slot(t, now) ? share_->piece(t.spec->handler, now) : 0;
    if (piece == 0) {
      ++passed_shared;
      continue;
    }
    const std::vector<uint32_t>& rows = t.spec->waits_on;
    const bool behind = std::any_of(rows.begin(), rows.end(), [&](uint32_t row) {
      return row < awaited.size() && awaited[row];
    });
    const bool taken = !behind && take_needs(t);
    if (taken && shared) {
      start_piece(i, piece, now, out);
      next = held_.oldest_queued();
      continue;
    }
    if (taken) {
      out.start.push_back(begin(i, now));
      continue;
    }
    ++passed;
    for (uint32_t row : rows) {
      if (row >= awaited.size()) awaited.resize(row + 1);
      awaited[row] = true;
    }
  }
  arm_check(now);
  note_takings(now);
}

void Agent::tell_share(Now now) {
  for (const uint32_t h : share_->shared())
    share_->set_queued(h, draining() ? 0 : held_.queued_of(h), now);
}

// The first and what may run with it: of the same handler, without needs, for the first time, not
// about to be stopped by a limit of its own, and all together not more bytes than a batch may have.
void Agent::start_piece(Index first, size_t most, Now now, Out& out) {
  const uint32_t handler = held_.at(first).spec->handler;
  const auto joins = [&](const HeldTask& t) {
    return t.spec->handler == handler && !t.spec->has_needs && t.attempt <= 1 &&
           t.spec->time_limit == 0s;
  };
  if (!joins(held_.at(first))) most = 1;
  Piece piece{handler, 0, 0, 0};
  const uint32_t number = ++last_piece_ == 0 ? ++last_piece_ : last_piece_;
  const HandlerOffer offer =
      handler < options_.offers.size() ? options_.offers[handler] : HandlerOffer{};
  size_t room = offer.max_batch_bytes != 0 ? offer.max_batch_bytes : kBodyBytesMax;
  Start start;
  size_t looked = 0;
  Index next = first;
  for (Index i = first; i != Holdings::kNone && piece.tasks < most; i = next) {
    next = held_.after(i);
    const size_t size = held_.at(i).payload.size();
    if (i != first && (!joins(held_.at(i)) || size > room)) {
      if (++looked == kLookPast) break;
      continue;
    }
    room -= std::min(room, size);
    Start one = begin(i, now);
    held_.at(i).piece = number;
    if (piece.tasks++ == 0)
      start = std::move(one);
    else
      start.more.push_back(std::move(one));
  }
  piece.left = piece.tasks;
  in_pieces_ += piece.tasks;
  pieces_[number] = piece;
  share_->set_queued(handler, held_.queued_of(handler), now);
  share_->start_piece(handler, piece.tasks, now);
  out.start.push_back(std::move(start));
}

void Agent::leave_piece(const HeldTask& task, Now now) {
  if (task.piece == 0) return;
  Piece& piece = pieces_.at(task.piece);
  --in_pieces_;
  if (--piece.left > 0) return;
  share_->end_piece(piece.handler, piece.tasks, piece.run_us, now);
  pieces_.erase(task.piece);
}

Start Agent::begin(Index i, Now now) {
  HeldTask& t = held_.at(i);
  if (t.spec->time_limit > 0s) {
    const bool ahead = busy() >= options_.slots;  // begins within kWaitMax, or comes back
    t.limit_at = now.mono + t.spec->time_limit + (ahead ? kWaitMax + kCheckEvery : 0s);
    limit_at_ = std::min(limit_at_, t.limit_at);
  }
  held_.start(i, now.mono);
  moved_at_ = now.mono;
  ++counters_.started;
  Start start{t.id, t.token, t.attempt, t.spec, t.payload};
  if (t.spec->has_needs) start.grant = std::make_shared<const Grant>(*node_.find(t.grant));
  return start;
}

void Agent::arm_check(Now now) {
  if (held_.queued() == 0 && busy() <= options_.slots)
    check_at_ = kNever;
  else if (check_at_ == kNever)
    check_at_ = now.mono + kCheckEvery;
}

// A long task must not keep others waiting. Queued ones go back; if more than `slots` were handed
// to the executors long ago, at most `slots` of them can have begun, so the rest is called back.
void Agent::check_waiting(Now now, Out& out) {
  const bool was_stopped = now.mono - check_at_ >= kWaitMax;  // the whole process: nobody waited
  check_at_ = kNever;
  arm_check(now);
  if (!attached() || was_stopped) return;
  const size_t slots = options_.slots;
  size_t keep = slots > busy() ? slots - busy() : 0;
  std::vector<TokenRow> rows, impossible;
  Index i = held_.oldest_queued();
  while (i != Holdings::kNone && now.mono - held_.at(i).since >= kWaitMax) {
    const Index next = held_.after(i);
    if (is_shared(held_.at(i)) && now.mono - held_.at(i).since < kShareWaitMax) {
      // Pieces come by turns.
    } else if (keep > 0 && waits_for_devices(held_.at(i))) {
      impossible.push_back({held_.at(i).id, held_.at(i).token});
      held_.remove(i);
    } else if (keep > 0) {
      --keep;
    } else {
      rows.push_back({held_.at(i).id, held_.at(i).token});
      held_.remove(i);
    }
    i = next;
  }
  std::reverse(rows.begin(), rows.end());
  give_back(Errc::overloaded, rows, now, out);
  give_back(Errc::infeasible, impossible, now, out);
  if (!impossible.empty()) tell_capacity(now, out);
  if (busy() <= slots) return;
  i = held_.oldest_running();
  size_t begun = 0;  // at most, of those that were handed out: one for each slot
  uint32_t piece = 0;
  for (; i != Holdings::kNone; i = held_.after(i)) {
    const bool same = piece != 0 && held_.at(i).piece == piece;
    if (!same && ++begun > slots) break;
    piece = held_.at(i).piece;
  }
  if (i != Holdings::kNone && now.mono - held_.at(i).since >= kWaitMax) out.recall = true;
}

// --- outcomes ----------------------------------------------------------------------------------

void Agent::on_outcomes(std::vector<Outcome>&& outcomes, Now now, Out& out) {
  if (outcomes.empty()) return;
  const uint64_t results_from = results_.next();
  std::vector<TokenRow> unstarted;
  bool moved = false;
  for (Outcome& o : outcomes) moved = on_outcome(std::move(o), now, unstarted) || moved;
  if (moved) moved_at_ = now.mono;
  send_results(results_from, now, out);
  give_back(draining() ? Errc::draining : Errc::overloaded, unstarted, now, out);
  if (results_.next() == results_from && unstarted.empty()) have_soon(now);  // credit came free
  start_ready(now, out);
  check_drain(now, out);
}

// Whether an executor became free.
bool Agent::on_outcome(Outcome&& o, Now now, std::vector<TokenRow>& unstarted) {
  const Index i = held_.find(o.token);
  if (i == Holdings::kNone || !held_.at(i).running) return false;
  HeldTask& t = held_.at(i);
  // How long something took until it crashed says nothing.
  if (t.piece != 0 && o.verdict != Verdict::crashed)
    pieces_.at(t.piece).run_us = std::max(pieces_.at(t.piece).run_us, o.piece_us);
  if (t.revoked || t.reported) {
    ++counters_.dropped;
    release(i, now);
  } else if (!o.started) {
    if (attached()) {
      unstarted.push_back({t.id, t.token});
      release(i, now);
    } else {
      leave_piece(t, now);
      give_needs(t);
      held_.requeue(i);
    }
    return false;
  } else {
    if (o.verdict != Verdict::crashed) pace_.on_finished(std::chrono::microseconds(o.exec_us));
    finish(i, o.verdict, o.code, o.exec_us, std::move(o.result));
    release(i, now);
  }
  return o.started;
}

void Agent::finish(Index i, Verdict verdict, Errc code, uint32_t exec_us, Bytes result) {
  const HeldTask& t = held_.at(i);
  if (result.size() > kPayloadBytesMax) {
    verdict = Verdict::fail_final;
    code = Errc::too_large;
    result = Bytes(std::string("result is larger than 4 MiB"));
  }
  ++counters_.finished;
  if (verdict != Verdict::ok) ++counters_.failed;
  results_.add({t.id, t.token, 0, exec_us, 0, t.attempt, static_cast<uint8_t>(verdict),
                static_cast<uint8_t>(code)},
               std::move(result));
}

void Agent::release(Index i, Now now) {
  leave_piece(held_.at(i), now);
  give_needs(held_.at(i));
  held_.remove(i);
}

void Agent::cancel(Index i, Out& out) { out.cancel.push_back(held_.at(i).token); }

// --- time limits -------------------------------------------------------------------------------

// limit_at_ is only a lower bound (the task it came from may be gone), so that ending a task costs
// nothing; a look at what runs gives the next one.
void Agent::check_limits(Now now, Out& out) {
  const uint64_t results_from = results_.next();
  limit_at_ = kNever;
  for (Index i = held_.oldest_running(); i != Holdings::kNone; i = held_.after(i)) {
    if (now.mono >= held_.at(i).limit_at) limit_step(i, now, out);
    limit_at_ = std::min(limit_at_, held_.at(i).limit_at);
  }
  send_results(results_from, now, out);
}

void Agent::limit_step(Index i, Now now, Out& out) {
  HeldTask& t = held_.at(i);
  switch (t.limit_step++) {
    case 0:
      cancel(i, out);
      t.limit_at = now.mono + kLimitGrace;
      break;
    case 1:
      if (!t.revoked) {
        const auto ran = std::min<int64_t>(to_us(now.mono - t.since), UINT32_MAX);
        finish(i, Verdict::time_limit, Errc::time_limit, static_cast<uint32_t>(ran),
               Bytes(std::string("ran longer than its time_limit")));
        ++counters_.time_limits;
      }
      held_.mark_reported(i);
      t.limit_at = now.mono + kStuckAfter;
      break;
    default:
      t.limit_at = kNever;
      ++counters_.stuck;
      out.note("stuck", "handler=" + t.spec->spec.handler + " task=" + to_hex(t.id));
      begin_drain(now, out);
  }
}

// --- drain -------------------------------------------------------------------------------------

void Agent::begin_drain(Now now, Out& out) {
  if (leaving_) return;
  leaving_ = true;
  drain_at_ = now.mono + options_.drain_timeout;
  out.note("leaving", "running=" + std::to_string(held_.running()) +
                          " queued=" + std::to_string(held_.queued()));
  if (attached()) {
    send(Drain{true}, now, out);
    give_back_queue(Errc::draining, 0, now, out);
  }
  out.recall = true;
  check_drain(now, out);
}

void Agent::check_drain(Now now, Out& out) {
  if (!leaving_ || drained_) return;
  const bool broker_away = !attached() && now.mono - closed_at_ >= kNoBroker;
  const bool settled = broker_away || (results_.empty() && held_.queued() == 0);
  if (held_.running() == held_.reported() && settled) {
    drained_ = out.exit = true;
  } else if (now.mono >= drain_at_ && drain_cancelled_) {
    // What still runs is lost to the broker: it may have had side effects, so it is not given back.
    out.note("drain_timeout", "running=" + std::to_string(held_.running()) +
                                  " unacked=" + std::to_string(results_.size()));
    drained_ = out.exit = true;
  } else if (now.mono >= drain_at_) {
    drain_cancelled_ = true;
    drain_at_ = now.mono + kCancelGrace;
    for (Index i = held_.oldest_running(); i != Holdings::kNone; i = held_.after(i)) cancel(i, out);
  }
}

Time Agent::next_deadline() const {
  Time t = std::min({have_at_, resend_at_, limit_at_, check_at_, tell_at_});
  if (!leaving_ || drained_) return t;
  t = std::min(t, drain_at_);
  // While the broker is away, look when kNoBroker is over; after that only an outcome matters.
  if (!attached() && held_.running() == held_.reported()) t = std::min(t, closed_at_ + kNoBroker);
  return t;
}

// --- invariants --------------------------------------------------------------------------------

void Agent::check() const {
  held_.check();
  results_.check();
  node_.check();
  Time first_limit = kNever;
  size_t recalled = 0;
  for (Index i = held_.oldest_running(); i != Holdings::kNone; i = held_.after(i)) {
    const HeldTask& t = held_.at(i);
    DRAY_ASSERT(t.spec->has_needs == (t.grant != GrantId{0}));
    DRAY_ASSERT(!t.spec->has_needs || node_.find(t.grant) != nullptr);
    first_limit = std::min(first_limit, t.limit_at);
    DRAY_ASSERT(t.reported || !results_.has(t.token));
    ++recalled;
  }
  DRAY_ASSERT(limit_at_ <= first_limit);
  DRAY_ASSERT(recalled == held_.running());
  std::map<uint32_t, uint32_t> left;
  for (Index i = held_.oldest_running(); i != Holdings::kNone; i = held_.after(i))
    if (held_.at(i).piece != 0) ++left[held_.at(i).piece];
  size_t in_pieces = 0;
  for (const auto& [number, piece] : pieces_) {
    DRAY_ASSERT(left[number] == piece.left && piece.left > 0);
    in_pieces += piece.left;
  }
  DRAY_ASSERT(left.size() == pieces_.size() && in_pieces == in_pieces_);
  DRAY_ASSERT(attached() || (have_at_ == kNever && resend_at_ == kNever));
  DRAY_ASSERT(!attached() || results_.empty() || resend_at_ != kNever);
  DRAY_ASSERT(held_.queued() == 0 || check_at_ != kNever);
}

}  // namespace dray::worker
