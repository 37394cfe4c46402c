// Workers: attach, what they hold, liveness; timers; the stream to the aggregator; log space.
#include <algorithm>

#include "broker/core/broker.h"
#include "common/base/mutant.h"

namespace dray::broker {
namespace {
constexpr uint64_t kStreamWindowBytes = 32 << 20;
constexpr size_t kStreamWindowRecords = 2048;
constexpr Duration kBurstEvery = std::chrono::milliseconds(2);
constexpr Handle kCarryScan = 20'000;  // handles looked at in one step
constexpr uint64_t kCarryBytes = 4 << 20;  // payload carried in one step
constexpr size_t kCarryRows = 1024;
constexpr uint64_t kCarryOverhead = sizeof(CarryRow) + 64;  // log bytes of a task but its payload
constexpr size_t kTimersPerTurn = 4096;
constexpr size_t kTimersKept = 64 * 1024;
constexpr size_t kHaveMax = 1 << 20;
}  // namespace

void Broker::on_attach(SessionId from, const Envelope& e, const Attach& m, Now now, Out& out) {
  const SessionInfo& session = sessions_.at(from);
  uint32_t index = ledger_.holder_index(session.boot, session.name);
  Worker& w = worker(index);
  if (w.session != SessionId::none) worker_sessions_.erase(w.session);
  w.session = from;
  w.credit = CreditTaker{};
  w.credit.on_granted(e.granted);
  w.draining = m.draining;
  w.handlers = {m.handlers.begin(), m.handlers.end()};
  w.slots = std::max<uint32_t>(m.slots, 1);
  w.expire_at = kNever;
  w.have.clear();
  // Results below results_from were acknowledged in some earlier life of ours.
  w.next_result = std::max(w.next_result, m.results_from);
  worker_sessions_[from] = index;
  ++placement_gen_;
  for (Handle h = w.head; h != kNil && !DRAY_MUTANT(sent_no_survives); h = ledger_.tasks()[h].next)
    ledger_.tasks()[h].sent_no = 0;
  take_node(w, CapacityNews{m.devices, m.resources, {}, m.labels, 0}, out);
  // Another life of the same worker: names are unique (the worker locks its), so that one is gone.
  for (uint32_t other = 0; other < workers_.size(); ++other)
    if (other != index && ledger_.holder(other).name == session.name &&
        workers_[other].session == SessionId::none && workers_[other].leases > 0)
      lose_worker(other, "worker restarted", now, out);
  CatalogRec news;
  note_handlers(m.handlers, news);
  note_largest(w, news);
  if (!news.handlers.empty() || !news.resources.empty()) commit(news, {}, out);
  // SYNC makes the worker list what it holds; what it does not hold is placed again.
  out.now.push_back({from, 0, 0, 0, Sync{0}, {}, 0});
  out.note("worker_attached", "worker=" + session.name + " slots=" + std::to_string(w.slots) +
                                  " leases=" + std::to_string(w.leases));
  next_deadline_ = now.mono;
}

// Names that nobody had before. What the catalog has no room for is not written either: a worker
// can not fill the journal with ever new names.
void Broker::note_handlers(const std::vector<std::string>& handlers, CatalogRec& news) const {
  const std::set<std::string>& known = ledger_.catalog_handlers();
  for (const auto& h : handlers)
    if (known.count(h) == 0 && known.size() + news.handlers.size() < Ledger::kCatalogMax)
      news.handlers.push_back(h);
}

// What a worker runs from now on. What it has of others stays its own: it ends it or gives it back.
void Broker::on_handlers(uint32_t index, const Handlers& m, Now now, Out& out) {
  if (DRAY_MUTANT(handlers_not_heard)) return;
  Worker& w = workers_[index];
  w.handlers = {m.handlers.begin(), m.handlers.end()};
  w.slots = std::max<uint32_t>(m.slots, 1);
  ++placement_gen_;
  next_deadline_ = now.mono;
  CatalogRec news;
  note_handlers(m.handlers, news);
  if (!news.handlers.empty()) commit(news, {}, out);
}

// Proof instead of a timer: a lease that was sent before `received` and is not in the list was lost
// on the way (or in the worker), so it may start elsewhere; a token we do not know is void.
void Broker::on_have(uint32_t index, const Have& m, Now now, Out& out) {
  Worker& w = workers_[index];
  std::vector<TokenRow> unknown;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    TokenRow row = m.rows[i];
    w.have.insert(row.token);
    Handle h = ledger_.find(row.id);
    bool ours = h != kNil && ledger_.tasks()[h].state == TaskState::leased &&
                ledger_.tasks()[h].token == row.token && ledger_.tasks()[h].worker == index;
    if (!ours) unknown.push_back(row);
  }
  if (!unknown.empty())
    // After the sync: what voids the token may have been decided in this very turn.
    out.after_sync.push_back({w.session, 0, 0, 0, Revoke{make_rows<TokenRow>(unknown)}, {}, 0});
  if (w.have.size() > kHaveMax) {
    out.close.push_back(w.session);  // a list without an end
    return;
  }
  if (!m.complete) return;
  std::vector<Requeue> back;
  for (Handle h = w.head; h != kNil; h = ledger_.tasks()[h].next) {
    const Task& t = ledger_.tasks()[h];
    if ((t.sent_no <= m.received || DRAY_MUTANT(have_without_received)) &&
        w.have.count(t.token) == 0)
      back.push_back({h, Cause::returned, 0, {}});
  }
  w.have.clear();
  counters_.returned += back.size();
  std::sort(back.begin(), back.end(), [&](const Requeue& a, const Requeue& b) {
    return ledger_.tasks()[a.handle].order < ledger_.tasks()[b.handle].order;
  });
  requeue(back, now, out);
}

