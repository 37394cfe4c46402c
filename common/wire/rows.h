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

// --- calls (docs/protocol.md section 4.6) ---
// How a call, or a part of it, ended.
enum class CallEnd : uint8_t {
  part = 0,  // one part of a streaming reply; more follows
  reply = 1,
  failed = 2,  // the handler said so; the text is its error
  rejected = 3,  // surely not executed; code, limit, value and retry_after say why
  expired = 4,  // the deadline came first; surely not executed
  cancelled = 5,  // surely not executed, or stopped at the caller's wish
  unknown = 6,  // may have executed
};
std::string_view call_end_name(CallEnd end);

// Which budget refused a call (ReplyRow.limit). Closed list, names in docs/protocol.md.
enum class CallLimit : uint8_t {
  none = 0,
  max_queued = 1,  // calls waiting for one deployment
  client_calls = 2,  // open calls of one client
  client_bytes = 3,  // payload bytes of one client's open calls
  call_bytes = 4,  // payload bytes of all open calls of the router
  deadline_us = 5,  // infeasible: value is the predicted time to finish in microseconds
  batch_bytes = 6,  // one call larger than a whole batch of its handler
  batch_items = 7,  // one call of more items than a whole batch of its handler
};
constexpr size_t kCallLimits = 8;
std::string_view call_limit_name(CallLimit limit);

constexpr uint16_t kCallIdempotent = 1;  // may be executed more than once
constexpr uint16_t kCallHedge = 2;  // and sent to a second replica when it is late
struct CallRow {  // client -> router
  uint64_t call = 0;  // chosen by the client, unique among its open calls of this session
  uint64_t deadline_us = 0;  // time left when sent; 0 = the router's default
  uint32_t len = 0;
  uint16_t items = 1;  // how much of a batch it fills
  uint16_t flags = 0;
};
struct ReplyRow {  // router -> client
  uint64_t call = 0;
  uint64_t value = 0;  // of `limit`
  uint32_t len = 0;
  uint32_t retry_after_ms = 0;
  uint32_t queue_us = 0;  // at the router, from arrival until it left for a replica
  uint32_t gather_us = 0;  // of that, with a replica free, waiting for company
  uint32_t worker_us = 0;  // from the router to the replica and back
  uint32_t wait_us = 0;  // of that, waiting at the worker
  uint32_t run_us = 0;  // of that, in the handler
  uint32_t batch_items = 0;  // of the batch it ran in
  uint8_t status = 0;  // CallEnd
  uint8_t code = 0;  // Errc
  uint8_t limit = 0;  // CallLimit
  uint8_t attempts = 0;  // replicas it was sent to
  uint32_t reserved = 0;
};
struct CallIdRow {
  uint64_t call = 0;
};
struct CallCreditRow {
  uint64_t call = 0;
  uint64_t granted = 0;  // bytes of parts that may have been sent for this call in all
};
struct RunRow {  // router -> worker
  uint64_t call = 0;  // the router's number, unique in its life
  uint64_t deadline_us = 0;  // time left when sent, never 0
  uint64_t window = 0;  // bytes of parts that may be sent before the first CALL_CREDIT; 0: no parts
  uint32_t len = 0;
  uint16_t handler = 0;  // index into OFFER.handlers
  uint16_t key = 0;  // index into RUN.keys
  uint16_t batch = 0;  // neighbouring rows with equal numbers are one batch
  uint16_t items = 1;
  uint32_t waited_us = 0;  // at the router before it was sent
};
// A batch of a handler that shares its device is due and may not be sent yet.
struct WantRow {  // router -> worker
  uint64_t sent = 0;  // batches of the handler sent in this session
  uint32_t handler = 0;  // its place in OFFER.handlers
  uint32_t head_us = 0;  // so long ago its first call arrived
  uint32_t items = 0;  // waiting; 0: nothing any more, do not hold the device
  uint32_t reserved = 0;
};
// While queued tasks of a handler wait at the worker, calls gather for a while, and queued work
// runs in pieces of a bounded length; both times are 0 when nothing is queued, and then `batches`
// does not count.
struct ShareRow {  // worker -> router
  uint64_t batches = 0;  // absolute: so many of the handler may have been sent in this session
  uint32_t handler = 0;  // its place in OFFER.handlers
  uint32_t gather_us = 0;  // a batch of calls is due when its head is so old, or when it is full
  uint32_t quantum_us = 0;  // a piece of queued work runs so long
  uint32_t reserved = 0;
};
constexpr uint16_t kDoneFreesSlot = 1;  // last row of its batch: one batch less is held
constexpr uint16_t kDoneNotStarted = 2;  // surely not executed here
struct DoneRow {  // worker -> router
  uint64_t call = 0;
  uint32_t len = 0;
  uint32_t run_us = 0;  // of the whole batch
  uint32_t wait_us = 0;  // at the worker before it ran
  uint8_t status = 0;  // CallEnd: part, reply, failed, rejected, expired, cancelled
  uint8_t code = 0;  // Errc
  uint16_t flags = 0;
};

static_assert(sizeof(CallRow) == 24 && sizeof(ReplyRow) == 56 && sizeof(CallIdRow) == 8);
static_assert(sizeof(CallCreditRow) == 16 && sizeof(RunRow) == 40 && sizeof(DoneRow) == 24);
static_assert(sizeof(WantRow) == 24 && sizeof(ShareRow) == 24);

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
