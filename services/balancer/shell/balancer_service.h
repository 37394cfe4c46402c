// The balancer process: core, goal file and socket put together.
#pragma once

#include "common/service/config.h"

namespace dray {
int run_balancer(const Config& config);
}
