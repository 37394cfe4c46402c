// Requests of the client: kept until answered, sent within credit, repeated after silence and
// refusals, ended at their deadline.
#include "client/core/client_core.h"

#include "common/base/assert.h"
#include "common/base/mutant.h"

namespace dray {
namespace {

constexpr size_t kRequestOverhead = 256;  // what a kept request costs besides its frames
constexpr Duration kSilenceMax = 16s;
constexpr uint32_t kJitterBaseMs = 50;
constexpr uint32_t kJitterCapMs = 5'000;

bool is_retryable(Errc code) {
  return code == Errc::unavailable || code == Errc::overloaded || code == Errc::draining;
}

// Depends on the request alone: every sending of it gets the same answer.
bool is_fixed(Errc code) {
  return code == Errc::bad_message || code == Errc::bad_version || code == Errc::too_large ||
         code == Errc::denied || code == Errc::bad_argument;
}

Errc code_of(const Reject& m) { return errc_from_number(m.code).value_or(Errc::bad_message); }

template <class... Ms>
bool holds_any(const Message& m) {
  return (std::holds_alternative<Ms>(m) || ...);
}

RejectedEvent rejected(uint64_t req, Reject&& m) {
  return {req, code_of(m), std::move(m.detail), m.retry_after_ms, std::move(m.limit), m.value, {}};
}

}  // namespace

// --- commands ----------------------------------------------------------------------------------

uint64_t ClientCore::submit(SubmitCmd&& cmd, Now now, Out& out) {
  size_t bytes = cmd.rows.bytes().size() + cmd.bytes.size();
  for (const std::string& spec : cmd.specs) bytes += spec.size();
  if (cmd.watch && pending_bytes_ + bytes + kRequestOverhead <= options_.queue_bytes)
    open_rows(cmd.rows);
  Submit m{cmd.watch, std::move(cmd.specs), std::move(cmd.rows), std::move(cmd.bytes)};
  return start(std::move(m), bytes, cmd.deadline, now, out);
}

uint64_t ClientCore::fetch(Rows<IdRow> ids, Time deadline, Now now, Out& out) {
  size_t bytes = ids.bytes().size();
  return start(Fetch{std::move(ids)}, bytes, deadline, now, out);
}
uint64_t ClientCore::cancel(Rows<IdRow> ids, Time deadline, Now now, Out& out) {
  size_t bytes = ids.bytes().size();
  return start(Cancel{std::move(ids)}, bytes, deadline, now, out);
}
uint64_t ClientCore::query(Rows<IdRow> ids, Time deadline, Now now, Out& out) {
  size_t bytes = ids.bytes().size();
  return start(Query{std::move(ids)}, bytes, deadline, now, out);
}
uint64_t ClientCore::forget(Rows<IdRow> ids, Time deadline, Now now, Out& out) {
  size_t bytes = ids.bytes().size();
  return start(Forget{std::move(ids)}, bytes, deadline, now, out);
}
uint64_t ClientCore::admin(Admin admin, Time deadline, Now now, Out& out) {
  return start(std::move(admin), 0, deadline, now, out);
}
uint64_t ClientCore::group_put(TaskId group, Rows<IdRow> ids, Time deadline, Now now, Out& out) {
  size_t bytes = ids.bytes().size();
  return start(GroupPut{group, std::move(ids)}, bytes, deadline, now, out);
}
uint64_t ClientCore::group_watch(TaskId group, bool push, Time deadline, Now now, Out& out) {
  auto [it, fresh] = groups_.try_emplace(group);
  if (!push && fresh) groups_.erase(it);
  push = push && fresh;  // else the watch that is there goes on, and this one only asks
  if (push) {
    it->second = {next_req_, now.mono + options_.group_poll};
    arm_wait_check(now.mono + options_.wait_check);
  }
  return start(GroupWatch{group, push}, 0, deadline, now, out);
}

void ClientCore::group_unwatch(TaskId group, Out& out) {
  auto it = groups_.find(group);
  if (it == groups_.end()) return;
  uint64_t req = it->second.req;
  groups_.erase(it);
  if (connected() && credit_.available() > 0) post(next_req_++, Unwait{req}, out);
}

// --- life of a request ---------------------------------------------------------------------------

uint64_t ClientCore::start(Message message, size_t bytes, Time deadline, Now now, Out& out) {
  uint64_t req = next_req_++;
  bytes += kRequestOverhead;
  if (pending_bytes_ + bytes > options_.queue_bytes) {
    RejectedEvent e{req, Errc::overloaded, "the client's own queue is full",
                    0,   "queue_bytes",    options_.queue_bytes,
                    {}};
    if (auto* m = std::get_if<Submit>(&message))
      e.tasks = DRAY_MUTANT(full_queue_ends_others) ? m->rows : not_open(m->rows);
    out.events.push_back(std::move(e));
    return req;
  }
  Pending& p = pending_[req];
  p.message = std::move(message);
  p.deadline = deadline;
  p.timer = kNever;
  p.bytes = bytes;
  p.last_detail = "never sent: no connection to the router, or no credit from it";
  pending_bytes_ += bytes;
  enqueue(req, p);
  pump(now, out);
  return req;
}

void ClientCore::set_timer(uint64_t req, Pending& p, Time at) {
  at = std::min(at, p.deadline);
  if (at == p.timer) return;
  if (p.timer != kNever) timers_.erase({p.timer, req});
  p.timer = at;
  if (at != kNever) timers_.insert({at, req});
}

void ClientCore::enqueue(uint64_t req, Pending& p) {
  p.phase = Phase::queued;
  send_queue_.push_back(req);
  set_timer(req, p, kNever);
}

void ClientCore::post(uint64_t req, Message message, Out& out) {
  Send send;
  send.to = session_;
  send.req = req;
  send.message = std::move(message);
  out.now.push_back(std::move(send));
  credit_.on_sent(1);
  ++counters_.sent;
}

void ClientCore::send_pending(uint64_t req, Pending& p, Now now, Out& out) {
  if (p.sends > 0) ++counters_.resent;
  uint32_t unanswered = p.sends - std::min(p.sends, p.tries);
  Duration silence = std::min(options_.silence * (1 << std::min(unanswered, 3u)),
                              std::max(kSilenceMax, options_.silence));
  ++p.sends;
  p.phase = Phase::in_flight;
  set_timer(req, p, now.mono + silence);
  post(req, p.message, out);
}

void ClientCore::pump(Now now, Out& out) {
  if (!connected()) return;
  if (waits_starved_ && credit_.available() > 0) check_waits(now, out);
  while (!send_queue_.empty() && credit_.available() > 0) {
    uint64_t req = send_queue_.front();
    send_queue_.pop_front();
    auto it = pending_.find(req);
    if (it != pending_.end() && it->second.phase == Phase::queued)
      send_pending(req, it->second, now, out);
  }
}

void ClientCore::finish(PendingIt it) {
  if (it->second.timer != kNever) timers_.erase({it->second.timer, it->first});
  pending_bytes_ -= it->second.bytes;
  pending_.erase(it);
}

void ClientCore::give_up(PendingIt it, Reject&& why, Out& out) {
  RejectedEvent e = rejected(it->first, std::move(why));
  if (auto* m = std::get_if<Submit>(&it->second.message)) {
    e.tasks = m->watch ? close_rows(m->rows) : m->rows;
  }
  out.events.push_back(std::move(e));
  finish(it);
}

void ClientCore::expire(PendingIt it, Out& out) {
  Pending& p = it->second;
  Reject why;
  if (p.sends > p.rejects) {
    why.code = static_cast<uint8_t>(Errc::timeout);
    why.detail = "outcome unknown: ask for the result, or submit the same id again";
    if (p.tries > 0) why.detail += "; last refusal: " + p.last_detail;
  } else {
    why.code = static_cast<uint8_t>(p.last_code);
    why.detail = "gave up at the deadline, nothing was done: " + p.last_detail;
  }
  give_up(it, std::move(why), out);
}

Duration ClientCore::backoff(uint32_t retry_after_ms, uint32_t tries) {
  uint32_t span = std::min(kJitterCapMs, kJitterBaseMs << std::min(tries, 10u));
  uint64_t us = uint64_t{retry_after_ms} * 1000 + rng_.below(uint64_t{span} * 1000);
  return std::chrono::microseconds(us);
}

void ClientCore::on_timer(uint64_t req, Now now, Out& out) {
  auto it = pending_.find(req);
  if (it == pending_.end()) return;
  Pending& p = it->second;
  p.timer = kNever;
  if (p.deadline <= now.mono) return expire(it, out);
  DRAY_ASSERT(p.phase != Phase::queued);
  if (!DRAY_MUTANT(client_never_repeats)) enqueue(req, p);
}

void ClientCore::tick(Now now, Out& out) {
  while (!timers_.empty() && timers_.begin()->first <= now.mono) {
    uint64_t req = timers_.begin()->second;
    timers_.erase(timers_.begin());
    on_timer(req, now, out);
  }
  if (connected() && wait_check_at_ <= now.mono) check_waits(now, out);
  pump(now, out);
  calls_.tick(now, out);
}

Time ClientCore::next_deadline() const {
  Time at = timers_.empty() ? kNever : timers_.begin()->first;
  at = std::min(at, calls_.next_deadline());
  return connected() ? std::min(at, wait_check_at_) : at;
}

// --- conversation --------------------------------------------------------------------------------

void ClientCore::on_open(const SessionInfo& session, Now now, Out& out) {
  calls_.on_open(session);
  standby_.push_back({session, {}});
  if (!connected()) adopt(now, out);
}

// Requests go to the session that is open for longest.
void ClientCore::adopt(Now now, Out& out) {
  Standby next = std::move(standby_.front());
  standby_.erase(standby_.begin());
  session_ = next.info.id;
  credit_ = next.credit;
  uncover_all(now);
  out.events.push_back(ConnectedEvent{std::move(next.info)});
}

void ClientCore::on_close(SessionId id, CloseReason reason, Now now, Out& out) {
  calls_.on_close(id, now, out);
  std::erase_if(standby_, [id](const Standby& s) { return s.info.id == id; });
  if (id != session_) return;
  session_ = SessionId::none;
  std::vector<uint64_t> again;
  for (auto& [req, p] : pending_)
    if (p.phase != Phase::backoff) again.push_back(req);
  std::sort(again.begin(), again.end());
  send_queue_.clear();
  for (uint64_t req : again) enqueue(req, pending_.at(req));
  out.events.push_back(DisconnectedEvent{reason});
  if (standby_.empty()) return;
  adopt(now, out);
  pump(now, out);
}

template <class... Requests>
ClientCore::PendingIt ClientCore::answered(uint64_t req) {
  auto it = pending_.find(req);
  return it != pending_.end() && holds_any<Requests...>(it->second.message) ? it : pending_.end();
}

void ClientCore::on_reject(uint64_t req, Reject&& m, Now now, Out& out) {
  Errc code = code_of(m);
  if (auto w = waits_.find(req); w != waits_.end()) {
    ++counters_.retried_rejects;
    uint32_t floor_ms = is_retryable(code) ? std::max(m.retry_after_ms, 100u) : 5'000u;
    w->second.refresh_at = now.mono + backoff(floor_ms, 2);
    return arm_wait_check(w->second.refresh_at);
  }
  auto it = pending_.find(req);
  if (it == pending_.end()) return retry_group(req, now);
  Pending& p = it->second;
  if (!is_retryable(code)) {
    // An earlier sending without an answer may have been accepted, whatever this one was told.
    if (is_fixed(code) || p.sends <= p.rejects + 1 || DRAY_MUTANT(last_refusal_counts))
      return give_up(it, std::move(m), out);
    ++p.tries;
    p.last_detail = std::move(m.detail);
    return expire(it, out);
  }
  if (p.phase != Phase::in_flight) return;  // of an earlier sending
  ++counters_.retried_rejects;
  // `unavailable` is also said when the service went away with the request.
  ++p.tries;
  if (code != Errc::unavailable || DRAY_MUTANT(unavailable_means_refused))
    p.rejects = std::min(p.rejects + 1, p.sends);
  p.last_code = code;
  p.last_detail = std::move(m.detail);
  p.phase = Phase::backoff;
  set_timer(req, p, now.mono + backoff(m.retry_after_ms, p.tries));
}

void ClientCore::on_message(SessionId from, const Envelope& envelope, Message&& message, Now now,
                            Out& out) {
  for (Standby& s : standby_)
    if (s.info.id == from) s.credit.on_granted(envelope.granted);
  if (auto* calls = std::get_if<Reply>(&message))
    calls_.on_reply(from, std::move(*calls), now, out);
  if (const auto* drain = std::get_if<Drain>(&message); drain && drain->on)
    calls_.on_drain(from, out);
  auto* reject = std::get_if<Reject>(&message);
  if (reject && CallCore::is_call_req(envelope.req))
    return calls_.on_reject(from, envelope.req, *reject, out);
  if (from != session_) return;
  credit_.on_granted(envelope.granted);
  on_answer(envelope.req, std::move(message), now, out);
  pump(now, out);
}

void ClientCore::on_answer(uint64_t req, Message&& message, Now now, Out& out) {
  if (auto* reject = std::get_if<Reject>(&message)) {
    on_reject(req, std::move(*reject), now, out);
  } else if (auto* submitted = std::get_if<Submitted>(&message)) {
    on_submitted(req, std::move(*submitted), now, out);
  } else if (auto* ready = std::get_if<Ready>(&message)) {
    on_ready(req, std::move(*ready), now, out);
  } else if (std::holds_alternative<WatchLost>(message)) {
    ++counters_.watch_lost;
    uncover_all(now);
  } else if (auto* group = std::get_if<GroupState>(&message)) {
    on_group_state(req, std::move(*group), now, out);
  } else if (auto* states = std::get_if<States>(&message)) {
    if (auto it = answered<Cancel, Query>(req); it != pending_.end()) {
      out.events.push_back(StatesEvent{req, std::move(states->rows)});
      finish(it);
    }
  } else if (auto* reply = std::get_if<AdminReply>(&message)) {
    if (auto it = answered<Admin>(req); it != pending_.end()) {
      out.events.push_back(AdminEvent{req, std::move(reply->body)});
      finish(it);
    }
  } else if (std::holds_alternative<Ok>(message)) {
    if (auto it = answered<Forget, GroupPut>(req); it != pending_.end()) {
      out.events.push_back(DoneEvent{req});
      finish(it);
    }
  }
}

void ClientCore::retry_group(uint64_t req, Now now) {
  for (auto& [id, group] : groups_)
    if (group.req == req) group.poll_at = now.mono + backoff(200, 2);
}

void ClientCore::on_group_state(uint64_t req, GroupState&& m, Now now, Out& out) {
  auto it = answered<GroupWatch>(req);
  auto watched = groups_.find(m.id);
  if (watched != groups_.end()) {
    bool done = m.total > 0 && m.done >= m.total;
    watched->second.poll_at = done ? kNever : now.mono + options_.group_poll;
  }
  if (it == pending_.end() && watched == groups_.end()) return;
  out.events.push_back(GroupEvent{it == pending_.end() ? 0 : req, std::move(m)});
  if (it != pending_.end()) finish(it);
}

void ClientCore::on_submitted(uint64_t req, Submitted&& m, Now now, Out& out) {
  if (m.epoch > broker_epoch_) {
    // Another life of the broker: its predecessor's watches are gone.
    if (broker_epoch_ != 0) uncover_all(now);
    broker_epoch_ = m.epoch;
  }
  auto it = answered<Submit>(req);
  if (it == pending_.end()) return;
  auto& submit = std::get<Submit>(it->second.message);
  if (submit.watch) accept_rows(submit.rows, now);
  // What is over already comes first: who waits for the answer may then look at each task.
  settle_known(m.rows, submit.watch, now, out);
  out.events.push_back(SubmittedEvent{req, m.accepted});
  finish(it);
}

void FetchParts::add(const Ready& m) {
  uint64_t offset = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    ResultRow row = m.rows[i];
    if (seen_.insert(row.id).second) {
      rows_.add(row);
      bytes_.append(m.bytes.view().substr(offset, row.len));
    }
    offset += row.len;
  }
}

