// Fuzzes journal recovery: a valid log is damaged as the input says, then opened and replayed.
//
// Input: byte 0 = flags (1: give damaged headers a right CRC again, 2: power loss instead of exit),
// then edits of 5 bytes {file, offset u24, value}; value 0xff cuts the file at the offset.
// Required: no crash, no record that was never written, no gap. With CRCs put right on purpose the
// content may differ, but numbering must still be dense and reads must stay inside the record.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/journal/file_journal.h"
#include "common/journal/record_format.h"
#include "tests/unit/journal/mem_fs.h"

namespace {
using dray::test::MemFs;

void must(bool ok) {
  if (!ok) std::abort();
}

std::string blob_of(dray::RecordNo no) {
  return std::string(no * 37 % 700, static_cast<char>('a' + no % 26));
}

dray::FileJournalOptions options() {
  dray::FileJournalOptions o;
  o.dir = "j";
  o.segment_bytes = 8192;
  o.cache_bytes = 0;
  return o;
}

void write_log(MemFs& fs) {
  dray::FileJournal j(options(), fs);
  must(j.acquire().has_value());
  must(j.replay([](const dray::ReplayedRecord&) { return dray::Status(); }).has_value());
  for (dray::RecordNo no = 1; no <= 24; ++no) {
    dray::JournalRecord r{no, 1, "head", dray::Bytes::copy("rows"), {}};
    r.blob.push_back(dray::BlobPart{dray::Bytes::copy(blob_of(no)), 0, 0, 0});
    must(j.append(r).has_value());
    if (no % 3 != 0) must(j.commit().has_value());
  }
}

void put_crcs_right(std::string* file) {
  dray::SegmentHeader s;
  if (file->size() < sizeof(s)) return;
  std::memcpy(static_cast<void*>(&s), file->data(), sizeof(s));
  s.crc = dray::segment_header_crc(s);
  std::memcpy(file->data(), &s, sizeof(s));
  for (uint64_t at = dray::kRecordsAt; at + sizeof(dray::RecordHeader) <= file->size();) {
    dray::RecordHeader h;
    std::memcpy(&h, file->data() + at, sizeof(h));
    if (h.no == 0 || h.len < sizeof(h)) return;
    h.crc = dray::record_header_crc(s.uid, h);
    std::memcpy(file->data() + at, &h, sizeof(h));
    at += dray::padded(h.len);
  }
}

void damage(MemFs& fs, const uint8_t* data, size_t size, bool crcs) {
  auto paths = fs.paths("j/");
  for (; size >= 5; data += 5, size -= 5) {
    std::string* file = fs.content(paths[data[0] % paths.size()]);
    size_t at = size_t{data[1]} | size_t{data[2]} << 8 | size_t{data[3]} << 16;
    if (file->empty()) continue;
    at %= file->size();
    if (data[4] == 0xff)
      file->resize(at);
    else
      (*file)[at] = static_cast<char>(data[4]);
  }
  if (!crcs) return;
  for (const auto& path : fs.paths(".seg")) put_crcs_right(fs.content(path));
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  bool crcs = (data[0] & 1) != 0;
  MemFs fs(data[0]);
  write_log(fs);
  fs.process_exit();
  if ((data[0] & 2) != 0) fs.power_loss();
  damage(fs, data + 1, size - 1, crcs);
  dray::FileJournal j(options(), fs);
  if (!j.acquire()) return 0;
  dray::RecordNo expected = j.first_record();
  std::vector<uint64_t> sizes;
  auto status = j.replay([&](const dray::ReplayedRecord& r) -> dray::Status {
    must(r.no == expected++);
    must(crcs || (r.head == "head" && r.rows.view() == "rows"));
    sizes.push_back(r.blob_size);
    return {};
  });
  if (!status) return 0;
  must(expected == j.next_record());
  for (size_t i = 0; i < sizes.size(); ++i) {
    dray::RecordNo no = j.first_record() + i;
    auto blob = j.read(no, 0, sizes[i]);
    must(blob.has_value() && blob->size() == sizes[i]);
    must(crcs || blob->view() == blob_of(no));
  }
  dray::JournalRecord r{j.next_record(), 1, "head", {}, {}};
  must(j.append(r).has_value());
  must(j.commit().has_value());
  return 0;
}
