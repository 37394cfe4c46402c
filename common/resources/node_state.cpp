// Arithmetic of one node.
#include "common/resources/node_state.h"

#include <algorithm>

#include "common/base/assert.h"
#include "common/base/limits.h"

namespace dray {
namespace {

Error bad(const std::string& why) { return make_error(Errc::bad_argument, "capacity: " + why); }

bool is_name(const std::string& name) { return !name.empty() && name.size() <= kNameBytesMax; }

uint64_t left(uint64_t capacity, uint64_t taken) { return capacity > taken ? capacity - taken : 0; }

PoolState& pool_of(std::vector<PoolState>& pools, const std::string& name) {
  auto it = std::lower_bound(pools.begin(), pools.end(), name,
                             [](const PoolState& p, const std::string& n) { return p.name < n; });
  DRAY_ASSERT(it != pools.end() && it->name == name);
  return *it;
}

}  // namespace

Status check_capacity(const Capacity& capacity) {
  if (capacity.devices.size() > kDevicesMax) return bad("too many devices");
  if (capacity.pools.amounts().size() > kResourcesMax) return bad("too many pools");
  if (capacity.labels.size() > kLabelsMax) return bad("too many labels");
  std::vector<std::string> uuids;
  for (const Device& d : capacity.devices) {
    if (!is_name(d.uuid)) return bad("a device has no proper uuid");
    if (d.units == 0 || d.units > kResourceUnit) return bad(d.uuid + ": units out of range");
    if (d.memory_mib > kMemoryMibMax) return bad(d.uuid + ": memory out of range");
    uuids.push_back(d.uuid);
  }
  std::sort(uuids.begin(), uuids.end());
  if (std::adjacent_find(uuids.begin(), uuids.end()) != uuids.end())
    return bad("two devices have the same uuid");
  for (const auto& [name, units] : capacity.pools.amounts())
    if (!is_name(name) || units > kPoolUnitsMax) return bad("a pool has no proper name or amount");
  for (const std::string& label : capacity.labels)
    if (!is_name(label)) return bad("a label is empty or too long");
  return {};
}

DeviceFree DeviceFree::after(const DeviceShare& share) const {
  if (share.is_whole()) return {0, 0, group, false};
  return {units - share.units, memory_mib - share.memory_mib, group, false};
}

DeviceFree DeviceState::free() const {
  if (!device.usable) return {0, 0, device.group, false};
  if (held_whole) return {left(device.units, taken_units), 0, device.group, false};
  return {left(device.units, taken_units), left(device.memory_mib, taken_mib), device.group,
          taken_units == 0 && taken_mib == 0};
}

DeviceFree DeviceState::free_when_idle() const {
  if (!device.usable) return {0, 0, device.group, false};
  return {device.units, device.memory_mib, device.group, true};
}

NodeState::NodeState(const Capacity& capacity) : labels(capacity.labels) {
  for (const Device& d : capacity.devices) devices.push_back({d, 0, 0, false});
  for (const auto& [name, units] : capacity.pools.amounts()) pools.push_back({name, units, 0});
  std::sort(labels.begin(), labels.end());
}

const PoolState* NodeState::find_pool(const std::string& name) const {
  auto it = std::lower_bound(pools.begin(), pools.end(), name,
                             [](const PoolState& p, const std::string& n) { return p.name < n; });
  return it != pools.end() && it->name == name ? &*it : nullptr;
}

void NodeState::take(const std::vector<DeviceShare>& shares, const ResourceVec& amounts) {
  for (const DeviceShare& s : shares) {
    DRAY_ASSERT(s.device < devices.size());
    DeviceState& d = devices[s.device];
    const DeviceFree f = d.free();
    DRAY_ASSERT(s.is_whole() ? f.can_give_whole(s.memory_mib)
                             : f.can_give_part(s.units, s.memory_mib));
    d.taken_units += s.units;
    d.taken_mib += s.memory_mib;
    d.held_whole = s.is_whole();
  }
  for (const auto& [name, units] : amounts.amounts()) {
    PoolState& pool = pool_of(pools, name);
    DRAY_ASSERT(pool.free() >= units);
    pool.taken += units;
  }
}

void NodeState::give(const std::vector<DeviceShare>& shares, const ResourceVec& amounts) {
  for (const DeviceShare& s : shares) {
    DRAY_ASSERT(s.device < devices.size());
    DeviceState& d = devices[s.device];
    DRAY_ASSERT(d.taken_units >= s.units && d.taken_mib >= s.memory_mib);
    d.taken_units -= s.units;
    d.taken_mib -= s.memory_mib;
    if (s.is_whole()) d.held_whole = false;
  }
  for (const auto& [name, units] : amounts.amounts()) {
    PoolState& pool = pool_of(pools, name);
    DRAY_ASSERT(pool.taken >= units);
    pool.taken -= units;
  }
}

uint64_t NodeState::free_units() const {
  uint64_t sum = 0;
  for (const DeviceState& d : devices) sum += d.free().units;
  return sum;
}

}  // namespace dray
