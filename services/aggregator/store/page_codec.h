// Page codec: how the results of one id page are laid out in the value of one RocksDB row.
//
// page    = segment*                      one segment per commit that touched the page
// segment = version u8 (1), size u32 LE (bytes that follow), token epoch varint, entry*
// entry   = slot u8, state u8, code u8, flags u8 (bit 0: bytes live in a row of their own),
//           varints: attempt, exec_us, token seq, finished ms, expires ms (these three zigzag
//           deltas to the entry before, from 0 at the segment's start), size of bytes;
//           then the bytes, or (flag set) varints owner and number that name the other row.
// Segments concatenate, so a commit appends with a Merge and never reads. Of entries with the same
// slot the first one counts. A small result of a busy stream takes 12 bytes and its own bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/ids.h"

namespace dray {

constexpr uint8_t kPageVersion = 1;

struct PageEntry {
  uint8_t slot = 0;
  uint8_t state = 0;
  uint8_t code = 0;
  uint16_t attempt = 0;
  uint32_t exec_us = 0;
  Token token;
  int64_t finished_wall_ms = 0;
  int64_t expires_wall_ms = 0;
  uint32_t size = 0;  // of the result's bytes, wherever they are
  uint64_t blob_owner = 0;  // != 0: the bytes are in row (id, blob_owner, blob_number)
  uint64_t blob_number = 0;
  std::string_view bytes;  // empty if blob_owner != 0
};

// Appends segments to `out`.
class PageWriter {
 public:
  explicit PageWriter(std::string& out) : out_(out) {}
  void add(const PageEntry& entry);
  void finish();  // must be called once, after the last add

 private:
  void open_segment(uint64_t epoch);
  std::string& out_;
  bool open_ = false;
  size_t size_at_ = 0;
  uint64_t epoch_ = 0;
  uint64_t seq_ = 0;
  uint64_t finished_ = 0;
  uint64_t expires_ = 0;
};

// Yields the entries of a page in order; views point into `page`.
class PageReader {
 public:
  explicit PageReader(std::string_view page) : rest_(page) {}
  bool next(PageEntry& entry);  // false at the end, or when the page is damaged
  bool damaged() const { return damaged_; }

 private:
  bool open_segment();
  bool read_entry(PageEntry& entry);
  bool varint(uint64_t& value);
  bool fail() {
    damaged_ = true;
    return false;
  }
  std::string_view rest_;  // segments not opened yet
  std::string_view segment_;  // rest of the open segment
  uint64_t epoch_ = 0;
  uint64_t seq_ = 0;
  uint64_t finished_ = 0;
  uint64_t expires_ = 0;
  bool damaged_ = false;
};

}  // namespace dray
