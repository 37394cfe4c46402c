// The aggregator process: core, result store and sockets put together.
#pragma once

#include "common/service/config.h"

namespace dray {
int run_aggregator(const Config& config);
}
