// Aggregator core: sessions, the broker's stream, and the steps of a turn.
#include "services/aggregator/core/aggregator.h"

#include <algorithm>

#include "common/base/assert.h"
#include "common/base/mutant.h"

namespace dray {
namespace {
constexpr Duration kAttachGap = 100ms;  // between two ATTACH_STREAM after holes
constexpr int kFruitlessMax = 50;
constexpr size_t kLoadRows = 4096;
constexpr size_t kExpirePages = 4096;  // group pages dropped per sweep

bool is_outcome(const ResultRow& row) {
  return !row.id.is_null() && is_terminal(static_cast<TaskState>(row.status));
}

// Calls f(row, offset of its bytes) for every outcome.
template <class F>
void for_each_outcome(const Finished& m, F&& f) {
  size_t offset = 0;
  for (size_t i = 0, n = m.rows.size(); i < n; ++i) {
    const ResultRow row = m.rows[i];
    if (is_outcome(row)) f(row, offset);
    offset += row.len;
  }
}

}  // namespace

Aggregator::Aggregator(ResultStore& store, AggregatorOptions options)
    : store_(store), options_(options), groups_(options.groups) {}

Status Aggregator::start() {
  const StreamPos at = store_.stream_pos();
  epoch_ = at.epoch;
  durable_ = received_ = at.pos;
  std::string after;
  for (;;) {
    DRAY_TRY_ASSIGN(auto rows, store_.scan("g", kLoadRows, after));
    for (const StoreRow& row : rows) DRAY_TRY(groups_.load(row));
    if (rows.size() < kLoadRows) return {};
    after = rows.back().first;
  }
}

void Aggregator::on_open(const SessionInfo& session, Now now, Out& out) {
  now_ = now;
  if (session.port != kBroker) {
    if (session.role == Role::router) routers_.insert(session.id);
    return;
  }
  broker_ = session.id;
  if (session.epoch < epoch_) {
    out.note("stream_reset",
             "epoch=" + std::to_string(session.epoch) + " before=" + std::to_string(epoch_));
    durable_ = received_ = 0;
  }
  epoch_ = session.epoch;
  attach(out);
}

void Aggregator::on_close(SessionId session, CloseReason, Now now, Out&) {
  now_ = now;
  if (session == broker_) {
    broker_ = SessionId::none;
    hole_ = stalled_ = false;
    return;
  }
  if (routers_.erase(session) == 0) return;
  waits_.remove_session(session);
  watches_.remove_session(session);
  std::erase_if(puts_, [&](const auto& p) { return p.asker.session == session; });
  std::erase_if(group_watches_, [&](const auto& p) { return p.asker.session == session; });
}

void Aggregator::attach(Out& out) {
  ++counters_.attaches;
  attached_ = true;
  hole_ = stalled_ = refused_ = false;
  attach_at_ = now_.mono + kAttachGap;
  Send s;
  s.to = broker_;
  // The durable position: the broker may forget what it is told here.
  s.message = AttachStream{durable_};
  out.now.push_back(std::move(s));
}

void Aggregator::on_message(SessionId from, const Envelope& envelope, Message&& message, Now now,
                            Out& out) {
  now_ = now;
  if (from == broker_) {
    if (auto* m = std::get_if<Finished>(&message)) return on_finished(std::move(*m), now, out);
    if (auto* m = std::get_if<Reject>(&message)) on_broker_reject(*m, out);
    return;
  }
  const WaitKey asker{from, envelope.route, envelope.req};
  if (routers_.count(from) == 0)
    return reject(asker, Errc::denied, "only routers may talk to the aggregator", out);
  std::visit(
      [&](auto&& m) {
        if constexpr (requires { on(asker, std::move(m), now, out); })
          on(asker, std::move(m), now, out);
        else
          reject(asker, Errc::bad_message,
                 "the aggregator does not take " +
                     std::string(kind_name(std::decay_t<decltype(m)>::kind)),
                 out);
      },
      std::move(message));
}

void Aggregator::on_finished(Finished&& m, Now now, Out& out) {
  if (stalled_) {
    ++counters_.dropped_stalled;
    return;
  }
  if (m.record <= received_ && !DRAY_MUTANT(repeat_accepted)) {
    ++counters_.duplicates;
    ack_due_ = true;
    return;
  }
  if (m.prev == received_ || (attached_ && m.prev < received_) || DRAY_MUTANT(hole_accepted))
    return take(std::move(m), now, out);
  on_hole(std::move(m), now, out);
}

void Aggregator::take(Finished&& m, Now now, Out& out) {
  attached_ = hole_ = false;
  fruitless_ = 0;
  first_beyond_ = 0;
  received_ = m.record;
  ack_due_ = true;
  stage(m, now, out);
  staged_.push_back(std::move(m));
}

void Aggregator::on_hole(Finished&& m, Now now, Out& out) {
  ++counters_.holes;
  if (first_beyond_ == 0 || m.record < first_beyond_) first_beyond_ = m.record;
  if (fruitless_ >= kFruitlessMax && m.record == first_beyond_) {
    ++counters_.gaps;
    out.note("stream_gap", "at=" + std::to_string(received_) + " prev=" + std::to_string(m.prev) +
                               " results=missing");
    return take(std::move(m), now, out);
  }
  out.note("stream_hole", "at=" + std::to_string(received_) + " prev=" + std::to_string(m.prev) +
                              " record=" + std::to_string(m.record));
  hole_ = true;
  if (now.mono < attach_at_) return;
  ++fruitless_;
  attach(out);
}

void Aggregator::on_broker_reject(const Reject& m, Out& out) {
  out.note("broker_reject", "detail=" + m.detail);
  if (m.code != static_cast<uint8_t>(Errc::conflict)) return;
  refused_ = true;
  // The store's position never goes back inside one epoch; then only an operator can help.
  if (durable_ == 0 || store_.stream_pos().epoch == epoch_ || !staged_.empty()) return;
  out.note("stream_reset", "before=" + std::to_string(durable_));
  durable_ = received_ = 0;
  attach(out);
}

// Nothing here depends on who waits: that is looked at once the batch is durable.
void Aggregator::stage(const Finished& m, Now now, Out& out) {
  auto& results = out.batch.results;
  const size_t n = m.rows.size();
  if (results.capacity() < results.size() + n)
    results.reserve(std::max(results.size() + n, 2 * results.capacity()));
  const size_t before = results.size();
  for_each_outcome(m, [&](const ResultRow& row, size_t offset) {
    StoredResult& r = results.emplace_back();
    r.id = row.id;
    r.state = row.status;
    r.code = row.code;
    r.attempt = row.attempt;
    r.exec_us = row.exec_us;
    r.token = row.token;
    r.finished_wall_ms = m.wall_ms;
    // From our own clock: kept so long after it became readable.
    r.expires_wall_ms =
        now.wall_ms + (row.ttl_s ? int64_t{row.ttl_s} * 1000 : options_.result_ttl_ms);
    if (row.len != 0) r.bytes = m.bytes.slice(offset, row.len);
  });
  ++counters_.records;
  counters_.results += results.size() - before;
  counters_.bad_rows += n - (results.size() - before);
}

void Aggregator::end_turn(Now now, Out& out) {
  now_ = now;
  for (const PendingPut& pending : puts_) apply_put(pending, now, out);
  puts_.clear();
  if (!groups_.empty()) {
    for (const Finished& m : staged_)
      for_each_outcome(m, [&](const ResultRow& row, size_t) {
        groups_.finish(row.id, static_cast<TaskState>(row.status), now.wall_ms);
      });
  }
  groups_.collect(out.batch);
  if (!staged_.empty()) out.batch.stream = {epoch_, received_};
}

void Aggregator::on_committed(Out& out) {
  durable_ = received_;
  push_ready(out);
  staged_.clear();
  for (Send& s : answers_) out.after_sync.push_back(std::move(s));
  answers_.clear();
  std::vector<std::pair<WaitKey, TaskId>> told;
  for (TaskId group : groups_.commit()) watches_.changed(group, now_.mono, told);
  tell(told, out);
  for (const PendingWatch& pending : group_watches_) answer_watch(pending, out);
  group_watches_.clear();
  if (std::exchange(ack_due_, false) && broker_ != SessionId::none) {
    Send s;
    s.to = broker_;
    s.message = FinishedAck{durable_ + DRAY_MUTANT(confirms_one_more)};
    out.after_sync.push_back(std::move(s));
  }
}

void Aggregator::push_ready(Out& out) {
  if (waits_.empty()) return;
  for (const Finished& m : staged_)
    for_each_outcome(
        m, [&](const ResultRow& row, size_t offset) { waits_.finish(row, m.bytes, offset); });
  waits_.flush(out.after_sync);
}

void Aggregator::on_stalled(Out& out) {
  ++counters_.stalls;
  out.note("stalled", "at=" + std::to_string(durable_) +
                          " records=" + std::to_string(staged_.size()) + " reason=no_space");
  if (!DRAY_MUTANT(full_disk_forgotten)) received_ = durable_;
  staged_.clear();
  groups_.rollback();
  for (const Send& s : answers_) {
    ++counters_.rejected;
    out.after_sync.push_back(Send{s.to,
                                  s.route,
                                  s.req,
                                  0,
                                  make_reject(Errc::disk_low, "the result store is full",
                                              static_cast<uint32_t>(to_ms(options_.retry))),
                                  {},
                                  0});
  }
  answers_.clear();
  for (const PendingWatch& pending : group_watches_) answer_watch(pending, out);
  group_watches_.clear();
  ack_due_ = false;
  stalled_ = broker_ != SessionId::none;
  attach_at_ = now_.mono + options_.retry;
}

void Aggregator::on_swept(size_t results) {
  counters_.swept += results;
  if (results > 0) sweep_at_ = now_.mono + options_.sweep_again;
}

void Aggregator::tick(Now now, Out& out) {
  now_ = now;
  if ((hole_ || stalled_) && now.mono >= attach_at_ && broker_ != SessionId::none) {
    if (hole_) ++fruitless_;
    attach(out);
  }
  if (now.mono >= sweep_at_) {
    sweep_at_ = now.mono + options_.sweep_every;
    out.sweep = Sweep{now.wall_ms, options_.size_budget, options_.sweep_pages};
    groups_.expire(now.wall_ms, kExpirePages);
  }
  std::vector<std::pair<WaitKey, TaskId>> due;
  watches_.due(now.mono, due);
  tell(due, out);
}

Time Aggregator::next_deadline() const {
  Time t = std::min(sweep_at_, watches_.next_due());
  if ((hole_ || stalled_) && broker_ != SessionId::none) t = std::min(t, attach_at_);
  return t;
}

void Aggregator::begin_drain(Now now, Out& out) {
  now_ = now;
  out.note("draining", "waiters=" + std::to_string(waits_.ids()));
}

void Aggregator::check() const {
  DRAY_ASSERT(received_ == durable_ && staged_.empty() && answers_.empty() && puts_.empty() &&
              group_watches_.empty());
  DRAY_ASSERT(waits_.ids() + watches_.size() <= options_.waiters_max);
  waits_.check();
  groups_.check();
  watches_.check();
}

}  // namespace dray
