#include "common/service/service.h"

#include <sys/random.h>

#include <cstdio>
#include <string_view>
#include <vector>

#include "common/net/priority.h"
#include "common/service/log.h"
#include "common/service/metrics.h"

namespace dray {
namespace {

constexpr const char* kVersion = "0.1.0";
constexpr const char* kFakeGpusHelp =
    "  --fake-gpus SPEC offer GPUs that are not there, such as 2x24GiB: for tests of placement\n";

void print_usage(const std::string& process) {
  std::printf(
      "usage: dray-%s [--config FILE] [--dir DIR] [--set KEY=VALUE]... [--print-config]\n\n"
      "  --config FILE    TOML file; every key has a default\n"
      "  --dir DIR        base of relative paths (default: the folder of FILE)\n"
      "  --set KEY=VALUE  one setting, stronger than file and environment (DRAY_SECTION_KEY)\n"
      "%s"
      "  --print-config   print the effective settings with their origin, and exit\n"
      "  --version        print the version, and exit\n\n"
      "example: dray-%s --config dray.toml --set log.level=debug\n"
      "The console starts and stops a whole cluster: dray up, dray down.\n",
      process.c_str(), process == "worker" ? kFakeGpusHelp : "", process.c_str());
}

struct Arguments {
  ConfigSources sources;
  bool print = false;
};

// False when the process shall end with `exit_code`.
bool parse(const std::string& process, int argc, char** argv, Arguments& args, int& exit_code) {
  auto fail = [&](const std::string& why) {
    std::fprintf(stderr, "dray-%s: %s; see dray-%s --help\n", process.c_str(), why.c_str(),
                 process.c_str());
    exit_code = kExitConfig;
    return false;
  };
  for (int i = 1; i < argc; ++i) {
    std::string_view arg = argv[i];
    if (arg == "--help" || arg == "-h") {
      print_usage(process);
      exit_code = kExitOk;
      return false;
    }
    if (arg == "--version") {
      std::printf("dray-%s %s\n", process.c_str(), kVersion);
      exit_code = kExitOk;
      return false;
    }
    if (arg == "--print-config") {
      args.print = true;
      continue;
    }
    const bool is_fake_gpus = process == "worker" && arg == "--fake-gpus";
    if (arg != "--config" && arg != "--dir" && arg != "--set" && !is_fake_gpus)
      return fail("unknown argument '" + std::string(arg) + "'");
    if (++i == argc) return fail(std::string(arg) + " needs a value");
    if (arg == "--config") args.sources.file = argv[i];
    if (arg == "--dir") args.sources.dir = argv[i];
    if (arg == "--set") args.sources.sets.emplace_back(argv[i]);
    if (is_fake_gpus) args.sources.sets.push_back(std::string("worker.gpus=fake:") + argv[i]);
  }
  return true;
}

}  // namespace

std::optional<Config> start_service(const std::string& process, int argc, char** argv,
                                    int& exit_code) {
  Arguments args;
  if (!parse(process, argc, argv, args, exit_code)) return std::nullopt;
  args.sources.process = process;
  args.sources.environment = dray_environment();
  auto config = load_config(args.sources);
  if (!config) {
    std::fprintf(stderr, "dray-%s: %s\n", process.c_str(), config.error().detail.c_str());
    exit_code = kExitConfig;
    return std::nullopt;
  }
  if (args.print) {
    std::fputs(print_config(*config).c_str(), stdout);
    exit_code = kExitOk;
    return std::nullopt;
  }
  // Before there are threads: each has its own priority and the new ones take it over.
  if (process == "broker" || process == "aggregator")
    be_nice(static_cast<int>(config->integer(process + ".nice")));
  return std::move(config).value();
}

uint64_t random_seed() {
  uint64_t seed = 0;
  while (getrandom(&seed, sizeof seed, 0) != sizeof seed) {
  }
  return seed;
}

BootId random_boot_id() { return {random_seed() | 1, random_seed()}; }

void start_log(const Config& config, const std::string& name) {
  LogOptions options;
  options.process = name;
  options.format = config.text("log.format");
  if (auto level = log_level_from(config.text("log.level"))) options.level = *level;
  log_init(std::move(options));
}

void log_note(const Note& note) {
  std::vector<LogField> fields;
  std::string_view rest = note.fields;
  while (!rest.empty() && fields.size() < 16) {
    size_t eq = rest.find('=');
    if (eq == std::string_view::npos) {
      fields.push_back({"detail", rest});
      break;
    }
    std::string_view key = rest.substr(0, eq);
    rest.remove_prefix(eq + 1);
    // A value may contain spaces: it ends before the next " key=".
    size_t end = rest.size();
    for (size_t at = rest.find(' '); at != std::string_view::npos; at = rest.find(' ', at + 1)) {
      size_t next = rest.find_first_of(" =", at + 1);
      if (next != std::string_view::npos && rest[next] == '=') {
        end = at;
        break;
      }
    }
    fields.push_back({key, rest.substr(0, end)});
    rest = end < rest.size() ? rest.substr(end + 1) : std::string_view{};
  }
  log_event(LogLevel::info, note.event, fields);
}

void count_host(const std::string& process, const HostCounters& c) {
  const MetricLabels labels{{"proc", process}};
  auto set = [&](const char* name, const char* help, const std::atomic<uint64_t>& v) {
    counter(name, help, labels).set_total(v.load(std::memory_order_relaxed));
  };
  set("dray_host_turns_total", "Turns of the loop.", c.turns);
  set("dray_host_packets_in_total", "Messages received.", c.packets_in);
  set("dray_host_packets_out_total", "Messages sent.", c.packets_out);
  set("dray_host_wakeups_total", "Sleeps that ended.", c.wakeups);
  set("dray_host_busy_total", "Messages that had to wait for a slow peer.", c.eagain);
  set("dray_host_bad_total", "Messages dropped as malformed.", c.bad);
  set("dray_host_lost_total", "Messages dropped with their session.", c.lost);
  gauge("dray_host_sessions", "Open sessions.", labels)
      .set(static_cast<double>(c.sessions.load(std::memory_order_relaxed)));
  gauge("dray_host_turn_seconds_max", "Longest turn so far.", labels)
      .set(static_cast<double>(c.turn_ns_max.load(std::memory_order_relaxed)) / 1e9);
}

int report_failure(const std::string& what, const Error& error) {
  log_event(LogLevel::error, "failed",
            {{"doing", what}, {"code", errc_name(error.code)}, {"detail", error.detail}});
  log_flush();
  return kExitFailed;
}

}  // namespace dray
