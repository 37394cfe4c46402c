// Fleet: which node takes a request, and all-or-nothing placement of several. Pure functions of
// what the nodes advertised; each node's own ledger has the last word.
#pragma once

#include <cstddef>
#include <span>
#include <variant>
#include <vector>

#include "common/resources/class_mix.h"
#include "common/resources/node_state.h"
#include "common/resources/placement.h"

namespace dray {

struct NodeChoice {
  size_t node = 0;  // index into the nodes
  Placement placement;
  bool operator==(const NodeChoice&) const = default;
};

// The node for one request.
//   pack, strict  least growth of fragmentation (fragmentation.h), with the devices that the node's
//                 own choice gives; ties: fewest free GPU units left, then lowest index.
//   spread        most free GPU units; ties: lowest index.
// A variant is tried on all nodes before the next one. Fails with the shortage of the node that
// came closest (Shortage in its order), for the first variant. O(nodes x devices x classes).
std::variant<NodeChoice, PlacementRefusal> choose_node(std::span<const NodeState* const> nodes,
                                                       const Request& request,
                                                       std::span<const RequestClass> classes);

struct GangRefusal {
  size_t member = 0;  // index of the first request that found no place
  PlacementRefusal refusal;
  bool operator==(const GangRefusal&) const = default;
};

// A place for each of the requests at the same time, in their order, or for none: nothing is held
// while the others are looked for, hence no dead-lock between gangs (T6: after atomic bundles of
// placement groups and HyperQueue's multi-node tasks).
// Greedy, members with most GPU units first. Why not a search: members of a gang are alike, and for
// equal members that ask for whole devices, or for one part, in any group, greedy is exact.
std::variant<std::vector<NodeChoice>, GangRefusal> place_gang(
    std::span<const NodeState* const> nodes, std::span<const Request> members,
    std::span<const RequestClass> classes);

}  // namespace dray
