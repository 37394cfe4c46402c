// Where a replica goes.
#include <algorithm>
#include <map>

#include "services/balancer/core/balancer.h"

namespace dray {
namespace {
// A PLACE is one head; what is left is for its envelope.
constexpr size_t kListBytesMax = kHeadBytesMax - 4096;
}  // namespace

ReplicaSpec Balancer::spec_of(const Replica& r) const {
  const DeploymentGoal& d = goal_.deployments.at(r.deployment);
  const GoalVersion* v = d.find(r.version);
  ReplicaSpec spec = replica_spec(v != nullptr ? v->spec : d.spec(), r.version, d.config_version);
  spec.id = r.id;
  spec.standby = r.standby;
  return spec;
}

// What the nodes have left, with what was placed there and is not in their reports yet.
std::vector<NodeState> Balancer::node_states(const std::vector<const Node*>& nodes) const {
  std::vector<NodeState> states;
  for (const Node* node : nodes) states.push_back(node->state);
  for (const auto& [id, r] : replicas_) {
    if (r.reported) continue;
    const auto at = std::find_if(nodes.begin(), nodes.end(),
                                 [&, name = r.node](const Node* n) { return n->name == name; });
    if (at == nodes.end()) continue;
    NodeState& state = states[static_cast<size_t>(at - nodes.begin())];
    const GoalVersion* v = goal_.deployments.count(r.deployment) != 0
                               ? goal_.deployments.at(r.deployment).find(r.version)
                               : nullptr;
    if (v == nullptr || r.variant >= v->spec.request.variants.size()) continue;
    // Its node's devices may have changed since.
    const bool fits = std::all_of(r.shares.begin(), r.shares.end(), [&](const DeviceShare& s) {
      return s.device < state.devices.size();
    });
    if (!fits) continue;
    for (const DeviceShare& s : r.shares) {
      DeviceState& d = state.devices[s.device];
      d.taken_units += s.units;
      d.taken_mib += s.memory_mib;
      d.held_whole = d.held_whole || s.is_whole();
    }
    for (const auto& [name, amount] : v->spec.request.variants[r.variant].pools.amounts())
      for (PoolState& pool : state.pools)
        if (pool.name == name) pool.taken += amount;
  }
  return states;
}

// `nodes` becomes the list that the choice is an index of.
std::variant<NodeChoice, PlacementRefusal> Balancer::choose(const DeploymentGoal& d,
                                                            const Work& work,
                                                            std::vector<const Node*>& nodes,
                                                            Now now) const {
  const DeploymentSpec& s = d.spec();
  const bool spread =
      s.request.strategy == Strategy::spread || (s.strategy.empty() && !s.uses_gpus());
  // Nodes where it failed a moment ago come last; spread prefers those with few of its replicas.
  std::map<std::string, size_t> here;
  for (const auto& [id, r] : replicas_)
    if (r.deployment == d.name && !r.leaving) ++here[r.node];
  std::map<std::pair<bool, size_t>, std::vector<const Node*>> groups;
  for (const Node* node : nodes) {
    const auto avoid = work.avoid.find(node->name);
    const bool failed = avoid != work.avoid.end() && avoid->second > now.mono;
    groups[{failed, spread ? here[node->name] : 0}].push_back(node);
  }
  std::variant<NodeChoice, PlacementRefusal> result =
      PlacementRefusal{Shortage::no_node, {}, 0, 0, 0, true};
  for (auto& [key, group] : groups) {
    const std::vector<NodeState> states = node_states(group);
    std::vector<const NodeState*> views;
    for (const NodeState& state : states) views.push_back(&state);
    result = choose_node(views, s.request, mix_.classes());
    nodes = group;
    if (std::holds_alternative<NodeChoice>(result)) return result;
  }
  return result;
}

// Places one replica of the current version, with id next_id_; or says why not.
std::optional<std::string> Balancer::place_one(DeploymentGoal& d, Work& work, bool standby,
                                               Now now) {
  std::vector<const Node*> nodes;
  const size_t bytes =
      encode_replica(replica_spec(d.spec(), d.current, d.config_version)).size() + 16;
  std::map<std::string, size_t> bytes_of;
  for (const auto& [id, r] : replicas_)
    if (!r.leaving) bytes_of[r.node] += r.bytes;
  size_t up = 0, kept_out = 0, full = 0;
  for (const auto& [name, node] : nodes_) {
    if (!node.reported) continue;
    ++up;
    if (node.draining || node.suspect || goal_.drained.count(name) != 0)
      ++kept_out;
    else if (bytes_of[name] + bytes > kListBytesMax)
      ++full;
    else
      nodes.push_back(&node);
  }
  if (nodes.empty()) {
    if (up == 0) return "no worker reports to the balancer; see: dray workers";
    return "of " + std::to_string(up) + " nodes " + std::to_string(kept_out) +
           " are drained or suspect and " + std::to_string(full) + " have too many replicas";
  }
  mix_.note(d.spec().request);
  auto choice = choose(d, work, nodes, now);
  if (const auto* refusal = std::get_if<PlacementRefusal>(&choice)) return refusal->explain();
  const NodeChoice& chosen = std::get<NodeChoice>(choice);
  Replica& r = replicas_[++next_id_];
  r.id = next_id_;
  r.deployment = d.name;
  r.version = d.current;
  r.node = nodes[chosen.node]->name;
  r.shares = chosen.placement.shares;
  r.variant = chosen.placement.variant;
  r.bytes = bytes;
  r.standby = standby;
  r.created = now.mono;
  r.status.id = r.id;
  return std::nullopt;
}

}  // namespace dray
