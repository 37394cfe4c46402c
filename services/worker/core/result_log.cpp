// Numbering, acknowledging and packing of results.
#include "services/worker/core/result_log.h"

#include <algorithm>

#include "common/base/assert.h"
#include "common/base/limits.h"

namespace dray::worker {

void ResultLog::add(ResultRow row, Bytes bytes) {
  row.len = static_cast<uint32_t>(bytes.size());
  bytes_ += bytes.size();
  ++tokens_[row.token];
  entries_.push_back({row, std::move(bytes)});
}

size_t ResultLog::ack(uint64_t upto) {
  upto = std::min(upto, next());
  size_t n = 0;
  for (; first_ < upto; ++first_, ++n) {
    const Entry& e = entries_.front();
    bytes_ -= e.bytes.size();
    const auto it = tokens_.find(e.row.token);
    DRAY_ASSERT(it != tokens_.end());
    if (--it.value() == 0) tokens_.erase(it);
    entries_.pop_front();
  }
  return n;
}

std::vector<Results> ResultLog::messages(uint64_t from, uint64_t received) const {
  std::vector<Results> list;
  size_t i = from > first_ ? static_cast<size_t>(from - first_) : 0;
  while (i < entries_.size()) {
    const size_t begin = i;
    size_t bytes = 0;
    while (i < entries_.size() && i - begin < kItemsMax &&
           (i == begin || bytes + entries_[i].bytes.size() <= kBodyBytesMax))
      bytes += entries_[i++].bytes.size();
    RowsBuilder<ResultRow> rows;
    std::string body;
    rows.reserve(i - begin);
    body.reserve(bytes);
    for (size_t k = begin; k < i; ++k) {
      rows.add(entries_[k].row);
      body.append(entries_[k].bytes.view());
    }
    list.push_back(Results{first_ + begin, received, rows.take(), Bytes(std::move(body))});
  }
  return list;
}

void ResultLog::check() const {
  size_t bytes = 0;
  size_t count = 0;
  for (const Entry& e : entries_) {
    DRAY_ASSERT(e.row.len == e.bytes.size() && has(e.row.token));
    bytes += e.bytes.size();
  }
  for (const auto& [token, n] : tokens_) count += n;
  DRAY_ASSERT(bytes == bytes_ && count == entries_.size());
}

}  // namespace dray::worker
