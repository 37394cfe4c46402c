// Feasible: does one variant fit on one node, and if not, what is missing first. Knows nothing of
// which devices are the better ones.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/resources/placement.h"

namespace dray {

enum class Occupancy : uint8_t { as_it_is, idle };

// Empty if it fits; groups of devices (Strategy::strict) are not looked at.
std::optional<PlacementRefusal> first_shortage(const NodeState& node, const Variant& need,
                                               Occupancy occupancy);

std::vector<DeviceFree> free_of(const NodeState& node, Occupancy occupancy);

// The topology groups a grant of several devices should come from: one that holds all of them, the
// one with fewest free whole devices; else the largest ones until there are enough.
// Pre: first_shortage is empty for these devices.
std::vector<uint32_t> choose_groups(const std::vector<DeviceFree>& free, const Variant& need);

}  // namespace dray
