// RocksResultStore: the ResultStore in a RocksDB directory; rows: store_rows.h.
#include "services/aggregator/store/rocks_store.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <chrono>
#include <mutex>
#include <numeric>
#include <unordered_set>

#include "services/aggregator/store/page_codec.h"
#include "services/aggregator/store/rocks_setup.h"
#include "services/aggregator/store/store_rows.h"
#include "services/aggregator/store/store_rules.h"
#include "services/aggregator/store/sync_times.h"

namespace dray {
using namespace rocks;
namespace {

namespace rdb = rocksdb;

constexpr size_t kInlineMax = 1024;
constexpr size_t kSweepBatchBytes = size_t{1} << 20;
constexpr size_t kKeepBatchBytes = size_t{4} << 20;
constexpr std::string_view kFormat = "dray-results-1";
constexpr std::string_view kFormatKey = "mformat";
constexpr std::string_view kOwnerKey = "mowner";
constexpr std::string_view kStreamKey = "mstream";

}  // namespace

class RocksResultStore final : public ResultStore {
 public:
  explicit RocksResultStore(const RocksOptions& options)
      : options_(options), fatal_(std::make_shared<FatalErrors>()) {}
  Status open();
  Result<uint64_t> acquire() override;
  StreamPos stream_pos() const override;
  Status commit(StoreBatch&& batch) override;
  Result<std::vector<std::optional<StoredResult>>> get(std::span<const TaskId> ids,
                                                       int64_t now_wall_ms) override;
  Result<std::optional<std::string>> row(std::string_view key) override;
  Result<std::vector<StoreRow>> scan(std::string_view prefix, size_t limit,
                                     std::string_view after) override;
  Result<size_t> sweep(int64_t now_wall_ms, uint64_t size_budget_bytes, size_t max_pages) override;
  StoreHealth health() const override;

 private:
  Error error(const rdb::Status& s) const { return to_error(options_.path, s); }
  Error error(Errc code, const std::string& text) const {
    return make_error(code, "result store " + options_.path + ": " + text);
  }
  Status ready() const;
  Status check_room(uint64_t bytes) const;
  Status write(bool sync);
  Status recount();
  Result<std::optional<std::string>> read_row(std::string_view key) const;
  void add_page(std::span<const StoredResult* const> results, Totals& added);
  void add_results(const std::vector<StoredResult>& results, Totals& added);
  Status add_forget(std::vector<TaskId> ids, Totals& added);
  template <class Keep>
  Result<size_t> rewrite_page(TaskId page, Keep keep, Totals& added);
  Status flush_sweep(Totals& added);
  Status get_page(TaskId page, rdb::PinnableSlice& value, std::span<const TaskId> ids,
                  std::span<const size_t> order, int64_t now_wall_ms, const rdb::ReadOptions& ro,
                  std::vector<std::optional<StoredResult>>& out) const;

  RocksOptions options_;
  std::shared_ptr<FatalErrors> fatal_;
  std::unique_ptr<rdb::DB> db_;
  rdb::WriteBatch batch_;  // reused, so its memory is
  std::string page_;  // scratch
  uint64_t owner_ = 0;  // 0 = not acquired
  uint64_t blob_number_ = 0;
  std::string sweep_from_;  // no 'x' row is below this key

