// NodeLedger: who holds what of one node. The final judge of its node: task leases and replica
// reservations are grants of the same ledger.
//
// Deterministic, no I/O, no clock, integers only. Rules:
// - A grant takes exactly what its variant asks for, or nothing.
//   Why: sums of what is taken are exact at any time, and zero when the last grant is gone.
// - A share below 1 comes from one device; a whole device has one holder, who alone has its memory.
// - 0 <= free <= capacity on every device and pool, also after the capacity shrank under grants
// that
//   are still held: then free is 0 and misfits() names grants until enough of them are released.
// - The ledger never ends a grant by itself. Why: only the caller knows what a loss means (retry,
//   re-place, tell the user).
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/resources/class_mix.h"
#include "common/resources/node_state.h"
#include "common/resources/placement.h"
#include "common/resources/request.h"

namespace dray {

enum class GrantId : uint64_t {};  // chosen by the caller

struct Grant {
  size_t variant = 0;  // which one of the request
  std::vector<DeviceShare> shares;  // whole devices first; indexes change with set_capacity
  std::vector<std::string> uuids;  // of the shares, in the same order
  ResourceVec pools;
  bool operator==(const Grant&) const = default;
};

class NodeLedger {
 public:
  // Pre: check_capacity(capacity) is ok, here and in set_capacity.
  explicit NodeLedger(const Capacity& capacity = {}) : state_(capacity) {}

  // Takes the first variant that fits. `classes` weigh the choice (ClassMix; may be empty: best
  // fit). O(devices x classes) for each variant.
  std::variant<Grant, PlacementRefusal> reserve(GrantId id, const Request& request,
                                                std::span<const RequestClass> classes);
  // Gives everything back; false if there is no such grant.
  bool release(GrantId id);
  // Gives the devices back early and keeps the pools; false if there is no such grant.
  bool release_gpu(GrantId id);

  // The new truth of what the node has: devices (known by uuid) and pools may appear, vanish,
  // shrink, grow, turn unusable and come back. Returns misfits(). Labels do not end grants.
  std::vector<GrantId> set_capacity(const Capacity& capacity);
  // Grants that do not fit into the capacity, oldest grants being kept first: once these are
  // released, everything that is left fits.
  std::vector<GrantId> misfits() const;

  const Grant* find(GrantId id) const;  // null if there is none; valid until the next change
  size_t size() const { return holds_.size(); }
  const NodeState& state() const { return state_; }
  void check() const;  // tests: recomputes every sum

 private:
  struct Hold {
    uint64_t order = 0;  // age
    Grant grant;
  };
  void forget_vanished();
  std::unordered_map<GrantId, Hold> holds_;
  NodeState state_;
  uint64_t next_order_ = 0;
};

}  // namespace dray
