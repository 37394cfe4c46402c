// The devices that an open NVML shows, as the bus sees them: whole GPUs, or their MIG devices in
// their place; and one reading of such a device.
#pragma once

#include <string>
#include <vector>

#include "common/gpu/device.h"
#include "common/gpu/nvml.h"
#include "common/gpu/reading.h"

namespace dray::gpu {

struct NvmlDevice {
  Device device;
  Nvml::Handle handle = nullptr;
  Nvml::Handle gpu = nullptr;  // the whole GPU: clocks, heat and events are its own
};

struct NvmlList {
  std::vector<NvmlDevice> devices;
  std::vector<std::string> notes;  // one sentence for each GPU that is not among them
};

// `sysfs` is "/sys": where the NUMA node of a PCI device is told.
NvmlList list_devices(const Nvml& nvml, const std::string& sysfs);

// Memory and utilisation; `is_full` also clocks and heat, which cost more.
Reading read_device(const Nvml& nvml, const NvmlDevice& device, bool is_full);

}  // namespace dray::gpu
