// TaskSpec: the options of a task, shared by all tasks of a batch that have the same ones. It
// travels and is stored as one msgpack blob; a service interns equal blobs and parses each once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.h"

namespace dray {

struct TaskSpec {
  std::string handler{};
  std::string queue = "default";
  uint8_t priority = 5;  // band, 0 lowest .. 9 highest; FIFO inside a band
  uint64_t delay_ms = 0;  // not before accept + delay (ETA)
  uint64_t expires_ms = 0;  // not started by accept + expires: EXPIRED; 0 = never
  uint64_t time_limit_ms = 0;  // one attempt may run this long; 0 = no limit
  uint32_t max_failures = 3;  // attempts that may fail (retryable) before DEAD
  uint32_t max_lost = 3;  // attempts whose worker may vanish before DEAD
  uint64_t backoff_base_ms = 1000;  // retry after uniform(0, min(cap, base * 2^(failures-1)))
  uint64_t backoff_cap_ms = 600'000;
  std::vector<std::pair<std::string, uint64_t>> resources{};  // name -> units of 1/10,000
  std::vector<std::string> labels{};  // each must be among the worker's labels
  uint64_t result_ttl_ms = 0;  // 0 = the aggregator's default
  std::string header{};  // durable, opaque, for the user's own use
  // GPUs, all or nothing together with resources and labels (common/resources/request.h). These are
  // left out of the blob when none is set, so that the options of tasks without GPUs stay the same
  // bytes, and the same task, in every version.
  uint64_t gpus = 0;  // units of 1/10,000
  uint64_t gpu_memory_mib = 0;  // on each device it uses
  uint8_t strategy = 0;  // Strategy
  std::vector<std::string> variants{};  // up to 3 NeedInfo blobs, tried in order if the needs above
                                        // do not fit, each instead of all of them
  bool operator==(const TaskSpec&) const = default;
};

std::string encode_spec(const TaskSpec& spec);
// Checks every bound (names, counts, durations); the error names the field.
Result<TaskSpec> decode_spec(std::string_view blob);
Status check_spec(const TaskSpec& spec);

}  // namespace dray
