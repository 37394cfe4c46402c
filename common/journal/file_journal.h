// FileJournal: the Journal on local disk, in preallocated segment files (record_format.h).
//
// Order of calls: acquire(), replay(), then append/commit/read/release_before. One thread at a
// time.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "common/journal/epoch_file.h"
#include "common/journal/file_ops.h"
#include "common/journal/journal.h"
#include "common/journal/pending_batch.h"
#include "common/journal/record_cache.h"
#include "common/journal/scan.h"
#include "common/journal/segment_dir.h"

namespace dray {

// What replay() found at the end of the log; worth a log line if cut_bytes is not 0.
struct JournalTail {
  std::string path;
  uint64_t offset = 0;
  uint64_t cut_bytes = 0;  // of records that were never acknowledged
};

class FileJournal final : public Journal {
 public:
  // Touches nothing before acquire(). `ops` must outlive the journal.
  explicit FileJournal(FileJournalOptions options, FileOps& ops = system_file_ops());
  FileJournal(const FileJournal&) = delete;
  FileJournal& operator=(const FileJournal&) = delete;

  Result<uint64_t> acquire() override;
  Status replay(const std::function<Status(const ReplayedRecord&)>& each) override;
  RecordNo next_record() const override { return next_; }
  RecordNo first_record() const override;
  Status append(const JournalRecord& record) override;
  Status commit() override;
  Result<Bytes> read(RecordNo no, uint64_t offset, uint64_t size) override;
  Result<Bytes> read_rows(RecordNo no) override;
  Status release_before(RecordNo no) override;
  JournalHealth health() const override;
  const JournalTail& tail() const { return tail_; }

 private:
  struct Place {  // 16 bytes a record; the segment follows from the record's number
    uint32_t offset8 = 0;
    uint32_t blob_at = 0;  // inside the record; the rows end here
    uint32_t rows_len = 0;
    uint32_t blob_len = 0;
  };
  Result<uint64_t> take_ownership();
  Status usable() const;
  Status check_epoch();
  Status fail(Error error);
  Status scan(const std::function<Status(const ReplayedRecord&)>& each);
  Status rewrite_last_commit(int fd, const Segment& segment, const ScanEnd& end);
  Result<BlobParts> resolve(const JournalRecord& record);
  Status write_batch();
  Status reserve();
  Status sync_active();
  void settle_inherited();
  void drop_batch();
  bool holds(RecordNo no) const { return replayed_ && no >= first_record() && no < next_; }
  const Place& place_of(RecordNo no) const {
    return index_[static_cast<size_t>(no - first_record())];
  }
  Result<Bytes> read_disk(RecordNo no, uint64_t at, uint64_t size);
  Result<Bytes> load_record(RecordNo no, const Place& place, int fd, const std::string& path);

  const FileJournalOptions options_;
  FileOps& ops_;
  OwnedFd lock_;
  EpochFile epoch_file_;
  SegmentDir dir_;
  uint64_t epoch_ = 0;
  std::optional<Error> failed_;
  bool replayed_ = false;
  bool active_ = false;  // the last segment is ours to write
  uint64_t write_at_ = 0;  // in the last segment
  RecordNo next_ = 1;  // pending ones counted
  std::deque<Place> index_;  // committed records from first_record() on
  PendingBatch batch_;
  RecentRecords recent_;
  LoadedRecords loaded_;
  JournalTail tail_;
  uint64_t syncs_ = 0;
  std::array<uint32_t, 1024> sync_us_{};  // ring
};

}  // namespace dray
