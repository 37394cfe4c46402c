// bench: measurements against a running cluster, each with the floor measured in the same run.
#pragma once

#include "client/console/context.h"

namespace CLI {
class App;
}

namespace dray::console {

void add_bench_commands(CLI::App& app, Context& context);

// One each.
void add_bench_queue(CLI::App& bench, Context& context);
void add_bench_call(CLI::App& bench, Context& context);
void add_bench_overload(CLI::App& bench, Context& context);
void add_bench_mixed(CLI::App& bench, Context& context);

}  // namespace dray::console
