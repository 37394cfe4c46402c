// Kills processes of a cluster with SIGKILL, to show that nothing depends on their health.
#pragma once

#include <string>

namespace dray::demo {
// Kills one process called `program` that was started for `dir`. Returns its pid, 0 if none.
int kill_one(const std::string& program, const std::string& dir);
}  // namespace dray::demo
