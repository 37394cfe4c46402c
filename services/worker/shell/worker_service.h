// The worker process: agent, plugins, executors and sockets put together.
#pragma once

#include "common/service/config.h"

namespace dray::worker {
// Exit codes: 0 drained, 2 bad config, 70 a handler did not return (the supervisor restarts us).
int run_worker(const Config& config);
}  // namespace dray::worker
