// ReadyBatch: collects the outcomes for one asker and cuts them into READY messages within limits.
#pragma once

#include <utility>
#include <vector>

#include "common/wire/message.h"

namespace dray {

class ReadyBatch {
 public:
  void add(ResultRow row, const Bytes& bytes);  // sets row.len
  bool empty() const { return rows_.empty() && messages_.empty(); }
  uint64_t bytes() const { return total_; }
  // Nothing if there is nothing to say; with `done` at least one message, `done` on the last.
  std::vector<Ready> take(bool done);

 private:
  void cut();
  Bytes body();
  RowsBuilder<ResultRow> rows_;
  std::vector<Bytes> pieces_;  // neighbours in memory are joined, so a plain copy stays a slice
  size_t size_ = 0;
  uint64_t total_ = 0;
  std::vector<Ready> messages_;
};

}  // namespace dray
