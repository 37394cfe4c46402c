// Journal records as plain values, shared by the cores that write them and the journal that keeps
// them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/bytes.h"

namespace dray {

using RecordNo = uint64_t;  // dense from 1; 0 = none

// One part of a blob: fresh bytes, or a copy of a piece of an older record's blob (carry forward).
struct BlobPart {
  Bytes bytes;
  RecordNo from = 0;  // != 0: copy [offset, offset + size) of that record's blob instead
  uint64_t offset = 0;
  uint64_t size = 0;
};

struct JournalRecord {
  RecordNo no = 0;  // must be the journal's next number
  uint8_t type = 0;  // owner's record type
  std::string head;  // small, handed to replay
  Bytes rows;  // second part of the head (kept separate to avoid a copy), handed to replay
  std::vector<BlobPart> blob;
};

struct ReplayedRecord {
  RecordNo no = 0;
  uint8_t type = 0;
  std::string_view head;  // valid during the callback only
  Bytes rows;  // may be kept
  uint64_t blob_size = 0;
};

}  // namespace dray
