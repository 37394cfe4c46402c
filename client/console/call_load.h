// Load of calls: a closed loop with so many calls open, and what came of them.
#pragma once

#include <array>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client/console/context.h"

namespace dray::console {

struct CallLoad {
  std::string handler;
  std::string payload;
  CallOptions options;
  uint32_t concurrency = 1;
  uint64_t count = 0;  // calls; 0: no limit
  std::chrono::nanoseconds duration{0};  // starts none after so long; 0: no limit
};

struct CallTally {
  std::vector<int64_t> reply_ns;  // of calls that ended in a reply, in the order of their ends
  std::array<uint64_t, 7> ends{};  // by CallEnd
  std::map<std::string, uint64_t> reasons;  // see reason_of; replies have none
  CallTimes sums;  // over replies
  uint64_t batch_items = 0;  // over replies
  std::optional<CallOutcome> first_bad;
  double seconds = 0;

  uint64_t total() const;
  uint64_t replies() const { return ends[static_cast<size_t>(CallEnd::reply)]; }
  void add(CallOutcome&& outcome, int64_t ns);
};

// Why a call did not end in a reply: "max_queued", "infeasible", "expired", ...
std::string reason_of(const CallOutcome& outcome);

// Further calls start from the callbacks of those that end, on the client's thread. Throws Failure
// when nothing ends for much longer than the deadline.
CallTally run_calls(Client& client, const CallLoad& load);

// Of unsorted values; 0 without any.
int64_t percentile(std::vector<int64_t> values, double p);
double median(std::vector<double> values);

}  // namespace dray::console
