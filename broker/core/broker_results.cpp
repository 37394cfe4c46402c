// Ends of attempts: results, failures, lost leases; and the one place where a task ends.
#include <algorithm>

#include "broker/core/broker.h"
#include "common/base/mutant.h"

namespace dray::broker {
namespace {
constexpr size_t kLostTextMax = 200;  // what is kept of a requeued task's text is not much longer

TaskState count_end(BrokerCounters& c, TaskState state) {
  switch (state) {
    case TaskState::succeeded:
      ++c.succeeded;
      break;
    case TaskState::failed:
      ++c.failed;
      break;
    case TaskState::dead:
      ++c.dead;
      break;
    case TaskState::cancelled:
      ++c.cancelled;
      break;
    case TaskState::expired:
      ++c.expired;
      break;
    default:
      break;
  }
  return state;
}

// Neighbouring slices of one buffer become one part again: usually a whole RESULTS body.
void join(std::vector<Bytes>& parts, const Bytes& piece) {
  if (piece.empty()) return;
  if (!parts.empty() && parts.back().owner() == piece.owner() &&
      parts.back().data() + parts.back().size() == piece.data()) {
    parts.back() = Bytes(piece.owner(), parts.back().data(), parts.back().size() + piece.size());
    return;
  }
  parts.push_back(piece);
}

Bytes concat(const std::vector<Bytes>& parts) {
  if (parts.empty()) return {};
  if (parts.size() == 1) return parts[0];
  std::string all;
  for (const Bytes& p : parts) all.append(p.view());
  return Bytes(std::move(all));
}
}  // namespace

void Broker::finish(std::vector<Ending>& endings, Now now, Out& out) {
  size_t begin = 0;
  while (begin < endings.size()) {
    size_t n = 0;
    uint64_t bytes = 0;
    while (begin + n < endings.size() && n < kItemsMax &&
           (n == 0 || bytes + endings[begin + n].bytes.size() <= kBodyBytesMax))
      bytes += endings[begin + n++].bytes.size();
    finish_some(&endings[begin], n, now, out);
    begin += n;
  }
  endings.clear();
}

void Broker::finish_some(const Ending* endings, size_t n, Now now, Out& out) {
  FinishRec rec{now.wall_ms, ledger_.last_finish(), {}, {}};
  std::string rows;
  rows.reserve(n * sizeof(ResultRow));
  std::vector<Bytes> parts;
  std::vector<std::pair<uint32_t, size_t>> watched;  // watch, row
  for (size_t i = 0; i < n; ++i) {
    const Ending& end = endings[i];
    Task& t = ledger_.tasks()[end.handle];
    if (t.state == TaskState::leased) unlink(end.handle);
    if (t.in_lane) {
      lanes_.note_gone(end.handle);
      t.in_lane = false;
    }
    uint64_t ttl_s = (ledger_.options(t).result_ttl_ms + 999) / 1000;
    append_row(rows, ResultRow{t.id, t.token, static_cast<uint32_t>(end.bytes.size()), end.exec_us,
                               static_cast<uint32_t>(ttl_s), t.attempt,
                               static_cast<uint8_t>(count_end(counters_, end.state)),
                               static_cast<uint8_t>(end.code)});
    join(parts, end.bytes);
    if (end.state == TaskState::failed || end.state == TaskState::dead)
      rec.texts.emplace_back(static_cast<uint32_t>(i),
                             std::string(end.bytes.view().substr(0, 256)));
    if (t.watch != kNil) {
      watched.emplace_back(t.watch, i);
      t.watch = kNil;
    }
    if (!progress_.empty()) progress_.erase(t.id);
  }
  rec.rows = Bytes(std::move(rows));
  Bytes table = rec.rows;
  std::vector<BlobPart> blob;
  for (const Bytes& p : parts) blob.push_back({p, 0, 0, 0});
  if (!watched.empty()) tell_watchers(watched, table, parts, out);
  commit(rec, std::move(blob), out);
}

// READY pushes, after the sync. Usually every row belongs to one watcher and the tables go out as
// they are; else each watcher gets its own rows.
void Broker::tell_watchers(const std::vector<std::pair<uint32_t, size_t>>& rows, const Bytes& table,
                           const std::vector<Bytes>& parts, Out& out) {
  Bytes body = concat(parts);
  size_t total = row_count<ResultRow>(table);
  bool same = rows.size() == total && std::all_of(rows.begin(), rows.end(), [&](const auto& r) {
                return r.first == rows[0].first;
              });
  auto push = [&](uint32_t watch, Rows<ResultRow> ready, Bytes bytes) {
    const Watch& w = watches_[watch];
    (DRAY_MUTANT(ready_before_sync) ? out.now : out.after_sync)
        .push_back(
            {w.session, w.route, 0, 0, Ready{false, std::move(ready), std::move(bytes)}, {}, 0});
  };
  if (same) {
    push(rows[0].first, Rows<ResultRow>(table), body);
  } else {
    std::vector<uint64_t> offset(total + 1, 0);
    for (size_t i = 0; i < total; ++i) offset[i + 1] = offset[i] + row_at<ResultRow>(table, i).len;
    std::map<uint32_t, std::pair<RowsBuilder<ResultRow>, std::string>> split;
    for (const auto& [watch, i] : rows) {
      auto& [builder, bytes] = split[watch];
      builder.add(row_at<ResultRow>(table, i));
      bytes.append(body.view().substr(offset[i], offset[i + 1] - offset[i]));
    }
    for (auto& [watch, s] : split) push(watch, s.first.take(), Bytes(std::move(s.second)));
  }
  for (const auto& [watch, i] : rows) drop_watch(watch);
}

void Broker::requeue(std::vector<Requeue>& list, Now now, Out& out) {
  if (list.empty()) return;
  RequeueRec rec;
  std::string rows;
  for (size_t i = 0; i < list.size(); ++i) {
    const Requeue& r = list[i];
    Task& t = ledger_.tasks()[r.handle];
    if (t.state == TaskState::leased) unlink(r.handle);
    append_row(rows, RequeueRow{t.id, r.due_ms, r.cause, 0, 0, 0});
    if (!r.text.empty()) rec.texts.emplace_back(static_cast<uint32_t>(i), r.text.substr(0, 256));
  }
  rec.rows = Bytes(std::move(rows));
  commit(rec, {}, out);
  // Backwards, so that push_front keeps the order.
  for (size_t i = list.size(); i-- > 0;) enlist(list[i].handle, now);
  list.clear();
}

int64_t Broker::backoff_ms(const Task& t) {
  const TaskSpec& o = ledger_.options(t);
  uint64_t cap = o.backoff_base_ms;
  for (int i = 0; i < t.failures && cap < o.backoff_cap_ms; ++i) cap *= 2;
  if (DRAY_MUTANT(backoff_without_cap))
    cap *= 4;
  else
    cap = std::min(cap, o.backoff_cap_ms);
  return static_cast<int64_t>(rng_.below(cap + 1));
}

void Broker::fail_attempt(Handle h, Errc code, Bytes text, uint32_t exec_us, Now now,
                          std::vector<Ending>& ends, std::vector<Requeue>& back) {
  const Task& t = ledger_.tasks()[h];
  if (t.failures + (DRAY_MUTANT(one_failure_more) ? 0u : 1u) >= ledger_.options(t).max_failures) {
    ends.push_back({h, TaskState::dead, code, exec_us, std::move(text)});
    return;
  }
  ++counters_.retries;
  back.push_back({h, Cause::failure, now.wall_ms + backoff_ms(t), std::string(text.view())});
}

void Broker::lose_lease(Handle h, const std::string& why, Now now, std::vector<Ending>& ends,
                        std::vector<Requeue>& back) {
  const Task& t = ledger_.tasks()[h];
  ++counters_.lost_leases;
  std::string text =
      why + " (" + ledger_.holder(t.worker).name + ", attempt " + std::to_string(t.attempt) + ")";
  if (t.lost + 1u >= ledger_.options(t).max_lost) {
    ends.push_back({h, TaskState::dead, Errc::worker_lost, 0, Bytes(std::move(text))});
  } else if (!DRAY_MUTANT(lost_not_requeued)) {
    back.push_back({h, Cause::lost, now.wall_ms, std::move(text)});
  }
}

void Broker::lose_worker(uint32_t index, const char* why, Now now, Out& out) {
  std::vector<Ending> ends;
  std::vector<Requeue> back;
  for (Handle h = workers_[index].head; h != kNil; h = ledger_.tasks()[h].next)
    lose_lease(h, why, now, ends, back);
  // The lease list has the newest first.
  std::sort(back.begin(), back.end(), [&](const Requeue& a, const Requeue& b) {
    return ledger_.tasks()[a.handle].order < ledger_.tasks()[b.handle].order;
  });
  if (!ends.empty() || !back.empty())
    out.note("leases_lost", "worker=" + ledger_.holder(index).name +
                                " requeued=" + std::to_string(back.size()) +
                                " dead=" + std::to_string(ends.size()));
  finish(ends, now, out);
  requeue(back, now, out);
}

void Broker::on_results(uint32_t index, const Results& m, Now now, Out& out) {
  Worker& w = workers_[index];
  w.ack_due = true;
  if (w.next_result == 0) w.next_result = m.first;
  if (m.first > w.next_result) return;  // a message before it was lost; it will be sent again
  std::vector<Ending> ends;
  std::vector<Requeue> back;
  tsl::robin_set<Token, std::hash<Token>> seen;
  uint64_t offset = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    ResultRow row = m.rows[i];
    Bytes bytes = m.bytes.slice(offset, row.len);
    offset += row.len;
    if (m.first + i < w.next_result) continue;  // settled already
    Handle h = ledger_.find(row.id);
    bool current = h != kNil && ledger_.tasks()[h].state == TaskState::leased &&
                   (ledger_.tasks()[h].token == row.token || DRAY_MUTANT(result_token_ignored)) &&
                   (ledger_.tasks()[h].worker == index || DRAY_MUTANT(result_token_ignored));
    if (current && m.rows.size() > 1) current = seen.insert(row.token).second;
    if (!current) {
      ++counters_.stale;
      w.stale.push_back({row.id, row.token});
      continue;
    }
    ++counters_.results;
    ++w.done;
    switch (static_cast<Verdict>(row.status)) {
      case Verdict::ok:
        ends.push_back({h, TaskState::succeeded, Errc::ok, row.exec_us, std::move(bytes)});
        break;
      case Verdict::fail_final:
        ends.push_back({h, TaskState::failed, Errc::app_fatal, row.exec_us, std::move(bytes)});
        break;
      case Verdict::fail:
        fail_attempt(h, Errc::app_error, std::move(bytes), row.exec_us, now, ends, back);
        break;
      case Verdict::time_limit:
        fail_attempt(h, Errc::time_limit, std::move(bytes), row.exec_us, now, ends, back);
        break;
      case Verdict::crashed:  // not its handler's word: it may not be the task's fault
        lose_lease(h, std::string(bytes.view().substr(0, kLostTextMax)), now, ends, back);
        break;
    }
  }
  w.next_result = std::max(w.next_result, m.first + m.rows.size() + DRAY_MUTANT(ack_one_more));
  if (w.stale.size() > kItemsMax) w.stale.resize(kItemsMax);
  finish(ends, now, out);
  requeue(back, now, out);
}

