// Task: the broker's in-memory index entry of one live task (or dead letter). The payload stays in
// the journal; an entry costs about 150 bytes. Everything here is rebuilt by replay except the
// leases' session-local numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/assert.h"
#include "common/base/ids.h"
#include "common/base/record.h"
#include "common/wire/rows.h"

namespace dray::broker {

using Handle = uint32_t;
constexpr Handle kNil = UINT32_MAX;

struct Task {
  TaskId id;
  uint64_t fingerprint = 0;  // of payload and options: same id + same fingerprint = same task
  RecordNo record = 0;  // where the payload lies
  uint32_t offset = 0;
  uint32_t len = 0;
  uint64_t order = 0;  // FIFO key inside a band; also tells a reused handle from a stale one
  int64_t due_ms = 0;  // wall time before which it must not start; 0 = none
  int64_t expires_ms = 0;  // wall time after which it must not start; 0 = never
  Token token;  // of the current lease, or of the last one
  uint64_t sent_no = 0;  // position among the tasks sent in the worker's session; 0 = older one
  uint32_t worker = kNil;  // holder of the lease
  Handle prev = kNil;  // the worker's lease list
  Handle next = kNil;
  uint32_t spec = 0;
  uint32_t watch = kNil;  // who is told when it ends
  uint16_t attempt = 0;  // leases so far
  uint16_t failures = 0;
  uint16_t lost = 0;
  TaskState state = TaskState::queued;
  bool in_use = false;
  bool in_lane = false;  // has a live entry in ReadyLanes
};

// Handles are stable; chunks never move, so a million tasks cost no large copy.
class TaskPool {
 public:
  Handle alloc() {
    Handle h;
    if (!free_.empty()) {
      h = free_.back();
      free_.pop_back();
    } else {
      if (size_ % kChunk == 0) chunks_.push_back(std::make_unique<Task[]>(kChunk));
      h = size_++;
    }
    (*this)[h] = Task{};
    (*this)[h].in_use = true;
    return h;
  }
  void release(Handle h) {
    DRAY_ASSERT((*this)[h].in_use);
    (*this)[h].in_use = false;
    free_.push_back(h);
  }
  Task& operator[](Handle h) { return chunks_[h / kChunk][h % kChunk]; }
  const Task& operator[](Handle h) const { return chunks_[h / kChunk][h % kChunk]; }
  Handle size() const { return size_; }  // handles 0..size-1 exist, some not in use

 private:
  static constexpr Handle kChunk = 4096;
  std::vector<std::unique_ptr<Task[]>> chunks_;
  std::vector<Handle> free_;
  Handle size_ = 0;
};

}  // namespace dray::broker
