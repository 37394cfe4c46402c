// The messages about capacity, placement and load; part of message.h, which says how they are
// coded. Their blobs are in fleet.h.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/wire/envelope.h"

namespace dray {

#define DRAY_SELF CapacityNews
struct CapacityNews {  // worker -> broker, router, balancer: all it has and gives, again
  static constexpr Kind kind = Kind::capacity;
  std::vector<std::string> devices;  // DeviceInfo blobs, with what is taken: the true vector
  std::vector<std::pair<std::string, uint64_t>> resources;  // units of 1/10,000
  std::vector<std::pair<std::string, uint64_t>> taken;  // of them
  std::vector<std::string> labels;
  uint64_t received = 0;  // to the broker: tasks received in this session; later ones are not in it
  DRAY_FIELDS(devices, resources, taken, labels, received)
};
#undef DRAY_SELF
#define DRAY_SELF Handlers
struct Handlers {  // worker -> broker: the handlers it runs from now on
  static constexpr Kind kind = Kind::handlers;
  uint32_t slots = 0;
  std::vector<std::string> handlers;
  DRAY_FIELDS(slots, handlers)
};
#undef DRAY_SELF

// --- balancer ----------------------------------------------------------------------------------
#define DRAY_SELF NodeReport
struct NodeReport {  // worker -> balancer, first message of a session and after each change
  static constexpr Kind kind = Kind::node_report;
  uint64_t goal = 0;  // number of the last PLACE it follows; 0: none in this life
  bool draining = false;
  bool whole = true;  // replicas: all there are. False: only those that changed
  std::vector<std::string> devices;  // DeviceInfo blobs
  std::vector<std::pair<std::string, uint64_t>> resources;  // units of 1/10,000
  std::vector<std::pair<std::string, uint64_t>> taken;  // of them
  std::vector<std::string> labels;
  std::vector<std::string> replicas;  // ReplicaStatus blobs
  DRAY_FIELDS(goal, draining, whole, devices, resources, taken, labels, replicas)
};
#undef DRAY_SELF
#define DRAY_SELF Place
struct Place {  // balancer -> worker: run exactly these
  static constexpr Kind kind = Kind::place;
  uint64_t goal = 0;  // grows
  std::vector<std::string> replicas;  // ReplicaSpec blobs, all of this worker
  DRAY_FIELDS(goal, replicas)
};
#undef DRAY_SELF
#define DRAY_SELF Load
struct Load {  // router -> balancer: twice a second, and at once when a held handler is called
  static constexpr Kind kind = Kind::load;
  std::vector<std::string> handlers;  // HandlerLoad blobs
  DRAY_FIELDS(handlers)
};
#undef DRAY_SELF
#define DRAY_SELF View
struct View {  // balancer -> router and broker, after each change
  static constexpr Kind kind = Kind::view;
  uint64_t version = 0;  // grows
  std::vector<std::string> handlers;  // HandlerView blobs: every handler of every deployment
  std::vector<std::string> suspects;  // workers that get no new work for now
  DRAY_FIELDS(version, handlers, suspects)
};
#undef DRAY_SELF
#define DRAY_SELF Backlog
struct Backlog {  // broker -> balancer, once a second: queued tasks by handler
  static constexpr Kind kind = Kind::backlog;
  std::vector<std::pair<std::string, uint64_t>> waiting;
  std::vector<std::pair<std::string, uint64_t>> leased;
  DRAY_FIELDS(waiting, leased)
};
#undef DRAY_SELF

}  // namespace dray
