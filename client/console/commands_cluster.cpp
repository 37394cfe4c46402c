// Command line of up and down.
#include <CLI/CLI.hpp>
#include <memory>

#include "client/console/cluster.h"
#include "client/console/commands.h"

namespace dray::console {

void add_cluster_commands(CLI::App& app, Context& context) {
  auto* start = app.add_subcommand("up", "Start a cluster on this machine");
  auto o = std::make_shared<UpOptions>();
  start->add_option("--workers", o->workers, "Worker processes (default: 1)")
      ->check(CLI::Range(1, 256));
  start->add_option("--routers", o->routers, "Router processes; clients use all (default: 1)")
      ->check(CLI::Range(1, 16));
  start->add_flag("--tcp", o->tcp, "Routers listen on free loopback ports, not on sockets in run/");
  start->add_flag("--detach,-d", o->detach, "Return when it is ready; else follow the logs");
  start->add_option("--set", o->sets, "One setting until `dray down`, such as log.level=debug")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->check([](const std::string& text) {
        const bool ok = text.find('=') != std::string::npos && text.find('\n') == std::string::npos;
        return ok ? std::string() : "'" + printable(text, 60) + "' is not KEY=VALUE";
      });
  start->add_flag("--allow-test-handlers", o->test_handlers,
                  "Workers also load handlers that crash and hang on request");
  start
      ->add_option("--fake-gpus", o->fake_gpus,
                   "GPUs that are not there for each worker, such as 2x24GiB: to try placement")
      ->type_name("SPEC");
  start->footer(
      "Lasting settings: dray.toml in the folder. Several clusters run side by side in several\n"
      "folders. --timeout limits the start (default here: 30s).\n\n"
      "Examples:\n"
      "  dray up\n"
      "  dray up --dir /tmp/c2 --workers 4 --detach --set broker.lease_ttl=5s\n"
      "  dray up --routers 2 --detach         calls survive the loss of a router\n"
      "  dray up --fake-gpus 2x24GiB -d       then: dray gpus\n");
  start->callback([&context, o] { context.action = [&context, o] { return up(context, *o); }; });

  auto* stop = app.add_subcommand("down", "Stop the cluster; accepted tasks stay on disk");
  auto force = std::make_shared<bool>(false);
  stop->add_flag("--force", *force, "Kill every process at once");
  stop->footer(
      "Running tasks may end first; --timeout limits the wait (default here: 60s).\n\n"
      "Examples:\n"
      "  dray down\n"
      "  dray down --dir /tmp/c2 --force\n");
  stop->callback(
      [&context, force] { context.action = [&context, force] { return down(context, *force); }; });
}

}  // namespace dray::console
