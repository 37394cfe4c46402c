// Asks CUDA for its devices where there is no NVML (WSL, some containers), in a short-lived child
// process: a CUDA library that was once initialised keeps threads, memory and a driver context for
// good, and no fork works after it. The calling process never loads it.
//
// The driver library is asked (libcuda), not the runtime: the runtime only passes on what it says,
// may not be installed, and its structs change with each version.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/base/time.h"
#include "common/gpu/device.h"

namespace dray::gpu {

struct CudaList {
  std::string version;  // "13.0"
  std::vector<Device> devices;
  std::vector<std::string> notes;
};

// Errors: not_found (no library), unavailable (CUDA refuses), timeout, io.
Result<CudaList> list_cuda_devices(const std::string& library, Duration limit);

}  // namespace dray::gpu
