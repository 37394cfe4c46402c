// dray: the admin console. Global options, the command tree, exit codes.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/console/bench.h"
#include "client/console/commands.h"

namespace dray::console {

CLI::Option* add_duration(CLI::App& app, const std::string& names, Millis& target,
                          const std::string& help) {
  return app
      .add_option_function<std::string>(
          names,
          [&target, names](const std::string& text) {
            const auto ms = parse_millis(text);
            if (!ms)
              throw CLI::ValidationError(
                  names, "'" + printable(text, 40) + "' is no duration, such as 250ms, 10s, 2h");
            target = Millis(*ms);
          },
          help)
      ->type_name("DURATION");
}

namespace {

constexpr const char* kFooter =
    "Options may come before or after the command.\n"
    "Exit codes: 0 ok, 1 task or call failed, 2 usage, 3 not found, 4 timeout, 5 no cluster,\n"
    "6 rejected (try again later).\n\n"
    "Examples:\n"
    "  dray up --detach                     start a cluster in ~/.dray\n"
    "  dray submit echo hello --wait        run a task and print its result\n"
    "  dray call echo hello --trace         call one and see where the time goes\n"
    "  dray status                          is everything well?\n"
    "  dray gpus                            which GPUs are there, and what is taken of them?\n"
    "  dray task explain ID                 why does it not run?\n";

void add_global_options(CLI::App& app, Context& context) {
  app.add_option("--endpoint", context.endpoint,
                 "Router to talk to, such as ipc:///path or tcp://127.0.0.1:5555 (default: that of "
                 "the cluster in --dir)")
      ->type_name("URL");
  app.add_option("--dir", context.dir,
                 "Folder of the local cluster (default: $DRAY_DIR, else ~/.dray)")
      ->type_name("DIR");
  app.add_option("-o,--output", context.output, "table, wide or json (default: table)")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"table", "wide", "json"}));
  CLI::Option* timeout = add_duration(app, "--timeout", context.timeout,
                                      "How long to wait for an answer (default: 10s)");
  timeout->each([&context](const std::string&) { context.has_timeout = true; });
  app.add_flag_callback(
      "--no-color", [] {}, "For scripts that say so; the output has no colours (NO_COLOR)");
}

int complain(const Context& context, const Failure& failure) {
  if (context.json()) {
    const nlohmann::ordered_json doc = {
        {"error", {{"text", failure.text}, {"next", failure.next}, {"exit_code", failure.code}}}};
    std::printf("%s\n", doc.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  std::fflush(stdout);
  std::fprintf(stderr, "dray: %s%s%s\n", printable(failure.text, 2000).c_str(),
               failure.next.empty() ? "" : "; ", failure.next.c_str());
  return failure.code;
}

// The deepest command on the line, for "see: dray task show --help".
std::string path_of(const CLI::App& app) {
  for (const CLI::App* sub : app.get_subcommands()) return " " + sub->get_name() + path_of(*sub);
  return "";
}

int parse_and_run(int argc, char** argv) {
  Context context;
  CLI::App app("dray: one bus for durable tasks and quick calls. The admin console.", "dray");
  app.require_subcommand(1, 1);
  app.fallthrough();
  app.footer(kFooter);
  add_global_options(app, context);
  add_cluster_commands(app, context);
  add_run_commands(app, context);
  add_look_commands(app, context);
  add_gpu_command(app, context);
  add_task_commands(app, context);
  add_call_commands(app, context);
  add_deployment_commands(app, context);
  add_deploy_commands(app, context);
  add_autoscale_command(app, context);
  add_top_command(app, context);
  add_bench_commands(app, context);
  add_meta_commands(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return complain(context, {kUsage, error.what(), "see: dray" + path_of(app) + " --help"});
  }
  try {
    return context.action();
  } catch (const Failure& failure) {
    return complain(context, failure);
  } catch (const std::exception& error) {
    return complain(context, {kTaskFailed, std::string("unexpected: ") + error.what(),
                              "please report it with: dray version"});
  }
}

}  // namespace
}  // namespace dray::console

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  const int code = dray::console::parse_and_run(argc, argv);
  if (std::fflush(stdout) != 0 && code == 0) return dray::console::kTaskFailed;
  return code;
}
