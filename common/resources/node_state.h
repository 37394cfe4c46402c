// NodeState: one node's capacity and what of it is taken, device by device. Plain values; a worker
// keeps one inside its NodeLedger, whoever places work keeps one per node from what they advertise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/resources/request.h"
#include "common/resources/resources.h"

namespace dray {

struct Device {
  std::string uuid;
  uint64_t units = kResourceUnit;  // 1 to kResourceUnit; less is a device of which we own a part
  uint64_t memory_mib = 0;
  uint32_t group = 0;  // topology group: devices of one NUMA node or NVLink island
  bool usable = true;  // false: it is there, and gives nothing
  bool operator==(const Device&) const = default;
};

struct Capacity {
  std::vector<Device> devices;
  ResourceVec pools;
  std::vector<std::string> labels;  // "node:gpu-7", "head", free ones
  bool operator==(const Capacity&) const = default;
};

// Empty, repeated or too long names, too many devices, units or memory out of range.
Status check_capacity(const Capacity& capacity);

// What one device gives (or would give) to one grant.
struct DeviceShare {
  uint32_t device = 0;  // index into NodeState::devices
  uint64_t units = 0;  // kResourceUnit: the whole device
  uint64_t memory_mib = 0;
  bool is_whole() const { return units == kResourceUnit; }
  bool operator==(const DeviceShare&) const = default;
};

// What a device has left.
struct DeviceFree {
  uint64_t units = 0;
  uint64_t memory_mib = 0;
  uint32_t group = 0;
  bool is_idle = false;  // nobody has a part of it
  bool can_give_whole(uint64_t mib) const {
    return is_idle && units == kResourceUnit && memory_mib >= mib;
  }
  bool can_give_part(uint64_t part, uint64_t mib) const {
    return units >= part && memory_mib >= mib;
  }
  DeviceFree after(const DeviceShare& share) const;
};

// Taken may exceed the capacity after a shrink, until the grants that no longer fit are released;
// free is then 0, never less.
struct DeviceState {
  Device device;  // units == 0: it vanished, grants on it are still held
  uint64_t taken_units = 0;
  uint64_t taken_mib = 0;
  bool held_whole = false;  // by one grant, which alone may use its memory
  DeviceFree free() const;
  DeviceFree free_when_idle() const;
  bool operator==(const DeviceState&) const = default;
};

struct PoolState {
  std::string name;
  uint64_t capacity = 0;
  uint64_t taken = 0;
  uint64_t free() const { return capacity > taken ? capacity - taken : 0; }
  bool operator==(const PoolState&) const = default;
};

struct NodeState {
  NodeState() = default;
  explicit NodeState(const Capacity& capacity);
  std::vector<DeviceState> devices;  // in the order of the capacity, then vanished ones
  std::vector<PoolState> pools;  // sorted by name
  std::vector<std::string> labels;  // sorted
  const PoolState* find_pool(const std::string& name) const;
  // Takes or gives back what a placement says. Pre of take: it fits; of give: it was taken.
  void take(const std::vector<DeviceShare>& shares, const ResourceVec& amounts);
  void give(const std::vector<DeviceShare>& shares, const ResourceVec& amounts);
  uint64_t free_units() const;  // sum over the devices
  bool operator==(const NodeState&) const = default;
};

}  // namespace dray
