// Floor: what raw ZeroMQ does on this machine with the same shape of traffic, so that a benchmark
// can print its distance to it from the same run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "common/base/time.h"

namespace dray {

struct FloorOptions {
  // A folder: ipc:// sockets are made in it. Empty: tcp on 127.0.0.1.
  std::string ipc_folder;
  size_t payload_bytes = 64;  // per item
  size_t items_per_message = 1;
  size_t window = 1;  // messages on their way
  Duration duration = 1s;
};

struct FloorResult {
  double msgs_per_s = 0;  // round trips of messages; times items_per_message for items
  double p50_us = 0;  // round trip
  double p99_us = 0;
  uint64_t round_trips = 0;
};

// DEALER client <-> one forwarding thread with two ROUTERs <-> DEALER echo worker, each with its
// own context, in threads of this process. Messages are a 64-byte head and, if there is any
// payload, one frame with all items.
Result<FloorResult> measure_forwarder_floor(const FloorOptions& options);

}  // namespace dray