void Broker::on_progress(uint32_t index, const Progress& m) {
  uint64_t offset = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    ProgressRow row = m.rows[i];
    Handle h = ledger_.find(row.id);
    if (h != kNil && ledger_.tasks()[h].token == row.token && ledger_.tasks()[h].worker == index)
      progress_[row.id] = {std::min<uint32_t>(row.permille, 1000),
                           std::string(m.bytes.view().substr(offset, std::min(row.len, 256u)))};
    offset += row.len;
  }
}

void Broker::beat_workers(Now, Out& out) {
  for (const auto& [session, index] : worker_sessions_)
    out.after_sync.push_back({session, 0, 0, 0, Sync{workers_[index].credit.sent()}, {}, 0});
}

// Time in which this process was stopped is nobody's silence (as in links).
void Broker::give_back_stop(Now now) {
  Duration gap = now.mono - last_tick_;
  last_tick_ = now.mono;
  if (gap <= options_.beat * 3 / 2 || DRAY_MUTANT(broker_stop_not_given_back)) return;
  Time most = now.mono + std::max(options_.lease_ttl, options_.resume_window);
  for (Worker& w : workers_)
    if (w.expire_at != kNever) w.expire_at = std::min(w.expire_at + gap, most);
}

void Broker::expire_leases(Now now, Out& out) {
  for (uint32_t i = 0; i < workers_.size(); ++i) {
    Worker& w = workers_[i];
    if (w.session != SessionId::none || w.expire_at > now.mono) continue;
    w.expire_at = kNever;
    if (w.leases > 0) lose_worker(i, "worker lost", now, out);
  }
}

bool Broker::is_stale(const Timer& timer) const {
  const Task& t = ledger_.tasks()[timer.handle];
  return !t.in_use || t.order != timer.order || is_terminal(t.state);
}

void Broker::push_timer(Timer timer) {
  timers_.push_back(timer);
  std::push_heap(timers_.begin(), timers_.end(), std::greater<>());
  if (timers_.size() < std::max(timers_max_, kTimersKept)) return;
  std::erase_if(timers_, [this](const Timer& t) { return is_stale(t); });
  std::make_heap(timers_.begin(), timers_.end(), std::greater<>());
  timers_max_ = 2 * timers_.size();
}

