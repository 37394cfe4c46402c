// CallTypes: options, reasons of refusal and counters of the call lane.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/base/log_histogram.h"
#include "common/base/result.h"
#include "common/base/time.h"
#include "common/wire/rows.h"

namespace dray {

struct CallOptions {
  uint64_t client_calls = 4096;  // open calls of one client
  uint64_t client_bytes = uint64_t{64} << 20;  // payload bytes of one client's open calls
  uint64_t call_bytes = uint64_t{512} << 20;  // payload bytes of all open calls
  uint64_t max_queued = 10'000;  // calls waiting for one deployment
  Duration default_deadline = std::chrono::seconds(10);
  uint32_t retry_ms = 200;  // hint in refusals that do not know better
  Duration settle{};  // after a start workers may take so long to come; 0: they are here at once
};

constexpr uint8_t kCallAttemptsMax = 3;  // replicas one idempotent call is sent to after losses
constexpr uint8_t kCallReturnsMax = 8;  // times workers may send one call back unstarted
constexpr Duration kModelWaitMax = std::chrono::milliseconds(100);  // for a replica with the model
constexpr Duration kProbeAfter = std::chrono::seconds(1);  // without a launch, one call is let in
constexpr uint64_t kHedgeSamples = 20;  // answers seen before anything is hedged
constexpr size_t kDeploymentsMax = 4096;  // names of handlers ever offered to one router

// Why a call was refused; each refusal counts once under one of these.
enum class CallRefusal : uint8_t {
  draining,
  unknown_handler,
  no_replica,
  client_calls,
  client_bytes,
  call_bytes,
  max_queued,
  batch_items,  // more items than a whole batch
  batch_bytes,
  infeasible,  // at the door: would not be done by its deadline
  too_late,  // in the queue: can not be done any more, makes room for those that can
  sent_back,  // workers did not start it, again and again
};
constexpr size_t kCallRefusals = 12;
const char* call_refusal_name(CallRefusal why);
Errc call_refusal_code(CallRefusal why);
CallLimit call_refusal_limit(CallRefusal why);

constexpr size_t kCallEnds = 7;  // of CallEnd; [0] counts parts
struct CallTotals {
  std::array<uint64_t, kCallEnds> ends{};
  std::array<uint64_t, kCallRefusals> refused{};
  uint64_t batches = 0;
  uint64_t retries = 0;  // after a replica was lost
  uint64_t returns = 0;  // sent back unstarted and queued again
  uint64_t hedges = 0;
  uint64_t hedges_won = 0;  // the copy answered first
  uint64_t stops = 0;  // rows of STOP
};

// Where the time of answered calls went, in microseconds.
struct CallTimes {
  LogHistogram total, queue, gather, wire, wait, run;
  LogHistogram batch_items;
};

}  // namespace dray