  mutable std::mutex mutex_;  // what health() and stream_pos() read
  Totals totals_;
  StreamPos stream_;
  SyncTimes sync_times_;
  uint64_t commits_ = 0;
  bool poisoned_ = false;
};

// --- open, own
// ------------------------------------------------------------------------------------

Status RocksResultStore::open() {
  rdb::DB* db = nullptr;
  const auto s = rdb::DB::Open(rocks_options(options_, fatal_), options_.path, &db);
  if (!s.ok()) return error(s);
  db_.reset(db);
  DRAY_TRY_ASSIGN(const auto format, read_row(kFormatKey));
  if (format && *format != kFormat)
    return error(Errc::config, "the directory holds format " + *format);
  DRAY_TRY_ASSIGN(const auto stream, read_row(kStreamKey));
  if (stream && stream->size() != 16) return error(Errc::corrupt, "stream position");
  if (stream) stream_ = {get_be(*stream, 0), get_be(*stream, 8)};
  return {};
}

Result<uint64_t> RocksResultStore::acquire() {
  DRAY_TRY_ASSIGN(const auto old, read_row(kOwnerKey));
  if (old && old->size() != 8) return error(Errc::corrupt, "owner epoch");
  const uint64_t epoch = (old ? get_be(*old, 0) : 0) + 1;
  std::string value;
  put_be(value, epoch);
  DRAY_TRY(recount());
  batch_.Clear();
  (void)batch_.Put(slice(kOwnerKey), value);
  (void)batch_.Put(slice(kFormatKey), slice(kFormat));
  DRAY_TRY(write(true));
  owner_ = epoch;
  blob_number_ = 0;
  return epoch;
}

Status RocksResultStore::recount() {
  rdb::ReadOptions ro;
  ro.fill_cache = false;
  ro.readahead_size = size_t{1} << 20;
  const rdb::Slice end("y");
  ro.iterate_upper_bound = &end;
  const std::unique_ptr<rdb::Iterator> it(db_->NewIterator(ro));
  Totals sum;
  sweep_from_.clear();
  for (it->Seek("x"); it->Valid(); it->Next()) {
    if (it->key().size() != kExpiryKeySize || it->value().size() != kTotalsSize)
      return error(Errc::corrupt, "expiry row");
    if (sweep_from_.empty()) sweep_from_ = it->key().ToString();
    sum += decode_totals(view(it->value()));
  }
  if (!it->status().ok()) return error(it->status());
  if (sweep_from_.empty()) sweep_from_ = "y";
  std::lock_guard lock(mutex_);
  totals_ = sum;
  return {};
}

StreamPos RocksResultStore::stream_pos() const {
  std::lock_guard lock(mutex_);
  return stream_;
}

StoreHealth RocksResultStore::health() const {
  StoreHealth h;
  struct statvfs fs = {};
  if (::statvfs(options_.path.c_str(), &fs) == 0) h.bytes_free = fs.f_bavail * fs.f_frsize;
  std::lock_guard lock(mutex_);
  h.bytes = static_cast<uint64_t>(std::max<int64_t>(totals_.bytes, 0));
  h.results = static_cast<uint64_t>(std::max<int64_t>(totals_.count, 0));
  h.commits = commits_;
  h.sync_us_p50 = sync_times_.quantile(500);
  h.sync_us_p99 = sync_times_.quantile(990);
  h.writable = !poisoned_ && !fatal_->failed();
  return h;
}

// --- commit
// ---------------------------------------------------------------------------------------

Status RocksResultStore::ready() const {
  if (poisoned_) return error(Errc::io, "an earlier write failed");
  if (fatal_->failed()) return error(Errc::io, "background error: " + fatal_->text());
  if (owner_ == 0) return error(Errc::fenced, "not acquired");
  return {};
}

Status RocksResultStore::check_room(uint64_t bytes) const {
  struct statvfs fs = {};
  if (::statvfs(options_.path.c_str(), &fs) != 0) return error(Errc::io, "statvfs failed");
  const uint64_t free = fs.f_bavail * fs.f_frsize;
  if (free >= options_.min_free_bytes + 2 * bytes) return {};
  return error(Errc::no_space, std::to_string(free >> 20) + " MiB free, " +
                                   std::to_string(options_.min_free_bytes >> 20) +
                                   " MiB are kept in reserve");
}

// Writes batch_. After a failed write nobody knows what is on disk: the store is done.
Status RocksResultStore::write(bool sync) {
  rdb::WriteOptions wo;
  wo.sync = sync;
  const auto s = db_->Write(wo, &batch_);
  batch_.Clear();
  if (batch_.Data().capacity() > kKeepBatchBytes) batch_ = rdb::WriteBatch();
  if (s.ok()) return {};
  std::lock_guard lock(mutex_);
  poisoned_ = true;
  return error(Errc::io, s.ToString());
}

Status RocksResultStore::commit(StoreBatch&& b) {
  DRAY_TRY(ready());
  DRAY_TRY(check_batch(b, stream_));
  uint64_t bytes = 0;
  for (const auto& r : b.results) bytes += stored_cost(r);
  for (const auto& [key, value] : b.puts) bytes += key.size() + value.size();
  DRAY_TRY(check_room(bytes));

  Totals added;
  batch_.Clear();
  if (!b.forget.empty()) DRAY_TRY(add_forget(std::move(b.forget), added));
  add_results(b.results, added);
  for (const auto& key : b.dels) (void)batch_.Delete("k" + key);
  for (const auto& [key, value] : b.puts) (void)batch_.Put("k" + key, value);
  if (b.stream.pos != 0) {
    std::string value;
    put_be(value, b.stream.epoch);
    put_be(value, b.stream.pos);
    (void)batch_.Put(slice(kStreamKey), value);
  }
  const auto before = std::chrono::steady_clock::now();
  DRAY_TRY(write(true));
  const auto took = std::chrono::steady_clock::now() - before;
  std::lock_guard lock(mutex_);
  totals_ += added;
  if (b.stream.pos != 0) stream_ = b.stream;
  ++commits_;
  sync_times_.add(
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count()));
  return {};
}

