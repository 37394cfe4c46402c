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
#include "services/worker/shell/bridge.h"
#include "services/worker/shell/gpus.h"
#include "services/worker/shell/plugin_host.h"

namespace dray::worker {
namespace {

namespace fs = std::filesystem;
constexpr int kExitStuck = 70;
constexpr size_t kHandlerNamesMax = 48 * 1024;  // they all travel in the head of one ATTACH
constexpr Duration kProcessesEnd = 2s;  // for processes of handlers, at the end
constexpr Duration kDrainSlack = 10s;  // the agent ends its drain by itself before that

class HandlerLog : public LogSink {
  void on_log(int level, std::string_view text) override {
    log_event(static_cast<LogLevel>(std::clamp(level, 0, 3)), "handler", {{"text", text}});
  }
};

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

// With worker.isolate each has a process of its own, and nothing is loaded here.
Result<ReplicaOptions> isolated_plugins(const Config& config) {
  ReplicaOptions options;
  DRAY_TRY_ASSIGN(const std::vector<std::string> paths, plugin_paths(config));
  for (const std::string& path : paths) {
    ReplicaSpec spec;
    spec.id = kFixedBit + options.fixed.size() + 1;
    spec.code = path;
    spec.graceful_ms = static_cast<uint32_t>(to_us(config.duration("worker.drain_timeout")) / 1000);
    options.fixed.push_back(std::move(spec));
  }
  return options;
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
  std::vector<HandlerOffer> offers;
  for (const HandlerInfo& h : handlers) offers.push_back(h.offer);
  if (offer_bytes(offers) > kOfferBytesMax)
    return make_error(Errc::config, "the plugins have too many handlers for one OFFER");
  return {};
}

uint32_t slots_of(const Config& config, const char* key) {
  const auto slots = static_cast<uint32_t>(config.integer(key));
  return slots != 0 ? slots : std::max(1u, std::thread::hardware_concurrency());
}

AgentOptions agent_options(const Config& config, const PluginHost& host, const Gpus& gpus) {
  AgentOptions o;
  o.slots = slots_of(config, "worker.slots");
  o.call_slots = slots_of(config, "worker.call_slots");
  o.prefetch_max = static_cast<uint32_t>(config.integer("worker.prefetch_max"));
  o.drain_timeout = config.duration("worker.drain_timeout");
  for (const HandlerInfo& h : host.handlers()) {
    o.handlers.push_back(h.name);
    o.handler_limits.push_back(h.max_concurrency);
    o.offers.push_back(h.offer);
  }
  o.labels = config.strings("worker.labels");
  char hostname[256] = {};
  if (::gethostname(hostname, sizeof(hostname) - 1) == 0)
    o.labels.push_back("node:" + std::string(hostname));
  for (const auto& [name, units] : config.amounts("worker.resources"))
    o.resources.emplace_back(name, static_cast<uint64_t>(units));
  if (config.amounts("worker.resources").count("cpu") == 0)
    o.resources.emplace_back("cpu", uint64_t{o.slots} * 10'000);
  o.devices = gpus.devices();
  return o;
}

// What tasks are told apart by must be proper, or nobody takes it.
Status check_node(const AgentOptions& o) {
  for (const auto& [name, units] : o.resources)
    for (std::string_view own : {"gpu", "gpus", "gpu_memory"})
      if (name == own)
        return make_error(Errc::config, "worker.resources." + name +
                                            ": GPUs are found by the worker itself (worker.gpus); "
                                            "choose another name");
  const auto capacity = capacity_of(o.devices, o.resources, o.labels);
  return capacity ? Status() : Status(make_error(Errc::config, capacity.error().detail));
}

HostOptions host_options(const Config& config) {
  HostOptions o;
  o.link.role = Role::worker;
  o.link.name = config.text("worker.name");
  o.link.boot = random_boot_id();
  o.dial = {{WorkerCore::kBroker, config.text("broker.endpoint"), Role::broker}};
  std::vector<std::string> routers = config.strings("worker.routers");
  if (routers.empty()) routers.push_back(config.text("router.worker_endpoint"));
  Port port = WorkerCore::kFirstRouter;
  for (const std::string& endpoint : routers) o.dial.push_back({port++, endpoint, Role::router});
  if (config.boolean("balancer.enabled"))
    o.dial.push_back({port, config.text("balancer.endpoint"), Role::balancer});
  o.spin = config.duration("worker.spin");
  o.drain_timeout = config.duration("worker.drain_timeout") + kDrainSlack;
  o.guests = true;
  return o;
}

void export_metrics(const Agent& agent, uint32_t slots) {
  const AgentCounters& c = agent.counters();
  export_total("dray_worker_tasks_received_total", "Tasks taken from the broker.", c.received);
  export_total("dray_worker_tasks_missed_total", "Dispatched tasks that never arrived.", c.missed);
  export_total("dray_worker_tasks_started_total", "Tasks handed to executors.", c.started);
  export_total("dray_worker_tasks_given_back_total", "Tasks given back unstarted.", c.given_back);
  export_total("dray_worker_tasks_revoked_total", "Tasks the broker took back.", c.revoked);
  export_total("dray_worker_time_limits_total", "Tasks that ran into their time limit.",
               c.time_limits);
  export_total("dray_worker_results_stale_total", "Results the broker refused.", c.stale_results);
  export_total("dray_worker_results_resends_total", "Times results were sent again.", c.resends);
  const auto finished = [](const char* status, uint64_t value) {
    counter("dray_worker_tasks_finished_total", "Results made.", {{"status", status}})
        .set_total(value);
  };
  finished("ok", c.finished - c.failed);
  finished("failed", c.failed);
  export_level("dray_worker_slots", "Executors.", slots);
  export_level("dray_worker_tasks_queued", "Tasks waiting here.", agent.queued());
  export_level("dray_worker_tasks_running", "Tasks handed to executors and not finished.",
               agent.running());
  export_level("dray_worker_results_unacked", "Results the broker has not confirmed.",
               agent.unacked());
}

void export_call_metrics(const CallAgent& calls, uint32_t slots) {
  const CallCounters& c = calls.counters();
  export_total("dray_worker_batches_total", "Batches of calls taken from routers.", c.batches);
  export_total("dray_worker_calls_received_total", "Calls taken from routers.", c.calls);
  export_total("dray_worker_calls_refused_total",
               "Calls refused: no credit, or rows that make no sense.", c.refused);
  export_total("dray_worker_calls_dropped_total", "Calls whose router went away.", c.dropped);
  export_total("dray_worker_call_parts_total", "Parts of streaming replies.", c.parts);
  export_total("dray_worker_call_part_bytes_total", "Bytes of these parts.", c.part_bytes);
  const auto ended = [](const char* status, uint64_t value) {
    counter("dray_worker_calls_ended_total", "Calls answered.", {{"status", status}})
        .set_total(value);
  };
  ended("reply", c.replies);
  ended("failed", c.failed);
  ended("expired", c.expired);
  ended("cancelled", c.cancelled);
  ended("unknown", c.unknown);
  export_level("dray_worker_call_slots", "Batches of calls run at once.", slots);
  export_level("dray_worker_routers", "Routers this worker is connected to.", calls.routers());
  export_level("dray_worker_batches_running", "Batches handed to the executors.", calls.running());
  export_level("dray_worker_batches_waiting", "Batches waiting here.", calls.waiting());
  export_level("dray_worker_call_payload_bytes", "Payloads of calls held.", calls.payload_bytes());
}

ServiceHooks<PacedCore> make_hooks(const AgentOptions& options, Bridge& bridge, PacedCore& paced,
                                   Gpus& gpus) {
  ServiceHooks<PacedCore> hooks;
  hooks.not_ready = [](PacedCore& core) {  // routers come and go; a worker without one is ready
    std::vector<std::string> reasons;
    if (!core.tasks().attached()) reasons.push_back("no broker");
    if (core.tasks().draining()) reasons.push_back("draining");
    return reasons;
  };
  hooks.state = [](PacedCore& core, Now now) { return to_json(core.to_doc(now)); };
  hooks.metrics = [slots = options.slots, call_slots = options.call_slots](PacedCore& core, Now) {
    export_metrics(core.tasks(), slots);
    export_call_metrics(core.calls(), call_slots);
    export_level("dray_worker_processes", "Processes of handlers.", core.replicas().processes());
    export_total("dray_worker_process_crashes_total",
                 "Processes of handlers that ended by themselves.", core.replicas().crashes());
  };
  hooks.poll = [&bridge, &paced, &gpus](Now now, WorkerOut& out) {
    bridge.poll(now, out);
    if (auto news = gpus.poll(now.mono))
      paced.set_devices(std::move(news->devices), news->for_routers, now, out);
  };
  return hooks;
}

// Until every plugin's process is ready, so that the first ATTACH names all handlers; or the reason
// why that can not be.
Status start_processes(PacedCore& core, Processes& processes) {
  WorkerOut out;
  std::vector<ProcessEvent> events;
  core.start_replicas(read_clock(), out);
  for (;;) {
    const Now now = read_clock();
    processes.drain(events);
    core.on_processes(std::move(events), now, out);
    core.tick(now, out);
    core.end_turn(now, out);
    processes.carry_out(std::move(out.orders));
    for (const Note& note : out.notes)
      log_event(LogLevel::info, note.event, {{"detail", note.fields}});
    out.clear();
    if (const std::string problem = core.replicas().fixed_problem(); !problem.empty())
      return make_error(Errc::config, "plugin " + problem);
    if (core.replicas().fixed_ready()) return {};
    processes.wait(100ms);
  }
}

ProcessesOptions processes_options(const Config& config, const AgentOptions& agent) {
  ProcessesOptions o;
  o.program = executor_program();
  o.worker_name = config.text("worker.name");
  o.data_dir = config.text("worker.data_dir");
  o.allow_test_handlers = config.boolean("worker.allow_test_handlers");
  o.threads = agent.slots + agent.call_slots;
  return o;
}

int refuse_start(const Error& error) {
  std::fprintf(stderr, "dray-worker: %s\n", error.detail.c_str());
  return kExitConfig;
}

int run_with(const Config& config, PluginHost& plugins, Gpus& gpus, const AgentOptions& options,
             ReplicaOptions replicas) {
  replicas.handlers = options.handlers;
  PacedCore core(options, std::move(replicas));
  NoDurable durable;
  Host<PacedCore, NoDurable> host(host_options(config), core, durable);
  const auto wake = [&] { host.wake(); };
  auto executors = std::make_unique<Executors>(
      plugins, ExecutorOptions{options.slots, options.handlers, wake,
                               static_cast<int>(config.integer("worker.task_nice"))});
  auto callers = std::make_unique<CallExecutors>(
      plugins, CallExecutorOptions{options.call_slots, options.handlers,
                                   config.duration("worker.spin"), wake});
  ProcessesOptions process_options = processes_options(config, options);
  process_options.wake = wake;
  process_options.add_handler = [&](const HandlerInfo& info, Runner& runner) {
    const Handler* const handler = plugins.add_remote(info, runner);
    executors->add_handler(handler);
    callers->add_handler(handler);
  };
  Processes processes(std::move(process_options));
  if (Status started = start_processes(core, processes); !started)
    return refuse_start(started.error());
  Bridge bridge(core, *executors, *callers, &processes);
  const std::function<void(std::function<void()>)> guest = [&](std::function<void()> f) {
    host.run_guest(std::move(f));
  };
  host.set_on_turn([&](Now, WorkerOut& out) {
    bridge.on_turn(out, host.can_have_guest() ? &guest : nullptr);
    if (out.exit) host.request_stop();
  });
  log_event(LogLevel::info, "started",
            {{"slots", options.slots},
             {"call_slots", options.call_slots},
             {"handlers", core.handlers()},
             {"processes", core.replicas().processes()}});
  gpus.watch(config, wake);
  int code = run_service("worker", config.text("worker.http"), host,
                         make_hooks(options, bridge, core, gpus));
  gpus.stop();
  if (code == kExitOk) code = core.exit_code();
  log_event(LogLevel::info, "stopped", {{"code", code}});
  log_flush();
  // Threads that do not return can not be joined.
  if (core.tasks().running() + core.calls().running() != 0)
    ::_exit(code == kExitOk ? kExitStuck : code);
  processes.end(kProcessesEnd);
  executors.reset();  // they run handlers of the processes
  callers.reset();
  return code;
}

}  // namespace

int run_worker(const Config& config) {
  start_log(config, config.text("worker.name"));
  int name_lock = -1;  // held until the process ends
  if (Status locked = lock_name(config, name_lock); !locked) return refuse_start(locked.error());
  Gpus gpus;
  if (Status found = gpus.find(config); !found) return refuse_start(found.error());
  HandlerLog handler_log;
  PluginOptions options;
  options.allow_test_handlers = config.boolean("worker.allow_test_handlers");
  options.worker_name = config.text("worker.name");
  options.data_dir = config.text("worker.data_dir");
  options.log = &handler_log;
  PluginHost plugins(options);
  ReplicaOptions replicas;
  if (config.boolean("worker.isolate")) {
    auto isolated = isolated_plugins(config);
    if (!isolated) return refuse_start(isolated.error());
    replicas = std::move(*isolated);
  } else if (Status loaded = load_plugins(config, plugins); !loaded) {
    return refuse_start(loaded.error());
  }
  const AgentOptions agent = agent_options(config, plugins, gpus);
  if (Status ok = check_node(agent); !ok) return refuse_start(ok.error());
  return run_with(config, plugins, gpus, agent, std::move(replicas));
}

}  // namespace dray::worker
