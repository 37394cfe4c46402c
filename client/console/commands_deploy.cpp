// deploy, scale, rollback, undeploy, explain: what shall run, said to the balancer.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "client/console/app_file.h"
#include "client/console/commands.h"
#include "client/console/deployments.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Millis kDeployTimeout{600'000};
constexpr int kHopeless = 3;  // failed starts of a first version

struct DeployCommand {
  std::string file;
  bool dry_run = false, no_wait = false;
};

Client::Arg to_arg(const Doc& value) {
  if (const auto* flag = std::get_if<bool>(&value.value())) return *flag;
  if (const auto* whole = std::get_if<int64_t>(&value.value())) return *whole;
  if (const auto* real = std::get_if<double>(&value.value())) return *real;
  if (!value.is_list()) return std::string(value.as_text());
  std::vector<std::string> list;
  for (const Doc& item : value.list()) list.emplace_back(item.as_text());
  return list;
}

Json explain(Context& context, const std::string& name) {
  return parse_json(context.admin("balancer", "explain", {{"name", name}}));
}

Json say_deploy(Context& context, const DeploymentSpec& spec, bool dry_run) {
  Client::Args args{{"name", spec.name}, {"dry_run", dry_run}};
  for (const auto& [field, value] : flatten(spec_doc(spec)))
    args.emplace_back("spec." + field, to_arg(value));
  return parse_json(context.admin("balancer", "deploy", args));
}

void print_plan(const Json& before, const DeploymentSpec& spec, const Json& reply) {
  const std::string action = cell(reply, "action");
  const char* mark = action == "new" ? "+" : action == "unchanged" ? "=" : "~";
  std::printf("%s %s: %s\n", mark, spec.name.c_str(), action.c_str());
  if (action != "new")
    for (const std::string& line : differences(before, spec))
      std::printf("    %s\n", printable(line, 200).c_str());
  if (reply.contains("warning"))
    std::printf("    warning: %s\n", printable(cell(reply, "warning"), 300).c_str());
  std::fflush(stdout);
}

std::string progress_line(const Json& d) {
  std::string line = cell(d, "name") + " " + cell(d, "state") + ": " + cell(d, "ready") + "/" +
                     cell(d, "desired") + " ready";
  if (count_of(d, "starting") > 0) line += ", " + cell(d, "starting") + " starting";
  if (count_of(d, "old") > 0) line += ", " + cell(d, "old") + " old";
  if (!cell(d, "trouble").empty()) line += ", " + cell(d, "trouble");
  return line;
}

// Until the version is stable, or given up. Prints what changes.
void wait_for(Context& context, const std::string& name, uint64_t version, Json& out) {
  const auto until = Clock::now() + (context.has_timeout ? context.timeout : kDeployTimeout);
  std::string last;
  for (;;) {
    const Json d = explain(context, name);
    const std::string line = progress_line(d);
    if (line != last && !context.json()) std::fprintf(stderr, "%s\n", printable(line, 300).c_str());
    last = line;
    out = d;
    if (count_of(d, "failed_version") == version)
      throw Failure{kTaskFailed,
                    name + " version " + std::to_string(version) + " was rolled back to version " +
                        cell(d, "version") + ": " + printable(cell(d, "failed_why"), 300),
                    "dray explain deployment " + name};
    const std::string state = cell(d, "state");
    if (count_of(d, "version") == version && (state == "ready" || state == "idle")) return;
    if (state == "failing" && count_of(d, "stable_version") == 0 &&
        count_of(d, "failures") >= kHopeless)
      throw Failure{kTaskFailed,
                    name + " does not start: " + printable(cell(d, "trouble"), 300) +
                        " (the balancer goes on trying)",
                    "dray explain deployment " + name};
    if (Clock::now() >= until)
      throw Failure{kTimeout, name + " is " + state + ": " + printable(line, 200),
                    "dray explain deployment " + name};
    std::this_thread::sleep_for(Millis(250));
  }
}

