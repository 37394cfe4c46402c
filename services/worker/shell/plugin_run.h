// What loading and running plugins share: the worker as plugins see it, and text for one line.
#pragma once

#include <string>
#include <string_view>

#define DRAY_WORKER_ABI_ONLY
#include "client/include/dray/worker.h"
#include "services/worker/shell/plugin_host.h"

namespace dray {

struct PluginHost::Impl {
  dray_worker worker{};
};

std::string one_line(std::string_view text);  // at most kErrorTextMax bytes

}  // namespace dray
