// Placement: which devices of one node serve a request, or the first thing that is missing. Pure
// functions of a NodeState; they take nothing.
//
// pack, for each part of the grant: among the devices that can give it the one whose fragmentation
// (fragmentation.h) grows least; ties: best fit (fewest units left, then least memory left), then
// lowest index. Whole devices are chosen before the part, so the part sees what they leave.
// O(devices x classes), plus a sort of the devices.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/resources/class_mix.h"
#include "common/resources/node_state.h"
#include "common/resources/request.h"

namespace dray {

// The first thing that is missing, in the order in which they are looked at.
enum class Shortage : uint8_t {
  bad_request = 1,  // no variant
  duplicate_id = 2,  // the grant exists (NodeLedger)
  no_node = 3,  // none to choose from (fleet.h)
  label = 4,
  pool = 5,
  gpu_whole = 6,  // too few devices that nobody uses
  gpu_share = 7,  // no device has that share free
  gpu_memory = 8,  // devices with the units are there, but not with the memory
  gpu_groups = 9,  // strategy strict: more topology groups than on the idle node
};

// Numbers for programs, explain() for people.
struct PlacementRefusal {
  Shortage code = Shortage::bad_request;
  std::string name;  // of the label or pool
  uint64_t need = 0;  // units, or MiB if code is gpu_memory, or groups
  uint64_t most = 0;  // what there is, in the same measure: free, or the most free on one device
  uint64_t beside = 0;  // whole devices that are needed besides the part
  // False: not even the idle node could. Filled by NodeLedger::reserve, else true.
  bool is_possible_when_idle = true;
  // "gpu: needs 0.5 on one device, the most free on one is 0.25"
  std::string explain() const;
  bool operator==(const PlacementRefusal&) const = default;
};

struct Placement {
  size_t variant = 0;  // which one of the request
  std::vector<DeviceShare> shares;  // whole devices first
  bool operator==(const Placement&) const = default;
};

// The first variant that fits; else the shortage of the first variant, the preferred one.
std::variant<Placement, PlacementRefusal> place(const NodeState& node, const Request& request,
                                                std::span<const RequestClass> classes);

// One variant, disregarding the others.
std::variant<std::vector<DeviceShare>, PlacementRefusal> place_variant(
    const NodeState& node, const Variant& need, Strategy strategy,
    std::span<const RequestClass> classes);

// Could the node serve the request if nothing were taken?
bool could_serve_when_idle(const NodeState& node, const Request& request);

}  // namespace dray
