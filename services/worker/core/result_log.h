// ResultLog: finished attempts that the broker has not acknowledged, densely numbered per boot.
#pragma once

#include <tsl/robin_map.h>

#include <cstdint>
#include <deque>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/wire/message.h"

namespace dray::worker {

class ResultLog {
 public:
  void add(ResultRow row, Bytes bytes);  // sets row.len
  size_t ack(uint64_t upto);  // drops every number below; returns how many
  uint64_t first() const { return first_; }  // lowest number kept, or next() if none
  uint64_t next() const { return first_ + entries_.size(); }
  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  size_t bytes() const { return bytes_; }
  bool has(Token token) const { return tokens_.count(token) != 0; }
  // Messages for all numbers from `from` on, each within kItemsMax rows and kBodyBytesMax bytes.
  std::vector<Results> messages(uint64_t from, uint64_t received) const;
  template <class F>
  void each(F&& f) const {
    for (const Entry& e : entries_) f(TokenRow{e.row.id, e.row.token});
  }
  void check() const;

 private:
  struct Entry {
    ResultRow row;
    Bytes bytes;
  };
  std::deque<Entry> entries_;
  tsl::robin_map<Token, uint32_t, std::hash<Token>> tokens_;  // -> entries with it
  uint64_t first_ = 1;
  size_t bytes_ = 0;
};

}  // namespace dray::worker
