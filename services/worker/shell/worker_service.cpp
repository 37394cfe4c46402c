// Options from the config, plugins, the loop's hooks, metrics.
#include "services/worker/shell/worker_service.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "common/service/log.h"
#include "common/service/metrics.h"
#include "common/service/service.h"
#include "services/worker/core/agent.h"
#include "services/worker/shell/executor.h"
#include "services/worker/shell/plugin_host.h"

namespace dray::worker {
namespace {

namespace fs = std::filesystem;
constexpr int kExitStuck = 70;
constexpr size_t kHandlerNamesMax = 48 * 1024;  // they all travel in the head of one ATTACH
// While executors have work, outcomes gather for so long before the loop looks at them again.
constexpr Duration kGather = 200us;
constexpr Duration kDrainSlack = 10s;  // the agent ends its drain by itself before that

// The agent, plus a deadline of the shell's own.
class PacedAgent : public Agent {
 public:
  using Agent::Agent;
  Time next_deadline() const { return std::min(Agent::next_deadline(), poll_at); }
  Time poll_at = kNever;
};

class HandlerLog : public LogSink {
  void on_log(int level, std::string_view text) override {
    log_event(static_cast<LogLevel>(std::clamp(level, 0, 3)), "handler", {{"text", text}});
  }
};

// Keys that an older table does not have.
bool has_key(std::string_view name) {
  const auto keys = config_keys();
  return std::any_of(keys.begin(), keys.end(),
                     [&](const ConfigKey& key) { return key.name == name; });
}

// Names are unique in a cluster: the broker takes a second life of a name as the end of the first.
Status lock_name(const Config& config, int& fd) {
  const fs::path dir = fs::path(config.dir()) / "run";
  std::error_code ec;
  fs::create_directories(dir, ec);
  const std::string path = dir / ("worker-" + config.text("worker.name") + ".lock");
  fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return make_error(Errc::config, "cannot open " + path);
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return {};
  return make_error(Errc::config, "worker.name " + config.text("worker.name") +
                                      " is in use by another process (" + path + ")");
}

Result<std::vector<std::string>> plugin_paths(const Config& config) {
  if (!config.strings("worker.plugins").empty()) return config.strings("worker.plugins");
  std::error_code ec;
  const fs::path self = fs::read_symlink("/proc/self/exe", ec);
  const fs::path dir = self.parent_path().parent_path() / "lib/dray/plugins";
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(dir, ec))
    if (entry.path().extension() == ".so") paths.push_back(entry.path());
  if (paths.empty())
    return make_error(Errc::config,
                      "worker.plugins is empty and there are none in " + dir.string());
  std::sort(paths.begin(), paths.end());
  return paths;
}

Status load_plugins(const Config& config, PluginHost& host) {
  DRAY_TRY_ASSIGN(const std::vector<std::string> paths, plugin_paths(config));
  for (const std::string& path : paths) DRAY_TRY(host.load(path));
  size_t bytes = 0;
  const std::vector<HandlerInfo> handlers = host.handlers();
  for (const HandlerInfo& h : handlers) bytes += h.name.size();
  if (handlers.empty()) return make_error(Errc::config, "the plugins have no handlers");
  if (handlers.size() > kHandlersMax || bytes > kHandlerNamesMax)
    return make_error(Errc::config, "the plugins have too many handlers");
  return {};
}

uint32_t slots_of(const Config& config) {
  const auto slots = static_cast<uint32_t>(config.integer("worker.slots"));
  return slots != 0 ? slots : std::max(1u, std::thread::hardware_concurrency());
}

AgentOptions agent_options(const Config& config, const PluginHost& host) {
  AgentOptions o;
  o.slots = slots_of(config);
  o.prefetch_max = static_cast<uint32_t>(config.integer("worker.prefetch_max"));
  o.drain_timeout = config.duration("worker.drain_timeout");
  for (const HandlerInfo& h : host.handlers()) {
    o.handlers.push_back(h.name);
    o.handler_limits.push_back(h.max_concurrency);
  }
  o.labels = config.strings("worker.labels");
  char hostname[256] = {};
  if (::gethostname(hostname, sizeof(hostname) - 1) == 0)
    o.labels.push_back("node:" + std::string(hostname));
  for (const auto& [name, units] : config.amounts("worker.resources"))
    o.resources.emplace_back(name, static_cast<uint64_t>(units));
  if (config.amounts("worker.resources").count("cpu") == 0)
    o.resources.emplace_back("cpu", uint64_t{o.slots} * 10'000);
  return o;
}

HostOptions host_options(const Config& config) {
  HostOptions o;
  o.link.role = Role::worker;
  o.link.name = config.text("worker.name");
  o.link.boot = random_boot_id();
  o.dial = {{0, config.text("broker.endpoint"), Role::broker}};
  o.drain_timeout = config.duration("worker.drain_timeout") + kDrainSlack;
  return o;
}

void export_metrics(const Agent& agent, uint32_t slots) {
  const AgentCounters& c = agent.counters();
  const auto total = [](const char* name, const char* help, uint64_t value) {
    counter(name, help).set_total(value);
  };
  total("dray_worker_tasks_received_total", "Tasks taken from the broker.", c.received);
  total("dray_worker_tasks_missed_total", "Dispatched tasks that never arrived.", c.missed);
  total("dray_worker_tasks_started_total", "Tasks handed to executors.", c.started);
  total("dray_worker_tasks_given_back_total", "Tasks given back unstarted.", c.given_back);
  total("dray_worker_tasks_revoked_total", "Tasks the broker took back.", c.revoked);
  total("dray_worker_time_limits_total", "Tasks that ran into their time limit.", c.time_limits);
  total("dray_worker_results_stale_total", "Results the broker refused.", c.stale_results);
  total("dray_worker_results_resends_total", "Times results were sent again.", c.resends);
  const auto finished = [](const char* status, uint64_t value) {
    counter("dray_worker_tasks_finished_total", "Results made.", {{"status", status}})
        .set_total(value);
  };
  finished("ok", c.finished - c.failed);
  finished("failed", c.failed);
  const auto level = [](const char* name, const char* help, size_t value) {
    gauge(name, help).set(static_cast<double>(value));
  };
  level("dray_worker_slots", "Executors.", slots);
  level("dray_worker_tasks_queued", "Tasks waiting here.", agent.queued());
  level("dray_worker_tasks_running", "Tasks handed to executors and not finished.",
        agent.running());
  level("dray_worker_results_unacked", "Results the broker has not confirmed.", agent.unacked());
}

// Moves work between the agent and the executors, in the loop's thread.
class Bridge {
 public:
  Bridge(PacedAgent& agent, Executors& executors) : agent_(agent), executors_(executors) {}

  void poll(Now now, WorkerOut& out) {
    if (executors_.has_waiting() && now.mono < drained_at_ + kGather) {
      agent_.poll_at = drained_at_ + kGather;
      return;
    }
    agent_.poll_at = kNever;
    drained_at_ = now.mono;
    outcomes_.clear();
    progress_.clear();
    executors_.drain(outcomes_, progress_);
    if (!progress_.empty()) agent_.on_progress(std::move(progress_), now, out);
    if (!outcomes_.empty()) agent_.on_outcomes(std::move(outcomes_), now, out);
  }

  void on_turn(WorkerOut& out) {
    if (out.recall) executors_.recall();
    executors_.push(std::move(out.start));
    executors_.cancel(out.cancel);
    out.start.clear();
  }

 private:
  PacedAgent& agent_;
  Executors& executors_;
  Time drained_at_{};
  std::vector<Outcome> outcomes_;
  std::vector<ProgressItem> progress_;
};

int run_with(const Config& config, const PluginHost& plugins) {
  const AgentOptions options = agent_options(config, plugins);
  PacedAgent agent(options);
  NoDurable durable;
  Host<PacedAgent, NoDurable> host(host_options(config), agent, durable);
  auto executors = std::make_unique<Executors>(
      plugins, ExecutorOptions{options.slots, options.handlers, [&] { host.wake(); }});
  Bridge bridge(agent, *executors);
  host.set_on_turn([&](Now, WorkerOut& out) {
    bridge.on_turn(out);
    if (out.exit) host.request_stop();
  });
  ServiceHooks<PacedAgent> hooks;
  hooks.not_ready = [](PacedAgent& a) {
    std::vector<std::string> reasons;
    if (!a.attached()) reasons.push_back("no broker");
    if (a.draining()) reasons.push_back("draining");
    return reasons;
  };
  hooks.state = [](PacedAgent& a, Now now) { return to_json(a.to_doc(now)); };
  hooks.metrics = [&](PacedAgent& a, Now) { export_metrics(a, options.slots); };
  hooks.poll = [&](Now now, WorkerOut& out) { bridge.poll(now, out); };
  log_event(LogLevel::info, "started",
            {{"slots", options.slots}, {"handlers", options.handlers.size()}});
  int code = run_service("worker", config.text("worker.http"), host, std::move(hooks));
  if (code == kExitOk) code = agent.exit_code();
  log_event(LogLevel::info, "stopped", {{"code", code}});
  log_flush();
  // Threads that do not return can not be joined.
  if (agent.running() != 0) ::_exit(code == kExitOk ? kExitStuck : code);
  return code;
}

}  // namespace

int run_worker(const Config& config) {
  start_log(config, config.text("worker.name"));
  const auto refuse = [](const Error& error) {
    std::fprintf(stderr, "dray-worker: %s\n", error.detail.c_str());
    return kExitConfig;
  };
  int name_lock = -1;  // held until the process ends
  if (Status locked = lock_name(config, name_lock); !locked) return refuse(locked.error());
  HandlerLog handler_log;
  PluginOptions options;
  if (has_key("worker.allow_test_handlers"))
    options.allow_test_handlers = config.boolean("worker.allow_test_handlers");
  options.worker_name = config.text("worker.name");
  if (has_key("worker.data_dir")) options.data_dir = config.text("worker.data_dir");
  options.log = &handler_log;
  PluginHost plugins(options);
  if (Status loaded = load_plugins(config, plugins); !loaded) return refuse(loaded.error());
  return run_with(config, plugins);
}

}  // namespace dray::worker