int deploy(Context& context, const DeployCommand& c) {
  const std::vector<DeploymentSpec> specs = read_app(c.file);
  const Json known = parse_json(context.admin("balancer", "deployments"));
  const auto before = [&](const std::string& name) {
    for (const auto& d : known.value("deployments", Json::array()))
      if (cell(d, "name") == name) return part_of(d, "spec");
    return Json::object();
  };
  Json doc = Json::array();
  for (const DeploymentSpec& spec : specs) {
    // All are checked there before the first one is changed.
    if (!c.dry_run) say_deploy(context, spec, true);
  }
  for (const DeploymentSpec& spec : specs) {
    Json reply = say_deploy(context, spec, c.dry_run);
    reply["changes"] = differences(before(spec.name), spec);
    if (!context.json()) print_plan(before(spec.name), spec, reply);
    doc.push_back(std::move(reply));
  }
  if (!c.dry_run && !c.no_wait) {
    for (auto& reply : doc) {
      Json state;
      wait_for(context, cell(reply, "name"), count_of(reply, "version"), state);
      reply["state"] = cell(state, "state");
      reply["ready"] = count_of(state, "ready");
    }
  }
  if (context.json()) return print_json(doc), kOk;
  std::printf("%s\n", c.dry_run ? "nothing was changed (--dry-run)" : "next: dray deployments");
  return kOk;
}

int scale(Context& context, const std::string& name, const std::string& replicas) {
  Client::Args args{{"name", name}};
  if (replicas == "auto")
    args.emplace_back("replicas", replicas);
  else
    args.emplace_back("replicas", static_cast<int64_t>(std::stoll(replicas)));
  const Json reply = parse_json(context.admin("balancer", "scale", args));
  if (context.json()) return print_json(reply), kOk;
  if (replicas == "auto")
    std::printf("%s is scaled automatically from %s\n", name.c_str(),
                cell(reply, "before").c_str());
  else
    std::printf("%s: %s -> %s\n", name.c_str(), cell(reply, "before").c_str(), replicas.c_str());
  return kOk;
}

int rollback(Context& context, const std::string& name, int64_t version, bool no_wait) {
  Client::Args args{{"name", name}};
  if (version > 0) args.emplace_back("version", version);
  Json reply = parse_json(context.admin("balancer", "rollback", args));
  if (!context.json())
    std::printf("%s: version %s -> %s\n", name.c_str(), cell(reply, "from").c_str(),
                cell(reply, "version").c_str());
  if (!no_wait) {
    Json state;
    wait_for(context, name, count_of(reply, "version"), state);
    reply["state"] = cell(state, "state");
  }
  if (context.json()) print_json(reply);
  return kOk;
}

int undeploy(Context& context, const std::string& name) {
  const Json reply = parse_json(context.admin("balancer", "undeploy", {{"name", name}}));
  if (context.json()) return print_json(reply), kOk;
  std::printf("%s is gone; %s replicas finish what they have and leave\n", name.c_str(),
              cell(reply, "stopped").c_str());
  return kOk;
}

int explain_deployment(Context& context, const std::string& name) {
  const Json d = explain(context, name);
  if (context.json()) return print_json(d), kOk;
  std::printf("%s\nversion %s, stable %s, %s\n", printable(progress_line(d), 300).c_str(),
              cell(d, "version").c_str(), cell(d, "stable_version").c_str(),
              d.value("autoscale", false) ? "scaled automatically" : "a fixed number");
  if (d.contains("failed_version"))
    std::printf("version %s was given up: %s\n", cell(d, "failed_version").c_str(),
                printable(cell(d, "failed_why"), 300).c_str());
  if (d.contains("retry_in_ms"))
    std::printf("the next start in %s, after %s failures\n",
                format_millis(static_cast<int64_t>(count_of(d, "retry_in_ms"))).c_str(),
                cell(d, "failures").c_str());
  if (const Json look = part_of(d, "autoscaler"); !look.empty())
    std::printf("autoscaler: %s -> %s (%s): %s\n", cell(look, "current").c_str(),
                cell(look, "desired").c_str(), cell(look, "rule").c_str(),
                cell(look, "why").c_str());
  Table replicas({"REPLICA", "NODE", "VERSION", "STATE", "ONGOING", "RESTARTS", "ERROR"});
  for (const auto& r : d.value("replica_list", Json::array()))
    replicas.add({cell(r, "id"), cell(r, "node"), cell(r, "version"),
                  cell(r, "state") + (r.value("standby", false) ? " (standby)" : ""),
                  cell(r, "ongoing"), cell(r, "restarts"), printable(cell(r, "error"), 60)});
  if (!replicas.empty()) std::printf("\n%s", replicas.text().c_str());
  Table decisions({"AGO", "DECISION", "WHY"});
  for (const auto& e : d.value("decisions", Json::array()))
    decisions.add({format_millis(static_cast<int64_t>(count_of(e, "ago_ms"))),
                   cell(e, "what") + (count_of(e, "times") > 1 ? " x" + cell(e, "times") : ""),
                   printable(cell(e, "why"), 100)});
  if (!decisions.empty()) std::printf("\n%s", decisions.text().c_str());
  return kOk;
}