void RocksResultStore::add_results(const std::vector<StoredResult>& results, Totals& added) {
  std::vector<const StoredResult*> order(results.size());
  for (size_t i = 0; i < results.size(); ++i) order[i] = &results[i];
  const auto by_page = [](const StoredResult* a, const StoredResult* b) {
    return a->id.page() < b->id.page();
  };
  if (!std::is_sorted(order.begin(), order.end(), by_page))
    std::stable_sort(order.begin(), order.end(), by_page);  // stable: the first of a slot wins
  for (size_t i = 0; i < order.size();) {
    size_t end = i + 1;
    while (end < order.size() && order[end]->id.page() == order[i]->id.page()) ++end;
    add_page(std::span(order).subspan(i, end - i), added);
    i = end;
  }
}

void RocksResultStore::add_page(std::span<const StoredResult* const> results, Totals& added) {
  const TaskId page = results.front()->id.page();
  page_.clear();
  PageWriter writer(page_);
  MinuteTotals minutes;
  for (const StoredResult* r : results) {
    PageEntry e = to_entry(*r);
    if (e.size > kInlineMax) {
      e.blob_owner = owner_;
      e.blob_number = ++blob_number_;
      (void)batch_.Put(blob_key(r->id, e.blob_owner, e.blob_number), slice(r->bytes.view()));
    } else {
      e.bytes = r->bytes.view();
    }
    writer.add(e);
    minutes.at(expiry_minute(r->expires_wall_ms)) += cost(e);
  }
  writer.finish();
  (void)batch_.Merge(page_key(page), page_);
  for (const auto& [minute, sum] : minutes.rows) {
    const std::string key = expiry_key(minute, page);
    (void)batch_.Merge(key, encode(sum));
    if (key < sweep_from_) sweep_from_ = key;
    added += sum;
  }
}

Status RocksResultStore::add_forget(std::vector<TaskId> ids, Totals& added) {
  std::sort(ids.begin(), ids.end());
  for (size_t i = 0; i < ids.size();) {
    const TaskId page = ids[i].page();
    std::bitset<256> drop;
    for (; i < ids.size() && ids[i].page() == page; ++i) drop.set(ids[i].slot());
    DRAY_TRY(rewrite_page(
        page, [&](const PageEntry& e) { return !drop[e.slot]; }, added));
  }
  return {};
}

