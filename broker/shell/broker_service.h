// The broker process: core, journal and sockets put together.
#pragma once

#include "common/service/config.h"

namespace dray::broker {
int run_broker(const Config& config);
}
