// Aggregator core: what clients ask for.
#include <algorithm>

#include "services/aggregator/core/aggregator.h"

namespace dray {
namespace {

std::vector<TaskId> ids_of(const Rows<IdRow>& rows) {
  std::vector<TaskId> ids;
  ids.reserve(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) ids.push_back(rows[i].id);
  return ids;
}

ResultRow row_of(const StoredResult& r) {
  ResultRow row;
  row.id = r.id;
  row.token = r.token;
  row.exec_us = r.exec_us;
  row.attempt = r.attempt;
  row.status = r.state;
  row.code = r.code;
  return row;
}

}  // namespace

// In small pieces at first: a result may have megabytes, and a piece is in memory as a whole.
template <class Found>
Status Aggregator::read(const std::vector<TaskId>& ids, int64_t wall_ms, Found&& found) {
  constexpr size_t kPieceMin = 4, kPieceMax = 512, kPieceBytes = size_t{1} << 20;
  size_t piece = 32;
  for (size_t at = 0; at < ids.size();) {
    const size_t n = std::min(piece, ids.size() - at);
    auto got = store_.get(std::span(ids).subspan(at, n), wall_ms);
    if (!got) {
      ++counters_.read_errors;
      return got.error();
    }
    size_t bytes = 0;
    for (size_t i = 0; i < n; ++i) {
      auto& result = (*got)[i];
      if (!result) continue;
      bytes += result->bytes.size();
      if (!found(at + i, *result)) return {};
    }
    at += n;
    piece = bytes < kPieceBytes ? std::min(2 * piece, kPieceMax) : std::max(piece / 4, kPieceMin);
  }
  return {};
}

void Aggregator::reject(const WaitKey& asker, Errc code, std::string detail, Out& out) {
  ++counters_.rejected;
  out.after_sync.push_back(to_asker(asker, make_reject(code, std::move(detail))));
}

void Aggregator::over_limit(const WaitKey& asker, const char* limit, uint64_t value, Out& out) {
  ++counters_.rejected;
  out.after_sync.push_back(to_asker(
      asker, make_reject(Errc::overloaded, std::string("over ") + limit, 1000, limit, value)));
}

void Aggregator::on(const WaitKey& asker, Wait&& m, Now now, Out& out) {
  waits_.remove(asker);
  std::vector<TaskId> ids = ids_of(m.rows);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  if (m.n_ready > ids.size())
    return reject(asker, Errc::bad_argument, "n_ready is more than there are ids", out);
  const size_t want = m.n_ready == 0 ? ids.size() : m.n_ready;
  ReadyBatch ready;
  size_t found = 0;
  std::vector<TaskId> open;
  size_t next = 0;  // first id not looked at
  Status status = read(ids, now.wall_ms, [&](size_t i, const StoredResult& r) {
    open.insert(open.end(), ids.begin() + static_cast<ptrdiff_t>(next),
                ids.begin() + static_cast<ptrdiff_t>(i));
    next = i + 1;
    ready.add(row_of(r), m.with_bytes ? r.bytes : Bytes());
    ++found;
    return found < want && ready.bytes() <= options_.answer_bytes_max;
  });
  if (!status) return reject(asker, Errc::unavailable, status.error().detail, out);
  const bool too_much = found < want && ready.bytes() > options_.answer_bytes_max;
  open.insert(open.end(), ids.begin() + static_cast<ptrdiff_t>(next), ids.end());
  const bool done = found == want;
  if (!done && !too_much && !has_room(open.size()))
    return over_limit(asker, "aggregator.waiters_max", options_.waiters_max, out);
  for (Ready& r : ready.take(done)) out.after_sync.push_back(to_asker(asker, std::move(r)));
  // What came is good; the asker waits again for the rest.
  if (too_much)
    return over_limit(asker, "aggregator.answer_bytes_max", options_.answer_bytes_max, out);
  if (!done) waits_.add(asker, m.with_bytes, static_cast<uint32_t>(want - found), std::move(open));
}

void Aggregator::on(const WaitKey& asker, Unwait&& m, Now, Out&) {
  const WaitKey key{asker.session, asker.route, m.wait_req};
  waits_.remove(key);
  watches_.remove(key);
  std::erase_if(group_watches_, [&](const auto& p) { return p.asker == key; });
}

void Aggregator::on(const WaitKey& asker, Fetch&& m, Now now, Out& out) {
  const std::vector<TaskId> ids = ids_of(m.rows);
  ReadyBatch ready;
  size_t next = 0;
  auto unknown_upto = [&](size_t end) {
    for (; next < end; ++next) {
      ResultRow row;
      row.id = ids[next];
      ready.add(row, {});
    }
  };
  Status status = read(ids, now.wall_ms, [&](size_t i, const StoredResult& r) {
    unknown_upto(i);
    ready.add(row_of(r), r.bytes);
    next = i + 1;
    return ready.bytes() <= options_.answer_bytes_max;
  });
  if (!status) return reject(asker, Errc::unavailable, status.error().detail, out);
  const bool too_much = ready.bytes() > options_.answer_bytes_max && next < ids.size();
  if (!too_much) unknown_upto(ids.size());
  for (Ready& r : ready.take(!too_much)) out.after_sync.push_back(to_asker(asker, std::move(r)));
  // What came is good; the asker fetches the rest.
  if (too_much) over_limit(asker, "aggregator.answer_bytes_max", options_.answer_bytes_max, out);
}

void Aggregator::on(const WaitKey& asker, Forget&& m, Now, Out& out) {
  for (size_t i = 0; i < m.rows.size(); ++i) out.batch.forget.push_back(m.rows[i].id);
  answers_.push_back(to_asker(asker, Ok{}));
}

void Aggregator::on(const WaitKey& asker, GroupPut&& m, Now, Out& out) {
  if (m.id.is_null()) return reject(asker, Errc::bad_argument, "group id is null", out);
  puts_.push_back({asker, std::move(m)});
}

void Aggregator::apply_put(const PendingPut& pending, Now now, Out& out) {
  const std::vector<TaskId> ids = ids_of(pending.put.rows);
  std::vector<std::pair<TaskId, TaskState>> ended;
  Status status = read(ids, now.wall_ms, [&](size_t i, const StoredResult& r) {
    ended.emplace_back(ids[i], static_cast<TaskState>(r.state));
    return true;
  });
  if (!status) return reject(pending.asker, Errc::unavailable, status.error().detail, out);
  if (auto refusal = groups_.put(pending.put.id, ids, now.wall_ms))
    return over_limit(pending.asker, refusal->limit, refusal->value, out);
  for (const auto& [id, state] : ended) groups_.finish(id, state, now.wall_ms);
  answers_.push_back(to_asker(pending.asker, Ok{}));
}

// Answered behind the commit: the group may be in this very batch.
void Aggregator::on(const WaitKey& asker, GroupWatch&& m, Now, Out&) {
  group_watches_.push_back({asker, std::move(m)});
}

void Aggregator::answer_watch(const PendingWatch& pending, Out& out) {
  GroupState state;
  if (!groups_.find(pending.watch.id, state))
    return reject(pending.asker, Errc::not_found, "no group " + to_hex(pending.watch.id), out);
  if (pending.watch.push) {
    if (!has_room(1))
      return over_limit(pending.asker, "aggregator.waiters_max", options_.waiters_max, out);
    watches_.add(pending.asker, pending.watch.id, now_.mono);
  }
  out.after_sync.push_back(to_asker(pending.asker, state));
}

void Aggregator::tell(const std::vector<std::pair<WaitKey, TaskId>>& watchers, Out& out) {
  for (const auto& [asker, group] : watchers) {
    GroupState state;
    if (groups_.find(group, state)) out.after_sync.push_back(to_asker(asker, state));
  }
}

void Aggregator::on(const WaitKey& asker, Admin&& m, Now, Out& out) {
  if (m.target != static_cast<uint8_t>(Role::aggregator))
    return reject(asker, Errc::bad_argument, "this is the aggregator", out);
  if (m.verb != "status") return reject(asker, Errc::bad_argument, "aggregator knows: status", out);
  out.after_sync.push_back(to_asker(asker, AdminReply{to_doc()}));
}

Doc Aggregator::to_doc() const {
  const StoreHealth health = store_.health();
  Doc doc;
  doc.set("broker", has_broker())
      .set("routers", routers_.size())
      .set("stream_epoch", epoch_)
      .set("stream_pos", durable_)
      .set("stalled", stalled_)
      .set("results", health.results)
      .set("bytes", health.bytes)
      .set("size_budget", options_.size_budget)
      .set("bytes_free", health.bytes_free)
      .set("writable", health.writable)
      .set("commits", health.commits)
      .set("sync_us_p50", health.sync_us_p50)
      .set("sync_us_p99", health.sync_us_p99)
      .set("waits", waits_.size())
      .set("waiters", waits_.ids())
      .set("groups", groups_.size())
      .set("group_pages", groups_.pages())
      .set("group_watches", watches_.size())
      .set("records_taken", counters_.records)
      .set("results_taken", counters_.results)
      .set("bad_rows", counters_.bad_rows)
      .set("duplicate_records", counters_.duplicates)
      .set("holes", counters_.holes)
      .set("gaps", counters_.gaps)
      .set("stalls", counters_.stalls)
      .set("attaches", counters_.attaches)
      .set("swept", counters_.swept)
      .set("rejected", counters_.rejected)
      .set("read_errors", counters_.read_errors);
  return doc;
}

}  // namespace dray
