#include "broker/core/broker.h"

#include <algorithm>

#include "common/base/mutant.h"

namespace dray::broker {
namespace {
constexpr Duration kHouseInterval = std::chrono::milliseconds(250);
}

Broker::Broker(BrokerOptions options)
    : options_(options),
      ledger_(options.known_ids_max),
      lanes_(ledger_.tasks(), ledger_.specs()),
      rng_(options.seed) {}

Status Broker::replay(const ReplayedRecord& replayed) {
  DRAY_TRY_ASSIGN(Record record, decode_record(replayed));
  return ledger_.apply(record, replayed.no, replayed.blob_size + replayed.head.size());
}

// Rebuilds every runtime index from the ledger. Workers that hold leases get resume_window to
// come back; their tasks do not start anywhere else before that.
void Broker::start(uint64_t epoch, Now now) {
  epoch_ = epoch;
  workers_.resize(ledger_.holders());
  for (Worker& w : workers_)
    w.expire_at = now.mono + (DRAY_MUTANT(no_resume_window) ? Duration{} : options_.resume_window);
  TaskPool& tasks = ledger_.tasks();
  std::vector<Handle> live;
  for (Handle h = 0; h < tasks.size(); ++h) {
    Task& t = tasks[h];
    if (!t.in_use) continue;
    if (t.state == TaskState::leased) link(t.worker, h);
    if (!is_terminal(t.state)) live.push_back(h);
  }
  std::sort(live.begin(), live.end(),
            [&](Handle a, Handle b) { return tasks[a].order < tasks[b].order; });
  for (Handle h : live) enlist_new(h, now);
  stream_acked_ = stream_recorded_ = 0;
  next_beat_ = next_house_ = next_deadline_ = last_tick_ = now.mono;
}

void Broker::commit(const Record& record, std::vector<BlobPart> blob, Out& out) {
  JournalRecord journal = encode_record(ledger_.next_record(), record);
  uint64_t size = 0;
  for (const BlobPart& p : blob) size += p.from ? p.size : p.bytes.size();
  journal.blob = std::move(blob);
  Status applied = ledger_.apply(record, journal.no, size + journal.head.size());
  DRAY_ASSERT(applied.has_value());
  out.journal.push_back(std::move(journal));
  ++counters_.records;
}

Broker::Worker& Broker::worker(uint32_t w) {
  if (w >= workers_.size()) workers_.resize(w + 1);
  return workers_[w];
}

void Broker::on_open(const SessionInfo& session, Now, Out&) { sessions_[session.id] = session; }

void Broker::on_close(SessionId id, CloseReason reason, Now now, Out& out) {
  sessions_.erase(id);
  if (stream_session_ == id) stream_session_ = SessionId::none;
  auto it = worker_sessions_.find(id);
  if (it == worker_sessions_.end()) return;
  uint32_t index = it->second;
  worker_sessions_.erase(it);
  Worker& w = workers_[index];
  if (w.session != id) return;
  w.session = SessionId::none;
  w.have.clear();
  ++placement_gen_;
  out.note("worker_gone", "worker=" + ledger_.holder(index).name + " reason=" +
                              close_reason_name(reason) + " leases=" + std::to_string(w.leases));
  // Silence for the whole lease_ttl, or a good-bye: nothing of it runs any more as far as we can
  // know. A broken connection alone proves nothing: the worker may be back in a moment.
  if (reason == CloseReason::timeout || reason == CloseReason::bye ||
      DRAY_MUTANT(reset_loses_leases)) {
    lose_worker(index, "worker lost", now, out);
  } else {
    w.expire_at = now.mono + options_.lease_ttl;
  }
  next_deadline_ = now.mono;
}

void Broker::on_message(SessionId from, const Envelope& e, Message&& message, Now now, Out& out) {
  auto session = sessions_.find(from);
  if (session == sessions_.end()) return;
  Role role = session->second.role;
  if (role == Role::worker) {
    if (auto* attach = std::get_if<Attach>(&message)) return on_attach(from, e, *attach, now, out);
    auto it = worker_sessions_.find(from);
    if (it != worker_sessions_.end())
      return on_worker_message(it->second, e, std::move(message), now, out);
  } else if (role == Role::router || role == Role::client) {
    if (auto* m = std::get_if<Submit>(&message)) return on_submit(from, e, std::move(*m), now, out);
    if (auto* m = std::get_if<Cancel>(&message)) return on_cancel(from, e, *m, now, out);
    if (auto* m = std::get_if<Query>(&message)) return on_query(from, e, *m, out);
    if (auto* m = std::get_if<Admin>(&message)) return on_admin(from, e, *m, now, out);
  } else if (role == Role::aggregator) {
    if (auto* m = std::get_if<AttachStream>(&message)) return on_attach_stream(from, *m, out);
    if (auto* m = std::get_if<FinishedAck>(&message)) {
      if (from != stream_session_) return;
      stream_acked_ = std::max(stream_acked_, std::min(m->upto, ledger_.last_finish()));
      stream_full_ = false;
      return;
    }
  }
  if (role == Role::balancer) return;  // its VIEW is for routers
  out.now.push_back(reply_to(
      from, e,
      make_reject(Errc::denied, "a " + std::string(role_name(role)) + " may not send this here")));
}

void Broker::on_worker_message(uint32_t w, const Envelope& e, Message&& message, Now now,
                               Out& out) {
  workers_[w].credit.on_granted(e.granted);
  if (auto* m = std::get_if<Results>(&message)) return on_results(w, *m, now, out);
  if (auto* m = std::get_if<Have>(&message)) return on_have(w, *m, now, out);
  if (auto* m = std::get_if<GiveBack>(&message)) return on_give_back(w, *m, now, out);
  if (auto* m = std::get_if<Progress>(&message)) return on_progress(w, *m);
  if (auto* m = std::get_if<Handlers>(&message)) return on_handlers(w, *m, now, out);
  if (auto* m = std::get_if<CapacityNews>(&message)) return on_capacity(w, *m, out);
  if (auto* m = std::get_if<Drain>(&message)) {
    workers_[w].draining = m->on;
    ++placement_gen_;
    return;
  }
  out.now.push_back(
      reply_to(workers_[w].session, e, make_reject(Errc::denied, "a worker may not send this")));
}

void Broker::tick(Now now, Out& out) {
  give_back_stop(now);
  expire_leases(now, out);
  run_timers(now, out);
  if (now.mono >= next_beat_) {
    beat_workers(now, out);
    tell_backlog(out);
    next_beat_ = now.mono + options_.beat;
  }
  if (now.mono >= next_house_) {
    keep_house(now, out);
    next_house_ = now.mono + (gc_cut_ ? std::chrono::milliseconds(5) : kHouseInterval);
  }
  set_deadline(now);
}

void Broker::end_turn(Now now, Out& out) {
  dispatch(now, out);
  for (auto& [session, index] : worker_sessions_) {
    Worker& w = workers_[index];
    if (!w.ack_due) continue;
    w.ack_due = false;
    ResultsAck ack{w.next_result, make_rows<TokenRow>(w.stale)};
    w.stale.clear();
    (DRAY_MUTANT(results_acked_before_sync) ? out.now : out.after_sync)
        .push_back({session, 0, 0, 0, std::move(ack), {}, 0});
  }
  // The confirmation is only worth a record when something else is synced anyway, or now and then:
  // forgetting it costs a few repeated FINISHED messages after a crash.
  if (stream_acked_ > stream_recorded_ && (!out.journal.empty() || now.mono >= next_ack_record_)) {
    commit(StreamAckRec{stream_acked_}, {}, out);
    stream_recorded_ = stream_acked_;
    next_ack_record_ = now.mono + options_.beat;
  }
  pump_stream(now, out);
  set_deadline(now);
}

void Broker::set_deadline(Now now) {
  Time t = std::min(next_beat_, next_house_);
  if (!timers_.empty())
    t = std::min(t, now.mono + std::chrono::milliseconds(
                                   std::max<int64_t>(0, timers_.front().wall_ms - now.wall_ms)));
  for (const Worker& w : workers_)
    if (w.session == SessionId::none && w.leases > 0) t = std::min(t, w.expire_at);
  if (round_unfinished_) t = now.mono;
  if (stream_session_ != SessionId::none && !stream_full_ && stream_sent_ < ledger_.last_finish())
    t = std::min(t, next_burst_);
  next_deadline_ = std::max(t, now.mono);
}

// --- links of a lease --------------------------------------------------------------------------

void Broker::link(uint32_t index, Handle h) {
  Worker& w = worker(index);
  Task& t = ledger_.tasks()[h];
  t.prev = kNil;
  t.next = w.head;
  if (w.head != kNil) ledger_.tasks()[w.head].prev = h;
  w.head = h;
  ++w.leases;
  w.leased_bytes += t.len;
}

void Broker::unlink(Handle h) {
  Task& t = ledger_.tasks()[h];
  Worker& w = workers_[t.worker];
  if (t.prev != kNil) ledger_.tasks()[t.prev].next = t.next;
  if (t.next != kNil) ledger_.tasks()[t.next].prev = t.prev;
  if (w.head == h) w.head = t.next;
  t.prev = t.next = kNil;
  --w.leases;
  w.leased_bytes -= t.len;
  if (!w.grants.empty()) give_needs(w, h);
}

uint32_t Broker::watch_index(SessionId session, uint64_t route) {
  auto [it, fresh] = watch_by_route_.emplace(std::pair(session, route), 0);
  if (!fresh) return it->second;
  uint32_t index;
  if (free_watches_.empty()) {
    index = static_cast<uint32_t>(watches_.size());
    watches_.emplace_back();
  } else {
    index = free_watches_.back();
    free_watches_.pop_back();
  }
  watches_[index] = {session, route, 0};
  it->second = index;
  return index;
}

void Broker::drop_watch(uint32_t index) {
  Watch& w = watches_[index];
  if (--w.users > 0) return;
  watch_by_route_.erase({w.session, w.route});
  free_watches_.push_back(index);
}

void Broker::check() const {
  ledger_.check();
  const TaskPool& tasks = ledger_.tasks();
  std::vector<uint32_t> leases(workers_.size(), 0);
  uint64_t in_lanes = 0;
  for (Handle h = 0; h < tasks.size(); ++h) {
    const Task& t = tasks[h];
    if (!t.in_use) continue;
    if (t.state == TaskState::leased) ++leases[t.worker];
    if (t.in_lane) ++in_lanes;
    DRAY_ASSERT(!t.in_lane || t.state == TaskState::queued);
  }
  DRAY_ASSERT(in_lanes == lanes_.total());
  for (size_t i = 0; i < workers_.size(); ++i) {
    DRAY_ASSERT(leases[i] == workers_[i].leases);
    uint32_t n = 0;
    uint64_t bytes = 0;
    for (Handle h = workers_[i].head; h != kNil; h = tasks[h].next) {
      ++n;
      bytes += tasks[h].len;
    }
    DRAY_ASSERT(n == workers_[i].leases && bytes == workers_[i].leased_bytes);
    check_grants(workers_[i]);
  }
}

}  // namespace dray::broker
