// CallPlan: what a seed chooses for the call lane: routers, handlers and what they cost, callers
// and what they ask for.
#pragma once

#include <vector>

#include "common/base/time.h"
#include "common/wire/offer.h"
#include "services/router/core/call_types.h"

namespace dray::sim {

class World;

struct CallHandler {
  HandlerOffer offer;
  Duration base{0};  // a batch takes base + each * items
  Duration each{0};
  bool steady = false;  // exactly so, always
};

// Percentages unless said otherwise.
struct CallKnobs {
  int routers = 1;
  uint64_t calls = 0;  // to make, about
  uint64_t burst_max = 1;
  std::vector<CallHandler> handlers;
  uint64_t keys = 0;  // model keys in use
  uint32_t slots_max = 2;
  CallOptions limits;  // of routers
  // calls
  uint64_t size_max = 64;  // bytes
  uint64_t tight = 0;  // deadlines near what the handler takes
  uint64_t cancel = 0;
  uint64_t idempotent = 0;
  uint64_t hedge = 0;
  uint64_t stream = 0;
  uint64_t many_items = 0;
  Duration read_max{0};  // a reader takes so long for a part
  // executions
  uint64_t fail = 0;
  uint64_t lasting = 0;  // far longer than the handler's cost
  uint64_t poison = 0;  // calls that kill their worker
  uint64_t deaf = 0;  // does not look at its stop flag
  // Processes leave one after the other, as in a rolling update; no other faults.
  bool graceful = false;
  // Routers are killed again and again, while calls that may be repeated are in flight.
  bool lose_routers = false;
  // Far more calls at once than can be done, all with the same time for it, and no faults.
  bool crowded = false;
};
CallKnobs choose_calls(World& world);

}  // namespace dray::sim
