// Nvml: an open NVML library: loads it, and turns its calls into values. One init for its life, as
// without the persistence daemon an init takes 1.5 s. The library takes a lock for all of the
// driver, so callers are gentle: see watch.h.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/base/result.h"
#include "common/gpu/nvml_abi.h"

namespace dray::gpu {

// One sentence about a code, for people.
std::string_view nvml_text(nvml::Code code);
// Lost, or usable only after a reset: no capacity from this moment.
constexpr bool is_loss(nvml::Code code) {
  return code == nvml::Code::gpu_lost || code == nvml::Code::reset_required;
}

// A value, or why there is none.
template <class T>
struct NvmlAnswer {
  nvml::Code code = nvml::Code::function_not_found;
  T value{};
  explicit operator bool() const { return code == nvml::Code::ok; }
  std::optional<T> optional() const {
    return code == nvml::Code::ok ? std::optional<T>(value) : std::nullopt;
  }
};

struct NvmlMemory {
  uint64_t total_mib = 0;
  uint64_t free_mib = 0;
  bool operator==(const NvmlMemory&) const = default;
};
struct NvmlCapability {
  uint32_t major = 0;
  uint32_t minor = 0;
};
struct NvmlEvent {
  nvml::DeviceHandle device = nullptr;
  uint64_t type = 0;
  uint64_t xid = 0;
  std::optional<uint32_t> gpu_instance;
  std::optional<uint32_t> compute_instance;
};

class Nvml {
 public:
  // Errors: not_found (no such library), unavailable (it is not NVML, or there is no driver),
  // bad_version (driver and library differ), denied; `detail` is a sentence for people.
  static Result<std::unique_ptr<Nvml>> open(const std::string& library);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  using Handle = nvml::DeviceHandle;
  NvmlAnswer<std::string> driver_version() const;
  NvmlAnswer<std::string> cuda_version() const;  // "13.0"
  NvmlAnswer<unsigned> count() const;
  NvmlAnswer<Handle> device(unsigned index) const;
  NvmlAnswer<std::string> uuid(Handle device) const;
  NvmlAnswer<std::string> name(Handle device) const;
  NvmlAnswer<std::string> pci(Handle device) const;
  NvmlAnswer<NvmlCapability> capability(Handle device) const;
  NvmlAnswer<unsigned> cores(Handle device) const;
  NvmlAnswer<NvmlMemory> memory(Handle device) const;
  NvmlAnswer<unsigned> utilisation(Handle device) const;
  NvmlAnswer<unsigned> compute_mode(Handle device) const;
  NvmlAnswer<uint64_t> throttle(Handle device) const;
  NvmlAnswer<unsigned> temperature(Handle device) const;

  NvmlAnswer<bool> has_mig(Handle device) const;
  NvmlAnswer<unsigned> mig_count_max(Handle device) const;  // some of them may be not_found
  NvmlAnswer<Handle> mig_device(Handle device, unsigned index) const;
  NvmlAnswer<nvml::MigAttributes> mig_attributes(Handle mig) const;
  NvmlAnswer<unsigned> gpu_instance(Handle mig) const;
  NvmlAnswer<unsigned> compute_instance(Handle mig) const;

  // Events. Only whole GPUs can be watched, they speak for their MIG devices.
  nvml::Code open_events();  // a new set; the old one ends
  nvml::Code watch(Handle device);
  // Blocks; code timeout if nothing came. May come back early without an event.
  NvmlAnswer<NvmlEvent> wait_event(unsigned timeout_ms) const;

 private:
  Nvml() = default;
  Result<Unit> load(const std::string& library);

  void* library_ = nullptr;
  bool initialised_ = false;
  nvml::Functions f_{};
  nvml::EventSet events_ = nullptr;
};

}  // namespace dray::gpu
