// CallWork: what passes between the call agent and the executors of calls.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/base/time.h"
#include "common/wire/rows.h"

namespace dray::worker {

// One call of a batch. `call` is this worker's own number, unique in its life: numbers of several
// routers, or of two lives of one, may be equal.
struct BatchCall {
  uint64_t call = 0;
  Bytes payload;
  Time deadline = kNever;
  uint64_t window = 0;  // bytes of parts that may be sent before more is granted; 0: no parts
  uint16_t items = 1;  // how much of a batch it fills
};

// Run these together, in one thread. A batch whose calls have all been stopped or have expired
// before it begins is not run.
struct BatchStart {
  uint64_t batch = 0;
  uint32_t handler = 0;  // index into AgentOptions.handlers
  std::string key;  // model key, may be empty
  std::vector<BatchCall> calls;
};

struct CallOutcome {
  uint64_t call = 0;
  // reply, failed, expired, cancelled, unknown; not started: rejected
  CallEnd end = CallEnd::reply;
  Errc code = Errc::ok;
  Bytes bytes;  // reply, or the error text
};

// One for every BatchStart, always.
struct BatchOutcome {
  uint64_t batch = 0;
  bool started = true;  // false: no call of it was executed
  uint32_t wait_us = 0;
  uint32_t run_us = 0;
  std::vector<CallOutcome> calls;  // one for each of the batch, in its order
};

struct CallPart {
  uint64_t call = 0;
  Bytes bytes;
};

struct CallGrant {
  uint64_t call = 0;
  uint64_t granted = 0;  // absolute, bytes
};

}  // namespace dray::worker
