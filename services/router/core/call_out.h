// CallOut: what one turn says to one client or worker, gathered into as few messages as the wire's
// bounds allow.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/wire/message.h"

namespace dray {

// Concatenates payloads; copies only if they do not lie one after the other already.
class ByteJoiner {
 public:
  void add(const Bytes& piece);
  size_t size() const { return copied_ ? copy_.size() : run_.size(); }
  Bytes take();

 private:
  Bytes run_;
  std::string copy_;
  bool copied_ = false;
};

class ReplyOut {
 public:
  void add(const ReplyRow& row, const Bytes& bytes);
  bool empty() const { return full_.empty() && rows_.empty(); }
  std::vector<Reply> take();

 private:
  void close();
  std::vector<Reply> full_;
  RowsBuilder<ReplyRow> rows_;
  ByteJoiner bytes_;
};

class RunOut {
 public:
  // Batches sent in this session so far, without the one to begin.
  void begin_batch(uint64_t sent, size_t calls, size_t bytes, std::string_view key);
  void add(RunRow row, const Bytes& payload);  // `key` and `batch` are set here
  void stop(uint64_t call) { stops_.add({call}); }
  void credit(CallCreditRow row) { credits_.add(row); }
  void want(const WantRow& row) { wants_.add(row); }
  std::vector<Message> take();

 private:
  void close();
  std::vector<Message> full_;
  RowsBuilder<RunRow> rows_;
  ByteJoiner bytes_;
  std::vector<std::string> keys_;
  uint64_t first_ = 0;
  uint16_t batch_ = 0;
  uint16_t key_ = 0;
  RowsBuilder<CallIdRow> stops_;
  RowsBuilder<CallCreditRow> credits_;
  RowsBuilder<WantRow> wants_;
};

}  // namespace dray
