// Reading of one segment file, record by record, and the rule that tells a torn tail from damage.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/journal/file_ops.h"
#include "common/journal/journal.h"
#include "common/journal/record_format.h"
#include "common/journal/segment_dir.h"

namespace dray {

// A window that slides over a file. pread instead of mmap: a read error is a Status, not a SIGBUS,
// and resident memory stays at one window.
class FileWindow {
 public:
  FileWindow(FileOps& ops, int fd, const std::string& path) : ops_(ops), fd_(fd), path_(path) {}
  // n bytes at offset, fewer at the end of the file. Valid until the next call.
  Result<std::string_view> at(uint64_t offset, uint64_t n);

 private:
  FileOps& ops_;
  int fd_;
  const std::string& path_;
  std::string buffer_;
  uint64_t begin_ = 0;
  size_t valid_ = 0;
};

struct ScannedRecord {
  uint64_t offset = 0;
  RecordHeader header;
  std::string_view body;  // head, rows, blob
};

struct ScanEnd {
  RecordNo next = 0;  // number behind the last good record
  uint64_t offset = 0;  // and where it would be
  uint64_t commit_at = 0;  // where the last commit with a good record begins
  uint64_t cut = 0;  // bytes of a torn tail (0: the log ended cleanly)
};

// Reads records from segment.first on. `stop` != 0: exactly the records below `stop` must be there
// (the segment is not the last one). `stop` == 0: up to the torn tail.
Result<ScanEnd> scan_segment(FileOps& ops, int fd, const Segment& segment, RecordNo stop,
                             const std::function<Status(const ScannedRecord&)>& each);

}  // namespace dray
