// Rocks setup: how RocksDB is configured, and what it needs to know about our rows.
#include "services/aggregator/store/rocks_setup.h"

#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/table_properties_collectors.h>

#include <deque>

#include "services/aggregator/store/store_rows.h"

namespace dray::rocks {
namespace rdb = rocksdb;
namespace {

// 'x' rows add up, everything else concatenates.
class AppendMerge final : public rdb::MergeOperator {
 public:
  const char* Name() const override { return "dray.append.v1"; }
  bool FullMergeV2(const MergeOperationInput& in, MergeOperationOutput* out) const override {
    return merge(in.key, in.existing_value, in.operand_list, out->new_value);
  }
  bool PartialMergeMulti(const rdb::Slice& key, const std::deque<rdb::Slice>& operands,
                         std::string* out, rdb::Logger*) const override {
    return merge(key, nullptr, operands, *out);
  }

 private:
  template <class List>
  static bool merge(const rdb::Slice& key, const rdb::Slice* base, const List& operands,
                    std::string& out) {
    out.clear();
    if (!key.empty() && key[0] == 'x') {
      Totals sum;
      if (base != nullptr && !add(sum, *base)) return false;
      for (const auto& o : operands)
        if (!add(sum, o)) return false;
      out = encode(sum);
      return true;
    }
    size_t size = base != nullptr ? base->size() : 0;
    for (const auto& o : operands) size += o.size();
    out.reserve(size);
    if (base != nullptr) out.append(base->data(), base->size());
    for (const auto& o : operands) out.append(o.data(), o.size());
    return true;
  }
  static bool add(Totals& sum, const rdb::Slice& s) {
    if (s.size() != kTotalsSize) return false;
    sum += decode_totals(view(s));
    return true;
  }
};

}  // namespace

rdb::Options rocks_options(const RocksOptions& o, std::shared_ptr<FatalErrors> listener) {
  rdb::Options r;
  r.create_if_missing = true;
  r.paranoid_checks = true;
  // The default mode silently drops everything after damage in the middle of the log.
  r.wal_recovery_mode = rdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  r.max_total_wal_size = o.wal_bytes_max;
  r.listeners.push_back(std::move(listener));
  r.max_bgerror_resume_count = 0;
  r.merge_operator = std::make_shared<AppendMerge>();
  // One writer.
  r.allow_concurrent_memtable_write = false;
  r.enable_write_thread_adaptive_yield = false;
  r.write_buffer_size = o.write_buffer_bytes;
  r.max_write_buffer_number = o.write_buffers;
  r.max_background_jobs = o.background_jobs;
  r.max_open_files = o.max_open_files;
  r.compression = o.lz4 ? rdb::kLZ4Compression : rdb::kNoCompression;
  r.level_compaction_dynamic_level_bytes = true;
  r.bytes_per_sync = r.wal_bytes_per_sync = uint64_t{1} << 20;
  // Swept pages leave tombstones; compact where they are dense so that space comes back.
  r.table_properties_collector_factories.push_back(
      rdb::NewCompactOnDeletionCollectorFactory(1024, 512));
  rdb::BlockBasedTableOptions table;
  table.block_cache = rdb::NewLRUCache(o.block_cache_bytes);
  table.cache_index_and_filter_blocks = true;
  table.filter_policy.reset(rdb::NewBloomFilterPolicy(10, false));
  table.block_size = 16 * 1024;
  table.format_version = 5;
  r.table_factory.reset(rdb::NewBlockBasedTableFactory(table));
  r.stats_dump_period_sec = 0;
  r.stats_persist_period_sec = 0;
  r.info_log_level = rdb::InfoLogLevel::WARN_LEVEL;
  r.max_log_file_size = size_t{1} << 20;
  r.keep_log_file_num = 2;
  return r;
}

Error to_error(const std::string& path, const rdb::Status& s) {
  const std::string text = s.ToString();
  Errc code = Errc::io;
  if (s.IsCorruption()) code = Errc::corrupt;
  if (s.IsNoSpace()) code = Errc::no_space;
  if (s.IsIOError() && (text.find("lock file") != std::string::npos ||
                        text.find("lock hold by current process") != std::string::npos))
    code = Errc::unavailable;
  return make_error(code, "result store " + path + ": " + text);
}

}  // namespace dray::rocks
