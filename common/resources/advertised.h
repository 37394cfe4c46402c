// Advertised: what nodes say of themselves and tasks of their needs (common/wire), in the terms of
// the ledger.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/resources/node_state.h"
#include "common/resources/placement.h"
#include "common/resources/request.h"
#include "common/wire/fleet.h"
#include "common/wire/fleet_messages.h"
#include "common/wire/spec.h"

namespace dray {

using Amounts = std::vector<std::pair<std::string, uint64_t>>;  // units of 1/10,000

// A device of 0 units is there and gives nothing. Errors: those of check_capacity.
Result<Capacity> capacity_of(std::span<const DeviceInfo> devices, const Amounts& pools,
                             const std::vector<std::string>& labels);

// What a node said, read and checked.
struct Advertised {
  std::vector<DeviceInfo> devices;
  NodeState state;  // with what it says is taken
};
Result<Advertised> read_advertised(const CapacityNews& news);

// The first variant from the task's own fields, then the others.
Request request_of(const TaskSpec& spec);
Variant variant_of(const NeedInfo& need);
NeedInfo need_of(const Variant& variant);

// The most that any node had: "gpus" is the sum over a node's devices, "gpu_memory" that of one
// device in units of 1 MiB. No pool can have these names, see check_request.
ResourceVec largest_of(const NodeState& node);
// The first amount of every variant that is above `most`, or empty if some variant is not.
std::string first_excess(const Request& request, const ResourceVec& most);

// What is missing on this node, with the numbers of its devices:
// "no device with 0.5 free: 2 devices have 0.25".
std::string explain_on(const NodeState& node, const Variant& need, const PlacementRefusal& refusal);

}  // namespace dray