// Puts into batch_ what makes `page` hold only the entries that are the first of their slot and
// that `keep` accepts. Returns how many results go.
template <class Keep>
Result<size_t> RocksResultStore::rewrite_page(TaskId page, Keep keep, Totals& added) {
  const std::string key = page_key(page);
  DRAY_TRY_ASSIGN(const auto old, read_row(key));
  if (!old) return size_t{0};
  page_.clear();
  PageWriter writer(page_);
  PageReader reader(*old);
  MinuteTotals before, after;
  std::bitset<256> seen;
  size_t dropped = 0;
  PageEntry e;
  while (reader.next(e)) {
    const int64_t minute = expiry_minute(e.expires_wall_ms);
    before.at(minute) += cost(e);
    const bool first = !seen[e.slot];
    seen.set(e.slot);
    if (first && keep(e)) {
      writer.add(e);
      after.at(minute) += cost(e);
      continue;
    }
    if (first) ++dropped;
    if (e.blob_owner != 0) {
      const TaskId id{page.hi, page.lo | e.slot};
      (void)batch_.Delete(blob_key(id, e.blob_owner, e.blob_number));
    }
  }
  if (reader.damaged()) return error(Errc::corrupt, "page of " + to_hex(page));
  writer.finish();
  bool changed = false;
  for (const auto& [minute, sum] : before.rows) {
    const Totals& left = after.at(minute);
    if (left == sum) continue;
    changed = true;
    added += -sum;
    added += left;
    if (left.count == 0)
      (void)batch_.Delete(expiry_key(minute, page));
    else
      (void)batch_.Put(expiry_key(minute, page), encode(left));
  }
  if (!changed) return size_t{0};
  if (page_.empty())
    (void)batch_.Delete(key);
  else
    (void)batch_.Put(key, page_);
  return dropped;
}

// --- read
// -----------------------------------------------------------------------------------------

Result<std::optional<std::string>> RocksResultStore::read_row(std::string_view key) const {
  std::string value;
  const auto s = db_->Get(rdb::ReadOptions(), slice(key), &value);
  if (s.IsNotFound()) return std::optional<std::string>{};
  if (!s.ok()) return error(s);
  return std::optional<std::string>{std::move(value)};
}

Result<std::optional<std::string>> RocksResultStore::row(std::string_view key) {
  return read_row("k" + std::string(key));
}

Result<std::vector<StoreRow>> RocksResultStore::scan(std::string_view prefix, size_t limit,
                                                     std::string_view after) {
  const std::string start = "k" + std::string(std::max(prefix, after));
  const std::string floor = "k" + std::string(after);
  const std::string head = "k" + std::string(prefix);
  const std::unique_ptr<rdb::Iterator> it(db_->NewIterator(rdb::ReadOptions()));
  std::vector<StoreRow> out;
  for (it->Seek(start); it->Valid() && out.size() < limit; it->Next()) {
    const std::string_view key = view(it->key());
    if (!key.starts_with(head)) break;
    if (!after.empty() && key == floor) continue;
    out.emplace_back(std::string(key.substr(1)), it->value().ToString());
  }
  if (!it->status().ok()) return error(it->status());
  return out;
}

Result<std::vector<std::optional<StoredResult>>> RocksResultStore::get(std::span<const TaskId> ids,
                                                                       int64_t now_wall_ms) {
  std::vector<std::optional<StoredResult>> out(ids.size());
  std::vector<size_t> order(ids.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return ids[a] < ids[b]; });
  // A snapshot, so that a sweep in the owner's thread can not take a blob row away in between.
  rdb::ManagedSnapshot snapshot(db_.get());
  rdb::ReadOptions ro;
  ro.snapshot = snapshot.snapshot();
  for (size_t i = 0; i < order.size();) {
    const TaskId page = ids[order[i]].page();
    size_t end = i + 1;
    while (end < order.size() && ids[order[end]].page() == page) ++end;
    rdb::PinnableSlice value;
    const auto s = db_->Get(ro, db_->DefaultColumnFamily(), page_key(page), &value);
    if (!s.ok() && !s.IsNotFound()) return error(s);
    if (s.ok())
      DRAY_TRY(
          get_page(page, value, ids, std::span(order).subspan(i, end - i), now_wall_ms, ro, out));
    i = end;
  }
  return out;
}

