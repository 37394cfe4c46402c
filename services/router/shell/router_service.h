// The router process: core and sockets put together.
#pragma once

#include "common/service/config.h"

namespace dray {
int run_router(const Config& config);
}
