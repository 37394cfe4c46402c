// Page codec: encoding and bounds-checked decoding of page rows.
#include "services/aggregator/store/page_codec.h"

#include <limits>

namespace dray {
namespace {

constexpr uint8_t kFlagBlob = 1;
constexpr size_t kSegmentHead = 5;

char* put_varint(char* p, uint64_t v) {
  while (v >= 0x80) {
    *p++ = static_cast<char>(v | 0x80);
    v >>= 7;
  }
  *p++ = static_cast<char>(v);
  return p;
}

uint64_t zigzag(uint64_t delta) { return (delta << 1) ^ (uint64_t{0} - (delta >> 63)); }
uint64_t unzigzag(uint64_t v) { return (v >> 1) ^ (uint64_t{0} - (v & 1)); }

}  // namespace

void PageWriter::open_segment(uint64_t epoch) {
  finish();
  char head[kSegmentHead + 10] = {static_cast<char>(kPageVersion)};
  size_at_ = out_.size() + 1;
  const char* end = put_varint(head + kSegmentHead, epoch);
  out_.append(head, static_cast<size_t>(end - head));
  epoch_ = epoch;
  seq_ = finished_ = expires_ = 0;
  open_ = true;
}

void PageWriter::finish() {
  if (!open_) return;
  const auto size = static_cast<uint32_t>(out_.size() - size_at_ - 4);
  for (size_t i = 0; i < 4; ++i) out_[size_at_ + i] = static_cast<char>(size >> (8 * i));
  open_ = false;
}

void PageWriter::add(const PageEntry& e) {
  if (!open_ || epoch_ != e.token.epoch) open_segment(e.token.epoch);
  const auto finished = static_cast<uint64_t>(e.finished_wall_ms);
  const auto expires = static_cast<uint64_t>(e.expires_wall_ms);
  char buf[4 + 10 * 8];
  buf[0] = static_cast<char>(e.slot);
  buf[1] = static_cast<char>(e.state);
  buf[2] = static_cast<char>(e.code);
  buf[3] = static_cast<char>(e.blob_owner != 0 ? kFlagBlob : 0);
  char* p = put_varint(buf + 4, e.attempt);
  p = put_varint(p, e.exec_us);
  p = put_varint(p, zigzag(e.token.seq - seq_));
  p = put_varint(p, zigzag(finished - finished_));
  p = put_varint(p, zigzag(expires - expires_));
  p = put_varint(p, e.size);
  if (e.blob_owner != 0) {
    p = put_varint(p, e.blob_owner);
    p = put_varint(p, e.blob_number);
  }
  out_.append(buf, static_cast<size_t>(p - buf));
  if (e.blob_owner == 0) out_.append(e.bytes);
  seq_ = e.token.seq;
  finished_ = finished;
  expires_ = expires;
}

bool PageReader::varint(uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !segment_.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(segment_.front());
    segment_.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return fail();
}

bool PageReader::open_segment() {
  if (rest_.size() < kSegmentHead || static_cast<uint8_t>(rest_[0]) != kPageVersion) return fail();
  uint32_t size = 0;
  for (size_t i = 0; i < 4; ++i)
    size |= static_cast<uint32_t>(static_cast<uint8_t>(rest_[1 + i])) << (8 * i);
  if (size > rest_.size() - kSegmentHead) return fail();
  segment_ = rest_.substr(kSegmentHead, size);
  rest_.remove_prefix(kSegmentHead + size);
  seq_ = finished_ = expires_ = 0;
  return varint(epoch_);
}

bool PageReader::read_entry(PageEntry& e) {
  if (segment_.size() < 4) return fail();
  e.slot = static_cast<uint8_t>(segment_[0]);
  e.state = static_cast<uint8_t>(segment_[1]);
  e.code = static_cast<uint8_t>(segment_[2]);
  const auto flags = static_cast<uint8_t>(segment_[3]);
  segment_.remove_prefix(4);
  uint64_t attempt = 0, exec_us = 0, seq = 0, finished = 0, expires = 0, size = 0;
  if (!varint(attempt) || !varint(exec_us) || !varint(seq) || !varint(finished) ||
      !varint(expires) || !varint(size))
    return false;
  if ((flags & ~kFlagBlob) != 0 || attempt > std::numeric_limits<uint16_t>::max() ||
      exec_us > std::numeric_limits<uint32_t>::max() || size > std::numeric_limits<uint32_t>::max())
    return fail();
  e.attempt = static_cast<uint16_t>(attempt);
  e.exec_us = static_cast<uint32_t>(exec_us);
  e.token = {epoch_, seq_ += unzigzag(seq)};
  e.finished_wall_ms = static_cast<int64_t>(finished_ += unzigzag(finished));
  e.expires_wall_ms = static_cast<int64_t>(expires_ += unzigzag(expires));
  e.size = static_cast<uint32_t>(size);
  e.blob_owner = e.blob_number = 0;
  e.bytes = {};
  if ((flags & kFlagBlob) != 0)
    return varint(e.blob_owner) && varint(e.blob_number) && (e.blob_owner != 0 || fail());
  if (size > segment_.size()) return fail();
  e.bytes = segment_.substr(0, size);
  segment_.remove_prefix(size);
  return true;
}

bool PageReader::next(PageEntry& entry) {
  while (!damaged_ && segment_.empty()) {
    if (rest_.empty()) return false;
    open_segment();
  }
  return !damaged_ && read_entry(entry);
}

}  // namespace dray
