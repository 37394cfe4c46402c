// How ends of calls are shown: JSON, exit codes and next commands, and where the time went.
#pragma once

#include "client/console/outcome.h"

namespace dray::console {

// Mean times of calls in microseconds; `count` calls.
struct CallParts {
  double count = 0;
  double total = 0, queue = 0, gather = 0, worker = 0, wait = 0, run = 0;
  double batch_items = 0, attempts = 0;
};
CallParts parts_of(const CallTimes& times);
// Of `count` calls: means of sums.
CallParts parts_of(const CallTimes& sums, uint64_t batch_items, uint64_t count);

// Eight parts one below the other, each with a bar where it lies in the whole.
std::string waterfall(const CallParts& parts);
Json parts_json(const CallParts& parts);

Json call_json(const std::string& handler, const CallOutcome& outcome);
int exit_code_of(const CallOutcome& outcome);
// What to say and do about a call without a reply.
Failure to_failure(const std::string& handler, const CallOutcome& outcome);

}  // namespace dray::console
