// The bytes of a journal on disk: segment header, record header, their checks. No I/O.
//
// A journal is a directory:
//   lock                       flock()ed by the owner
//   epoch                      two 512-byte slots {epoch u64, crc32c u32}; the higher valid one
//   counts 00000000000000000012.seg   segment number 12 spare-3                    a zero-filled or
//   used-up file, waiting to become a segment fill-4                     a spare that is still
//   being filled with zeros
//
// All numbers are little-endian. A segment is a 64-byte header, zeros up to byte 4096 (so that no
// later write touches the header's page), then records, each beginning at a multiple of 8:
//
//   segment  0 magic "drayjnl1"  8 version u32  12 crc u32   16 seq u64  24 first_record u64
//           32 uid u64          40 epoch u64    48 size u64  56 zero u64
//   record   0 crc u32           4 body_crc u32  8 record_no u64        16 durable u64
//           24 head_len u32     28 rows_len u32 32 blob_len u32         36 type u8  37 version u8
//           38 zero u16         40 len u32      44 zero u32             48 head, rows, blob
//
// crc of a record is CRC32C over the segment's uid and header bytes 4..48; body_crc is over head,
// rows and blob. The uid is random per use of a file, so a record left over from a file's earlier
// use can not pass. `durable` is the last record known to be on disk when this one was written:
// a later valid header with durable >= n proves that a missing record n is damage, not a torn tail
// (pages of one unsynced commit may reach the disk in any order, so "a valid record follows" alone
// proves nothing).
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace dray {

static_assert(std::endian::native == std::endian::little, "the journal format is little-endian");

constexpr uint32_t kSegmentVersion = 1;
constexpr uint8_t kRecordVersion = 1;
constexpr uint64_t kRecordsAt = 4096;  // offset of a segment's first record
constexpr uint64_t kRecordBytesMax = 1u << 30;  // a whole record; len is 32 bit

struct SegmentHeader {
  char magic[8] = {'d', 'r', 'a', 'y', 'j', 'n', 'l', '1'};
  uint32_t version = kSegmentVersion;
  uint32_t crc = 0;
  uint64_t seq = 0;
  uint64_t first_record = 0;
  uint64_t uid = 0;
  uint64_t epoch = 0;
  uint64_t size = 0;
  uint64_t zero = 0;
};
static_assert(sizeof(SegmentHeader) == 64);

struct RecordHeader {
  uint32_t crc = 0;
  uint32_t body_crc = 0;
  uint64_t no = 0;
  uint64_t durable = 0;
  uint32_t head_len = 0;
  uint32_t rows_len = 0;
  uint32_t blob_len = 0;
  uint8_t type = 0;
  uint8_t version = kRecordVersion;
  uint16_t zero16 = 0;
  uint32_t len = 0;  // header and body, without padding
  uint32_t zero32 = 0;
};
static_assert(sizeof(RecordHeader) == 48);

constexpr uint64_t padded(uint64_t n) { return (n + 7) & ~uint64_t{7}; }

uint32_t segment_header_crc(const SegmentHeader& header);
uint32_t record_header_crc(uint64_t uid, const RecordHeader& header);
bool is_dray_segment(const SegmentHeader& header);  // magic and CRC; any version
// CRC right and lengths consistent inside `bytes_left`; says nothing about the body.
bool record_header_ok(uint64_t uid, const RecordHeader& header, uint64_t bytes_left);

}  // namespace dray
