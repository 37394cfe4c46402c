#include "common/resources/fleet.h"

#include <catch2/catch.hpp>

#include "common/base/rng.h"
#include "tests/unit/resources/build.h"

using namespace dray;
using namespace dray::test;

namespace {

struct Nodes {
  explicit Nodes(std::vector<Capacity> capacities) {
    for (const Capacity& c : capacities) states.emplace_back(c);
    for (const NodeState& s : states) views.push_back(&s);
  }
  std::vector<NodeState> states;
  std::vector<const NodeState*> views;
  std::vector<RequestClass> classes;
  // Node of the choice, which is taken; 99 and `refusal` if there is none.
  size_t take(const Request& r) {
    auto got = choose_node(views, r, classes);
    if (auto* none = std::get_if<PlacementRefusal>(&got)) {
      refusal = *none;
      return 99;
    }
    const auto& [node, placement] = std::get<NodeChoice>(got);
    states[node].take(placement.shares, r.variants[placement.variant].pools);
    return node;
  }
  size_t take(const Variant& v, Strategy s = Strategy::pack) { return take(one(v, s)); }
  PlacementRefusal refusal;
};

std::vector<size_t> nodes_of(const std::vector<NodeChoice>& choices) {
  std::vector<size_t> out;
  for (const NodeChoice& c : choices) out.push_back(c.node);
  return out;
}

}  // namespace

TEST_CASE("pack fills a node before the next, spread takes the one with most free") {
  Nodes pack({node_of(2), node_of(2)});
  for (size_t node : {0u, 0u, 0u, 0u, 1u}) CHECK(pack.take(want("0.5")) == node);
  Nodes spread({node_of(2), node_of(4), node_of(2)});
  for (size_t node : {1u, 1u, 0u, 1u, 2u, 0u})
    CHECK(spread.take(want("1"), Strategy::spread) == node);
}

TEST_CASE("a node that has no cpus for the frequent classes is filled with what needs none") {
  Nodes n({node_of(1), node_of(1)});
  n.classes = {{want("0.25", "", {{"cpu", "4"}}), 10}};
  n.states[1].take({}, ResourceVec({{"cpu", 14 * kResourceUnit}}));
  CHECK(n.take(want("0.25")) == 1);
  // And the last cpus are not taken from a node that has devices left for them.
  Capacity rich = node_of(2);
  rich.pools = ResourceVec({{"cpu", 40 * kResourceUnit}});
  Nodes m({node_of(1), rich});
  m.classes = {{want("1", "", {{"cpu", "4"}}), 10}};
  CHECK(m.take(want("", "", {{"cpu", "14"}})) == 1);
}

TEST_CASE("among equals pack takes the node with fewest free units") {
  Nodes n({node_of(4), node_of(2)});
  CHECK(n.take(want("1")) == 1);
}

TEST_CASE("a variant is tried on all nodes before the next one") {
  Nodes n({node_of(1), node_of(2)});
  const Request r{{want("2"), want("0.5")}, Strategy::pack};
  CHECK(n.take(r) == 1);
  CHECK(n.take(r) == 0);
}

TEST_CASE("labels bind a request to its node") {
  Capacity b = node_of(1);
  b.labels = {"node:b"};
  Nodes n({node_of(1), b});
  CHECK(n.take(want("0.5", "", {}, {"node:b"})) == 1);
  CHECK(n.take(want("0.5", "", {}, {"node:c"})) == 99);
  CHECK(n.refusal.code == Shortage::label);
}

TEST_CASE("the shortage is that of the node that came closest") {
  Capacity labelled = node_of(1);
  labelled.labels = {"a100"};
  Nodes n({node_of(1), labelled, node_of(1)});
  n.states[1].take({{0, 7500, 0}}, {});
  CHECK(n.take(want("0.5", "", {}, {"a100"})) == 99);
  CHECK(n.refusal.explain() == "gpu: needs 0.5 on one device, the most free on one is 0.25");
  Nodes none({});
  CHECK(none.take(want("1")) == 99);
  CHECK(none.refusal.code == Shortage::no_node);
  CHECK(n.take(Request{}) == 99);
  CHECK(n.refusal.code == Shortage::bad_request);
}

TEST_CASE("a gang is placed completely or not at all") {
  Nodes n({node_of(2), node_of(2)});
  const std::vector<Request> four(4, one(want("1")));
  auto placed = place_gang(n.views, four, {});
  REQUIRE(placed.index() == 0);
  CHECK(nodes_of(std::get<0>(placed)) == std::vector<size_t>{0, 0, 1, 1});
  CHECK(n.states[0] == NodeState(node_of(2)));  // nothing is taken
  const std::vector<Request> five(5, one(want("1")));
  auto refused = place_gang(n.views, five, {});
  REQUIRE(refused.index() == 1);
  CHECK(std::get<1>(refused).member == 4);
  CHECK(std::get<1>(refused).refusal.code == Shortage::gpu_whole);
  CHECK(n.states[0] == NodeState(node_of(2)));
  CHECK(std::get<0>(place_gang(n.views, {}, {})).empty());
}

TEST_CASE("large members of a gang are placed first, the answer keeps their order") {
  Nodes n({node_of(2), node_of(1)});
  const std::vector<Request> gang = {one(want("1"), Strategy::spread), one(want("2"))};
  auto placed = place_gang(n.views, gang, {});
  REQUIRE(placed.index() == 0);
  CHECK(nodes_of(std::get<0>(placed)) == std::vector<size_t>{1, 0});
}

TEST_CASE("two gangs of more than half of the nodes both finish, one after the other") {
  std::vector<Capacity> capacities(8, node_of(1));
  Nodes n(capacities);
  const std::vector<Request> gang(5, one(want("1")));
  auto first = place_gang(n.views, gang, {});
  REQUIRE(first.index() == 0);
  for (const NodeChoice& c : std::get<0>(first)) n.states[c.node].take(c.placement.shares, {});
  CHECK(place_gang(n.views, gang, {}).index() == 1);
  for (const NodeChoice& c : std::get<0>(first)) n.states[c.node].give(c.placement.shares, {});
  CHECK(place_gang(n.views, gang, {}).index() == 0);
}

TEST_CASE("gangs of equal members find a place exactly if there is one") {
  Rng rng(5);
  const std::vector<std::string> shares = {"0.1", "0.25", "0.3", "0.5", "1", "2"};
  for (int round = 0; round < 2000; ++round) {
    Nodes n({node_of(1 + rng.below(4)), node_of(1 + rng.below(4)), node_of(2)});
    for (NodeState& s : n.states)
      for (uint32_t d = 0; d < s.devices.size(); ++d)
        if (rng.below(2) == 0) s.take({{d, rng.below(10) * 1000, 1}}, {});
    n.classes = {{want("0.5"), rng.below(5)}, {want("1"), rng.below(5)}};
    const Variant v = want(shares[rng.below(shares.size())]);
    uint64_t room = 0;
    for (const NodeState& s : n.states) {
      uint64_t wholes = 0;
      for (const DeviceState& d : s.devices) {
        wholes += d.free().can_give_whole(0);
        if (v.gpus < kResourceUnit) room += d.free().units / v.gpus;
      }
      if (v.gpus >= kResourceUnit) room += wholes * kResourceUnit / v.gpus;
    }
    const uint64_t size = 1 + rng.below(12);
    const auto strategy = static_cast<Strategy>(rng.below(3));
    const std::vector<Request> gang(size, one(v, strategy));
    REQUIRE((place_gang(n.views, gang, n.classes).index() == 0) == (size <= room));
  }
}
