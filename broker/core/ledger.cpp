#include "broker/core/ledger.h"

#include <algorithm>

#include "broker/core/fingerprint.h"
#include "common/base/mutant.h"

namespace dray::broker {
namespace {
constexpr size_t kErrorsPerTask = 5;
constexpr size_t kErrorTextKept = 256;
constexpr uint64_t kRecordOverhead = 64;
constexpr int64_t kYoungMs = 10'000;
constexpr uint64_t kYoungFactor = 8;
}  // namespace

Status Ledger::apply(const Record& record, RecordNo no, uint64_t other_bytes) {
  if (no != next_record()) return make_error(Errc::corrupt, "journal record out of order");
  uint64_t bytes = other_bytes + kRecordOverhead;
  std::visit(
      [&](const auto& r) {
        if constexpr (requires { r.rows; }) bytes += r.rows.size();
      },
      record);
  records_.push_back({bytes, 0, 0});
  log_bytes_ += bytes;
  return std::visit([&](const auto& r) { return apply_one(r, no); }, record);
}

Result<std::vector<uint32_t>> Ledger::intern_all(const std::vector<std::string>& blobs) {
  std::vector<uint32_t> out;
  for (const auto& blob : blobs) {
    DRAY_TRY_ASSIGN(uint32_t index, specs_.intern(blob));
    out.push_back(index);
  }
  return out;
}

void Ledger::unref(RecordNo no) {
  if (no < first_record_) return;
  RecordInfo& info = records_[no - first_record_];
  DRAY_ASSERT(info.refs > 0);
  --info.refs;
}

Status Ledger::apply_one(const AcceptRec& r, RecordNo no) {
  DRAY_TRY_ASSIGN(std::vector<uint32_t> specs, intern_all(r.specs));
  size_t n = row_count<AcceptRow>(r.rows);
  uint32_t offset = 0;
  last_handles_.clear();
  std::vector<uint64_t> users(specs.size(), 0);
  for (size_t i = 0; i < n; ++i) {
    auto row = row_at<AcceptRow>(r.rows, i);
    if (row.spec >= specs.size()) return make_error(Errc::corrupt, "journal row without its spec");
    Handle h = tasks_.alloc();
    last_handles_.push_back(h);
    Task& t = tasks_[h];
    t.id = row.id;
    t.fingerprint = row.fingerprint;
    t.record = no;
    t.offset = offset;
    t.len = row.len;
    offset += row.len;
    t.order = r.first_order + i;
    t.spec = specs[row.spec];
    ++users[row.spec];
    const TaskSpec& o = specs_[t.spec].options;
    if (o.delay_ms) t.due_ms = r.wall_ms + static_cast<int64_t>(o.delay_ms);
    if (o.expires_ms) t.expires_ms = r.wall_ms + static_cast<int64_t>(o.expires_ms);
    if (!by_id_.emplace(row.id, h).second)
      return make_error(Errc::corrupt, "journal accepts a task twice");
  }
  // First all users, then the unused ones: the same spec may be listed twice.
  for (size_t k = 0; k < specs.size(); ++k) specs_.add_users(specs[k], users[k]);
  for (uint32_t spec : specs) specs_.forget_if_unused(spec);
  records_.back().refs = static_cast<uint32_t>(n);
  live_bytes_ += offset;
  next_order_ = std::max(next_order_, r.first_order + n);
  return {};
}

uint32_t Ledger::holder_index(BootId boot, const std::string& name) {
  auto [it, fresh] = holder_by_boot_.emplace(boot, static_cast<uint32_t>(holders_.size()));
  if (fresh) holders_.push_back({boot, name});
  return it->second;
}

Status Ledger::apply_one(const LeaseRec& r, RecordNo) {
  uint32_t worker = holder_index(r.worker, r.worker_name);
  size_t n = row_count<IdRow>(r.rows);
  for (size_t i = 0; i < n; ++i) {
    Handle h = find(row_at<IdRow>(r.rows, i).id);
    if (h == kNil) continue;
    Task& t = tasks_[h];
    t.state = TaskState::leased;
    t.token = {r.epoch, r.first_seq + i};
    t.worker = worker;
    ++t.attempt;
  }
  return {};
}

void Ledger::remove(Handle h, TaskState state) {
  Task& t = tasks_[h];
  if (!DRAY_MUTANT(ends_forgotten)) known_.add(t.id, state, t.fingerprint);
  unref(t.record);
  live_bytes_ -= t.len;
  if (!errors_.empty()) errors_.erase(t.id);
  by_id_.erase(t.id);
  specs_.drop_user(t.spec);
  tasks_.release(h);
}

Status Ledger::apply_one(const FinishRec& r, RecordNo no) {
  size_t n = row_count<ResultRow>(r.rows);
  RecordInfo& info = records_.back();
  for (size_t i = 0; i < n; ++i) {
    auto row = row_at<ResultRow>(r.rows, i);
    auto state = static_cast<TaskState>(row.status);
    // Not the smaller of this and our clock: an id from a clock ahead of ours could come twice.
    uint64_t id_ms = row.id.wall_ms();
    if (DRAY_MUTANT(floor_by_own_clock)) id_ms = std::min(id_ms, static_cast<uint64_t>(r.wall_ms));
    info.id_ms = std::max(info.id_ms, id_ms);
    Handle h = find(row.id);
    if (h == kNil) {
      known_.add(row.id, state, 0);  // replay: its ACCEPT is gone already
    } else if (state == TaskState::failed || state == TaskState::dead) {
      Task& t = tasks_[h];
      t.state = state;
      t.worker = kNil;
      if (state == TaskState::dead && row.code == static_cast<uint8_t>(Errc::worker_lost)) ++t.lost;
      if (state == TaskState::dead && row.code != static_cast<uint8_t>(Errc::worker_lost))
        ++t.failures;
      dead_.insert({t.order, t.id});
      dead_bytes_ += t.len;
    } else {
      remove(h, state);
    }
  }
  for (const auto& [i, text] : r.texts)
    if (i < n) add_error(row_at<ResultRow>(r.rows, i).id, text);
  info.refs = 1;
  unacked_.push_back({no, r.prev, r.wall_ms, info.bytes});
  unacked_bytes_ += info.bytes;
  last_finish_ = no;
  return {};
}

void Ledger::add_error(TaskId id, const std::string& text) {
  if (find(id) == kNil) return;
  auto& list = errors_[id];
  if (list.size() == kErrorsPerTask) list.erase(list.begin());
  list.push_back(text.substr(0, kErrorTextKept));
}

const std::vector<std::string>* Ledger::errors(TaskId id) const {
  auto it = errors_.find(id);
  return it == errors_.end() ? nullptr : &it->second;
}

Status Ledger::apply_one(const RequeueRec& r, RecordNo) {
  size_t n = row_count<RequeueRow>(r.rows);
  for (size_t i = 0; i < n; ++i) {
    auto row = row_at<RequeueRow>(r.rows, i);
    Handle h = find(row.id);
    if (h == kNil) continue;
    Task& t = tasks_[h];
    t.state = TaskState::queued;
    t.worker = kNil;
    t.due_ms = row.due_ms;
    if (row.cause == Cause::failure) ++t.failures;
    if (row.cause == Cause::lost && !DRAY_MUTANT(lost_not_counted)) ++t.lost;
  }
  for (const auto& [i, text] : r.texts)
    if (i < n) add_error(row_at<RequeueRow>(r.rows, i).id, text);
  return {};
}

Status Ledger::apply_one(const CarryRec& r, RecordNo no) {
  DRAY_TRY_ASSIGN(std::vector<uint32_t> specs, intern_all(r.specs));
  size_t n = row_count<CarryRow>(r.rows);
  uint32_t offset = 0;
  size_t named = 0;
  for (size_t i = 0; i < n; ++i) {
    auto row = row_at<CarryRow>(r.rows, i);
    if (row.spec >= specs.size()) return make_error(Errc::corrupt, "journal row without its spec");
    Handle h = find(row.id);
    std::string worker;
    if (!row.worker.is_null() && named < r.workers.size()) worker = r.workers[named++];
    if (h != kNil) {
      unref(tasks_[h].record);
    } else {
      h = tasks_.alloc();
      Task& t = tasks_[h];
      t.id = row.id;
      t.fingerprint = row.fingerprint;
      t.order = row.order;
      t.due_ms = row.due_ms;
      t.expires_ms = row.expires_ms;
      t.token = row.token;
      t.len = row.len;
      t.spec = specs[row.spec];
      t.attempt = row.attempt;
      t.failures = row.failures;
      t.lost = row.lost;
      t.state = row.state;
      if (t.state == TaskState::leased) t.worker = holder_index(row.worker, worker);
      if (is_terminal(t.state)) {
        dead_.insert({t.order, t.id});
        dead_bytes_ += t.len;
      }
      by_id_.emplace(row.id, h);
      specs_.add_users(t.spec, 1);
      live_bytes_ += row.len;
      next_order_ = std::max(next_order_, row.order + 1);
    }
    tasks_[h].record = no;
    tasks_[h].offset = offset;
    offset += row.len;
  }
  for (uint32_t s : specs) specs_.forget_if_unused(s);
  records_.back().refs = static_cast<uint32_t>(n);
  std::set<TaskId> told;  // had its texts before (the live path): all of them stay as they are
  for (const auto& [i, text] : r.texts)
    if (i < n && errors_.count(row_at<CarryRow>(r.rows, i).id))
      told.insert(row_at<CarryRow>(r.rows, i).id);
  for (const auto& [i, text] : r.texts)
    if (i < n && told.count(row_at<CarryRow>(r.rows, i).id) == 0)
      add_error(row_at<CarryRow>(r.rows, i).id, text);
  return {};
}

Status Ledger::apply_one(const DropDeadRec& r, RecordNo) {
  size_t n = row_count<IdRow>(r.rows);
  for (size_t i = 0; i < n; ++i) {
    Handle h = find(row_at<IdRow>(r.rows, i).id);
    if (h == kNil || !is_terminal(tasks_[h].state)) continue;
    dead_.erase({tasks_[h].order, tasks_[h].id});
    dead_bytes_ -= tasks_[h].len;
    remove(h, tasks_[h].state);
  }
  return {};
}

Status Ledger::apply_one(const StreamAckRec& r, RecordNo) {
  while (!unacked_.empty() && unacked_.front().record <= r.upto) {
    unref(unacked_.front().record);
    unacked_bytes_ -= unacked_.front().bytes;
    unacked_.pop_front();
  }
  return {};
}

Status Ledger::apply_one(const PauseRec& r, RecordNo) {
  if (r.on) {
    paused_.insert(r.queue);
  } else {
    paused_.erase(r.queue);
  }
  return {};
}

Status Ledger::apply_one(const FloorRec& r, RecordNo) {
  floor_ms_ = std::max(floor_ms_, r.id_ms);
  return {};
}

Status Ledger::apply_one(const CatalogRec& r, RecordNo) {
  for (const auto& name : r.handlers)
    if (catalog_handlers_.size() < kCatalogMax) catalog_handlers_.insert(name);
  catalog_resources_.raise_to(ResourceVec(r.resources));
  return {};
}

RecordNo Ledger::release(uint64_t keep_bytes, int64_t wall_ms, uint64_t& floor) {
  // Ids of the last moments stay known even if that takes more space for a while: a floor near the
  // present (a client's clock may be ahead) would refuse everybody's fresh ids.
  auto young = static_cast<uint64_t>(std::max<int64_t>(0, wall_ms - kYoungMs));
  while (
      !records_.empty() &&
      (records_.front().id_ms < young || log_bytes_ > kYoungFactor * keep_bytes) &&
      (records_.front().refs == 0 || (DRAY_MUTANT(released_too_early) && records_.size() > 20)) &&
      log_bytes_ - records_.front().bytes > keep_bytes) {
    log_bytes_ -= records_.front().bytes;
    floor = std::max(floor, records_.front().id_ms);
    records_.pop_front();
    ++first_record_;
  }
  return first_record_;
}

uint64_t Ledger::digest() const {
  uint64_t sum = 0;
  for (const auto& [id, h] : by_id_) {
    const Task& t = tasks_[h];
    uint64_t x = mix64(id.hi * 31 + id.lo);
    for (uint64_t v : {t.fingerprint, t.order, static_cast<uint64_t>(t.due_ms), t.token.epoch,
                       t.token.seq, uint64_t{t.attempt}, uint64_t{t.failures}, uint64_t{t.lost},
                       static_cast<uint64_t>(t.state), t.record, uint64_t{t.offset},
                       uint64_t{t.len}, static_cast<uint64_t>(t.expires_ms), specs_[t.spec].hash})
      x = mix64(x ^ v);
    if (t.state == TaskState::leased) x = mix64(x ^ holders_[t.worker].boot.lo);
    sum += x;  // order of the table must not matter
  }
  for (const auto& q : paused_) sum += fingerprint(q);
  for (const auto& h : catalog_handlers_) sum += mix64(fingerprint(h));
  // Not last_finish_: once confirmed and released, a replay does not know it any more.
  RecordNo pending = unacked_.empty() ? 0 : unacked_.back().record;
  return mix64(sum ^ unacked_.size() * 0x9e37 ^ dead_.size()) ^ pending ^ floor_ms_;
}

void Ledger::check() const {
  uint64_t bytes = 0;
  size_t in_use = 0;
  for (Handle h = 0; h < tasks_.size(); ++h) {
    const Task& t = tasks_[h];
    if (!t.in_use) continue;
    ++in_use;
    bytes += t.len;
    DRAY_ASSERT(find(t.id) == h);
    DRAY_ASSERT(t.record >= first_record_ && t.record < next_record());
    DRAY_ASSERT((t.state == TaskState::leased) == (t.worker != kNil));
    DRAY_ASSERT(is_terminal(t.state) == (dead_.count({t.order, t.id}) != 0));
  }
  DRAY_ASSERT(in_use == by_id_.size());
  DRAY_ASSERT(bytes == live_bytes_);
  uint64_t dead_bytes = 0;
  for (const auto& [order, id] : dead_) dead_bytes += tasks_[find(id)].len;
  DRAY_ASSERT(dead_bytes == dead_bytes_);
}

}  // namespace dray::broker
