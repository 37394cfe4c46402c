// The bench command and its subcommands.
#include "client/console/bench.h"

#include <CLI/CLI.hpp>

#include "client/console/floor_peers.h"

namespace dray::console {

void add_bench_commands(CLI::App& app, Context& context) {
  CLI::App* bench =
      app.add_subcommand("bench", "Measure this cluster against this machine's floors");
  bench->require_subcommand(1);
  bench->footer(
      "Examples:\n  dray bench queue\n  dray bench call --one-cpu\n  dray bench overload --plot "
      "overload.svg\n  dray bench mixed\n");
  add_bench_queue(*bench, context);
  add_bench_call(*bench, context);
  add_bench_overload(*bench, context);
  add_bench_mixed(*bench, context);
  add_floor_peer(*bench, context);
}

}  // namespace dray::console
