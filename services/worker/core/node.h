// Node: what this worker's node has and what of it is taken, by tasks and by replicas: their grants
// are entries of one ledger. It also words all that for others.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/resources/advertised.h"
#include "common/resources/class_mix.h"
#include "common/resources/node_ledger.h"

namespace dray::worker {

class Node {
 public:
  // Pre: capacity_of() of these is ok.
  Node(std::vector<DeviceInfo> devices, Amounts pools, std::vector<std::string> labels);

  GrantId next_id() { return GrantId{++last_id_}; }  // never used before
  // Takes all that is asked for, or nothing and says what is missing first.
  std::optional<PlacementRefusal> reserve(GrantId id, const Request& request);
  void release(GrantId id);
  void release_devices(GrantId id);  // early; the pools stay taken
  bool fits_now(const Request& request) const {
    return std::holds_alternative<Placement>(place(state(), request, {}));
  }
  bool could_ever(const Request& request) const { return could_serve_when_idle(state(), request); }

  // The devices as they are now. False, and nothing changes, if they make no sense.
  bool set_devices(std::vector<DeviceInfo> devices);
  // Grants on devices that are lost, oldest first. What runs there is gone, and the ledger ends no
  // grant by itself. A device that only takes no more work keeps its grants.
  std::vector<GrantId> lost() const;
  std::string loss_text(GrantId id) const;  // "GPU-... is lost: XID 79"

  // With what is taken, as ATTACH, CAPACITY and NODE_REPORT tell it.
  std::vector<std::string> device_blobs() const;
  CapacityNews news(uint64_t received) const;
  // Grows with each change of what is taken.
  uint64_t takings() const { return takings_; }

  const std::vector<DeviceInfo>& devices() const { return devices_; }
  const Amounts& pools() const { return pools_; }
  const std::vector<std::string>& labels() const { return labels_; }
  const NodeState& state() const { return ledger_.state(); }
  const Grant* find(GrantId id) const { return ledger_.find(id); }
  size_t grants() const { return ledger_.size(); }
  void check() const { ledger_.check(); }

 private:
  const DeviceInfo* find_device(const std::string& uuid) const;
  bool is_lost(const std::string& uuid) const;

  std::vector<DeviceInfo> devices_;
  Amounts pools_;
  std::vector<std::string> labels_;
  NodeLedger ledger_;
  ClassMix mix_;
  uint64_t last_id_ = 0;
  uint64_t takings_ = 0;
};

}  // namespace dray::worker
