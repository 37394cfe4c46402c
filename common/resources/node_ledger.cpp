// Grants, and the capacity changing under them.
#include "common/resources/node_ledger.h"

#include <algorithm>

#include "common/base/assert.h"

namespace dray {
namespace {

bool fits(const NodeState& state, const Grant& grant) {
  for (const DeviceShare& s : grant.shares) {
    const DeviceFree f = state.devices[s.device].free();
    const bool ok =
        s.is_whole() ? f.can_give_whole(s.memory_mib) : f.can_give_part(s.units, s.memory_mib);
    if (!ok) return false;
  }
  for (const auto& [name, units] : grant.pools.amounts()) {
    const PoolState* pool = state.find_pool(name);
    if (pool == nullptr || pool->free() < units) return false;
  }
  return true;
}

// The same node with nothing taken.
NodeState idle(NodeState state) {
  for (DeviceState& d : state.devices) d = {d.device, 0, 0, false};
  for (PoolState& p : state.pools) p.taken = 0;
  return state;
}

// Moves what is taken from `old` to `now`; returns where each old device is now. What vanished and
// is still held stays, with no capacity.
std::vector<uint32_t> carry_devices(const NodeState& old, NodeState& now) {
  std::vector<uint32_t> moved(old.devices.size(), 0);
  for (size_t i = 0; i < old.devices.size(); ++i) {
    const DeviceState& from = old.devices[i];
    auto it = std::find_if(now.devices.begin(), now.devices.end(),
                           [&](const DeviceState& d) { return d.device.uuid == from.device.uuid; });
    const bool is_held = from.taken_units > 0 || from.taken_mib > 0;
    if (it == now.devices.end() && !is_held) continue;
    if (it == now.devices.end())
      it =
          now.devices.insert(it, {{from.device.uuid, 0, 0, from.device.group, false}, 0, 0, false});
    it->taken_units = from.taken_units;
    it->taken_mib = from.taken_mib;
    it->held_whole = from.held_whole;
    moved[i] = static_cast<uint32_t>(it - now.devices.begin());
  }
  return moved;
}

void carry_pools(const NodeState& old, NodeState& now) {
  for (const PoolState& from : old.pools) {
    if (from.taken == 0) continue;
    auto it = std::lower_bound(now.pools.begin(), now.pools.end(), from.name,
                               [](const PoolState& p, const std::string& n) { return p.name < n; });
    if (it == now.pools.end() || it->name != from.name)
      it = now.pools.insert(it, {from.name, 0, 0});
    it->taken = from.taken;
  }
}

bool is_forgotten(const DeviceState& d) {  // vanished, and nobody holds a part of it
  return d.device.units == 0 && d.taken_units == 0 && d.taken_mib == 0;
}

}  // namespace

std::variant<Grant, PlacementRefusal> NodeLedger::reserve(GrantId id, const Request& request,
                                                          std::span<const RequestClass> classes) {
  if (holds_.contains(id)) return PlacementRefusal{Shortage::duplicate_id, {}, 0, 0, 0, true};
  auto placed = place(state_, request, classes);
  if (auto* refusal = std::get_if<PlacementRefusal>(&placed)) {
    refusal->is_possible_when_idle = could_serve_when_idle(state_, request);
    return std::move(*refusal);
  }
  auto& [variant, shares] = std::get<Placement>(placed);
  Grant grant{variant, std::move(shares), {}, request.variants[variant].pools};
  for (const DeviceShare& s : grant.shares)
    grant.uuids.push_back(state_.devices[s.device].device.uuid);
  state_.take(grant.shares, grant.pools);
  holds_.emplace(id, Hold{next_order_++, grant});
  return grant;
}

bool NodeLedger::release(GrantId id) {
  auto it = holds_.find(id);
  if (it == holds_.end()) return false;
  state_.give(it->second.grant.shares, it->second.grant.pools);
  holds_.erase(it);
  forget_vanished();
  return true;
}

bool NodeLedger::release_gpu(GrantId id) {
  auto it = holds_.find(id);
  if (it == holds_.end()) return false;
  Grant& grant = it->second.grant;
  state_.give(grant.shares, {});
  grant.shares.clear();
  grant.uuids.clear();
  forget_vanished();
  return true;
}

std::vector<GrantId> NodeLedger::set_capacity(const Capacity& capacity) {
  DRAY_ASSERT(check_capacity(capacity).has_value());
  NodeState now(capacity);
  const std::vector<uint32_t> moved = carry_devices(state_, now);
  carry_pools(state_, now);
  for (auto& [id, hold] : holds_)
    for (DeviceShare& s : hold.grant.shares) s.device = moved[s.device];
  state_ = std::move(now);
  return misfits();
}

std::vector<GrantId> NodeLedger::misfits() const {
  std::vector<std::pair<uint64_t, GrantId>> by_age;
  for (const auto& [id, hold] : holds_) by_age.emplace_back(hold.order, id);
  std::sort(by_age.begin(), by_age.end());
  NodeState kept = idle(state_);
  std::vector<GrantId> out;
  for (const auto& [order, id] : by_age) {
    const Grant& grant = holds_.at(id).grant;
    if (fits(kept, grant))
      kept.take(grant.shares, grant.pools);
    else
      out.push_back(id);
  }
  return out;
}

const Grant* NodeLedger::find(GrantId id) const {
  auto it = holds_.find(id);
  return it == holds_.end() ? nullptr : &it->second.grant;
}

// Only the last rows may go: the others' indexes are in grants.
void NodeLedger::forget_vanished() {
  auto& devices = state_.devices;
  while (!devices.empty() && is_forgotten(devices.back())) devices.pop_back();
  std::erase_if(state_.pools, [](const PoolState& p) { return p.capacity == 0 && p.taken == 0; });
}

void NodeLedger::check() const {
  NodeState sum = idle(state_);
  for (const auto& [id, hold] : holds_) {
    const Grant& grant = hold.grant;
    DRAY_ASSERT(grant.shares.size() == grant.uuids.size());
    for (size_t i = 0; i < grant.shares.size(); ++i) {
      const DeviceShare& s = grant.shares[i];
      DRAY_ASSERT(s.device < sum.devices.size());
      DeviceState& d = sum.devices[s.device];
      DRAY_ASSERT(d.device.uuid == grant.uuids[i]);
      DRAY_ASSERT(!d.held_whole && (!s.is_whole() || d.taken_units == 0));
      d.taken_units += s.units;
      d.taken_mib += s.memory_mib;
      d.held_whole = s.is_whole();
    }
    for (PoolState& p : sum.pools) p.taken += grant.pools.get(p.name);
  }
  DRAY_ASSERT(sum == state_);
  for (const DeviceState& d : state_.devices) {
    DRAY_ASSERT(d.free().units <= d.device.units);
    DRAY_ASSERT(d.free().memory_mib <= d.device.memory_mib);
  }
  DRAY_ASSERT(state_.devices.empty() || !is_forgotten(state_.devices.back()));
  for (const PoolState& p : state_.pools) DRAY_ASSERT(p.free() <= p.capacity);
}

}  // namespace dray