Broker::Timer Broker::pop_timer() {
  std::pop_heap(timers_.begin(), timers_.end(), std::greater<>());
  Timer timer = timers_.back();
  timers_.pop_back();
  return timer;
}

void Broker::run_timers(Now now, Out& out) {
  std::vector<Ending> expired;
  std::set<Handle> chosen;  // a task may have two timers due
  for (size_t n = 0; n < kTimersPerTurn; ++n) {
    if (timers_.empty() || timers_.front().wall_ms > now.wall_ms) break;
    Timer timer = pop_timer();
    Task& t = ledger_.tasks()[timer.handle];
    if (!t.in_use || t.order != timer.order || t.state != TaskState::queued) continue;
    if (timer.expiry && DRAY_MUTANT(expiry_ignored)) continue;
    if (timer.expiry) {
      if (!chosen.insert(timer.handle).second && !DRAY_MUTANT(expiry_timer_twice)) continue;
      expired.push_back({timer.handle, TaskState::expired, Errc::expired, 0, {}});
    } else if (!t.in_lane && t.due_ms == timer.wall_ms) {
      enlist(timer.handle, now);
    }
  }
  finish(expired, now, out);
}

// --- stream to the aggregator ------------------------------------------------------------------

void Broker::on_attach_stream(SessionId from, const AttachStream& m, Out& out) {
  if (m.after >= ledger_.next_record()) {
    out.now.push_back({from,
                       0,
                       0,
                       0,
                       make_reject(Errc::conflict,
                                   "the aggregator is ahead of this journal; one of the two data "
                                   "directories was replaced"),
                       {},
                       0});
    out.note("stream_refused", "after=" + std::to_string(m.after));
    return;
  }
  stream_session_ = from;
  stream_acked_ = std::max(stream_acked_, m.after);
  stream_sent_ = m.after;
  stream_full_ = false;
}

// In bursts: every commit of the aggregator is a sync on a disk that is often the journal's too,
// and nobody's answer waits for it.
void Broker::pump_stream(Now now, Out& out) {
  if (stream_session_ == SessionId::none || stream_sent_ >= ledger_.last_finish()) return;
  if (now.mono < next_burst_) return;
  next_burst_ = now.mono + kBurstEvery;
  const auto& unacked = ledger_.unacked();
  auto by_record = [](RecordNo no, const Unacked& u) { return no < u.record; };
  auto first = std::upper_bound(unacked.begin(), unacked.end(), stream_acked_, by_record);
  auto next = std::upper_bound(unacked.begin(), unacked.end(), stream_sent_, by_record);
  uint64_t inflight = 0;
  for (auto it = first; it < next; ++it) inflight += it->bytes;
  auto window = static_cast<size_t>(std::max<ptrdiff_t>(next - first, 0));
  for (; next != unacked.end(); ++next) {
    stream_full_ = window++ >= kStreamWindowRecords || inflight > kStreamWindowBytes;
    if (stream_full_) break;
    inflight += next->bytes;
    stream_sent_ = next->record;
    Finished m{next->prev, next->record, next->wall_ms, {}, {}};
    out.after_sync.push_back({stream_session_, 0, 0, 0, std::move(m), {}, next->record});
  }
  // Nothing left that is not confirmed: without this the deadline would never rest.
  if (next == unacked.end()) stream_sent_ = ledger_.last_finish();
}

// --- log space -----------------------------------------------------------------------------------

void Broker::keep_house(Now now, Out& out) {
  trim_dead(out);
  uint64_t floor = ledger_.trim_known();
  // Copying collection, paid for by growth: when the log is much larger than what lives in it and
  // an old live task pins its front, live tasks are written again at the end.
  uint64_t live = ledger_.live_bytes() +
                  kCarryOverhead * (ledger_.live_tasks() + ledger_.dead_letters().size());
  uint64_t limit = options_.journal_keep + 2 * live + options_.journal_keep / 8;
  if (!gc_cut_ && ledger_.log_bytes() > limit && ledger_.front_is_pinned() &&
      (ledger_.unacked().empty() || ledger_.unacked().front().record != ledger_.first_record())) {
    gc_cut_ = ledger_.next_record();
    gc_cursor_ = 0;
  }
  if (gc_cut_) carry_some(out);
  RecordNo before = ledger_.first_record();
  RecordNo keep_from = ledger_.release(options_.journal_keep, now.wall_ms, floor);
  if (floor > ledger_.floor_ms() && !DRAY_MUTANT(floor_not_written))
    commit(FloorRec{floor}, {}, out);
  if (keep_from == before) return;
  out.release_before = keep_from;
  if (settings_record_ < keep_from && !DRAY_MUTANT(settings_not_rewritten)) write_settings(out);
}

