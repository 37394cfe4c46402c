// Fragmentation: how many free GPU units of a node the frequent request classes can not use.
//
// After FGD (fragmentation gradient descent, USENIX ATC'23). For a class, the free units of a node
// that are unusable are: all of them if the class does not fit on the node at all (a pool, too few
// devices); otherwise those of the devices that could not serve it alone. The node's fragmentation
// is the sum over the classes, times their weights. All integers: units x counts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/resources/class_mix.h"
#include "common/resources/node_state.h"

namespace dray {

// Free units of `node` that a request of the shape `need` can not use.
uint64_t unusable_units(const NodeState& node, const Variant& need);

// The fragmentation of one node while shares are taken from it, in O(classes) a question. Tries
// things on a copy of the free amounts; the node is not changed.
class FragmentGauge {
 public:
  // The node and the classes must outlive the gauge.
  FragmentGauge(const NodeState& node, std::span<const RequestClass> classes);
  const std::vector<DeviceFree>& free() const { return free_; }
  int64_t value() const;
  // How much value() would grow by this share; negative if it uses up what others could not.
  // Pre: it fits.
  int64_t growth(const DeviceShare& share) const;
  void take(const DeviceShare& share);
  void take_pools(const ResourceVec& amounts);  // at most once

 private:
  struct Tally {  // of one class over the devices
    const RequestClass* klass = nullptr;
    bool pools_fit = true;
    uint64_t wholes = 0;  // devices it could have as a whole
    uint64_t parts = 0;  // devices that could give its part
    uint64_t unusable = 0;  // units of the devices that can give neither
    void add(const DeviceFree& f);
    void remove(const DeviceFree& f);
    int64_t value(uint64_t free_units) const;
  };
  const NodeState& node_;
  std::vector<DeviceFree> free_;
  std::vector<Tally> tallies_;
  uint64_t free_units_ = 0;
};

}  // namespace dray
