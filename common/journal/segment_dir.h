// SegmentDir: the segment files of a journal directory, their order, reservation and recycling.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/journal/file_ops.h"
#include "common/journal/journal.h"

namespace dray {

struct FileJournalOptions {
  std::string dir;
  uint64_t segment_bytes = 64 * 1024 * 1024;
  uint64_t cache_bytes = 64 * 1024 * 1024;  // blobs of recent records kept in memory
  uint64_t disk_budget_bytes = 0;  // segments and spares together; 0 = no limit
  uint64_t min_free_bytes = 0;  // left to others on the file system
  bool ignore_lock = false;  // tests only: lets two owners meet, to test fencing
};

struct Segment {
  uint64_t seq = 0;
  uint64_t uid = 0;
  RecordNo first = 0;  // its first record
  uint64_t size = 0;  // of the file
  uint64_t full_size = 0;  // it was made with
  bool inherited = false;  // written by an earlier life; never appended to
  std::string path;
  OwnedFd fd;  // opened when needed
};

class SegmentDir {
 public:
  SegmentDir(FileOps& ops, const FileJournalOptions& options) : ops_(ops), options_(options) {}
  // Lists the directory and reads every segment header.
  Status open();
  bool has_segments() const { return !segments_.empty(); }
  std::deque<Segment>& segments() { return segments_; }
  const std::deque<Segment>& segments() const { return segments_; }
  Segment& holding(RecordNo no);  // `no` must be in the journal
  Result<int> fd_of(Segment& segment);
  // Adds a segment for `bytes` of records beginning with `first`. no_space leaves all unchanged;
  // after any other error the journal must not be written again.
  Status add(RecordNo first, uint64_t epoch, uint64_t bytes);
  // Gives the oldest segment back: to the spares or to the file system.
  Status drop_front();
  // Frees what lies behind `tail` in the last segment of an earlier life (see add's caller).
  void shrink_inherited(Segment& segment, uint64_t tail);
  // Fills up to `bytes` more of the next spare with zeros, so that rotation finds one ready.
  void prepare(uint64_t bytes);
  uint64_t bytes_on_disk() const;

 private:
  struct File {
    std::string path;
    uint64_t size = 0;
    OwnedFd fd;
  };
  Status load_segment(const std::string& name);
  void load_spare(const std::string& name);
  bool may_grow(uint64_t bytes, std::string* why);
  Result<File> create(uint64_t bytes);
  Status fill(File& file, uint64_t from, uint64_t bytes);
  Result<File> take_spare(uint64_t bytes);
  Result<File> finish_filling();
  bool give_up_spares();
  Status write_header(File& file, RecordNo first, uint64_t epoch, Segment* segment);
  void discard(File& file);

  FileOps& ops_;
  const FileJournalOptions& options_;
  std::deque<Segment> segments_;
  std::vector<File> spares_;
  File filling_;
  uint64_t filled_ = 0;
  uint64_t next_name_ = 1;
  uint64_t next_seq_ = 1;
};

}  // namespace dray
