// Journal: the broker's durable, ordered log of records. The interface, its contract, nothing else.
//
// Records are numbered densely from 1 by the journal's owner; a record is an opaque type byte and
// a body. A body is a short *head* (decoded at replay) followed by a *blob* (bulk payload bytes,
// addressed later by (record number, offset, length) and never copied into memory at replay).
//
// Contract, held by every implementation (tests/unit/journal/conformance.h):
//  * append() writes nothing that may be relied on; commit() makes everything appended so far
//    durable, atomically per record and in order. After commit() returns ok the records survive
//    SIGKILL and power loss.
//  * a failed write or sync poisons the journal: every later call fails with io (or no_space).
//    The owner must end the process; a failed sync is never retried.
//    Exception: no_space that is found *before* anything was written (reserve fails) leaves the
//    journal usable and the batch unwritten.
//  * acquire() bumps the epoch durably and fences every older owner: their append/commit fail with
//    `fenced`.
//  * replay() yields every committed record from first_record() on, in order, exactly once. It
//    stops only at a torn tail (which is cut off); damage anywhere else is an error, not silence.
//  * release_before(n): records below n are not needed any more; space is reclaimed in order.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/record.h"
#include "common/base/result.h"

namespace dray {

struct JournalHealth {
  uint64_t bytes_used = 0;  // in segments that can not be reclaimed yet
  uint64_t bytes_free = 0;  // on the file system
  uint64_t syncs = 0;
  uint64_t sync_us_p99 = 0;
  bool writable = true;
};

class Journal {
 public:
  virtual ~Journal() = default;
  // Takes ownership of the log; returns the new epoch (> every epoch before).
  virtual Result<uint64_t> acquire() = 0;
  virtual Status replay(const std::function<Status(const ReplayedRecord&)>& each) = 0;
  virtual RecordNo next_record() const = 0;  // number the next append must carry
  virtual RecordNo first_record() const = 0;  // oldest record still kept (== next_record if none)
  virtual Status append(const JournalRecord& record) = 0;
  virtual Status commit() = 0;
  // Bytes [offset, offset+size) of a record's blob; also of appended, uncommitted records.
  virtual Result<Bytes> read(RecordNo no, uint64_t offset, uint64_t size) = 0;
  // The rows part of a record.
  virtual Result<Bytes> read_rows(RecordNo no) = 0;
  virtual Status release_before(RecordNo no) = 0;
  virtual JournalHealth health() const = 0;
};

}  // namespace dray
