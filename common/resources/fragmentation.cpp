// Per class: how many devices could serve it, and the units of the others.
#include "common/resources/fragmentation.h"

namespace dray {
namespace {

struct Use {  // of one device for one class
  bool whole = false;
  bool part = false;
};

Use use_of(const DeviceFree& f, const Variant& need) {
  return {need.whole_devices() > 0 && f.can_give_whole(need.gpu_memory_mib),
          need.has_part() && f.can_give_part(need.share(), need.gpu_memory_mib)};
}

// `less`: amounts that are about to be taken.
bool pools_fit(const NodeState& node, const ResourceVec& need, const ResourceVec& less) {
  for (const auto& [name, units] : need.amounts()) {
    const PoolState* pool = node.find_pool(name);
    if (pool == nullptr || pool->free() < units + less.get(name)) return false;
  }
  return true;
}

}  // namespace

uint64_t unusable_units(const NodeState& node, const Variant& need) {
  const RequestClass klass{need, 1};
  return static_cast<uint64_t>(FragmentGauge(node, {&klass, 1}).value());
}

FragmentGauge::FragmentGauge(const NodeState& node, std::span<const RequestClass> classes)
    : node_(node) {
  free_.reserve(node.devices.size());
  tallies_.reserve(classes.size());
  for (const DeviceState& d : node.devices) {
    free_.push_back(d.free());
    free_units_ += free_.back().units;
  }
  for (const RequestClass& c : classes) {
    Tally& t = tallies_.emplace_back();
    t.klass = &c;
    t.pools_fit = pools_fit(node, c.need.pools, {});
    for (const DeviceFree& f : free_) t.add(f);
  }
}

int64_t FragmentGauge::value() const {
  int64_t sum = 0;
  for (const Tally& t : tallies_) sum += t.value(free_units_);
  return sum;
}

int64_t FragmentGauge::growth(const DeviceShare& share) const {
  const DeviceFree& before = free_[share.device];
  const DeviceFree after = before.after(share);
  const uint64_t free_after = free_units_ - before.units + after.units;
  int64_t sum = 0;
  for (const Tally& t : tallies_) {
    Tally tried = t;
    tried.remove(before);
    tried.add(after);
    sum += tried.value(free_after) - t.value(free_units_);
  }
  return sum;
}

void FragmentGauge::take(const DeviceShare& share) {
  DeviceFree& f = free_[share.device];
  const DeviceFree after = f.after(share);
  free_units_ = free_units_ - f.units + after.units;
  for (Tally& t : tallies_) {
    t.remove(f);
    t.add(after);
  }
  f = after;
}

void FragmentGauge::take_pools(const ResourceVec& amounts) {
  if (amounts.empty()) return;
  for (Tally& t : tallies_)
    if (t.pools_fit) t.pools_fit = pools_fit(node_, t.klass->need.pools, amounts);
}

void FragmentGauge::Tally::add(const DeviceFree& f) {
  const Use use = use_of(f, klass->need);
  wholes += use.whole;
  parts += use.part;
  unusable += use.whole || use.part ? 0 : f.units;
}

void FragmentGauge::Tally::remove(const DeviceFree& f) {
  const Use use = use_of(f, klass->need);
  wholes -= use.whole;
  parts -= use.part;
  unusable -= use.whole || use.part ? 0 : f.units;
}

int64_t FragmentGauge::Tally::value(uint64_t free_units) const {
  const uint64_t k = klass->need.whole_devices();
  // Every device that can be had as a whole can also give the part: the part needs one more.
  const bool fits = pools_fit && wholes >= k && (!klass->need.has_part() || parts >= k + 1);
  return static_cast<int64_t>(klass->weight * (fits ? unusable : free_units));
}

}  // namespace dray
