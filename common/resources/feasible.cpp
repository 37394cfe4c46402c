// Counting what could serve a variant.
#include "common/resources/feasible.h"

#include <algorithm>
#include <tuple>

#include "common/base/assert.h"

namespace dray {
namespace {

std::optional<PlacementRefusal> shortage(Shortage code, std::string name, uint64_t need,
                                         uint64_t most, uint64_t beside = 0) {
  return PlacementRefusal{code, std::move(name), need, most, beside, true};
}

std::optional<PlacementRefusal> label_shortage(const NodeState& node, const Variant& need) {
  for (const std::string& label : need.labels)
    if (!std::binary_search(node.labels.begin(), node.labels.end(), label))
      return shortage(Shortage::label, label, 0, 0);
  return std::nullopt;
}

std::optional<PlacementRefusal> pool_shortage(const NodeState& node, const Variant& need,
                                              Occupancy occupancy) {
  for (const auto& [name, units] : need.pools.amounts()) {
    const PoolState* pool = node.find_pool(name);
    uint64_t have = 0;
    if (pool != nullptr) have = occupancy == Occupancy::idle ? pool->capacity : pool->free();
    if (have < units) return shortage(Shortage::pool, name, units, have);
  }
  return std::nullopt;
}

struct Counts {
  uint64_t wholes = 0;  // idle devices
  uint64_t wholes_with_memory = 0;
  uint64_t parts = 0;  // devices that could give the part
  uint64_t part_units_most = 0;  // largest free share
  uint64_t memory_most = 0;  // largest free memory among devices with the units
};

Counts count(const std::vector<DeviceFree>& free, const Variant& need) {
  Counts c;
  for (const DeviceFree& f : free) {
    c.wholes += f.can_give_whole(0);
    c.wholes_with_memory += f.can_give_whole(need.gpu_memory_mib);
    c.parts += f.can_give_part(need.share(), need.gpu_memory_mib);
    c.part_units_most = std::max(c.part_units_most, f.units);
    const bool has_units = need.has_part() ? f.units >= need.share() : f.can_give_whole(0);
    if (has_units) c.memory_most = std::max(c.memory_most, f.memory_mib);
  }
  return c;
}

std::optional<PlacementRefusal> gpu_shortage(const std::vector<DeviceFree>& free,
                                             const Variant& need) {
  const uint64_t k = need.whole_devices();
  if (need.device_count() == 0) return std::nullopt;
  const Counts c = count(free, need);
  if (c.wholes < k)
    return shortage(Shortage::gpu_whole, "gpu", k * kResourceUnit, c.wholes * kResourceUnit);
  if (c.wholes_with_memory < k)
    return shortage(Shortage::gpu_memory, "gpu_memory", need.gpu_memory_mib, c.memory_most);
  // A device that can be had as a whole can also give the part, so the part needs one more.
  if (!need.has_part() || c.parts >= k + 1) return std::nullopt;
  const auto has_units = [&](const DeviceFree& f) { return f.units >= need.share(); };
  const auto with_units = std::count_if(free.begin(), free.end(), has_units);
  if (static_cast<uint64_t>(with_units) >= k + 1)
    return shortage(Shortage::gpu_memory, "gpu_memory", need.gpu_memory_mib, c.memory_most, k);
  return shortage(Shortage::gpu_share, "gpu", need.share(), c.part_units_most, k);
}

struct Group {
  uint32_t id = 0;
  uint64_t wholes = 0;
  uint64_t parts = 0;
};

bool holds(uint64_t wholes, uint64_t parts, const Variant& need) {
  const uint64_t k = need.whole_devices();
  return wholes >= k && (!need.has_part() || parts >= k + 1);
}

std::vector<Group> groups_of(const std::vector<DeviceFree>& free, const Variant& need) {
  std::vector<Group> groups;
  for (const DeviceFree& f : free) {
    auto it =
        std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.id == f.group; });
    if (it == groups.end()) it = groups.insert(it, {f.group, 0, 0});
    it->wholes += f.can_give_whole(need.gpu_memory_mib);
    it->parts += f.can_give_part(need.share(), need.gpu_memory_mib);
  }
  std::sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
    return std::tuple(b.wholes, b.parts, a.id) < std::tuple(a.wholes, a.parts, b.id);
  });
  return groups;
}

}  // namespace

std::vector<DeviceFree> free_of(const NodeState& node, Occupancy occupancy) {
  std::vector<DeviceFree> free;
  free.reserve(node.devices.size());
  for (const DeviceState& d : node.devices)
    free.push_back(occupancy == Occupancy::idle ? d.free_when_idle() : d.free());
  return free;
}

std::optional<PlacementRefusal> first_shortage(const NodeState& node, const Variant& need,
                                               Occupancy occupancy) {
  if (auto missing = label_shortage(node, need)) return missing;
  if (auto missing = pool_shortage(node, need, occupancy)) return missing;
  if (need.device_count() == 0) return std::nullopt;
  return gpu_shortage(free_of(node, occupancy), need);
}

std::vector<uint32_t> choose_groups(const std::vector<DeviceFree>& free, const Variant& need) {
  const std::vector<Group> groups = groups_of(free, need);  // largest first
  for (auto it = groups.rbegin(); it != groups.rend(); ++it)
    if (holds(it->wholes, it->parts, need)) return {it->id};
  std::vector<uint32_t> chosen;
  uint64_t wholes = 0;
  uint64_t parts = 0;
  for (const Group& g : groups) {
    if (holds(wholes, parts, need)) break;
    chosen.push_back(g.id);
    wholes += g.wholes;
    parts += g.parts;
  }
  DRAY_ASSERT(holds(wholes, parts, need));
  return chosen;
}

}  // namespace dray
