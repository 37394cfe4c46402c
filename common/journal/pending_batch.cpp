// Layout of a batch: small parts are copied side by side, big ones stay where they are.
#include "common/journal/pending_batch.h"

#include <cstring>

#include "common/journal/crc32c.h"
#include "common/journal/record_format.h"

namespace dray {
namespace {
// Below this a copy is cheaper than one more iovec and its page look-ups in the kernel.
constexpr size_t kCopyBelow = 1024;
constexpr size_t kKeepBytes = 1024 * 1024;  // buffer kept between batches
}  // namespace

void PendingBatch::put_small(std::string_view bytes) {
  if (bytes.empty()) return;
  bool joins = !pieces_.empty() && pieces_.back().big.empty();
  if (!joins) pieces_.push_back(Piece{small_.size(), 0, {}});
  pieces_.back().size += bytes.size();
  small_ += bytes;
}

void PendingBatch::put(const Bytes& bytes) {
  if (bytes.size() < kCopyBelow) return put_small(bytes.view());
  pieces_.push_back(Piece{0, bytes.size(), bytes});
}

void PendingBatch::add(const JournalRecord& record, const BlobParts& blob) {
  RecordHeader h;
  h.no = record.no;
  h.type = record.type;
  h.head_len = static_cast<uint32_t>(record.head.size());
  h.rows_len = static_cast<uint32_t>(record.rows.size());
  h.blob_len = static_cast<uint32_t>(blob.size());
  uint32_t blob_at = static_cast<uint32_t>(sizeof(h)) + h.head_len + h.rows_len;
  h.len = blob_at + h.blob_len;
  h.body_crc = crc32c(crc32c(0, record.head), record.rows.view());
  blob.for_each([&](const Bytes& b) { h.body_crc = crc32c(h.body_crc, b.view()); });

  header_at_.push_back(small_.size());
  put_small({reinterpret_cast<const char*>(&h), sizeof(h)});
  put_small(record.head);
  put(record.rows);
  blob.for_each([&](const Bytes& b) { put(b); });
  put_small(std::string_view("\0\0\0\0\0\0\0", padded(h.len) - h.len));
  entries_.push_back(Entry{blob_at, h.rows_len, h.blob_len, bytes_});
  bytes_ += padded(h.len);
}

std::vector<iovec> PendingBatch::seal(uint64_t uid, RecordNo durable) {
  for (size_t at : header_at_) {
    RecordHeader h;
    std::memcpy(&h, small_.data() + at, sizeof(h));
    h.durable = durable;
    h.crc = record_header_crc(uid, h);
    std::memcpy(small_.data() + at, &h, sizeof(h));
  }
  std::vector<iovec> iov;
  iov.reserve(pieces_.size());
  for (const Piece& p : pieces_) {
    const char* data = p.big.empty() ? small_.data() + p.small_at : p.big.data();
    iov.push_back(iovec{const_cast<char*>(data), p.size});
  }
  return iov;
}

void PendingBatch::clear() {
  if (small_.capacity() > kKeepBytes) std::string().swap(small_);
  small_.clear();
  pieces_.clear();
  header_at_.clear();
  entries_.clear();
  bytes_ = 0;
}

}  // namespace dray
