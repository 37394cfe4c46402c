// gpu_environment: what a process that runs under a grant must find in its environment.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/resources/node_ledger.h"
#include "common/wire/fleet.h"

namespace dray::worker {

// Always CUDA_DEVICE_ORDER and CUDA_VISIBLE_DEVICES, by uuid, as numbers change when a device is
// lost; of a grant without devices it is empty, which hides all of them. Where MPS enforces shares
// also its ceilings for those that are not a whole device. Fake devices have no driver: hidden.
std::vector<std::pair<std::string, std::string>> gpu_environment(
    const Grant& grant, std::span<const DeviceInfo> devices);

}  // namespace dray::worker
