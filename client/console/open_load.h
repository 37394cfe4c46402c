// Open-loop load: calls start at random times that do not depend on the answers.
#pragma once

#include "client/console/call_load.h"

namespace CLI {
class App;
}

namespace dray::console {

struct OpenLoad {
  CallLoad call;  // concurrency and count are not used; duration is how long calls start
  double rate = 100;  // calls per second
  bool even = false;  // equal gaps instead of exponential ones (Poisson)
  uint64_t seed = 1;
};

// What both floods of a batch handler are made of.
struct BatchLoad {
  std::string handler = "bench.cost";
  Millis deadline{150};
  uint64_t seed = 1;
  double base_ms = 8, item_ms = 0.25;  // what a batch costs: base + item * n
  uint32_t batch = 128;

  double capacity(double replicas) const {  // items a second
    return batch / (base_ms + item_ms * batch) * 1000 * replicas;
  }
  OpenLoad open(double rate, double seconds) const;
};
void add_batch_load(CLI::App& command, BatchLoad& load);

struct OpenTally {
  CallTally calls;
  uint64_t offered = 0;
  uint64_t in_time = 0;  // replies within the deadline, counted from the time they were due
  std::vector<std::pair<double, double>> replies;  // s since the start when due, latency in ms
  double lag_p99_ms = 0;  // how late calls were started by this program
  uint64_t lost = 0;  // never ended: must be 0
};

// Latency is counted from the time at which a call was due, so that a busy client does not hide
// waiting. Returns when every call has ended, or a while after the last deadline.
OpenTally run_open(Client& client, const OpenLoad& load);

}  // namespace dray::console
