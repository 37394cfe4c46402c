// Arrivals: the same sequence of requests and lifetimes for every way of placing them, and how much
// GPU the placement left unallocatable. Deterministic; time is a count of arrivals.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <variant>
#include <vector>

#include "common/base/rng.h"
#include "common/resources/fleet.h"
#include "common/resources/fragmentation.h"

namespace dray::test {

struct MixRow {
  uint64_t gpus;  // 1/10,000
  uint64_t cpus;  // 0: does not say
  uint64_t weight;
};

// Many small, few large; shares only.
inline const std::vector<MixRow> kSharesOnly = {{1000, 0, 25},  {2500, 0, 20}, {5000, 0, 15},
                                                {10000, 0, 25}, {20000, 0, 9}, {40000, 0, 6}};

// The same shares with the CPUs that tasks of such shares ask for in the GPU-sharing trace of
// Alibaba (openb, 2023; published with FGD): shares come with 4 to 12 CPUs, whole devices with 4 to
// 18, and some tasks want CPUs only; a node has 128 CPUs for 8 devices, so CPUs are short but not
// sold out.
inline const std::vector<MixRow> kPublishedMix = {
    {0, 16, 8},     {1000, 4, 14},   {2500, 4, 10},  {2500, 8, 6},   {5000, 6, 9},  {5000, 12, 7},
    {10000, 8, 10}, {10000, 12, 14}, {10000, 18, 6}, {20000, 17, 8}, {40000, 44, 4}};

struct Arrival {
  Request request;
  uint64_t leaves = 0;  // in arrivals after it was placed
};

struct Workload {
  size_t nodes = 16;
  size_t devices = 8;
  size_t arrivals = 20'000;
  uint64_t load_percent = 95;  // offered GPU units against the fleet's
  std::vector<MixRow> mix;
};

inline Request request_of(const MixRow& row) {
  Variant v;
  v.gpus = row.gpus;
  v.pools = ResourceVec({{"cpu", row.cpus * kResourceUnit}});
  return {{v}, Strategy::pack};
}

inline std::vector<RequestClass> classes_of(const std::vector<MixRow>& mix) {
  std::vector<RequestClass> out;
  for (const MixRow& row : mix)
    if (row.gpus > 0) out.push_back({request_of(row).variants[0], row.weight});
  return out;
}

inline std::vector<Arrival> make_arrivals(const Workload& w, uint64_t seed) {
  uint64_t weights = 0;
  uint64_t weighted = 0;
  for (const MixRow& row : w.mix) {
    weights += row.weight;
    weighted += row.weight * row.gpus;
  }
  // Little's law: requests in the fleet = life in arrivals.
  const uint64_t fleet = w.nodes * w.devices * kResourceUnit;
  const uint64_t life = fleet * w.load_percent * weights / (100 * weighted);
  Rng rng(seed);
  std::vector<Arrival> out;
  for (size_t i = 0; i < w.arrivals; ++i) {
    uint64_t pick = rng.below(weights);
    size_t row = 0;
    while (pick >= w.mix[row].weight) pick -= w.mix[row++].weight;
    // Nine of ten live a third of the mean, one seven times the mean: a heavy tail, mean kept.
    const uint64_t mean = rng.below(10) == 0 ? 7 * life : life / 3;
    out.push_back({request_of(w.mix[row]), 1 + rng.below(2 * mean)});
  }
  return out;
}

// Where a request goes; nothing if it is refused.
using Placer =
    std::function<std::optional<NodeChoice>(std::span<const NodeState* const>, const Request&)>;

struct Held {
  NodeChoice choice;
  ResourceVec pools;
};

struct Figures {
  uint64_t unallocatable = 0;  // mean over time and mix, units
  uint64_t free = 0;  // mean over time, units
  uint64_t refused_units = 0;
  Figures& operator+=(const Figures& o) {
    unallocatable += o.unallocatable;
    free += o.free;
    refused_units += o.refused_units;
    return *this;
  }
};

// Requests that do not fit are refused, as a queue would make the sequences differ.
inline Figures run(const Workload& w, const std::vector<Arrival>& arrivals, const Placer& placer) {
  Capacity capacity;
  for (size_t d = 0; d < w.devices; ++d)
    capacity.devices.push_back({"GPU-" + std::to_string(d), kResourceUnit, 81920, 0, true});
  std::vector<NodeState> nodes;
  for (size_t i = 0; i < w.nodes; ++i) {
    capacity.pools = ResourceVec({{"cpu", 128 * kResourceUnit}});
    nodes.emplace_back(capacity);
  }
  std::vector<const NodeState*> views;
  for (const NodeState& n : nodes) views.push_back(&n);
  const std::vector<RequestClass> mix = classes_of(w.mix);
  uint64_t weights = 0;
  for (const RequestClass& c : mix) weights += c.weight;

  std::multimap<uint64_t, Held> ends;
  Figures f;
  uint64_t samples = 0;
  for (size_t now = 0; now < arrivals.size(); ++now) {
    for (auto it = ends.begin(); it != ends.end() && it->first <= now; it = ends.erase(it))
      nodes[it->second.choice.node].give(it->second.choice.placement.shares, it->second.pools);
    const Arrival& a = arrivals[now];
    if (auto choice = placer(views, a.request)) {
      const ResourceVec& pools = a.request.variants[0].pools;
      nodes[choice->node].take(choice->placement.shares, pools);
      ends.emplace(now + a.leaves, Held{*choice, pools});
    } else {
      f.refused_units += a.request.variants[0].gpus;
    }
    if (now < arrivals.size() / 4 || now % 8 != 0) continue;  // warm-up
    ++samples;
    uint64_t sum = 0;
    for (const NodeState& n : nodes) {
      sum += static_cast<uint64_t>(FragmentGauge(n, mix).value());
      f.free += n.free_units();
    }
    f.unallocatable += sum / weights;
  }
  f.unallocatable /= samples;
  f.free /= samples;
  return f;
}

inline std::optional<NodeChoice> first_fit(std::span<const NodeState* const> nodes,
                                           const Request& request) {
  const Variant& need = request.variants[0];
  for (size_t i = 0; i < nodes.size(); ++i) {
    const PoolState* cpu = nodes[i]->find_pool("cpu");
    if (cpu->free() < need.pools.get("cpu")) continue;
    std::vector<DeviceShare> shares;
    uint64_t wholes = need.whole_devices();
    bool has_part = need.has_part();
    for (uint32_t d = 0; d < nodes[i]->devices.size(); ++d) {
      const DeviceFree f = nodes[i]->devices[d].free();
      if (wholes > 0 && f.can_give_whole(0)) {
        shares.push_back({d, kResourceUnit, 0});
        --wholes;
      } else if (has_part && f.can_give_part(need.share(), 0)) {
        shares.push_back({d, need.share(), 0});
        has_part = false;
      }
    }
    if (wholes == 0 && !has_part) return NodeChoice{i, {0, std::move(shares)}};
  }
  return std::nullopt;
}

// Learns the mix from what arrives, as a balancer would.
inline Placer least_fragmentation() {
  return [mix = std::make_shared<ClassMix>()](std::span<const NodeState* const> nodes,
                                              const Request& request) {
    mix->note(request);
    auto chosen = choose_node(nodes, request, mix->classes());
    auto* choice = std::get_if<NodeChoice>(&chosen);
    return choice == nullptr ? std::nullopt : std::optional(*choice);
  };
}

}  // namespace dray::test
