// Fake GPUs: devices that exist in a description only, for scheduling on machines without GPUs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/gpu/device.h"

namespace dray::gpu {

// "2x24GiB", "24GiB", "1x80GiB,2x24GiB"; units MiB and GiB. Ids are FAKE-<node>-0 and so on, the
// same at each start.
Result<std::vector<Device>> parse_fake_gpus(std::string_view text, std::string_view node);

}  // namespace dray::gpu
