// ReplicaWork: what passes between the replicas of the core and the shell that has their processes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "common/wire/fleet.h"
#include "common/wire/offer.h"

namespace dray::worker {

// A handler as its process reports it.
struct ReplicaHandler {
  HandlerOffer offer{};
  uint32_t max_concurrency = 0;  // runs at once, of both lanes; 0: any
  bool can_batch = false;
  bool operator==(const ReplicaHandler&) const = default;
};

// What the shell says about a process.
struct ProcessEvent {
  enum class Kind : uint8_t {
    ready,  // handlers, in the order by which they are named
    failed,  // text: why it could not start; gone follows
    pong,  // answer to a ping; ok, text
    configured,  // answer to a config; ok, text; number: its version
    load,  // number: what it runs now; once a second if it changed
    recycle,  // it has run as much as it should
    gone,  // text: how it ended; ok: as it was told to. The last word
  };
  uint64_t process = 0;
  Kind kind = Kind::gone;
  bool ok = false;
  std::string text{};
  uint64_t number = 0;
  std::vector<ReplicaHandler> handlers{};
};

struct ProcessStart {
  uint64_t process = 0;  // unique in the worker's life
  ReplicaSpec spec{};
  std::vector<std::pair<std::string, std::string>> environment{};  // which devices it sees
  bool fixed = false;  // a plugin of this worker's own configuration
};
struct ProcessStop {
  uint64_t process = 0;
  Duration grace{};  // for what it runs
};
struct ProcessKill {
  uint64_t process = 0;
  std::string why{};
};
struct ProcessConfig {
  uint64_t process = 0;
  std::string user_config{};
  uint64_t version = 0;
};

struct HandlerPlace {
  uint64_t process = 0;
  uint16_t handler = 0;  // its place in the process
  uint32_t limit = 0;  // runs at once there; 0: any
  bool operator==(const HandlerPlace&) const = default;
};
// Who runs a handler from now on. The first route of an index makes the handler known.
struct HandlerRoute {
  uint32_t handler = 0;  // index, for both lanes
  std::string name{};
  bool can_batch = false;
  std::vector<HandlerPlace> places{};
  bool expected = false;  // more places may come soon
  bool operator==(const HandlerRoute&) const = default;
};

// In the order in which the shell carries them out.
struct ProcessOrders {
  std::vector<ProcessStart> start;
  std::vector<ProcessConfig> config;
  std::vector<uint64_t> ping;
  std::vector<HandlerRoute> routes;
  std::vector<ProcessStop> stop;
  std::vector<ProcessKill> kill;

  bool empty() const {
    return start.empty() && config.empty() && ping.empty() && routes.empty() && stop.empty() &&
           kill.empty();
  }
  void clear() { *this = ProcessOrders(); }
};

}  // namespace dray::worker
