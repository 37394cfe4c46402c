// Recovery's reader: sequential, checks every CRC, refuses damage that is not a torn tail.
#include "common/journal/scan.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "common/journal/crc32c.h"

namespace dray {
namespace {
constexpr uint64_t kWindow = 1024 * 1024;

std::string place(const Segment& segment, uint64_t offset) {
  return segment.path + " at " + std::to_string(offset);
}

// The record `no` at `offset`, or nothing if it is not whole there.
Result<std::optional<ScannedRecord>> read_record(FileWindow& window, const Segment& segment,
                                                 uint64_t offset, RecordNo no) {
  std::optional<ScannedRecord> none;
  ScannedRecord r;
  r.offset = offset;
  if (offset + sizeof(RecordHeader) > segment.size) return none;
  DRAY_TRY_ASSIGN(std::string_view bytes, window.at(offset, sizeof(RecordHeader)));
  if (bytes.size() < sizeof(RecordHeader)) return none;
  std::memcpy(&r.header, bytes.data(), sizeof(RecordHeader));
  if (r.header.no != no || !record_header_ok(segment.uid, r.header, segment.size - offset))
    return none;
  if (r.header.version != kRecordVersion)
    return make_error(Errc::bad_version, place(segment, offset) + ": record version " +
                                             std::to_string(r.header.version));
  DRAY_TRY_ASSIGN(bytes, window.at(offset, r.header.len));
  if (bytes.size() < r.header.len) return none;
  r.body = bytes.substr(sizeof(RecordHeader));
  if (crc32c(0, r.body) != r.header.body_crc) return none;
  return std::optional<ScannedRecord>(r);
}

struct Leftover {
  bool proof = false;  // a later header says that record `missing` was durable
  uint64_t end = 0;  // behind the last byte that is not zero
};

// Looks at everything behind a record that is not there.
Result<Leftover> inspect_rest(FileWindow& window, const Segment& segment, uint64_t offset,
                              RecordNo missing) {
  Leftover found;
  found.end = offset;
  constexpr uint64_t kHeader = sizeof(RecordHeader);
  uint64_t at = offset;
  while (at < segment.size) {
    DRAY_TRY_ASSIGN(std::string_view bytes, window.at(at, std::min(kWindow, segment.size - at)));
    if (bytes.empty()) break;
    for (size_t i = 0; i + kHeader <= bytes.size(); i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, 8);
      if (word == 0) continue;  // no header begins with crc and body_crc both zero
      found.end = at + i + 8;
      RecordHeader h;
      std::memcpy(&h, bytes.data() + i, kHeader);
      bool plausible = h.no > missing && h.durable >= missing && h.durable < h.no;
      if (plausible && record_header_ok(segment.uid, h, segment.size - at - i)) {
        found.proof = true;
        return found;
      }
    }
    // Windows overlap by less than a header, so none is missed at the seam.
    if (bytes.size() < kHeader || at + bytes.size() >= segment.size) break;
    at += (bytes.size() - kHeader) / 8 * 8 + 8;
  }
  return found;
}
}  // namespace

Result<std::string_view> FileWindow::at(uint64_t offset, uint64_t n) {
  if (offset < begin_ || offset + n > begin_ + valid_) {
    uint64_t want = std::max(n, kWindow);
    if (buffer_.size() < want) buffer_.resize(want);
    DRAY_TRY_ASSIGN(valid_, read_upto(ops_, fd_, buffer_.data(), want, offset, path_));
    begin_ = offset;
  }
  return std::string_view(buffer_.data(), valid_).substr(offset - begin_, n);
}

Result<ScanEnd> scan_segment(FileOps& ops, int fd, const Segment& segment, RecordNo stop,
                             const std::function<Status(const ScannedRecord&)>& each) {
  FileWindow window(ops, fd, segment.path);
  ScanEnd end{segment.first, kRecordsAt, kRecordsAt, 0};
  while (stop == 0 || end.next < stop) {
    DRAY_TRY_ASSIGN(auto record, read_record(window, segment, end.offset, end.next));
    if (!record) break;
    DRAY_TRY(each(*record));
    if (record->header.durable + 1 == end.next) end.commit_at = end.offset;
    end.offset += padded(record->header.len);
    ++end.next;
  }
  if (stop != 0) {
    if (end.next == stop) return end;
    return make_error(Errc::corrupt, place(segment, end.offset) + ": record " +
                                         std::to_string(end.next) + " is damaged or missing");
  }
  DRAY_TRY_ASSIGN(Leftover rest, inspect_rest(window, segment, end.offset, end.next));
  if (rest.proof)
    return make_error(Errc::corrupt, place(segment, end.offset) + ": record " +
                                         std::to_string(end.next) +
                                         " is damaged and later records are not");
  end.cut = rest.end - end.offset;
  return end;
}

}  // namespace dray
