// Device: what the bus knows about one GPU of this machine, as a plain value. What a driver does
// not tell is absent, never 0: a made-up zero would be taken for a measurement.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dray::gpu {

constexpr uint64_t kDeviceMibMax = uint64_t{4} << 20;  // memory of one device: 4 TiB

enum class Kind : uint8_t { gpu, mig, fake };
enum class ComputeMode : uint8_t { standard, exclusive_thread, prohibited, exclusive_process };
// ok: all of it; degraded: slowed down by the hardware; drain: no new work; lost: what ran is gone.
enum class Health : uint8_t { ok, degraded, drain, lost };
// What makes a share a limit on this machine. `none`: nobody does, shares are for placement only.
enum class Enforcement : uint8_t { none, pool, mps, green, mig };

std::string_view kind_name(Kind kind);
std::string_view compute_mode_name(ComputeMode mode);  // "default", "exclusive_process"
std::string_view health_name(Health health);
std::string_view enforcement_name(Enforcement enforcement);

// Reasons why clocks are lower than they could be, as the driver numbers them.
enum Throttle : uint64_t {
  kThrottleIdle = 0x1,
  kThrottleAppClocks = 0x2,
  kThrottlePowerCap = 0x4,  // normal at full load
  kThrottleHardware = 0x8,
  kThrottleSyncBoost = 0x10,
  kThrottleHeatSoft = 0x20,
  kThrottleHeat = 0x40,
  kThrottlePowerBrake = 0x80,
};
// These halve the clocks or worse: the device is `degraded`.
constexpr uint64_t kThrottleSlow = kThrottleHardware | kThrottleHeat | kThrottlePowerBrake;
std::string throttle_text(uint64_t bits);  // "hardware+heat", "none"

struct Device {
  std::string uuid;  // "GPU-...", "MIG-...", "FAKE-<node>-0": the key everywhere
  Kind kind = Kind::gpu;
  std::string name;
  std::string pci;  // "00000000:3B:00.0"; a MIG device has its GPU's; empty if fake
  std::string parent;  // MIG: uuid of the GPU
  std::optional<uint32_t> gpu_instance;  // MIG
  std::optional<uint32_t> compute_instance;  // MIG
  std::optional<uint64_t> memory_mib;
  std::optional<uint64_t> free_mib;
  std::optional<uint32_t> sms;
  std::optional<uint32_t> cc_major;  // compute capability
  std::optional<uint32_t> cc_minor;
  int numa = -1;  // node of the CPUs next to it; -1: not known
  std::optional<ComputeMode> compute_mode;
  Health health = Health::ok;
  std::string health_reason;  // "XID 79"; empty when ok
  std::optional<uint64_t> throttle;  // Throttle bits
  std::optional<uint32_t> utilisation;  // percent of time with any kernel running, not occupancy
  std::optional<uint32_t> temperature_c;
  Enforcement enforcement = Enforcement::none;

  bool operator==(const Device&) const = default;
};

// Whether new work may go there: ok or degraded.
bool takes_work(const Device& device);
// Memory that may be promised: 0 as soon as the device takes no work, or if nobody knows it.
uint64_t capacity_mib(const Device& device);
// An exclusive compute mode lets one process in, unless MPS is that process.
bool takes_fractions(const Device& device);

}  // namespace dray::gpu
