// ScaleModel: what the autoscaler would do with a load over time, in simulated time. For
// `dray autoscale --dry-run` and for tests.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/deploy/autoscaler.h"

namespace dray {

struct ModelLoad {
  int64_t calls = 0;  // ongoing and waiting
  int64_t backlog = 0;  // queued tasks
};
using LoadOverTime = std::function<ModelLoad(int64_t at_ms)>;

struct ModelOptions {
  int64_t length_ms = 3'600'000;
  int64_t tick_ms = kScaleTickMs;
  int64_t start_ms = 30'000;  // until a replica is ready
  int64_t replicas = 1;  // ready at the beginning
  int64_t slots = 5;  // calls that one replica runs at once
  bool count_starting = true;  // false: what goes wrong if replicas that start are not counted
};

struct ModelStep {
  int64_t at_ms = 0;
  ModelLoad load;
  int64_t ready = 0;
  int64_t asked = 0;  // ready and starting, before the decision
  ScaleDecision decision;
};

struct ModelResult {
  std::vector<ModelStep> steps;
  int64_t ups = 0, downs = 0;  // decisions that changed the number
  int64_t overload_ms = 0;  // more calls than the ready replicas can run
  int64_t replica_ms = 0;  // of all that were asked for
};

ModelResult run_model(const ScaleParams& params, const LoadOverTime& load,
                      const ModelOptions& options);

struct TracePoint {
  int64_t at_ms = 0;
  ModelLoad load;
};
// "time_s,ongoing[,backlog]" a line, times rising; a first line of names, blank lines and lines
// that begin with # are skipped. The error names the line.
Result<std::vector<TracePoint>> parse_trace(std::string_view text);
// The load of the last point at or before a time.
LoadOverTime load_of(std::vector<TracePoint> trace);

}  // namespace dray