void Broker::on_give_back(uint32_t index, const GiveBack& m, Now now, Out& out) {
  Worker& w = workers_[index];
  auto code = static_cast<Errc>(m.code);
  std::vector<Requeue> back;
  std::set<Handle> chosen;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    TokenRow row = m.rows[i];
    Handle h = ledger_.find(row.id);
    if (h == kNil) continue;
    const Task& t = ledger_.tasks()[h];
    if (t.state != TaskState::leased || t.token != row.token || t.worker != index) continue;
    if (!chosen.insert(h).second) continue;
    // A worker that can not run it is not asked again at once.
    int64_t wait = code == Errc::unknown_handler || code == Errc::infeasible ? 1000 : 0;
    if (code == Errc::unknown_handler) w.handlers.erase(ledger_.options(t).handler);
    if (DRAY_MUTANT(changed_outside_apply)) --ledger_.tasks()[h].attempt;
    back.push_back({h, Cause::returned, wait ? now.wall_ms + wait : 0, {}});
  }
  if (code == Errc::draining) w.draining = true;
  if (code == Errc::unknown_handler || code == Errc::draining) ++placement_gen_;
  counters_.returned += back.size();
  std::sort(back.begin(), back.end(), [&](const Requeue& a, const Requeue& b) {
    return ledger_.tasks()[a.handle].order < ledger_.tasks()[b.handle].order;
  });
  requeue(back, now, out);
}

}  // namespace dray::broker