constexpr const char* kDeployFooter =
    "A file has tables such as this one; every field but code may be left out:\n"
    "  [deployment.embed]\n"
    "  code = \"libembed.so\"              # beside this file, or known to the workers\n"
    "  handlers = [\"embed\"]              # of it; default: all\n"
    "  num_replicas = 2                  # or \"auto\", with autoscaling_config\n"
    "  max_ongoing_requests = 5          # batches at once in one replica\n"
    "  gpus = 0.5\n"
    "  gpu_memory = \"8GiB\"\n"
    "  resources = { step_a_slot = 1 }   # cpus = 2, labels = [\"head\"], strategy = \"pack\",\n"
    "                                    # variants = [{...}, {...}] in place of these\n"
    "  user_config = { threshold = 0.5 } # changed without a restart\n"
    "  max_surge = \"25%\"                 # more replicas than wanted while it rolls\n"
    "  [deployment.embed.autoscaling_config]\n"
    "  min_replicas = 0                  # Ray Serve's names; see: dray autoscale --help\n"
    "  max_replicas = 8\n"
    "Also: max_batch_size, batch_wait_ms, health_check_period_s, health_check_timeout_s,\n"
    "graceful_shutdown_timeout_s, start_timeout_s, memory_limit.\n\n"
    "Examples:\n"
    "  dray deploy app.toml --dry-run\n"
    "  dray deploy app.toml                 wait until it is stable or rolled back (10 min)\n";

}  // namespace

void add_deploy_commands(CLI::App& app, Context& context) {
  auto* up = app.add_subcommand("deploy", "Run what a file describes; roll to it if it runs");
  auto c = std::make_shared<DeployCommand>();
  up->add_option("file", c->file, "TOML file")->required()->check(CLI::ExistingFile);
  up->add_flag("--dry-run", c->dry_run, "Show what would change");
  up->add_flag("--no-wait", c->no_wait, "Return when it is accepted");
  up->footer(kDeployFooter);
  up->callback([&context, c] { context.action = [&context, c] { return deploy(context, *c); }; });

  auto* number = app.add_subcommand("scale", "Change how many replicas a deployment has");
  auto name = std::make_shared<std::string>();
  auto replicas = std::make_shared<std::string>();
  number->add_option("name", *name, "Deployment")->required();
  number->add_option("replicas", *replicas, "A number, or auto")
      ->required()
      ->check([](const std::string& text) {
        const bool ok = text == "auto" || (!text.empty() && text.size() <= 6 &&
                                           text.find_first_not_of("0123456789") == text.npos);
        return ok ? std::string() : "'" + printable(text, 40) + "' is no number and not auto";
      });
  number->footer("Examples:\n  dray scale embed 4\n  dray scale embed auto\n");
  number->callback([&context, name, replicas] {
    context.action = [&context, name, replicas] { return scale(context, *name, *replicas); };
  });

  auto* back = app.add_subcommand("rollback", "Go back to an earlier version of a deployment");
  auto version = std::make_shared<int64_t>(0);
  auto no_wait = std::make_shared<bool>(false);
  auto which = std::make_shared<std::string>();
  back->add_option("name", *which, "Deployment")->required();
  back->add_option("--version", *version, "Which one (default: the last stable one before)");
  back->add_flag("--no-wait", *no_wait, "Return when it is accepted");
  back->footer("Examples:\n  dray rollback embed\n  dray rollback embed --version 3\n");
  back->callback([&context, which, version, no_wait] {
    context.action = [&context, which, version, no_wait] {
      return rollback(context, *which, *version, *no_wait);
    };
  });

  auto* down = app.add_subcommand("undeploy", "Stop a deployment and forget it");
  auto gone = std::make_shared<std::string>();
  down->add_option("name", *gone, "Deployment")->required();
  down->footer("Example:\n  dray undeploy embed\n");
  down->callback(
      [&context, gone] { context.action = [&context, gone] { return undeploy(context, *gone); }; });

  auto* why = app.add_subcommand("explain", "Why things are as they are");
  why->require_subcommand(1, 1);
  why->footer("Example:\n  dray explain deployment embed\n");
  auto* deployment = why->add_subcommand("deployment", "The last decisions, with their reasons");
  auto about = std::make_shared<std::string>();
  deployment->add_option("name", *about, "Deployment")->required();
  deployment->footer("Example:\n  dray explain deployment embed -o json\n");
  deployment->callback([&context, about] {
    context.action = [&context, about] { return explain_deployment(context, *about); };
  });
}

}  // namespace dray::console
