// The broker's journal records: what each one says, and its bytes. Formats are drawn in
// docs/protocol.md ("Journal"). Changing one? Add a new type and keep the old reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/ids.h"
#include "common/base/record.h"
#include "common/base/result.h"
#include "common/wire/rows.h"

namespace dray::broker {

enum class RecordType : uint8_t {
  accept = 1,
  lease = 2,
  finish = 3,
  requeue = 4,
  carry = 5,
  drop_dead = 6,
  stream_ack = 7,
  pause = 8,
  floor = 9,
  catalog = 10,
};

struct AcceptRow {
  TaskId id;
  uint64_t fingerprint = 0;
  uint32_t len = 0;
  uint32_t spec = 0;  // index into the record's specs
};
enum class Cause : uint8_t { failure = 1, lost = 2, returned = 3, expired_lease = 4 };
struct RequeueRow {
  TaskId id;
  int64_t due_ms = 0;
  Cause cause = Cause::returned;
  uint8_t code = 0;
  uint16_t pad = 0;
  uint32_t pad2 = 0;
};
// Full durable state of a task whose old record is about to be reclaimed.
struct CarryRow {
  TaskId id;
  uint64_t fingerprint = 0;
  uint64_t order = 0;
  int64_t due_ms = 0;
  int64_t expires_ms = 0;
  Token token;
  BootId worker;
  uint32_t len = 0;
  uint32_t spec = 0;
  uint16_t attempt = 0;
  uint16_t failures = 0;
  uint16_t lost = 0;
  TaskState state = TaskState::queued;
  uint8_t pad = 0;
};
static_assert(sizeof(AcceptRow) == 32 && sizeof(RequeueRow) == 32 && sizeof(CarryRow) == 96);

// A journal row table may be wider than a wire row.
template <class R>
std::string& append_row(std::string& out, const R& row) {
  return out.append(reinterpret_cast<const char*>(&row), sizeof row);
}
template <class R>
R row_at(const Bytes& rows, size_t i) {
  R row;
  std::memcpy(&row, rows.data() + i * sizeof(R), sizeof(R));
  return row;
}
template <class R>
size_t row_count(const Bytes& rows) {
  return rows.size() / sizeof(R);
}

struct AcceptRec {
  int64_t wall_ms = 0;
  uint64_t first_order = 0;
  std::vector<std::string> specs;
  Bytes rows;  // AcceptRow
};
struct LeaseRec {
  uint64_t epoch = 0;
  uint64_t first_seq = 0;  // row i has token (epoch, first_seq + i)
  BootId worker;
  std::string worker_name;
  Bytes rows;  // IdRow
};
struct FinishRec {
  int64_t wall_ms = 0;
  RecordNo prev = 0;  // the FINISH before this one
  std::vector<std::pair<uint32_t, std::string>> texts;  // row -> last error, for dead letters
  Bytes rows;  // ResultRow, status is a TaskState
};
struct RequeueRec {
  std::vector<std::pair<uint32_t, std::string>> texts;
  Bytes rows;  // RequeueRow
};
struct CarryRec {
  std::vector<std::string> specs;
  std::vector<std::string> workers;  // names, parallel to rows that are leased
  std::vector<std::pair<uint32_t, std::string>> texts;
  Bytes rows;  // CarryRow
};
struct DropDeadRec {
  Bytes rows;  // IdRow
};
struct StreamAckRec {
  RecordNo upto = 0;
};
struct PauseRec {
  std::string queue;
  bool on = true;
};
struct FloorRec {
  uint64_t id_ms = 0;
};
struct CatalogRec {  // handlers and the largest resource amounts ever announced
  std::vector<std::string> handlers;
  std::vector<std::pair<std::string, uint64_t>> resources;
};
using Record = std::variant<AcceptRec, LeaseRec, FinishRec, RequeueRec, CarryRec, DropDeadRec,
                            StreamAckRec, PauseRec, FloorRec, CatalogRec>;

JournalRecord encode_record(RecordNo no, const Record& record);  // without blob
Result<Record> decode_record(const ReplayedRecord& replayed);

}  // namespace dray::broker
