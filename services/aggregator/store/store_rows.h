// Store rows: keys and fixed-size values of the RocksDB store.
//
// Rows (integers in keys are big endian, so that key order is number order):
//   'm' name                            "format", "owner" (u64), "stream" (u64 epoch, u64 pos)
//   'k' key                             the aggregator's own rows
//   'r' page (15 bytes)                 page_codec.h; a commit appends with one Merge per page
//   'b' id (16), owner u64, number u64  bytes of one result above kInlineMax; never rewritten
//   'x' expiry minute u64, page         cost i64 and count i64 of the page's entries that expire
//                                       in that minute, duplicates included; Merge adds
// Invariant: the 'x' rows of a page are the exact sums over its entries. The size of the store is
// the sum of all 'x' rows; it is kept in memory and recomputed by acquire().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "services/aggregator/store/page_codec.h"
#include "services/aggregator/store/result_store.h"

namespace dray::rocks {

inline void put_be(std::string& out, uint64_t v, unsigned bytes = 8) {
  while (bytes-- > 0) out.push_back(static_cast<char>(v >> (8 * bytes)));
}
inline uint64_t get_be(std::string_view s, size_t at, size_t bytes = 8) {
  uint64_t v = 0;
  for (size_t i = at; i < at + bytes; ++i) v = v << 8 | static_cast<uint8_t>(s[i]);
  return v;
}

inline std::string page_key(TaskId page) {
  std::string key(1, 'r');
  put_be(key, page.hi);
  put_be(key, page.lo >> 8, 7);
  return key;
}

constexpr size_t kExpiryKeySize = 1 + 8 + 15;
inline std::string expiry_key(int64_t minute, TaskId page) {
  std::string key(1, 'x');
  put_be(key, static_cast<uint64_t>(minute));
  put_be(key, page.hi);
  put_be(key, page.lo >> 8, 7);
  return key;
}

inline std::string blob_key(TaskId id, uint64_t owner, uint64_t number) {
  std::string key(1, 'b');
  for (uint64_t v : {id.hi, id.lo, owner, number}) put_be(key, v);
  return key;
}

struct Totals {
  int64_t bytes = 0;
  int64_t count = 0;
  Totals& operator+=(const Totals& o) {
    bytes += o.bytes;
    count += o.count;
    return *this;
  }
  Totals operator-() const { return {-bytes, -count}; }
  bool operator==(const Totals&) const = default;
};

constexpr size_t kTotalsSize = 16;
inline std::string encode(const Totals& t) {
  std::string out;
  put_be(out, static_cast<uint64_t>(t.bytes));
  put_be(out, static_cast<uint64_t>(t.count));
  return out;
}
inline Totals decode_totals(std::string_view s) {
  return {static_cast<int64_t>(get_be(s, 0)), static_cast<int64_t>(get_be(s, 8))};
}

// Sums by expiry minute; a page has one or two.
struct MinuteTotals {
  std::vector<std::pair<int64_t, Totals>> rows;
  Totals& at(int64_t minute) {
    for (auto& [m, t] : rows)
      if (m == minute) return t;
    return rows.emplace_back(minute, Totals{}).second;
  }
};

// All but where the bytes are.
inline PageEntry to_entry(const StoredResult& r) {
  PageEntry e;
  e.slot = r.id.slot();
  e.state = r.state;
  e.code = r.code;
  e.attempt = r.attempt;
  e.exec_us = r.exec_us;
  e.token = r.token;
  e.finished_wall_ms = r.finished_wall_ms;
  e.expires_wall_ms = r.expires_wall_ms;
  e.size = static_cast<uint32_t>(r.bytes.size());
  return e;
}

inline Totals cost(const PageEntry& e) {
  return {static_cast<int64_t>(kStoredOverhead + e.size), 1};
}

}  // namespace dray::rocks