// Settings that are not tasks: written again before the records that said them are reclaimed.
void Broker::write_settings(Out& out) {
  settings_record_ = ledger_.next_record();
  CatalogRec catalog;
  catalog.handlers.assign(ledger_.catalog_handlers().begin(), ledger_.catalog_handlers().end());
  catalog.resources = ledger_.catalog_resources().amounts();
  commit(catalog, {}, out);
  commit(FloorRec{ledger_.floor_ms()}, {}, out);
  for (const auto& queue : ledger_.paused_queues()) commit(PauseRec{queue, true}, {}, out);
}

void Broker::carry_some(Out& out) {
  CarryRec rec;
  std::string rows;
  std::vector<BlobPart> blob;
  std::unordered_map<uint32_t, uint32_t> specs;
  uint64_t bytes = 0;
  const TaskPool& tasks = ledger_.tasks();
  Handle end = std::min<Handle>(tasks.size(), gc_cursor_ + kCarryScan);
  uint32_t count = 0;
  for (; gc_cursor_ < end && bytes < kCarryBytes && count < kCarryRows; ++gc_cursor_) {
    const Task& t = tasks[gc_cursor_];
    if (!t.in_use || t.record >= gc_cut_) continue;
    auto [it, fresh] = specs.emplace(t.spec, static_cast<uint32_t>(rec.specs.size()));
    if (fresh) rec.specs.push_back(ledger_.specs()[t.spec].blob);
    BootId holder;
    if (t.state == TaskState::leased) {
      holder = ledger_.holder(t.worker).boot;
      rec.workers.push_back(ledger_.holder(t.worker).name);
    }
    append_row(
        rows,
        CarryRow{t.id, t.fingerprint, t.order, t.due_ms, t.expires_ms,
                 DRAY_MUTANT(carry_without_token) ? Token{} : t.token, holder, t.len, it->second,
                 static_cast<uint16_t>(DRAY_MUTANT(carry_without_attempt) ? 0 : t.attempt),
                 t.failures, t.lost, t.state, 0});
    if (t.len) blob.push_back({{}, t.record, t.offset, t.len});
    if (auto* errors = ledger_.errors(t.id))
      for (const auto& text : *errors) rec.texts.emplace_back(count, text);
    bytes += t.len;
    ++count;
  }
  if (gc_cursor_ >= tasks.size()) gc_cut_ = 0;
  if (count == 0) return;
  counters_.carried += count;
  rec.rows = Bytes(std::move(rows));
  commit(rec, std::move(blob), out);
}

void Broker::trim_dead(Out& out) {
  const auto& dead = ledger_.dead_letters();
  bool heavy = ledger_.dead_bytes() > options_.journal_budget / 4;
  if (dead.size() <= options_.dead_letters_max && !heavy) return;
  std::string ids;
  size_t over =
      dead.size() > options_.dead_letters_max ? dead.size() - options_.dead_letters_max : 0;
  size_t drop =
      std::min<size_t>(heavy ? std::max<size_t>(over, dead.size() / 8 + 1) : over, kItemsMax);
  auto it = dead.begin();
  for (size_t i = 0; i < drop; ++i, ++it) append_row(ids, IdRow{it->second});
  out.note("dead_letters_dropped", "count=" + std::to_string(drop));
  commit(DropDeadRec{Bytes(std::move(ids))}, {}, out);
}

}  // namespace dray::broker
