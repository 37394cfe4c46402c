// ResultStore: where finished tasks and the aggregator's rows are kept; interface and contract
// only.
//
// Contract, held by every implementation (tests/unit/store/conformance.h):
//  * acquire() bumps the owner epoch durably. A store that was not acquired, or whose disk was
//    acquired by somebody else since, answers `fenced` to commit() and sweep(). An implementation
//    may instead keep the second owner out (RocksDB: opening fails with `unavailable`).
//  * commit() is atomic, and durable when it returns ok. The steps inside one batch: forget (what
//    was stored before), results, dels, puts.
//  * commit() errors: `fenced`, `no_space`, `too_large`, `bad_argument`, `corrupt`, `closed`:
//    nothing was written, the store is as before. `io`: the batch may or may not be there, every
//    later commit() and sweep() fails with io, and the owner must end the process.
//  * a result is never rewritten: of two results with one id the first is kept.
//  * an expired result (expires_wall_ms <= now) is never returned, swept or not.
//  * one thread calls acquire, commit and sweep. get, row, scan, stream_pos and health of the
//    RocksDB store may run beside it in other threads.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/result.h"

namespace dray {

constexpr int64_t kNeverExpires = std::numeric_limits<int64_t>::max();

struct StoredResult {
  TaskId id;
  uint8_t state = 0;
  uint8_t code = 0;
  uint16_t attempt = 0;
  uint32_t exec_us = 0;
  Token token;
  int64_t finished_wall_ms = 0;
  int64_t expires_wall_ms = kNeverExpires;
  Bytes bytes;
  bool operator==(const StoredResult&) const = default;
};

// Position in the broker's stream of finished records.
struct StreamPos {
  uint64_t epoch = 0;
  uint64_t pos = 0;
  auto operator<=>(const StreamPos&) const = default;
};

using StoreRow = std::pair<std::string, std::string>;  // key, value

// One atomic group commit.
struct StoreBatch {
  std::vector<StoredResult> results;
  // pos 0 = unchanged. Inside one stream epoch the position never goes back (bad_argument).
  StreamPos stream;
  std::vector<StoreRow> puts;  // small keyed rows of the aggregator
  std::vector<std::string> dels;  // done before puts
  std::vector<TaskId> forget;  // done before results; unknown ids are ignored
};

struct StoreHealth {
  uint64_t bytes = 0;  // sum of stored_cost(); the file system may hold more or less
  uint64_t results = 0;  // approximate: counts refused duplicates until they are swept
  uint64_t bytes_free = 0;  // on the file system
  uint64_t commits = 0;
  uint64_t sync_us_p50 = 0;
  uint64_t sync_us_p99 = 0;
  bool writable = true;  // false after io
};

// What one result counts against the size budget, the same in every implementation.
constexpr uint64_t kStoredOverhead = 32;
inline uint64_t stored_cost(const StoredResult& r) { return kStoredOverhead + r.bytes.size(); }

// Expiry is indexed by (minute, page): a sweep drops a row once its whole minute is over.
constexpr int64_t kExpiryStepMs = 60'000;
inline int64_t expiry_minute(int64_t wall_ms) { return wall_ms <= 0 ? 0 : wall_ms / kExpiryStepMs; }

class ResultStore {
 public:
  virtual ~ResultStore() = default;
  // Takes ownership; returns the new owner epoch (> every epoch before).
  virtual Result<uint64_t> acquire() = 0;
  virtual StreamPos stream_pos() const = 0;  // as of the last commit; valid after acquire()
  virtual Status commit(StoreBatch&& batch) = 0;
  // One answer per id, in order.
  virtual Result<std::vector<std::optional<StoredResult>>> get(std::span<const TaskId> ids,
                                                               int64_t now_wall_ms) = 0;
  virtual Result<std::optional<std::string>> row(std::string_view key) = 0;
  // At most `limit` rows whose key starts with `prefix` and is greater than `after`, in key order.
  virtual Result<std::vector<StoreRow>> scan(std::string_view prefix, size_t limit,
                                             std::string_view after = {}) = 0;
  // Drops results whose expiry minute is over, then, while bytes > size_budget_bytes, those that
  // expire soonest. Visits at most max_pages (minute, page) rows; returns the number of results
  // dropped. Call again while it returns > 0. Not synced: a crash may undo a sweep.
  virtual Result<size_t> sweep(int64_t now_wall_ms, uint64_t size_budget_bytes,
                               size_t max_pages) = 0;
  virtual StoreHealth health() const = 0;
};

}  // namespace dray
