// MemoryJournal: the Journal contract in memory, with faults on demand, for tests and simulation.
//
// A MemoryDisk outlives the journal objects that use it, as a disk outlives processes.
// Same order of calls as FileJournal. No clock, no I/O.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"  // rng.h uses __int128
#include "common/base/rng.h"
#pragma GCC diagnostic pop
#include "common/journal/blob_parts.h"
#include "common/journal/journal.h"

namespace dray {

class MemoryDisk {
 public:
  // Power loss: of the records appended but not committed, a random prefix happens to be on disk
  // (the record behind it may be torn; replay cuts that, so it is simply gone). The journal object
  // in use is dead afterwards: fenced, even before a new owner comes.
  void crash(Rng& rng);
  // The next n commits fail with io. What they wrote may or may not survive a crash().
  void fail_next_commits(uint32_t n) { fail_commits_ = n; }
  // The next n commits are applied durably and yet report io.
  void fail_next_commits_applied(uint32_t n) { fail_applied_ = n; }
  void set_capacity_bytes(uint64_t bytes) { capacity_ = bytes; }  // 0 = no limit
  // release_before frees whole groups of this many records, as segments do.
  void set_segment_records(uint64_t n) { segment_records_ = n == 0 ? 1 : n; }
  uint64_t epoch() const { return epoch_; }
  uint64_t bytes_used() const { return bytes_; }
  uint64_t commits() const { return commits_; }
  RecordNo committed_end() const { return first_ + records_.size(); }

 private:
  friend class MemoryJournal;
  struct Record {
    uint8_t type = 0;
    std::string head;
    Bytes rows;
    BlobParts blob;
    uint64_t bytes() const { return 48 + head.size() + rows.size() + blob.size(); }
  };
  void keep(size_t count);  // moves the first `count` unsynced records to the synced ones

  RecordNo first_ = 1;
  std::deque<Record> records_;  // synced, from first_ on
  std::deque<Record> unsynced_;  // appended behind them
  uint64_t bytes_ = 0;  // of both
  uint64_t epoch_ = 0;
  uint64_t generation_ = 0;  // moves with every acquire and every crash
  uint64_t capacity_ = 0;
  uint64_t segment_records_ = 1;
  uint64_t commits_ = 0;
  uint32_t fail_commits_ = 0;
  uint32_t fail_applied_ = 0;
};

class MemoryJournal final : public Journal {
 public:
  explicit MemoryJournal(std::shared_ptr<MemoryDisk> disk) : disk_(std::move(disk)) {}
  Result<uint64_t> acquire() override;
  Status replay(const std::function<Status(const ReplayedRecord&)>& each) override;
  RecordNo next_record() const override;
  RecordNo first_record() const override { return disk_->first_; }
  Status append(const JournalRecord& record) override;
  Status commit() override;
  Result<Bytes> read(RecordNo no, uint64_t offset, uint64_t size) override;
  Result<Bytes> read_rows(RecordNo no) override;
  Status release_before(RecordNo no) override;
  JournalHealth health() const override;

 private:
  Status usable();
  Status fail(Error error);
  const MemoryDisk::Record* find(RecordNo no) const;
  void drop_unsynced();

  std::shared_ptr<MemoryDisk> disk_;
  uint64_t generation_ = 0;
  bool acquired_ = false;
  bool replayed_ = false;
  std::optional<Error> failed_;
};

}  // namespace dray
