#include "services/aggregator/core/ready_batch.h"

namespace dray {

void ReadyBatch::add(ResultRow row, const Bytes& bytes) {
  if (rows_.size() == kItemsMax || size_ + bytes.size() > kBodyBytesMax) cut();
  row.len = static_cast<uint32_t>(bytes.size());
  row.ttl_s = 0;
  rows_.add(row);
  if (bytes.empty()) return;
  size_ += bytes.size();
  total_ += bytes.size();
  if (!pieces_.empty()) {
    Bytes& last = pieces_.back();
    if (last.owner() && last.owner() == bytes.owner() &&
        last.data() + last.size() == bytes.data()) {
      last = Bytes(last.owner(), last.data(), last.size() + bytes.size());
      return;
    }
  }
  pieces_.push_back(bytes);
}

Bytes ReadyBatch::body() {
  if (pieces_.empty()) return {};
  if (pieces_.size() == 1) return std::move(pieces_[0]);
  std::string all;
  all.reserve(size_);
  for (const Bytes& piece : pieces_) all.append(piece.view());
  return Bytes(std::move(all));
}

void ReadyBatch::cut() {
  Ready ready;
  ready.done = false;
  ready.rows = rows_.take();
  ready.bytes = body();
  pieces_.clear();
  size_ = 0;
  messages_.push_back(std::move(ready));
}

std::vector<Ready> ReadyBatch::take(bool done) {
  if (!rows_.empty() || (done && messages_.empty())) cut();
  if (done) messages_.back().done = true;
  total_ = 0;
  return std::exchange(messages_, {});
}

}  // namespace dray
