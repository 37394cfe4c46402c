// CallTable: the records of all open calls and of all batches at workers, by number.
//
// A call's number goes to workers and comes back: slot in the low 24 bits, use of the slot above,
// so a late answer finds nothing instead of the slot's next call. A call that ended while its batch
// is still at a worker keeps its slot (`ended`) until the batch is done: only that frees credit.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/time.h"
#include "services/router/core/slab.h"

namespace dray {

using CallIndex = uint32_t;
using BatchIndex = uint32_t;
constexpr unsigned kCallSlotBits = 24;

enum class CallState : uint8_t {
  free,
  queued,  // waits here
  running,  // its batch, or a hedge of it, is at a worker
  ended,  // told the client; the batch is still at the worker
};

struct CallRecord {
  uint64_t number = 0;  // the router's
  uint64_t client_call = 0;  // the client's
  uint64_t order = 0;  // of arrival
  uint64_t window = 0;  // bytes of parts that may be sent, so far
  Time arrived{};
  Time deadline{};
  Time sent{};
  Duration gathered{};
  Bytes payload;
  uint32_t client = kNoSlot;
  uint32_t deployment = kNoSlot;
  uint32_t key = kNoSlot;
  BatchIndex batch = kNoSlot;  // the last one it was sent in, while that is at a worker
  CallIndex twin = kNoSlot;  // hedge and original know each other
  uint32_t queue_pos = kNoSlot;
  uint32_t timer_pos = kNoSlot;
  uint32_t hedge_pos = kNoSlot;
  uint16_t items = 1;
  uint16_t flags = 0;
  uint16_t bucket = 0;  // of the queue's tally
  CallState state = CallState::free;
  uint8_t attempts = 0;  // replicas it was sent to
  uint8_t returns = 0;  // times a worker sent it back unstarted
  bool is_hedge = false;  // a copy: the client knows the twin
  bool has_parts = false;  // the client saw some of the reply
  bool doubtful = false;  // a run was lost: it may have been executed, whatever follows
};

struct BatchRecord {
  uint32_t replica = kNoSlot;  // kNoSlot: free
  uint32_t pos = 0;  // in the replica's list
  uint32_t key = kNoSlot;
  uint32_t items = 0;
  bool at_once = false;  // it found the replica free, as far as this router knows
  std::vector<CallIndex> calls;  // those whose `batch` still says so are in it
  Time sent{};
};

class CallTable {
 public:
  CallIndex open() {
    const CallIndex i = calls_.take();
    CallRecord& c = calls_[i];
    const uint64_t use = (c.number >> kCallSlotBits) + 1;
    c = CallRecord{};
    c.number = use << kCallSlotBits | i;
    c.order = ++order_;
    return i;
  }
  void free(CallIndex i) {
    calls_[i].state = CallState::free;
    calls_[i].payload = Bytes();
    calls_.give_back(i);
  }
  // kNoSlot if no such call has a slot.
  CallIndex find(uint64_t number) const {
    const auto i = static_cast<CallIndex>(number & ((uint64_t{1} << kCallSlotBits) - 1));
    if (i >= calls_.slots() || calls_[i].number != number) return kNoSlot;
    return calls_[i].state == CallState::free ? kNoSlot : i;
  }
  bool full() const { return calls_.used() + 1 >= uint64_t{1} << kCallSlotBits; }

  CallRecord& operator[](CallIndex i) { return calls_[i]; }
  const CallRecord& operator[](CallIndex i) const { return calls_[i]; }
  Slab<CallRecord>& calls() { return calls_; }
  const Slab<CallRecord>& calls() const { return calls_; }
  Slab<BatchRecord>& batches() { return batches_; }
  const Slab<BatchRecord>& batches() const { return batches_; }
  BatchRecord& batch(BatchIndex i) { return batches_[i]; }
  const BatchRecord& batch(BatchIndex i) const { return batches_[i]; }

 private:
  Slab<CallRecord> calls_;
  Slab<BatchRecord> batches_;
  uint64_t order_ = 0;
};

}  // namespace dray
