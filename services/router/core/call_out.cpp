// Gathering of REPLY, RUN, STOP and CALL_CREDIT rows into messages.
#include "services/router/core/call_out.h"

namespace dray {
namespace {
constexpr size_t kKeysMax = 256;  // in one RUN; its head stays far below its limit
}

void ByteJoiner::add(const Bytes& piece) {
  if (piece.empty()) return;
  if (size() == 0) {
    run_ = piece;
    return;
  }
  const bool follows = piece.owner() == run_.owner() && piece.data() == run_.data() + run_.size();
  if (!copied_ && follows) {
    run_ = Bytes(run_.owner(), run_.data(), run_.size() + piece.size());
    return;
  }
  if (!copied_) copy_.assign(run_.view());
  copied_ = true;
  copy_.append(piece.view());
}

Bytes ByteJoiner::take() {
  Bytes all = copied_ ? Bytes(std::move(copy_)) : std::move(run_);
  run_ = Bytes();
  copy_.clear();
  copied_ = false;
  return all;
}

void ReplyOut::add(const ReplyRow& row, const Bytes& bytes) {
  if (rows_.size() == kItemsMax || bytes_.size() + bytes.size() > kBodyBytesMax) close();
  rows_.add(row);
  bytes_.add(bytes);
}

void ReplyOut::close() {
  Reply reply;
  reply.rows = rows_.take();
  reply.bytes = bytes_.take();
  full_.push_back(std::move(reply));
}

std::vector<Reply> ReplyOut::take() {
  if (!rows_.empty()) close();
  return std::exchange(full_, {});
}

void RunOut::begin_batch(uint64_t sent, size_t calls, size_t bytes, std::string_view key) {
  if (!rows_.empty() && (rows_.size() + calls > kItemsMax || keys_.size() == kKeysMax ||
                         bytes_.size() + bytes > kBodyBytesMax))
    close();
  if (rows_.empty()) {
    first_ = sent;
    batch_ = 0;
  } else {
    ++batch_;
  }
  for (key_ = 0; key_ < keys_.size() && keys_[key_] != key;) ++key_;
  if (key_ == keys_.size()) keys_.emplace_back(key);
}

void RunOut::add(RunRow row, const Bytes& payload) {
  row.batch = batch_;
  row.key = key_;
  rows_.add(row);
  bytes_.add(payload);
}

void RunOut::close() {
  Run run;
  run.first = first_;
  run.keys = std::exchange(keys_, {});
  run.rows = rows_.take();
  run.bytes = bytes_.take();
  full_.push_back(std::move(run));
}

std::vector<Message> RunOut::take() {
  if (!rows_.empty()) close();
  if (!stops_.empty()) full_.push_back(Stop{stops_.take()});
  if (!credits_.empty()) full_.push_back(CallCredit{credits_.take()});
  if (!wants_.empty()) full_.push_back(Want{wants_.take()});
  return std::exchange(full_, {});
}

}  // namespace dray
