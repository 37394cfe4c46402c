// Names of a device's states, and what its state promises.
#include "common/gpu/device.h"

#include <array>

namespace dray::gpu {

std::string_view kind_name(Kind kind) {
  constexpr std::array<std::string_view, 3> kNames{"gpu", "mig", "fake"};
  return kNames[static_cast<size_t>(kind)];
}

std::string_view compute_mode_name(ComputeMode mode) {
  constexpr std::array<std::string_view, 4> kNames{"default", "exclusive_thread", "prohibited",
                                                   "exclusive_process"};
  return kNames[static_cast<size_t>(mode)];
}

std::string_view health_name(Health health) {
  constexpr std::array<std::string_view, 4> kNames{"ok", "degraded", "drain", "lost"};
  return kNames[static_cast<size_t>(health)];
}

std::string_view enforcement_name(Enforcement enforcement) {
  constexpr std::array<std::string_view, 5> kNames{"none", "pool", "mps", "green", "mig"};
  return kNames[static_cast<size_t>(enforcement)];
}

std::string throttle_text(uint64_t bits) {
  constexpr std::array<std::string_view, 8> kNames{"idle",     "app_clocks", "power_cap",
                                                   "hardware", "sync_boost", "heat_soft",
                                                   "heat",     "power_brake"};
  std::string out;
  for (size_t i = 0; i < kNames.size(); ++i)
    if ((bits >> i & 1) != 0) out += (out.empty() ? "" : "+") + std::string(kNames[i]);
  if (bits >> kNames.size() != 0) out += out.empty() ? "other" : "+other";
  return out.empty() ? "none" : out;
}

bool takes_work(const Device& device) {
  return device.health == Health::ok || device.health == Health::degraded;
}

uint64_t capacity_mib(const Device& device) {
  return takes_work(device) ? device.memory_mib.value_or(0) : 0;
}

bool takes_fractions(const Device& device) {
  const bool is_exclusive = device.compute_mode == ComputeMode::exclusive_process ||
                            device.compute_mode == ComputeMode::exclusive_thread;
  return !is_exclusive || device.enforcement == Enforcement::mps;
}

}  // namespace dray::gpu
