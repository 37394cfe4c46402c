// FileJournal's rules: ownership, replay, group commit, poisoning, reads.
#include "common/journal/file_journal.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>

#include "common/base/assert.h"
#include "common/base/time.h"
#include "common/journal/crc32c.h"
#include "common/journal/record_format.h"

namespace dray {
namespace {
constexpr uint64_t kLoadWholeMax = 8 * 1024 * 1024 + 512 * 1024;  // a full body with its rows
constexpr uint64_t kPrepareAtLeast = 64 * 1024;

FileJournalOptions sane(FileJournalOptions o) {
  o.segment_bytes = padded(std::max<uint64_t>(o.segment_bytes, 2 * kRecordsAt));
  return o;
}
}  // namespace

FileJournal::FileJournal(FileJournalOptions options, FileOps& ops)
    : options_(sane(std::move(options))),
      ops_(ops),
      dir_(ops, options_),
      recent_(options_.cache_bytes) {}

Result<uint64_t> FileJournal::acquire() {
  if (epoch_ != 0 || failed_) return make_error(Errc::bad_argument, "journal was acquired before");
  auto epoch = take_ownership();
  if (!epoch) {
    lock_.reset();
    // A second try on this object would list the directory twice over.
    failed_ = epoch.error();
    return epoch.error();
  }
  epoch_ = *epoch;
  return epoch_;
}

Result<uint64_t> FileJournal::take_ownership() {
  int rc = ops_.make_dir(options_.dir);
  if (rc < 0) return file_error(rc, "create", options_.dir);
  std::string path = options_.dir + "/lock";
  DRAY_TRY_ASSIGN(lock_, open_file(ops_, path, O_RDWR | O_CREAT));
  if (!options_.ignore_lock) {
    rc = ops_.lock(lock_.get());
    if (rc == -EWOULDBLOCK)
      return make_error(Errc::unavailable, options_.dir + " is in use by another process");
    if (rc < 0) return file_error(rc, "lock", path);
  }
  DRAY_TRY(dir_.open());
  // What was listed may not be durable yet: a released segment must not come back after this.
  DRAY_TRY(sync_directory(ops_, options_.dir));
  DRAY_TRY(epoch_file_.open(ops_, options_.dir, !dir_.has_segments()));
  if (dir_.has_segments()) next_ = dir_.segments().front().first;  // until replay() knows better
  return epoch_file_.bump();
}

Status FileJournal::usable() const {
  if (failed_) return *failed_;
  if (epoch_ == 0) return make_error(Errc::bad_argument, "journal is not acquired");
  return {};
}

Status FileJournal::fail(Error error) {
  failed_ = error;
  return error;
}

Status FileJournal::check_epoch() {
  auto now = epoch_file_.read();
  if (!now) return fail(now.error());
  if (*now == epoch_) return {};
  return fail(make_error(Errc::fenced, options_.dir + ": epoch " + std::to_string(*now) +
                                           " took over from " + std::to_string(epoch_)));
}

RecordNo FileJournal::first_record() const {
  return dir_.has_segments() ? dir_.segments().front().first : RecordNo{1};
}

Status FileJournal::replay(const std::function<Status(const ReplayedRecord&)>& each) {
  DRAY_TRY(usable());
  if (!batch_.empty()) return make_error(Errc::bad_argument, "replay with uncommitted records");
  auto done = scan(each);
  if (!done) return done.error();
  if (!replayed_) dir_.prepare(options_.segment_bytes);  // the first commit should not pay for it
  replayed_ = true;
  return {};
}

Status FileJournal::scan(const std::function<Status(const ReplayedRecord&)>& each) {
  std::deque<Place> index;
  auto& segments = dir_.segments();
  auto take = [&](const ScannedRecord& r) -> Status {
    const RecordHeader& h = r.header;
    uint32_t blob_at = static_cast<uint32_t>(sizeof(h)) + h.head_len + h.rows_len;
    index.push_back(Place{static_cast<uint32_t>(r.offset / 8), blob_at, h.rows_len, h.blob_len});
    ReplayedRecord out;
    out.no = h.no;
    out.type = h.type;
    out.head = r.body.substr(0, h.head_len);
    if (h.rows_len != 0) out.rows = Bytes::copy(r.body.substr(h.head_len, h.rows_len));
    out.blob_size = h.blob_len;
    return each(out);
  };
  for (size_t i = 0; i < segments.size(); ++i) {
    bool last = i + 1 == segments.size();
    // The active segment has no torn tail: its end is known, what is missing before it is damage.
    RecordNo stop = !last ? segments[i + 1].first : active_ ? next_ : RecordNo{0};
    DRAY_TRY_ASSIGN(int fd, dir_.fd_of(segments[i]));
    DRAY_TRY_ASSIGN(ScanEnd end, scan_segment(ops_, fd, segments[i], stop, take));
    if (!last || active_) continue;
    auto rewritten = rewrite_last_commit(fd, segments[i], end);
    if (!rewritten) return fail(rewritten.error());
    next_ = end.next;
    write_at_ = end.offset;
    tail_ = JournalTail{segments[i].path, end.offset, end.cut};
  }
  index_.swap(index);
  return {};
}

// The last commit may have been read from the page cache only: its owner was killed before the
// sync, or the sync failed and left the pages clean. A sync alone would then write nothing, so the
// bytes are written once more. Only after this may a successor claim to follow them.
Status FileJournal::rewrite_last_commit(int fd, const Segment& segment, const ScanEnd& end) {
  std::string bytes(static_cast<size_t>(end.offset - end.commit_at), '\0');
  if (bytes.empty()) return {};
  DRAY_TRY_ASSIGN(size_t got,
                  read_upto(ops_, fd, bytes.data(), bytes.size(), end.commit_at, segment.path));
  if (got != bytes.size()) return make_error(Errc::corrupt, segment.path + " is cut short");
  std::vector<iovec> iov{{bytes.data(), bytes.size()}};
  DRAY_TRY(write_all(ops_, fd, iov, end.commit_at, segment.path));
  return sync_file(ops_, fd, segment.path);
}

Result<BlobParts> FileJournal::resolve(const JournalRecord& record) {
  BlobParts blob;
  for (const BlobPart& part : record.blob) {
    if (part.from == 0) {
      blob.add(part.bytes);
      continue;
    }
    DRAY_TRY_ASSIGN(Bytes piece, read(part.from, part.offset, part.size));
    blob.add(std::move(piece));
  }
  return blob;
}

Status FileJournal::append(const JournalRecord& record) {
  DRAY_TRY(usable());
  if (!replayed_) return make_error(Errc::bad_argument, "append before replay");
  if (record.no != next_)
    return make_error(Errc::bad_argument, "append of record " + std::to_string(record.no) +
                                              ", expected " + std::to_string(next_));
  DRAY_TRY_ASSIGN(BlobParts blob, resolve(record));
  uint64_t body = record.head.size() + record.rows.size() + blob.size();
  if (body + sizeof(RecordHeader) > kRecordBytesMax)
    return make_error(Errc::too_large, "journal record of " + std::to_string(body) + " bytes");
  batch_.add(record, blob);
  recent_.push(record.no, RecentRecord{record.rows, std::move(blob)});
  ++next_;
  return {};
}

void FileJournal::drop_batch() {
  next_ -= batch_.entries().size();
  recent_.drop_from(next_);
  batch_.clear();
}

Status FileJournal::commit() {
  DRAY_TRY(usable());
  DRAY_TRY(check_epoch());
  if (batch_.empty()) return {};
  auto reserved = reserve();
  if (!reserved) {
    // Nothing was written: the owner may free space and go on. Any other error is final.
    drop_batch();
    if (reserved.error().code == Errc::no_space) return reserved.error();
    return fail(reserved.error());
  }
  auto written = write_batch();
  if (!written) return fail(written.error());
  // The check that counts: an owner that took over before our sync may have replayed without it.
  DRAY_TRY(check_epoch());
  uint64_t bytes = batch_.bytes();
  for (const auto& e : batch_.entries())
    index_.push_back(Place{static_cast<uint32_t>((write_at_ + e.offset) / 8), e.blob_at, e.rows_len,
                           e.blob_len});
  write_at_ += bytes;
  batch_.clear();
  recent_.evict_below(next_);
  dir_.prepare(std::max(kPrepareAtLeast, 2 * bytes));
  return {};
}

// A batch never spans segments, so one write and one sync always suffice.
Status FileJournal::reserve() {
  if (active_ && write_at_ + batch_.bytes() <= dir_.segments().back().size) return {};
  if (batch_.bytes() > std::numeric_limits<uint32_t>::max() * uint64_t{8} - kRecordsAt)
    return make_error(Errc::no_space, "batch does not fit any segment");
  DRAY_TRY(dir_.add(next_ - batch_.entries().size(), epoch_, batch_.bytes()));
  settle_inherited();
  active_ = true;
  write_at_ = kRecordsAt;
  return {};
}

// Each life writes segments of its own: leftovers behind the old tail then lie behind the new
// segment's claim and can never be taken for records. The old one's unused end is given back.
void FileJournal::settle_inherited() {
  auto& segments = dir_.segments();
  if (active_ || segments.size() < 2) return;
  dir_.shrink_inherited(segments[segments.size() - 2], write_at_);
}

Status FileJournal::write_batch() {
  Segment& segment = dir_.segments().back();
  RecordNo durable = next_ - batch_.entries().size() - 1;
  auto iov = batch_.seal(segment.uid, durable);
  DRAY_TRY(write_all(ops_, segment.fd.get(), iov, write_at_, segment.path));
  return sync_active();
}

Status FileJournal::sync_active() {
  Segment& segment = dir_.segments().back();
  auto begin = std::chrono::steady_clock::now();
  DRAY_TRY(sync_file(ops_, segment.fd.get(), segment.path));
  auto us = to_us(std::chrono::steady_clock::now() - begin);
  sync_us_[syncs_++ % sync_us_.size()] = static_cast<uint32_t>(std::min<int64_t>(us, UINT32_MAX));
  return {};
}

Result<Bytes> FileJournal::read(RecordNo no, uint64_t offset, uint64_t size) {
  DRAY_TRY(usable());
  if (!holds(no)) return make_error(Errc::not_found, "no record " + std::to_string(no));
  const RecentRecord* recent = recent_.find(no);
  uint64_t blob_len = recent != nullptr ? recent->blob.size() : place_of(no).blob_len;
  if (offset > blob_len || size > blob_len - offset)
    return make_error(Errc::bad_argument, "read outside record " + std::to_string(no));
  if (recent != nullptr) return recent->blob.slice(offset, size);
  return read_disk(no, place_of(no).blob_at + offset, size);
}

Result<Bytes> FileJournal::read_rows(RecordNo no) {
  DRAY_TRY(usable());
  if (!holds(no)) return make_error(Errc::not_found, "no record " + std::to_string(no));
  if (const RecentRecord* recent = recent_.find(no)) return recent->rows;
  const Place& place = place_of(no);
  return read_disk(no, place.blob_at - place.rows_len, place.rows_len);
}

// [at, at + size) of the whole record.
Result<Bytes> FileJournal::read_disk(RecordNo no, uint64_t at, uint64_t size) {
  if (size == 0) return Bytes();
  if (auto record = loaded_.find(no))
    return record->slice(static_cast<size_t>(at), static_cast<size_t>(size));
  const Place& place = place_of(no);
  Segment& segment = dir_.holding(no);
  DRAY_TRY_ASSIGN(int fd, dir_.fd_of(segment));
  uint64_t len = uint64_t{place.blob_at} + place.blob_len;
  bool most = size > len / 2;  // loading it whole costs little more and checks it again
  if (len <= kLoadWholeMax && (most || loaded_.seen_lately(no))) {
    DRAY_TRY_ASSIGN(Bytes record, load_record(no, place, fd, segment.path));
    loaded_.put(no, record);
    return record.slice(static_cast<size_t>(at), static_cast<size_t>(size));
  }
  std::string out(static_cast<size_t>(size), '\0');
  uint64_t offset = uint64_t{place.offset8} * 8 + at;
  DRAY_TRY_ASSIGN(size_t got, read_upto(ops_, fd, out.data(), out.size(), offset, segment.path));
  if (got != out.size()) return make_error(Errc::corrupt, segment.path + " is cut short");
  return Bytes(std::move(out));
}

// Reads the whole record, so its checksum can be checked once more: the page may be younger than
// the replay that checked it.
Result<Bytes> FileJournal::load_record(RecordNo no, const Place& place, int fd,
                                       const std::string& path) {
  std::string raw(size_t{place.blob_at} + place.blob_len, '\0');
  uint64_t at = uint64_t{place.offset8} * 8;
  DRAY_TRY_ASSIGN(size_t got, read_upto(ops_, fd, raw.data(), raw.size(), at, path));
  RecordHeader h;
  std::memcpy(&h, raw.data(), sizeof(h));
  if (got != raw.size() || h.no != no ||
      h.body_crc != crc32c(0, std::string_view(raw).substr(sizeof(h))))
    return make_error(Errc::corrupt, path + " at " + std::to_string(at) + ": damaged since replay");
  return Bytes(std::move(raw));
}

Status FileJournal::release_before(RecordNo no) {
  DRAY_TRY(usable());
  if (!replayed_ || no > next_) return make_error(Errc::bad_argument, "release beyond the log");
  auto& segments = dir_.segments();
  // The last segment stays: its header is what remembers the numbering.
  if (segments.size() < 2 || segments[1].first > no) return {};
  DRAY_TRY(check_epoch());
  while (segments.size() > 1 && segments[1].first <= no) {
    auto gone = static_cast<std::ptrdiff_t>(segments[1].first - segments[0].first);
    auto dropped = dir_.drop_front();
    if (!dropped) return fail(dropped.error());
    index_.erase(index_.begin(), index_.begin() + gone);
  }
  return {};
}

JournalHealth FileJournal::health() const {
  JournalHealth h;
  for (const Segment& s : dir_.segments()) h.bytes_used += s.size;
  int64_t free = ops_.free_bytes(options_.dir);
  h.bytes_free = free < 0 ? 0 : static_cast<uint64_t>(free);
  h.syncs = syncs_;
  size_t count = static_cast<size_t>(std::min<uint64_t>(syncs_, sync_us_.size()));
  if (count > 0) {
    auto sorted = sync_us_;
    auto p99 = sorted.begin() + static_cast<std::ptrdiff_t>(count * 99 / 100);
    std::nth_element(sorted.begin(), p99, sorted.begin() + static_cast<std::ptrdiff_t>(count));
    h.sync_us_p99 = *p99;
  }
  h.writable = !failed_ && epoch_ != 0;
  return h;
}

}  // namespace dray
