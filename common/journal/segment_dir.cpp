// Life of segment files: reserve, fill with zeros, activate, recycle. Every step survives a crash.
//
// Order of activation: zeros and header into a spare, sync, rename to its .seg name, sync the
// directory. So a .seg file always has a whole, valid header, and a crash leaves at most a spare.
#include "common/journal/segment_dir.h"

#include <fcntl.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>

#include "common/base/assert.h"
#include "common/base/ids.h"
#include "common/journal/record_format.h"

namespace dray {
namespace {
constexpr size_t kSparesMax = 2;
constexpr size_t kOpenMax = 64;  // segment files held open for reading
constexpr uint64_t kFillChunk = 256 * 1024;

bool starts(const std::string& name, std::string_view prefix) { return name.starts_with(prefix); }

uint64_t number_in(const std::string& name, size_t from) {
  uint64_t number = 0;
  std::from_chars(name.data() + std::min(from, name.size()), name.data() + name.size(), number);
  return number;
}

std::string segment_name(uint64_t seq) {
  char text[32];
  std::snprintf(text, sizeof(text), "%020llu.seg", static_cast<unsigned long long>(seq));
  return text;
}

uint64_t fresh_uid(uint64_t epoch, uint64_t seq) {
  uint64_t uid = 0;
  // Without entropy the pair (epoch, seq) still never repeats; random only makes it unguessable.
  if (::getrandom(&uid, sizeof(uid), GRND_NONBLOCK) != static_cast<ssize_t>(sizeof(uid))) uid = 0;
  return uid ^ mix64(epoch * 0x9e3779b97f4a7c15ULL + seq);
}
}  // namespace

Status SegmentDir::open() {
  std::vector<std::string> names;
  int rc = ops_.list(options_.dir, &names);
  if (rc < 0) return file_error(rc, "list", options_.dir);
  for (const std::string& name : names) {
    if (name.ends_with(".seg")) DRAY_TRY(load_segment(name));
    if (starts(name, "spare-")) load_spare(name);
    if (starts(name, "fill-")) ops_.unlink(options_.dir + "/" + name);
  }
  auto by_seq = [](const Segment& a, const Segment& b) { return a.seq < b.seq; };
  std::sort(segments_.begin(), segments_.end(), by_seq);
  for (size_t i = 1; i < segments_.size(); ++i)
    if (segments_[i].first < segments_[i - 1].first)
      return make_error(Errc::corrupt, segments_[i].path + ": begins before its predecessor");
  // A segment is only shortened once its successor is durable.
  if (!segments_.empty() && segments_.back().size < segments_.back().full_size)
    return make_error(Errc::corrupt, segments_.back().path + " at " +
                                         std::to_string(segments_.back().size) + ": cut short");
  return {};
}

Status SegmentDir::load_segment(const std::string& name) {
  Segment s;
  s.path = options_.dir + "/" + name;
  DRAY_TRY_ASSIGN(s.fd, open_file(ops_, s.path, O_RDWR));
  SegmentHeader h;
  DRAY_TRY_ASSIGN(size_t got,
                  read_upto(ops_, s.fd.get(), reinterpret_cast<char*>(&h), sizeof(h), 0, s.path));
  if (got != sizeof(h) || !is_dray_segment(h))
    return make_error(Errc::corrupt, s.path + " at 0: damaged segment header");
  if (h.version != kSegmentVersion)
    return make_error(Errc::bad_version, s.path + ": format " + std::to_string(h.version) +
                                             " is not known to this version");
  if (name != segment_name(h.seq) || h.first_record == 0)
    return make_error(Errc::corrupt, s.path + " at 0: header belongs to another segment");
  int64_t size = ops_.size(s.fd.get());
  if (size < 0) return file_error(size, "stat", s.path);
  s.fd.reset();
  s.seq = h.seq;
  s.uid = h.uid;
  s.first = h.first_record;
  s.size = static_cast<uint64_t>(size);
  s.full_size = h.size;
  s.inherited = true;
  next_seq_ = std::max(next_seq_, s.seq + 1);
  segments_.push_back(std::move(s));
  return {};
}

void SegmentDir::load_spare(const std::string& name) {
  File file;
  file.path = options_.dir + "/" + name;
  next_name_ = std::max(next_name_, number_in(name, 6) + 1);
  auto fd = open_file(ops_, file.path, O_RDWR);
  int64_t size = fd ? ops_.size(fd->get()) : -1;
  if (size != static_cast<int64_t>(options_.segment_bytes) || spares_.size() >= kSparesMax) {
    ops_.unlink(file.path);  // other size, or one too many: only a spare, nothing is lost
    return;
  }
  file.size = options_.segment_bytes;
  file.fd = std::move(fd).value();
  spares_.push_back(std::move(file));
}

Segment& SegmentDir::holding(RecordNo no) {
  auto it = std::upper_bound(segments_.begin(), segments_.end(), no,
                             [](RecordNo n, const Segment& s) { return n < s.first; });
  DRAY_ASSERT(it != segments_.begin());
  return *std::prev(it);
}

Result<int> SegmentDir::fd_of(Segment& segment) {
  if (segment.fd.is_open()) return segment.fd.get();
  auto open_now = std::count_if(segments_.begin(), segments_.end(),
                                [](const Segment& s) { return s.fd.is_open(); });
  if (static_cast<size_t>(open_now) >= kOpenMax)
    for (size_t i = 0; i + 1 < segments_.size(); ++i)
      segments_[i].fd.reset();  // not the active one
  DRAY_TRY_ASSIGN(segment.fd, open_file(ops_, segment.path, O_RDWR));
  return segment.fd.get();
}

uint64_t SegmentDir::bytes_on_disk() const {
  uint64_t sum = filling_.fd.is_open() ? filling_.size : 0;
  for (const Segment& s : segments_) sum += s.size;
  for (const File& f : spares_) sum += f.size;
  return sum;
}

bool SegmentDir::may_grow(uint64_t bytes, std::string* why) {
  uint64_t used = bytes_on_disk();
  if (options_.disk_budget_bytes != 0 && used + bytes > options_.disk_budget_bytes) {
    *why = "journal budget of " + std::to_string(options_.disk_budget_bytes) + " bytes is used up";
    return false;
  }
  if (options_.min_free_bytes == 0) return true;
  int64_t free = ops_.free_bytes(options_.dir);
  if (free >= 0 && static_cast<uint64_t>(free) >= options_.min_free_bytes + bytes) return true;
  *why = "file system below min_free of " + std::to_string(options_.min_free_bytes) + " bytes";
  return false;
}

void SegmentDir::discard(File& file) {
  ops_.unlink(file.path);
  file = File{};
}

// Reserves the blocks first: running out of disk must show here, before a record is written.
Result<SegmentDir::File> SegmentDir::create(uint64_t bytes) {
  std::string why;
  if (!may_grow(bytes, &why)) return make_error(Errc::no_space, why);
  File file;
  file.path = options_.dir + "/fill-" + std::to_string(next_name_++);
  file.size = bytes;
  DRAY_TRY_ASSIGN(file.fd, open_file(ops_, file.path, O_RDWR | O_CREAT | O_TRUNC));
  int rc = ops_.fallocate(file.fd.get(), bytes);
  if (rc < 0 && rc != -EOPNOTSUPP) {
    discard(file);
    return file_error(rc, "reserve", options_.dir);
  }
  return file;
}

// Real zeros, not only reserved blocks: turning an unwritten extent into a written one costs a
// metadata update at every sync, which doubles the time of a commit.
Status SegmentDir::fill(File& file, uint64_t from, uint64_t bytes) {
  static const std::vector<char> zeros(kFillChunk);
  for (uint64_t end = std::min(file.size, from + bytes); from < end;) {
    uint64_t n = std::min(kFillChunk, end - from);
    std::vector<iovec> iov{{const_cast<char*>(zeros.data()), static_cast<size_t>(n)}};
    DRAY_TRY(write_all(ops_, file.fd.get(), iov, from, file.path));
    from += n;
  }
  return {};
}

void SegmentDir::prepare(uint64_t bytes) {
  if (!spares_.empty()) return;
  if (!filling_.fd.is_open()) {
    // Only work ahead while there is room for it; at the limit add() decides.
    std::string why;
    if (!may_grow(options_.segment_bytes, &why)) return;
    auto file = create(options_.segment_bytes);
    if (!file) return;
    filling_ = std::move(file).value();
    filled_ = 0;
  }
  if (!fill(filling_, filled_, bytes)) return discard(filling_);
  filled_ = std::min(filling_.size, filled_ + bytes);
}

Result<SegmentDir::File> SegmentDir::finish_filling() {
  File file = std::move(filling_);
  filling_ = File{};
  auto done = fill(file, filled_, file.size - filled_);
  if (!done) {
    discard(file);
    return done.error();
  }
  return file;
}

// Files too small for an oversized batch only take up its room.
bool SegmentDir::give_up_spares() {
  bool any = !spares_.empty() || filling_.fd.is_open();
  for (File& f : spares_) discard(f);
  spares_.clear();
  if (filling_.fd.is_open()) discard(filling_);
  return any;
}

Result<SegmentDir::File> SegmentDir::take_spare(uint64_t bytes) {
  if (bytes <= options_.segment_bytes && !spares_.empty()) {
    File file = std::move(spares_.back());
    spares_.pop_back();
    return file;
  }
  if (bytes <= options_.segment_bytes && filling_.fd.is_open()) return finish_filling();
  auto made = create(std::max(bytes, options_.segment_bytes));
  if (!made && made.error().code == Errc::no_space && give_up_spares())
    made = create(std::max(bytes, options_.segment_bytes));
  DRAY_TRY(made);
  File file = std::move(made).value();
  auto done = fill(file, 0, file.size);
  if (!done) {
    discard(file);
    return done.error();
  }
  return file;
}

Status SegmentDir::write_header(File& file, RecordNo first, uint64_t epoch, Segment* segment) {
  SegmentHeader h;
  h.seq = next_seq_;
  h.first_record = first;
  h.uid = fresh_uid(epoch, next_seq_);
  h.epoch = epoch;
  h.size = file.size;
  h.crc = segment_header_crc(h);
  std::vector<iovec> iov{{&h, sizeof(h)}};
  DRAY_TRY(write_all(ops_, file.fd.get(), iov, 0, file.path));
  DRAY_TRY(sync_file(ops_, file.fd.get(), file.path));
  segment->seq = h.seq;
  segment->uid = h.uid;
  segment->first = first;
  segment->size = segment->full_size = file.size;
  segment->path = options_.dir + "/" + segment_name(h.seq);
  return {};
}

Status SegmentDir::add(RecordNo first, uint64_t epoch, uint64_t bytes) {
  DRAY_TRY_ASSIGN(File file, take_spare(kRecordsAt + bytes));
  Segment segment;
  auto ready = write_header(file, first, epoch, &segment);
  if (!ready) {
    discard(file);
    return ready.error();
  }
  int rc = ops_.rename(file.path, segment.path);
  if (rc < 0) {
    discard(file);
    return file_error(rc, "rename", segment.path);
  }
  // From here on the segment may exist after a crash, claiming `first`. Going on in the old segment
  // would then put record `first` behind that claim, so even a full disk is final now.
  if (ops_.sync_dir(options_.dir) < 0) return make_error(Errc::io, "sync " + options_.dir);
  ++next_seq_;
  segment.fd = std::move(file.fd);
  segments_.push_back(std::move(segment));
  return {};
}

Status SegmentDir::drop_front() {
  DRAY_ASSERT(segments_.size() > 1);
  Segment old = std::move(segments_.front());
  segments_.pop_front();
  bool keep = old.size == options_.segment_bytes && spares_.size() < kSparesMax;
  File spare;
  spare.path = options_.dir + "/spare-" + std::to_string(next_name_++);
  spare.size = old.size;
  if (keep && !old.fd.is_open()) {
    auto fd = open_file(ops_, old.path, O_RDWR);
    keep = fd.has_value();
    if (fd) old.fd = std::move(fd).value();
  }
  int rc = keep ? ops_.rename(old.path, spare.path) : ops_.unlink(old.path);
  if (rc < 0) return file_error(rc, "release", old.path);
  // In order on disk too: without this a crash could keep an older segment and lose a younger one.
  DRAY_TRY(sync_directory(ops_, options_.dir));
  if (!keep) return {};
  spare.fd = std::move(old.fd);
  spares_.push_back(std::move(spare));
  return {};
}

void SegmentDir::shrink_inherited(Segment& segment, uint64_t tail) {
  auto fd = fd_of(segment);
  if (!fd || tail >= segment.size || ops_.truncate(*fd, tail) < 0) return;  // only saves space
  segment.size = tail;
}

}  // namespace dray
