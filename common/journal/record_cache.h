// Caches of record bodies: the newest as they were appended, and a few read back from disk.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>

#include "common/journal/blob_parts.h"
#include "common/journal/journal.h"

namespace dray {

struct RecentRecord {
  Bytes rows;
  BlobParts blob;
};

// Bodies of the newest records, oldest out first. Uncommitted ones are never evicted.
class RecentRecords {
 public:
  explicit RecentRecords(uint64_t limit) : limit_(limit) {}
  void push(RecordNo no, RecentRecord record);
  void drop_from(RecordNo no);  // forget records >= no (a batch that was not written)
  void evict_below(RecordNo committed_end);
  const RecentRecord* find(RecordNo no) const;
  uint64_t bytes() const { return bytes_; }

 private:
  static uint64_t cost(const RecentRecord& r) { return r.blob.size() + r.rows.size() + kOverhead; }
  static constexpr uint64_t kOverhead = 128;
  uint64_t limit_;
  uint64_t bytes_ = 0;
  RecordNo first_ = 0;  // number of records_.front()
  std::deque<RecentRecord> records_;
};

// Whole records read from disk. Tasks of one batch are read one after the other, so the second read
// of a record loads it whole and the rest are slices.
class LoadedRecords {
 public:
  std::optional<Bytes> find(RecordNo no);
  void put(RecordNo no, Bytes record);
  bool seen_lately(RecordNo no);  // notes the miss; true if it was noted before

 private:
  struct Slot {
    RecordNo no = 0;
    uint64_t used = 0;
    Bytes record;
  };
  std::array<Slot, 4> slots_;
  std::array<RecordNo, 8> misses_{};
  size_t next_miss_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace dray