std::pair<Rows<ResultRow>, Bytes> FetchParts::take() {
  return {rows_.take(), Bytes(std::move(bytes_))};
}

void ClientCore::on_ready(uint64_t req, Ready&& m, Now now, Out& out) {
  if (auto it = answered<Fetch>(req); it != pending_.end()) {
    it->second.fetched.add(m);
    if (!m.done) return;  // a large answer comes in several messages
    auto [rows, bytes] = it->second.fetched.take();
    out.events.push_back(FetchedEvent{req, std::move(rows), std::move(bytes)});
    finish(it);
    return;
  }
  resolve(std::move(m.rows), std::move(m.bytes), out);
  auto w = waits_.find(req);
  if (w == waits_.end()) return;
  w->second.interval = options_.wait_refresh;
  w->second.refresh_at = now.mono + options_.wait_refresh;
  if (m.done) end_wait(w, now.mono + options_.wait_after);
}

void ClientCore::check() const {
  DRAY_ASSERT(open_.check());
  calls_.check();
  size_t bytes = 0, timers = 0;
  for (const auto& [req, p] : pending_) {
    bytes += p.bytes;
    if (p.timer == kNever) continue;
    ++timers;
    DRAY_ASSERT(timers_.count({p.timer, req}) == 1);
  }
  DRAY_ASSERT(bytes == pending_bytes_ && timers == timers_.size());
}

}  // namespace dray
