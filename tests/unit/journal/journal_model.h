// Helpers of the journal tests: make records, replay into a list, compare.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "catch2/catch.hpp"
#include "common/journal/journal.h"

namespace dray::test {

struct Plain {  // a record as the test remembers it
  uint8_t type = 0;
  std::string head, rows, blob;
  bool operator==(const Plain&) const = default;
};
using Log = std::map<RecordNo, Plain>;

inline Plain plain(RecordNo no, size_t blob_bytes = 40) {
  std::string id = std::to_string(no);
  Plain p{static_cast<uint8_t>(no % 7), "head" + id, no % 3 == 0 ? "" : "rows" + id, ""};
  while (p.blob.size() < blob_bytes) p.blob += "b" + id;
  p.blob.resize(blob_bytes);
  return p;
}

// Splits the blob into `parts` pieces, as a batch of tasks has.
inline JournalRecord to_record(RecordNo no, const Plain& p, size_t parts = 3) {
  JournalRecord r{no, p.type, p.head, Bytes::copy(p.rows), {}};
  size_t step = p.blob.size() / parts + 1;
  for (size_t at = 0; at < p.blob.size(); at += step)
    r.blob.push_back(BlobPart{Bytes::copy(p.blob.substr(at, step)), 0, 0, 0});
  return r;
}

inline Status append(Journal& j, const Plain& p) { return j.append(to_record(j.next_record(), p)); }

inline Status replay_into(Journal& j, Log* log) {
  log->clear();
  RecordNo expected = j.first_record();
  bool dense = true;
  auto status = j.replay([&](const ReplayedRecord& r) -> Status {
    dense = dense && r.no == expected++;
    Plain p{r.type, std::string(r.head), std::string(r.rows.view()), ""};
    p.blob.resize(r.blob_size);
    (*log)[r.no] = p;
    return {};
  });
  if (!status) return status;
  if (!dense || expected != j.next_record()) return make_error(Errc::bad_message, "not dense");
  for (auto& [no, p] : *log) {
    auto blob = j.read(no, 0, p.blob.size());
    if (!blob) return blob.error();
    p.blob = std::string(blob->view());
    auto rows = j.read_rows(no);
    if (!rows) return rows.error();
    if (rows->view() != p.rows) return make_error(Errc::bad_message, "other rows");
  }
  return {};
}

inline std::string text(const Status& s) {
  return s ? "ok" : std::string(errc_name(s.error().code)) + ": " + s.error().detail;
}
template <class T>
Errc code(const Result<T>& r) {
  return r ? Errc::ok : r.error().code;
}

#define REQUIRE_OK(expr)                                        \
  do {                                                          \
    auto&& status_ = (expr);                                    \
    if (!status_) FAIL(#expr << " " << status_.error().detail); \
  } while (false)

// `log` holds every record of `sure` and otherwise only a prefix of `maybe`, all unchanged.
inline bool matches(const Log& log, const Log& sure, const Log& maybe) {
  for (const auto& [no, p] : sure)
    if (log.count(no) == 0 || !(log.at(no) == p)) return false;
  for (const auto& [no, p] : log) {
    auto s = sure.find(no);
    auto m = maybe.find(no);
    if (s == sure.end() && (m == maybe.end() || !(m->second == p))) return false;
  }
  return true;
}

}  // namespace dray::test
