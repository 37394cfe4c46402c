// Node choice and gangs.
#include "common/resources/fleet.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <tuple>

#include "common/resources/fragmentation.h"

namespace dray {
namespace {

// Smaller is better.
using Rank = std::tuple<int64_t, uint64_t, size_t>;

Rank rank_of(const NodeState& node, size_t index, const Variant& need, Strategy strategy,
             const std::vector<DeviceShare>& shares, std::span<const RequestClass> classes) {
  const uint64_t units = node.free_units();
  if (strategy == Strategy::spread) return {0, ~units, index};
  FragmentGauge gauge(node, classes);
  const int64_t before = gauge.value();
  gauge.take_pools(need.pools);
  for (const DeviceShare& s : shares) gauge.take(s);
  return {gauge.value() - before, units - need.gpus, index};
}

struct Best {
  std::optional<std::pair<Rank, NodeChoice>> choice;
  std::optional<PlacementRefusal> closest;
};

Best best_node(std::span<const NodeState* const> nodes, const Request& request, size_t variant,
               std::span<const RequestClass> classes) {
  Best best;
  const Variant& need = request.variants[variant];
  for (size_t i = 0; i < nodes.size(); ++i) {
    auto found = place_variant(*nodes[i], need, request.strategy, classes);
    if (auto* refusal = std::get_if<PlacementRefusal>(&found)) {
      if (!best.closest || best.closest->code < refusal->code) best.closest = std::move(*refusal);
      continue;
    }
    auto& shares = std::get<0>(found);
    const Rank rank = rank_of(*nodes[i], i, need, request.strategy, shares, classes);
    if (!best.choice || rank < best.choice->first)
      best.choice = {rank, {i, {variant, std::move(shares)}}};
  }
  return best;
}

// Nodes of a gang, copied when the first member takes something of them.
class TriedNodes {
 public:
  explicit TriedNodes(std::span<const NodeState* const> nodes)
      : now_(nodes.begin(), nodes.end()), copies_(nodes.size()) {}
  std::span<const NodeState* const> now() const { return now_; }
  void take(const NodeChoice& choice, const Request& request) {
    auto& copy = copies_[choice.node];
    if (!copy) copy.emplace(*now_[choice.node]);
    copy->take(choice.placement.shares, request.variants[choice.placement.variant].pools);
    now_[choice.node] = &*copy;
  }

 private:
  std::vector<const NodeState*> now_;
  std::vector<std::optional<NodeState>> copies_;
};

std::vector<size_t> largest_first(std::span<const Request> members) {
  std::vector<size_t> order(members.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto units = [&](size_t i) {
    return members[i].variants.empty() ? 0 : members[i].variants[0].gpus;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return units(a) > units(b); });
  return order;
}

}  // namespace

std::variant<NodeChoice, PlacementRefusal> choose_node(std::span<const NodeState* const> nodes,
                                                       const Request& request,
                                                       std::span<const RequestClass> classes) {
  std::optional<PlacementRefusal> closest;
  if (nodes.empty()) closest = PlacementRefusal{Shortage::no_node, {}, 0, 0, 0, true};
  for (size_t v = 0; v < request.variants.size() && !nodes.empty(); ++v) {
    Best best = best_node(nodes, request, v, classes);
    if (best.choice) return std::move(best.choice->second);
    if (v == 0) closest = std::move(best.closest);
  }
  return closest.value_or(PlacementRefusal{});
}

std::variant<std::vector<NodeChoice>, GangRefusal> place_gang(
    std::span<const NodeState* const> nodes, std::span<const Request> members,
    std::span<const RequestClass> classes) {
  TriedNodes tried(nodes);
  std::vector<NodeChoice> places(members.size());
  for (size_t member : largest_first(members)) {
    auto chosen = choose_node(tried.now(), members[member], classes);
    if (auto* refusal = std::get_if<PlacementRefusal>(&chosen))
      return GangRefusal{member, *refusal};
    places[member] = std::get<NodeChoice>(chosen);
    tried.take(places[member], members[member]);
  }
  return places;
}

}  // namespace dray
