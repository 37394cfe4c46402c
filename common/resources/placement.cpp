// The choice among devices that fit.
#include "common/resources/placement.h"

#include <algorithm>
#include <tuple>

#include "common/base/assert.h"
#include "common/resources/feasible.h"
#include "common/resources/fragmentation.h"

namespace dray {
namespace {

bool contains(const std::vector<uint32_t>& groups, uint32_t id) {
  return std::find(groups.begin(), groups.end(), id) != groups.end();
}

// Chooses the devices of one grant, one share after the other.
class Chooser {
 public:
  Chooser(const NodeState& node, const Variant& need, Strategy strategy,
          std::span<const RequestClass> classes)
      : need_(need), strategy_(strategy), gauge_(node, classes) {
    // A grant of one device is in one group whichever it takes.
    is_grouped_ = strategy != Strategy::spread && need.device_count() > 1;
    if (is_grouped_) groups_ = choose_groups(gauge_.free(), need);
    gauge_.take_pools(need.pools);
  }
  size_t group_count() const { return groups_.size(); }

  std::vector<DeviceShare> choose() {
    choose_wholes();
    if (need_.has_part()) take(ranked(need_.share()).front().share);
    return std::move(shares_);
  }

 private:
  // Smaller is better; the device's index decides last.
  struct Candidate {
    int64_t growth = 0;
    uint64_t units = 0;
    uint64_t memory = 0;
    DeviceShare share;
    auto rank() const { return std::tuple(growth, units, memory, share.device); }
  };

  void choose_wholes() {
    const size_t k = need_.whole_devices();
    if (k == 0) return;
    std::vector<Candidate> candidates = ranked(kResourceUnit);
    DRAY_ASSERT(candidates.size() >= k);
    for (size_t i = 0; i < k; ++i) take(candidates[i].share);
  }

  // The devices that can give `units`, best first.
  std::vector<Candidate> ranked(uint64_t units) const {
    std::vector<Candidate> out;
    const std::vector<DeviceFree>& free = gauge_.free();
    for (uint32_t i = 0; i < free.size(); ++i)
      if (can_give(i, units)) out.push_back(judge({i, units, need_.gpu_memory_mib}));
    std::sort(out.begin(), out.end(),
              [](const Candidate& a, const Candidate& b) { return a.rank() < b.rank(); });
    DRAY_ASSERT(!out.empty());
    return out;
  }

  bool can_give(uint32_t device, uint64_t units) const {
    const DeviceFree& f = gauge_.free()[device];
    if (is_grouped_ && !contains(groups_, f.group)) return false;
    return units == kResourceUnit ? f.can_give_whole(need_.gpu_memory_mib)
                                  : f.can_give_part(units, need_.gpu_memory_mib);
  }

  Candidate judge(const DeviceShare& share) const {
    const DeviceFree& f = gauge_.free()[share.device];
    if (strategy_ != Strategy::spread)
      return {gauge_.growth(share), f.units - share.units, f.memory_mib - share.memory_mib, share};
    // Most free first: the complement ranks falling.
    const bool by_memory = share.units == 0;
    return {0, ~(by_memory ? f.memory_mib : f.units), ~(by_memory ? f.units : f.memory_mib), share};
  }

  void take(const DeviceShare& share) {
    shares_.push_back(share);
    gauge_.take(share);
  }

  const Variant& need_;
  const Strategy strategy_;
  FragmentGauge gauge_;
  bool is_grouped_ = false;
  std::vector<uint32_t> groups_;
  std::vector<DeviceShare> shares_;
};

// Strict: as few groups as the idle node would need.
std::optional<PlacementRefusal> group_shortage(const NodeState& node, const Variant& need,
                                               size_t groups) {
  const size_t ideal = choose_groups(free_of(node, Occupancy::idle), need).size();
  if (groups <= ideal) return std::nullopt;
  return PlacementRefusal{Shortage::gpu_groups, "gpu", ideal, groups, 0, true};
}

std::string beside_text(uint64_t wholes) {
  return wholes == 0 ? "" : " besides " + std::to_string(wholes) + " whole";
}

}  // namespace

std::variant<std::vector<DeviceShare>, PlacementRefusal> place_variant(
    const NodeState& node, const Variant& need, Strategy strategy,
    std::span<const RequestClass> classes) {
  if (auto missing = first_shortage(node, need, Occupancy::as_it_is)) return std::move(*missing);
  if (need.device_count() == 0) return std::vector<DeviceShare>{};
  Chooser chooser(node, need, strategy, classes);
  if (strategy == Strategy::strict && need.device_count() > 1)
    if (auto missing = group_shortage(node, need, chooser.group_count()))
      return std::move(*missing);
  return chooser.choose();
}

std::variant<Placement, PlacementRefusal> place(const NodeState& node, const Request& request,
                                                std::span<const RequestClass> classes) {
  PlacementRefusal first;
  for (size_t i = 0; i < request.variants.size(); ++i) {
    auto found = place_variant(node, request.variants[i], request.strategy, classes);
    if (auto* shares = std::get_if<0>(&found)) return Placement{i, std::move(*shares)};
    if (i == 0) first = std::move(std::get<1>(found));
  }
  return first;
}

bool could_serve_when_idle(const NodeState& node, const Request& request) {
  return std::any_of(request.variants.begin(), request.variants.end(), [&](const Variant& v) {
    return !first_shortage(node, v, Occupancy::idle).has_value();
  });
}

std::string PlacementRefusal::explain() const {
  switch (code) {
    case Shortage::bad_request:
      return "request: has no variant";
    case Shortage::duplicate_id:
      return "id: this grant exists";
    case Shortage::no_node:
      return "node: there is none to choose from";
    case Shortage::label:
      return "label: needs '" + name + "', the node does not have it";
    case Shortage::pool:
      return name + ": needs " + print_amount(need) + ", free is " + print_amount(most);
    case Shortage::gpu_whole:
      return "gpu: needs " + print_amount(need) + " whole devices, " + print_amount(most) +
             " are unused";
    case Shortage::gpu_share:
      return "gpu: needs " + print_amount(need) + " on one device" + beside_text(beside) +
             ", the most free on one is " + print_amount(most);
    case Shortage::gpu_memory:
      return "gpu_memory: needs " + std::to_string(need) + " MiB on each device" +
             beside_text(beside) + ", the most free on one that has the units is " +
             std::to_string(most) + " MiB";
    case Shortage::gpu_groups:
      return "gpu: strategy strict needs the devices in " + std::to_string(need) +
             " topology group(s), free ones are in " + std::to_string(most);
  }
  return "unknown shortage";
}

}  // namespace dray
