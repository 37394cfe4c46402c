// Checksums and consistency rules of segment and record headers.
#include "common/journal/record_format.h"

#include <cstring>

#include "common/journal/crc32c.h"

namespace dray {
namespace {
template <class T>
std::string_view raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
}  // namespace

uint32_t segment_header_crc(const SegmentHeader& header) {
  SegmentHeader h = header;
  h.crc = 0;
  return crc32c(0, raw(h));
}

uint32_t record_header_crc(uint64_t uid, const RecordHeader& header) {
  return crc32c(crc32c(0, raw(uid)), raw(header).substr(sizeof(header.crc)));
}

bool is_dray_segment(const SegmentHeader& header) {
  return std::memcmp(header.magic, SegmentHeader{}.magic, sizeof(header.magic)) == 0 &&
         header.crc == segment_header_crc(header);
}

bool record_header_ok(uint64_t uid, const RecordHeader& h, uint64_t bytes_left) {
  uint64_t body = uint64_t{h.head_len} + h.rows_len + h.blob_len;
  return h.crc == record_header_crc(uid, h) && h.len == sizeof(RecordHeader) + body &&
         h.len <= bytes_left;
}

}  // namespace dray
