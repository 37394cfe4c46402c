// Open tasks of the client: opened by submit or wait, closed by exactly one result event each; the
// WAIT fallback that makes sure of it.
#include <bit>

#include "client/core/client_core.h"
#include "common/base/mutant.h"

namespace dray {
namespace {
using Block = OpenTable::Block;

TaskState state_of(const ResultRow& row) { return static_cast<TaskState>(row.status); }
}  // namespace

// --- opening and closing
// ---------------------------------------------------------------------------

void ClientCore::open_rows(const Rows<SubmitRow>& rows) {
  BlockCursor cursor(open_);
  for (size_t i = 0; i < rows.size(); ++i) {
    TaskId id = rows[i].id;
    cursor.find_or_add(id).open |= OpenTable::bit(id);
  }
}

// Returns those that were open.
Rows<SubmitRow> ClientCore::close_rows(const Rows<SubmitRow>& rows) {
  RowsBuilder<SubmitRow> closed;
  for (size_t i = 0; i < rows.size(); ++i)
    if (open_.close(rows[i].id)) closed.add(rows[i]);
  return closed.take();
}

// A task that is open stays so: another request brings its end.
Rows<SubmitRow> ClientCore::not_open(const Rows<SubmitRow>& rows) const {
  RowsBuilder<SubmitRow> rest;
  for (size_t i = 0; i < rows.size(); ++i) {
    OpenTable::Index at = open_.find(rows[i].id);
    if (at == OpenTable::kNone || !(open_.at(at).open & OpenTable::bit(rows[i].id)))
      rest.add(rows[i]);
  }
  return rest.take();
}

void ClientCore::wait(const Rows<IdRow>& ids, Now now) {
  for (size_t i = 0; i < ids.size(); ++i) {
    OpenTable::Index at = open_.find_or_add(ids[i].id);
    Block& b = open_.at(at);
    uint64_t bit = OpenTable::bit(ids[i].id);
    b.open |= bit;
    b.accepted |= bit;
    if (b.covered & bit) continue;
    if (!due_.empty() && due_.front().block == at && due_.front().at <= now.mono) continue;
    ++b.queued;
    due_.push_front({at, now.mono});
  }
  if (!ids.empty()) arm_wait_check(now.mono);
}

void ClientCore::unwait(const Rows<IdRow>& ids) {
  for (size_t i = 0; i < ids.size(); ++i) open_.close(ids[i].id);
}

void ClientCore::accept_rows(const Rows<SubmitRow>& rows, Now now) {
  Time due = now.mono + options_.wait_after;
  BlockCursor cursor(open_);
  for (size_t i = 0; i < rows.size(); ++i) {
    TaskId id = rows[i].id;
    Block* b = cursor.find(id);
    if (!b) continue;
    b->accepted |= b->open & OpenTable::bit(id);
    if (b->queued == 0 && b->accepted != 0 && !DRAY_MUTANT(client_trusts_pushes))
      queue_block(cursor.index(), due);
  }
  if (!due_.empty()) arm_wait_check(now.mono + options_.wait_check);
}

// Rows of SUBMITTED: tasks that were not fresh. Known and over: its result is at the aggregator.
// Refused: that is its end here.
void ClientCore::settle_known(const Rows<StateRow>& rows, bool watch, Now now, Out& out) {
  RowsBuilder<IdRow> ended;
  RowsBuilder<ResultRow> refused;
  for (size_t i = 0; i < rows.size(); ++i) {
    StateRow row = rows[i];
    if (row.code != static_cast<uint8_t>(Errc::ok)) {
      if (watch && !open_.close(row.id)) continue;
      ResultRow result;
      result.id = row.id;
      result.code = row.code;
      result.attempt = row.attempt;
      refused.add(result);
    } else if (watch && is_terminal(row.state)) {
      OpenTable::Index at = open_.find(row.id);
      if (at != OpenTable::kNone && (open_.at(at).open & OpenTable::bit(row.id)))
        ended.add({row.id});
    }
  }
  if (!ended.empty()) wait(ended.take(), now);
  if (refused.empty()) return;
  counters_.results += refused.size();
  out.events.push_back(ResultsEvent{refused.take(), {}, {}});
}

void ClientCore::resolve(Rows<ResultRow> rows, Bytes bytes, Out& out) {
  std::vector<uint32_t> fresh;
  size_t count = rows.size();
  {
    BlockCursor cursor(open_);
    for (size_t i = 0; i < count; ++i) {
      ResultRow row = rows[i];
      if (!is_terminal(state_of(row))) continue;
      Block* b = cursor.find(row.id);
      uint64_t bit = OpenTable::bit(row.id);
      if (!b || (!(b->open & bit) && !DRAY_MUTANT(client_tells_twice))) {
        ++counters_.repeated_results;
        continue;
      }
      b->open &= ~bit;
      b->accepted &= ~bit;
      b->covered &= ~bit;
      fresh.push_back(static_cast<uint32_t>(i));
    }
  }
  if (fresh.empty()) return;
  counters_.results += fresh.size();
  if (fresh.size() == count) fresh.clear();
  out.events.push_back(ResultsEvent{std::move(rows), std::move(bytes), std::move(fresh)});
}

// --- waits
// -------------------------------------------------------------------------------------------

void ClientCore::queue_block(OpenTable::Index i, Time at) {
  ++open_.at(i).queued;
  due_.push_back({i, at});
}

void ClientCore::pop_due() {
  OpenTable::Index i = due_.front().block;
  due_.pop_front();
  --open_.at(i).queued;
  open_.release_if_idle(i);
}

// A new session or lost watch: every WAIT is void, and every accepted task needs one.
void ClientCore::uncover_all(Now now) {
  waits_.clear();
  while (!due_.empty()) pop_due();
  open_.for_each([&](OpenTable::Index i, Block& b) {
    b.covered = 0;
    if (b.accepted != 0 && !DRAY_MUTANT(waits_lost_with_session)) queue_block(i, now.mono);
  });
  for (auto& [id, group] : groups_) group.poll_at = now.mono;
  if (!due_.empty() || !groups_.empty()) arm_wait_check(now.mono);
}

void ClientCore::check_waits(Now now, Out& out) {
  waits_starved_ = false;
  refresh_waits(now, out);
  cover_due(now, out);
  poll_groups(now, out);
  bool idle = due_.empty() && waits_.empty() && groups_.empty();
  wait_check_at_ = idle ? kNever : now.mono + options_.wait_check;
}

void ClientCore::send_wait(uint64_t req, LiveWait& w, Now now, Out& out) {
  w.refresh_at = now.mono + w.interval;
  w.interval = std::min(w.interval * 2, options_.wait_refresh * 16);
  ++counters_.waits;
  post(req, Wait{0, true, w.rows}, out);
}

Rows<IdRow> ClientCore::still_open(const Rows<IdRow>& rows) const {
  RowsBuilder<IdRow> left;
  for (size_t i = 0; i < rows.size(); ++i) {
    IdRow row = rows[i];
    OpenTable::Index at = open_.find(row.id);
    if (at != OpenTable::kNone && (open_.at(at).open & OpenTable::bit(row.id))) left.add(row);
  }
  return left.take();
}

// A WAIT may have been lost on its way, or its last answer: after silence it is repeated for what
// is still open, or dropped.
void ClientCore::refresh_waits(Now now, Out& out) {
  for (auto it = waits_.begin(); it != waits_.end();) {
    LiveWait& w = it->second;
    if (w.refresh_at > now.mono) {
      ++it;
      continue;
    }
    w.rows = still_open(w.rows);
    if (w.rows.empty()) {
      it = waits_.erase(it);
      continue;
    }
    if (credit_.available() == 0) {
      waits_starved_ = true;
      return;
    }
    send_wait(it->first, w, now, out);
    ++it;
  }
}

// Drops what needs no WAIT from the head of the queue; true if the head is due.
bool ClientCore::due_is_useful(Now now) {
  while (!due_.empty() && due_.front().at <= now.mono) {
    const Block& b = open_.at(due_.front().block);
    if (b.accepted & ~b.covered) return true;
    pop_due();
  }
  return false;
}

Rows<IdRow> ClientCore::collect_due(Now now) {
  RowsBuilder<IdRow> ids;
  while (due_is_useful(now)) {
    Block& b = open_.at(due_.front().block);
    uint64_t bits = b.accepted & ~b.covered;
    if (ids.size() + static_cast<size_t>(std::popcount(bits)) > kItemsMax) break;
    b.covered |= bits;
    for (; bits != 0; bits &= bits - 1)
      ids.add({b.id(static_cast<unsigned>(std::countr_zero(bits)))});
    pop_due();
  }
  return ids.take();
}

void ClientCore::cover_due(Now now, Out& out) {
  while (due_is_useful(now)) {
    if (waits_.size() >= options_.waits_max && !rotate_waits(now, out)) return;
    if (credit_.available() == 0) {
      waits_starved_ = true;
      return;
    }
    uint64_t req = next_req_++;
    LiveWait& w = waits_[req];
    w.rows = collect_due(now);
    w.since = now.mono;
    w.interval = options_.wait_refresh;
    send_wait(req, w, now, out);
  }
}

void ClientCore::end_wait(std::map<uint64_t, LiveWait>::iterator it, Time again_at) {
  const Rows<IdRow> rows = std::move(it->second.rows);
  waits_.erase(it);
  for (size_t i = 0; i < rows.size(); ++i) {
    TaskId id = rows[i].id;
    OpenTable::Index at = open_.find(id);
    if (at == OpenTable::kNone || !(open_.at(at).open & OpenTable::bit(id))) continue;
    Block& b = open_.at(at);
    b.covered &= ~OpenTable::bit(id);
    if (b.queued == 0) queue_block(at, again_at);
  }
  if (!due_.empty()) arm_wait_check(again_at);
}

// All WAITs are taken: the oldest, if it was on for long enough, gives way; its tasks queue again.
bool ClientCore::rotate_waits(Now now, Out& out) {
  auto oldest = waits_.begin();
  for (auto it = waits_.begin(); it != waits_.end(); ++it)
    if (it->second.since < oldest->second.since) oldest = it;
  if (now.mono - oldest->second.since < options_.wait_rotate) return false;
  if (credit_.available() == 0) {
    waits_starved_ = true;
    return false;
  }
  post(next_req_++, Unwait{oldest->first}, out);
  end_wait(oldest, now.mono);
  return true;
}

void ClientCore::poll_groups(Now now, Out& out) {
  for (auto& [id, group] : groups_) {
    if (group.poll_at > now.mono) continue;
    if (credit_.available() == 0) {
      waits_starved_ = true;
      return;
    }
    group.poll_at = now.mono + options_.group_poll;
    post(group.req, GroupWatch{id, true}, out);
  }
}

}  // namespace dray
