// measure_journal_floor: what the disk alone allows, to judge the journal against.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "common/base/time.h"

namespace dray {

struct JournalFloor {
  double records_per_s = 0;
  double p50_us = 0;  // of one write and sync
  double p99_us = 0;
};

// Writes and syncs records_per_commit records at a time into a zero-filled file in `dir` for
// `length`, then removes the file.
Result<JournalFloor> measure_journal_floor(const std::string& dir, uint64_t record_bytes,
                                           uint64_t records_per_commit, Duration length);

}  // namespace dray
