// Translation between wire and ledger, and words about what is missing.
#include "common/resources/advertised.h"

#include <algorithm>
#include <map>

#include "common/resources/feasible.h"

namespace dray {
namespace {
constexpr size_t kKindsNamed = 3;  // of devices, in one line

std::string join(std::string list, const std::string& item) {
  return list.empty() ? item : std::move(list) + ", " + item;
}

std::string devices_text(uint64_t n) {
  return std::to_string(n) + (n == 1 ? " device has " : " devices have ");
}

// "2 devices have 0.25, 1 device has 0.1": of those that have anything, most first.
std::string free_text(const std::vector<DeviceFree>& free, uint64_t DeviceFree::*what,
                      std::string (*print)(uint64_t)) {
  std::map<uint64_t, uint64_t, std::greater<>> counts;
  for (const DeviceFree& f : free) ++counts[f.*what];
  std::string out;
  size_t named = 0;
  for (const auto& [amount, n] : counts)
    if (named++ < kKindsNamed) out = join(std::move(out), devices_text(n) + print(amount));
  return out;
}

std::string print_mib(uint64_t mib) { return std::to_string(mib) + " MiB"; }

void set_taken(DeviceState& state, const DeviceInfo& info) {
  state.taken_units = info.taken_units;
  state.taken_mib = info.taken_mib;
  // Two halves look like a whole here; then its memory counts as gone, which is the safe side.
  state.held_whole = info.taken_units >= kResourceUnit;
}

}  // namespace

Result<Capacity> capacity_of(std::span<const DeviceInfo> devices, const Amounts& pools,
                             const std::vector<std::string>& labels) {
  Capacity capacity;
  for (const DeviceInfo& d : devices) {
    const bool usable = d.units != 0;
    capacity.devices.push_back(
        {d.uuid, usable ? d.units : kResourceUnit, usable ? d.memory_mib : 0, d.group, usable});
  }
  capacity.pools = ResourceVec(pools);
  capacity.labels = labels;
  DRAY_TRY(check_capacity(capacity));
  return capacity;
}

Result<Advertised> read_advertised(const CapacityNews& news) {
  Advertised out;
  for (const std::string& blob : news.devices) {
    DRAY_TRY_ASSIGN(DeviceInfo info, decode_device(blob));
    if (info.taken_units > kResourceUnit || info.taken_mib > kMemoryMibMax)
      return make_error(Errc::bad_argument,
                        "capacity: " + info.uuid + ": more taken than there is");
    out.devices.push_back(std::move(info));
  }
  DRAY_TRY_ASSIGN(const Capacity capacity, capacity_of(out.devices, news.resources, news.labels));
  out.state = NodeState(capacity);
  for (size_t i = 0; i < out.devices.size(); ++i) set_taken(out.state.devices[i], out.devices[i]);
  const ResourceVec taken(news.taken);
  for (PoolState& pool : out.state.pools) pool.taken = taken.get(pool.name);
  return out;
}

Request request_of(const TaskSpec& spec) {
  Request request;
  request.strategy = static_cast<Strategy>(spec.strategy);
  request.variants.push_back(
      {spec.gpus, spec.gpu_memory_mib, ResourceVec(spec.resources), spec.labels});
  for (const std::string& blob : spec.variants)
    if (auto need = decode_need(blob)) request.variants.push_back(variant_of(*need));
  return request;
}

Variant variant_of(const NeedInfo& need) {
  return {need.gpus, need.gpu_memory_mib, ResourceVec(need.pools), need.labels};
}

NeedInfo need_of(const Variant& variant) {
  return {variant.gpus, variant.gpu_memory_mib, variant.pools.amounts(), variant.labels};
}

ResourceVec largest_of(const NodeState& node) {
  Amounts most;
  uint64_t units = 0;
  uint64_t mib = 0;
  for (const DeviceState& d : node.devices) {
    if (!d.device.usable) continue;
    units += d.device.units;
    mib = std::max(mib, d.device.memory_mib);
  }
  for (const PoolState& pool : node.pools) most.emplace_back(pool.name, pool.capacity);
  if (units > 0) most.emplace_back("gpus", units);
  if (mib > 0) most.emplace_back("gpu_memory", mib * kResourceUnit);
  return ResourceVec(std::move(most));
}

std::string first_excess(const Request& request, const ResourceVec& most) {
  std::string first;
  for (const Variant& v : request.variants) {
    std::string missing = most.first_missing(v.pools);
    if (missing.empty() && most.get("gpus") < v.gpus) missing = "gpus";
    if (missing.empty() && most.get("gpu_memory") < v.gpu_memory_mib * kResourceUnit)
      missing = "gpu_memory";
    if (missing.empty()) return {};
    if (first.empty()) first = std::move(missing);
  }
  return first;
}

std::string explain_on(const NodeState& node, const Variant& need,
                       const PlacementRefusal& refusal) {
  std::vector<DeviceFree> free;
  for (const DeviceState& d : node.devices)
    if (d.device.usable) free.push_back(d.free());
  const std::string beside =
      refusal.beside == 0 ? "" : " besides " + std::to_string(refusal.beside) + " whole";
  if (free.empty() && refusal.code >= Shortage::gpu_whole) return "no device that works";
  switch (refusal.code) {
    case Shortage::gpu_share:
      return "no device with " + print_amount(refusal.need) + " free" + beside + ": " +
             free_text(free, &DeviceFree::units, print_amount);
    case Shortage::gpu_whole:
      return "too few unused devices, it needs " + print_amount(refusal.need) + ": " +
             std::to_string(refusal.most / kResourceUnit) + " of " + std::to_string(free.size());
    case Shortage::gpu_memory:
      return "no device with " + (need.share() > 0 ? print_amount(need.share()) + " and " : "") +
             print_mib(refusal.need) + " free" + beside + ": " +
             free_text(free, &DeviceFree::memory_mib, print_mib);
    default:
      return refusal.explain();
  }
}

}  // namespace dray
