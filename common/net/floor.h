// Floor: what raw ZeroMQ does on this machine with the same shape of traffic, so that a benchmark
// can print its distance to it from the same run.
//
//   DEALER client <-> one forwarding thread with two ROUTERs <-> DEALER echo worker
//
// Messages are a 64-byte head and, if there is any payload, one frame with all items. Each of the
// three has its own context. For comparisons with services that are processes, run the forwarder
// and the worker as processes too.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

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
  uint64_t round_trips = 0;  // end sooner, after so many; 0: no limit
};

struct FloorResult {
  double msgs_per_s = 0;  // round trips of messages; times items_per_message for items
  double p50_us = 0;  // round trip
  double p99_us = 0;
  uint64_t round_trips = 0;
};

// Forwarder, worker and client in threads of this process.
Result<FloorResult> measure_forwarder_floor(const FloorOptions& options);

// A part on its own: runs until `stop`. The forwarder listens, the worker dials.
Status run_floor_forwarder(const std::string& clients, const std::string& workers,
                           std::atomic<bool>& stop);
Status run_floor_worker(const std::string& forwarder, std::atomic<bool>& stop);

// The client on its own: slices of traffic over one connection.
class FloorClient {
 public:
  FloorClient();
  ~FloorClient();
  // Dials and waits for the first answer.
  Status open(const std::string& forwarder);
  // A closed loop with `window` messages on their way. Appends each round trip in ns to `trips`.
  Result<FloorResult> run(const FloorOptions& options, std::vector<int64_t>& trips);

 private:
  class Socket;
  std::unique_ptr<Socket> socket_;
};

}  // namespace dray
