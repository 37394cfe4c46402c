// MemoryResultStore: the in-memory implementation.
#include "services/aggregator/store/memory_store.h"

#include <algorithm>

#include "services/aggregator/store/store_rules.h"

namespace dray {

Status MemoryResultStore::alive() const {
  if (life_ != disk_->life_) return make_error(Errc::closed, "result store: the process crashed");
  return {};
}

Status MemoryResultStore::ready() const {
  DRAY_TRY(alive());
  if (poisoned_) return make_error(Errc::io, "result store: an earlier write failed");
  if (owner_ == 0 || owner_ != disk_->owner_)
    return make_error(Errc::fenced, "result store: not the owner");
  return {};
}

Result<uint64_t> MemoryResultStore::acquire() {
  DRAY_TRY(alive());
  owner_ = ++disk_->owner_;
  return owner_;
}

Status MemoryResultStore::commit(StoreBatch&& batch) {
  DRAY_TRY(ready());
  DRAY_TRY(check_batch(batch, disk_->stream_));
  const CommitFault fault = std::exchange(disk_->fault_, CommitFault::none);
  if (disk_->full_ || fault == CommitFault::no_space)
    return make_error(Errc::no_space, "result store: the disk is full");
  if (fault != CommitFault::io_lost) apply(std::move(batch));
  if (fault != CommitFault::none) {
    poisoned_ = true;
    return make_error(Errc::io, "result store: injected fault");
  }
  ++disk_->commits_;
  return {};
}

void MemoryResultStore::forget(TaskId id) {
  auto it = disk_->results_.find(id);
  if (it == disk_->results_.end()) return;
  const MemoryStoreDisk::ExpiryKey key{expiry_minute(it->second.expires_wall_ms), id.page()};
  disk_->bytes_ -= stored_cost(it->second);
  disk_->results_.erase(it);
  auto row = disk_->expiry_.find(key);
  if (row == disk_->expiry_.end()) return;
  std::erase(row->second, id);
  if (row->second.empty()) disk_->expiry_.erase(row);
}

void MemoryResultStore::apply(StoreBatch&& batch) {
  for (TaskId id : batch.forget) forget(id);
  for (auto& r : batch.results) {
    const TaskId id = r.id;
    auto [it, fresh] = disk_->results_.try_emplace(id, std::move(r));
    if (!fresh) continue;  // first wins
    disk_->bytes_ += stored_cost(it->second);
    disk_->expiry_[{expiry_minute(it->second.expires_wall_ms), id.page()}].push_back(id);
  }
  for (const auto& key : batch.dels) disk_->rows_.erase(key);
  for (auto& [key, value] : batch.puts) disk_->rows_.insert_or_assign(key, std::move(value));
  if (batch.stream.pos != 0) disk_->stream_ = batch.stream;
}

Result<std::vector<std::optional<StoredResult>>> MemoryResultStore::get(std::span<const TaskId> ids,
                                                                        int64_t now_wall_ms) {
  DRAY_TRY(alive());
  std::vector<std::optional<StoredResult>> out(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    auto it = disk_->results_.find(ids[i]);
    if (it != disk_->results_.end() && it->second.expires_wall_ms > now_wall_ms)
      out[i] = it->second;
  }
  return out;
}

Result<std::optional<std::string>> MemoryResultStore::row(std::string_view key) {
  DRAY_TRY(alive());
  auto it = disk_->rows_.find(key);
  if (it == disk_->rows_.end()) return std::optional<std::string>{};
  return std::optional<std::string>{it->second};
}

Result<std::vector<StoreRow>> MemoryResultStore::scan(std::string_view prefix, size_t limit,
                                                      std::string_view after) {
  DRAY_TRY(alive());
  std::vector<StoreRow> out;
  auto it = after < prefix ? disk_->rows_.lower_bound(prefix) : disk_->rows_.upper_bound(after);
  if (after.empty()) it = disk_->rows_.lower_bound(prefix);
  for (; it != disk_->rows_.end() && out.size() < limit && it->first.starts_with(prefix); ++it)
    out.emplace_back(it->first, it->second);
  return out;
}

Result<size_t> MemoryResultStore::sweep(int64_t now_wall_ms, uint64_t size_budget_bytes,
                                        size_t max_pages) {
  DRAY_TRY(ready());
  size_t dropped = 0;
  for (size_t n = 0; n < max_pages && !disk_->expiry_.empty(); ++n) {
    auto first = disk_->expiry_.begin();
    const bool expired = first->first.first < expiry_minute(now_wall_ms);
    if (!expired && disk_->bytes_ <= size_budget_bytes) break;
    for (TaskId id : first->second) {
      auto it = disk_->results_.find(id);
      disk_->bytes_ -= stored_cost(it->second);
      disk_->results_.erase(it);
    }
    dropped += first->second.size();
    disk_->expiry_.erase(first);
  }
  return dropped;
}

StoreHealth MemoryResultStore::health() const {
  StoreHealth h;
  h.bytes = disk_->bytes_;
  h.results = disk_->results_.size();
  h.bytes_free = disk_->full_ ? 0 : uint64_t{1} << 40;
  h.commits = disk_->commits_;
  h.writable = !poisoned_;
  return h;
}

}  // namespace dray
