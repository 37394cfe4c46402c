// Rows: the fixed-width item tables of batch messages (frame 2). One row is one task;
// little-endian, no padding, so a service reads a field at a fixed offset and a batch is validated
// by its size.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/limits.h"

namespace dray {

static_assert(std::endian::native == std::endian::little, "rows are copied as they lie in memory");

// Where a task stands. 1..3 are live; from succeeded on it is terminal and never changes.
enum class TaskState : uint8_t {
  unknown = 0,  // no such task here
  queued = 1,  // accepted; waiting for a worker, its ETA or its back-off
  leased = 2,  // handed to a worker
  succeeded = 10,
  failed = 11,  // the handler said the failure is permanent
  cancelled = 12,
  expired = 13,  // not started before its `expires`
  dead = 14,  // gave up: max_failures or max_lost reached
};
constexpr bool is_terminal(TaskState s) { return s >= TaskState::succeeded; }
std::string_view state_name(TaskState s);

// What a worker says about one attempt.
enum class Verdict : uint8_t {
  ok = 0,
  fail = 1,  // retryable
  fail_final = 2,  // permanent
  time_limit = 3,  // counts as a failure
};

struct IdRow {
  TaskId id;
};
struct SubmitRow {
  TaskId id;
  uint32_t len = 0;  // payload bytes in frame 3, in row order
  uint16_t spec = 0;  // index into Submit.specs
  uint16_t flags = 0;  // reserved, 0
};
struct StateRow {
  TaskId id;
  TaskState state = TaskState::unknown;
  uint8_t code = 0;  // Errc
  uint16_t attempt = 0;
  uint32_t flags = 0;
};
struct TokenRow {
  TaskId id;
  Token token;
};
struct DispatchRow {
  TaskId id;
  uint64_t token_seq = 0;  // epoch is Dispatch.epoch
  uint32_t len = 0;
  uint16_t attempt = 0;
  uint16_t spec = 0;
};
// One outcome. From a worker `status` is a Verdict; from broker or aggregator it is a TaskState.
struct ResultRow {
  TaskId id;
  Token token;
  uint32_t len = 0;
  uint32_t exec_us = 0;
  uint32_t ttl_s = 0;  // how long the result is kept; set by the broker
  uint16_t attempt = 0;
  uint8_t status = 0;
  uint8_t code = 0;  // Errc, ok on success
};
struct ProgressRow {
  TaskId id;
  Token token;
  uint32_t permille = 0;
  uint32_t len = 0;  // text in frame 3
};

static_assert(sizeof(IdRow) == 16 && sizeof(SubmitRow) == 24 && sizeof(StateRow) == 24);
static_assert(sizeof(TokenRow) == 32 && sizeof(DispatchRow) == 32 && sizeof(ResultRow) == 48);
static_assert(sizeof(ProgressRow) == 40);

template <class R>
class Rows {
  static_assert(std::is_trivially_copyable_v<R> && sizeof(R) <= kRowBytesMax);

 public:
  using Row = R;
  Rows() = default;
  explicit Rows(Bytes bytes) : bytes_(std::move(bytes)) {}
  size_t size() const { return bytes_.size() / sizeof(R); }
  bool empty() const { return bytes_.empty(); }
  R operator[](size_t i) const {
    R row;
    std::memcpy(&row, bytes_.data() + i * sizeof(R), sizeof(R));
    return row;
  }
  const Bytes& bytes() const { return bytes_; }
  bool operator==(const Rows&) const = default;

 private:
  Bytes bytes_;
};

template <class R>
class RowsBuilder {
 public:
  void reserve(size_t n) { buffer_.reserve(n * sizeof(R)); }
  void add(const R& row) { buffer_.append(reinterpret_cast<const char*>(&row), sizeof(R)); }
  size_t size() const { return buffer_.size() / sizeof(R); }
  bool empty() const { return buffer_.empty(); }
  Rows<R> take() {
    Rows<R> rows{Bytes(std::move(buffer_))};
    buffer_.clear();
    return rows;
  }

 private:
  std::string buffer_;
};

template <class R, class List>
Rows<R> make_rows(const List& list) {
  RowsBuilder<R> b;
  b.reserve(list.size());
  for (const auto& x : list) b.add(R{x});
  return b.take();
}

}  // namespace dray