// Answers the ids of one page; `order` are their places in `ids` and `out`.
Status RocksResultStore::get_page(TaskId page, rdb::PinnableSlice& value,
                                  std::span<const TaskId> ids, std::span<const size_t> order,
                                  int64_t now_wall_ms, const rdb::ReadOptions& ro,
                                  std::vector<std::optional<StoredResult>>& out) const {
  const auto memory = std::make_shared<const std::string>(value.data(), value.size());
  std::array<uint16_t, 256> place{};  // slot -> 1 + index into entries
  std::vector<PageEntry> entries;
  PageReader reader(*memory);
  for (PageEntry e; reader.next(e);) {
    if (place[e.slot] != 0) continue;  // first wins
    entries.push_back(e);
    place[e.slot] = static_cast<uint16_t>(entries.size());
  }
  if (reader.damaged()) return error(Errc::corrupt, "page of " + to_hex(page));
  for (size_t at : order) {
    const TaskId id = ids[at];
    if (place[id.slot()] == 0) continue;
    const PageEntry& e = entries[place[id.slot()] - size_t{1}];
    if (e.expires_wall_ms <= now_wall_ms) continue;
    Bytes bytes(memory, e.bytes.data(), e.bytes.size());
    if (e.blob_owner != 0) {
      std::string blob;
      const auto s = db_->Get(ro, blob_key(id, e.blob_owner, e.blob_number), &blob);
      if (s.IsNotFound() || (s.ok() && blob.size() != e.size))
        return error(Errc::corrupt, "bytes of result " + to_hex(id));
      if (!s.ok()) return error(s);
      bytes = Bytes(std::move(blob));
    }
    out[at] = StoredResult{id,
                           e.state,
                           e.code,
                           e.attempt,
                           e.exec_us,
                           e.token,
                           e.finished_wall_ms,
                           e.expires_wall_ms,
                           std::move(bytes)};
  }
  return {};
}

// --- sweep
// ----------------------------------------------------------------------------------------

Status RocksResultStore::flush_sweep(Totals& added) {
  if (batch_.Count() == 0) return {};
  DRAY_TRY(write(false));
  std::lock_guard lock(mutex_);
  totals_ += std::exchange(added, Totals{});
  return {};
}

Result<size_t> RocksResultStore::sweep(int64_t now_wall_ms, uint64_t size_budget_bytes,
                                       size_t max_pages) {
  DRAY_TRY(ready());
  rdb::ReadOptions ro;
  const std::string start = sweep_from_;
  const rdb::Slice end("y");
  ro.iterate_upper_bound = &end;
  const std::unique_ptr<rdb::Iterator> it(db_->NewIterator(ro));
  std::unordered_set<TaskId> in_batch;  // pages that batch_ rewrites
  Totals added;
  size_t dropped = 0;
  batch_.Clear();
  it->Seek(start);
  for (size_t n = 0; it->Valid() && n < max_pages; it->Next(), ++n) {
    const std::string_view key = view(it->key());
    if (key.size() != kExpiryKeySize) return error(Errc::corrupt, "expiry row");
    const auto minute = static_cast<int64_t>(get_be(key, 1));
    const TaskId page{get_be(key, 9), get_be(key, 17, 7) << 8};
    const int64_t bytes = totals_.bytes + added.bytes;
    const bool over = bytes > 0 && static_cast<uint64_t>(bytes) > size_budget_bytes;
    if (minute >= expiry_minute(now_wall_ms) && !over) break;
    if (in_batch.contains(page) || batch_.GetDataSize() > kSweepBatchBytes) {
      DRAY_TRY(flush_sweep(added));
      in_batch.clear();
    }
    in_batch.insert(page);
    (void)batch_.Delete(slice(key));
    const auto expires = [&](const PageEntry& e) { return expiry_minute(e.expires_wall_ms); };
    DRAY_TRY_ASSIGN(const size_t gone,
                    rewrite_page(
                        page, [&](const PageEntry& e) { return expires(e) > minute; }, added));
    dropped += gone;
  }
  if (!it->status().ok()) return error(it->status());
  DRAY_TRY(flush_sweep(added));
  sweep_from_ = it->Valid() ? it->key().ToString() : "y";
  return dropped;
}

Result<std::unique_ptr<ResultStore>> open_rocks_store(const RocksOptions& options) {
  auto store = std::make_unique<RocksResultStore>(options);
  DRAY_TRY(store->open());
  return std::unique_ptr<ResultStore>(std::move(store));
}

}  // namespace dray
