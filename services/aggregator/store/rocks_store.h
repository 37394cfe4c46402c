// RocksResultStore: how to open the ResultStore that lives in a RocksDB directory.
#pragma once

#include <memory>
#include <string>

#include "services/aggregator/store/result_store.h"

namespace dray {

// Memory is about write_buffers * write_buffer_bytes + block_cache_bytes + what one call carries.
struct RocksOptions {
  std::string path;  // made if missing, one level; held exclusively while the store is open
  // commit() says no_space, before it writes, when less would be left. Flushes, compactions and
  // sweeps work inside this reserve, so keep it well above the write buffers.
  uint64_t min_free_bytes = uint64_t{512} << 20;
  size_t write_buffer_bytes = size_t{32} << 20;
  int write_buffers = 3;
  size_t block_cache_bytes = size_t{32} << 20;
  uint64_t wal_bytes_max = uint64_t{128} << 20;
  int max_open_files = 256;
  int background_jobs = 2;
  bool lz4 = false;
};

// Opens and recovers; call acquire() before the first commit. Errors: `unavailable` (another
// process has it open), `corrupt`, `config` (other format), `no_space`, `io`.
Result<std::unique_ptr<ResultStore>> open_rocks_store(const RocksOptions& options);

}  // namespace dray
