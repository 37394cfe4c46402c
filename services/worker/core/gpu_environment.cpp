// The variables of CUDA and MPS.
#include "services/worker/core/gpu_environment.h"

#include <algorithm>

namespace dray::worker {
namespace {
constexpr uint8_t kFake = 2;  // gpu::Kind::fake
constexpr uint8_t kMps = 2;  // gpu::Enforcement::mps

const DeviceInfo* find(std::span<const DeviceInfo> devices, const std::string& uuid) {
  const auto at = std::find_if(devices.begin(), devices.end(),
                               [&](const DeviceInfo& d) { return d.uuid == uuid; });
  return at == devices.end() ? nullptr : &*at;
}

void append(std::string& list, const std::string& item) {
  if (!list.empty()) list += ',';
  list += item;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> gpu_environment(
    const Grant& grant, std::span<const DeviceInfo> devices) {
  std::string visible, limits;
  uint64_t least = kResourceUnit;  // share of a device that MPS enforces
  uint32_t number = 0;  // of the device as the process sees it
  for (size_t i = 0; i < grant.uuids.size(); ++i) {
    const DeviceInfo* device = find(devices, grant.uuids[i]);
    if (device != nullptr && device->kind == kFake) continue;
    append(visible, grant.uuids[i]);
    const DeviceShare& share = grant.shares[i];
    if (device != nullptr && device->enforcement == kMps && !share.is_whole()) {
      if (share.units > 0) least = std::min(least, share.units);
      if (share.memory_mib > 0)
        append(limits, std::to_string(number) + "=" + std::to_string(share.memory_mib) + "M");
    }
    ++number;
  }
  std::vector<std::pair<std::string, std::string>> out{{"CUDA_DEVICE_ORDER", "PCI_BUS_ID"},
                                                       {"CUDA_VISIBLE_DEVICES", visible}};
  // One ceiling for the process on all of its devices: a part of one beside whole ones would slow
  // those down, so it is said only of a grant that is all parts.
  const bool all_parts = std::none_of(grant.shares.begin(), grant.shares.end(),
                                      [](const DeviceShare& s) { return s.is_whole(); });
  if (all_parts && least < kResourceUnit) {
    const uint64_t percent = std::max<uint64_t>(1, least * 100 / kResourceUnit);
    out.emplace_back("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", std::to_string(percent));
  }
  if (!limits.empty()) out.emplace_back("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", limits);
  return out;
}

}  // namespace dray::worker
