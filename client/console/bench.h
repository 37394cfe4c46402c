// bench: measurements against a running cluster, each with the floor measured in the same run.
#pragma once

#include "client/console/context.h"

namespace CLI {
class App;
}

namespace dray::console {
void add_bench_commands(CLI::App& app, Context& ctx);
}
