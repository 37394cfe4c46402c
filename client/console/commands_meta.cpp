// config, version, completion: about the console and its settings.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "client/console/cluster_dir.h"
#include "client/console/commands.h"
#include "client/console/outcome.h"
#include "client/console/protocol_version.h"
#include "embedded.h"

namespace dray::console {
namespace {

Json value_json(const Config& config, const ConfigKey& key) {
  const ConfigValue& v = config.value(key.name);
  switch (key.type) {
    case ConfigType::boolean:
      return v.number != 0;
    case ConfigType::integer:
      return v.number;
    case ConfigType::size:  // bytes
      return v.number;
    case ConfigType::duration:  // seconds
      return static_cast<double>(v.number) / 1e9;
    case ConfigType::strings:
    case ConfigType::paths:
    case ConfigType::endpoints:
      return v.list;
    case ConfigType::amounts: {
      Json amounts = Json::object();
      for (const auto& [name, units] : v.amounts)
        amounts[name] = static_cast<double>(units) / 10'000;
      return amounts;
    }
    default:
      return v.text;
  }
}

int show_config(const Context& context) {
  const ClusterDir dir(context.dir);
  const Config config = dir.config();
  if (!context.json()) {
    std::printf("# settings of the cluster in %s\n%s", dir.path().c_str(),
                print_config(config).c_str());
    return kOk;
  }
  Json doc = Json::object();
  for (const auto& key : config_keys())
    doc[std::string(key.name)] = {{"value", value_json(config, key)},
                                  {"origin", config.origin(key.name)}};
  print_json(doc);
  return kOk;
}

int check_config(const Context& context, const std::string& file) {
  std::string checked = file;
  if (file.empty()) {
    const ClusterDir dir(context.dir);
    dir.config();
    checked = dir.path() + "/dray.toml";
  } else {
    ConfigSources sources;
    sources.file = file;
    sources.environment = dray_environment();
    const auto config = load_config(sources);
    if (!config)
      throw Failure{kUsage, config.error().detail, "correct it, then: dray config check"};
  }
  if (context.json())
    print_json({{"ok", true}, {"file", checked}});
  else
    std::printf("%s: ok\n", checked.c_str());
  return kOk;
}

int version(const Context& context) {
  const std::string protocol = protocol_version();
  if (context.json())
    print_json({{"version", kVersion},
                {"protocol", protocol},
                {"build", kBuildType},
                {"compiler", __VERSION__}});
  else
    std::printf("dray %s (protocol %s, %s build, g++ %s)\n", kVersion, protocol.c_str(), kBuildType,
                __VERSION__);
  return kOk;
}

}  // namespace

void add_meta_commands(CLI::App& app, Context& context) {
  auto* config = app.add_subcommand("config", "Settings of the cluster in --dir");
  config->require_subcommand(1, 1);
  config->footer("Examples:\n  dray config show\n  dray config check\n");
  auto* show = config->add_subcommand("show", "Every key in effect and where it comes from");
  show->footer("Example:\n  dray config show -o json | jq '.\"router.endpoint\"'\n");
  show->callback([&context] { context.action = [&context] { return show_config(context); }; });
  auto* check = config->add_subcommand("check", "Is the file right?");
  auto file = std::make_shared<std::string>();
  check->add_option("file", *file, "A file (default: dray.toml in --dir)");
  check->footer("Example:\n  dray config check deploy/dray.toml\n");
  check->callback([&context, file] {
    context.action = [&context, file] { return check_config(context, *file); };
  });

  auto* about = app.add_subcommand("version", "Version of the console and of the protocol");
  about->footer("Example:\n  dray version -o json\n");
  about->callback([&context] { context.action = [&context] { return version(context); }; });

  auto* completion = app.add_subcommand("completion", "Completion script for a shell");
  completion->require_subcommand(1, 1);
  completion->footer("Example:\n  source <(dray completion bash)\n");
  auto* bash = completion->add_subcommand("bash", "For bash");
  bash->footer(
      "Example:\n  dray completion bash > ~/.local/share/bash-completion/completions/dray\n");
  bash->callback([&context, &app] {
    context.action = [&app] {
      std::fputs(bash_completion(app).c_str(), stdout);
      return kOk;
    };
  });
}

}  // namespace dray::console
