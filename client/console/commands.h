// The groups of commands; each adds its own to the command line.
#pragma once

#include <string>

#include "client/console/context.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace dray::console {

void add_cluster_commands(CLI::App& app, Context& context);  // up, down
void add_look_commands(CLI::App& app, Context& context);  // status, workers, queues, drain
void add_gpu_command(CLI::App& app, Context& context);  // gpus
void add_run_commands(CLI::App& app, Context& context);  // submit, wait, result
void add_task_commands(CLI::App& app, Context& context);  // tasks, task, cancel, retry, dlq
void add_call_commands(CLI::App& app, Context& context);  // call
void add_deployment_commands(CLI::App& app, Context& context);  // deployments, latency
void add_deploy_commands(CLI::App& app, Context& context);  // deploy, scale, rollback, ...
void add_autoscale_command(CLI::App& app, Context& context);  // autoscale
void add_top_command(CLI::App& app, Context& context);  // top
void add_meta_commands(CLI::App& app, Context& context);  // config, version, completion

// An option that takes a duration such as 250ms, 10s, 2h.
CLI::Option* add_duration(CLI::App& app, const std::string& names, Millis& target,
                          const std::string& help);
// What a payload argument stands for: "-" is stdin, "@FILE" a file. Throws Failure.
std::string payload_of(const std::string& given);
// The text of a completion script for bash, from the tree of commands.
std::string bash_completion(const CLI::App& root);

}  // namespace dray::console
