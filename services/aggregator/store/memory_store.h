// MemoryResultStore: a ResultStore without I/O or clock, for simulation and tests, with faults.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "services/aggregator/store/result_store.h"

namespace dray {

enum class CommitFault : uint8_t {
  none,
  io_lost,  // nothing is applied, the commit says io
  io_applied,  // everything is applied, the commit says io
  no_space,  // nothing is applied, the commit says no_space
};

// The "disk": outlives the stores opened on it. One thread.
class MemoryStoreDisk {
 public:
  // The process dies: every store opened so far answers `closed`. Commits are synced, so whatever
  // was acknowledged stays.
  void crash() { ++life_; }
  // Somebody else takes over: every store acquired so far answers `fenced`.
  void fence() { ++owner_; }
  void fail_next_commit(CommitFault fault) { fault_ = fault; }
  void set_full(bool full) { full_ = full; }  // commits say no_space while it is set

  uint64_t owner_epoch() const { return owner_; }
  size_t result_count() const { return results_.size(); }
  uint64_t bytes() const { return bytes_; }
  StreamPos stream_pos() const { return stream_; }

 private:
  friend class MemoryResultStore;
  using ExpiryKey = std::pair<int64_t, TaskId>;  // minute, page
  std::unordered_map<TaskId, StoredResult> results_;
  std::map<ExpiryKey, std::vector<TaskId>> expiry_;
  std::map<std::string, std::string, std::less<>> rows_;
  StreamPos stream_;
  uint64_t bytes_ = 0;
  uint64_t commits_ = 0;
  uint64_t owner_ = 0;
  uint64_t life_ = 0;
  CommitFault fault_ = CommitFault::none;
  bool full_ = false;
};

class MemoryResultStore final : public ResultStore {
 public:
  explicit MemoryResultStore(std::shared_ptr<MemoryStoreDisk> disk)
      : disk_(std::move(disk)), life_(disk_->life_) {}
  Result<uint64_t> acquire() override;
  StreamPos stream_pos() const override { return disk_->stream_; }
  Status commit(StoreBatch&& batch) override;
  Result<std::vector<std::optional<StoredResult>>> get(std::span<const TaskId> ids,
                                                       int64_t now_wall_ms) override;
  Result<std::optional<std::string>> row(std::string_view key) override;
  Result<std::vector<StoreRow>> scan(std::string_view prefix, size_t limit,
                                     std::string_view after) override;
  Result<size_t> sweep(int64_t now_wall_ms, uint64_t size_budget_bytes, size_t max_pages) override;
  StoreHealth health() const override;

 private:
  Status alive() const;
  Status ready() const;  // alive, owner, not poisoned
  void apply(StoreBatch&& batch);
  void forget(TaskId id);
  std::shared_ptr<MemoryStoreDisk> disk_;
  uint64_t life_ = 0;
  uint64_t owner_ = 0;  // 0 = not acquired
  bool poisoned_ = false;
};

}  // namespace dray
