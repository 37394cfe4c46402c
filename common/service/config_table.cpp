// The table of configuration keys: one row per key, in the order of deploy/dray.toml.
#include "common/base/limits.h"
#include "common/service/config.h"

namespace dray {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1000 * kMs;
constexpr int64_t kMinute = 60 * kSecond;
constexpr int64_t kHour = 60 * kMinute;
constexpr int64_t kDay = 24 * kHour;
constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;
constexpr int64_t kGiB = 1024 * kMiB;
constexpr int64_t kTiB = 1024 * kGiB;
constexpr int64_t kBody = static_cast<int64_t>(kBodyBytesMax);
constexpr int64_t kName = static_cast<int64_t>(kNameBytesMax);

using enum ConfigType;
constexpr std::string_view kAll = "broker router aggregator worker client";

constexpr ConfigKey kKeys[] = {
    {"cluster.name", string, "dray", 1, 64, kAll,
     "Name of this cluster, shown in logs and by the console.", ""},

    {"broker.endpoint", endpoint, "ipc://run/broker.sock", 0, 0, "broker router aggregator worker",
     "Where the broker listens; the other processes dial it.", ""},
    {"broker.http", http, "unix:run/broker.http", 0, 0, "broker",
     "Where /live, /ready, /metrics and /debug/state are served.", ""},
    {"broker.nice", integer, "5", 0, 19, "broker",
     "How far it stands back (nice value) when others want the CPUs: calls go first.", ""},
    {"broker.journal_dir", path, "data/journal", 0, 0, "broker",
     "Folder of the journal. One broker owns it at a time.", ""},
    {"broker.segment_bytes", size, "64MiB", kMiB, kGiB, "broker",
     "Size of one journal file; space is given back file by file.", ""},
    {"broker.journal_budget", size, "4GiB", 8 * kMiB, 64 * kTiB, "broker",
     "Most disk space the journal may use; submits are refused above it.", ""},
    {"broker.journal_keep", size, "512MiB", 0, 64 * kTiB, "broker",
     "History kept after its tasks ended, to recognise a repeated submit.", ""},
    {"broker.payload_cache", size, "128MiB", 0, 64 * kTiB, "broker",
     "Memory for payloads of waiting tasks; the others are read back from the journal.", ""},
    {"broker.min_free_disk", size, "256MiB", 0, 64 * kTiB, "broker",
     "New tasks are refused while the file system has less free space than this.", ""},
    {"broker.tasks_max", integer, "4000000", static_cast<int64_t>(kMergeRowsMax), 1'000'000'000,
     "broker", "Unfinished tasks held at once.", ""},
    {"broker.lease_ttl", duration, "10s", 100 * kMs, kHour, "broker",
     "A running task is given to another worker when its worker was silent for so long.", ""},
    {"broker.resume_window", duration, "15s", 100 * kMs, kHour, "broker",
     "After a start the broker waits so long for workers that still run old leases.", ""},
    {"broker.beat_interval", duration, "1s", 10 * kMs, kMinute, "broker",
     "How often workers and services say that they live.", ""},
    {"broker.dead_letters_max", integer, "100000", 0, 100'000'000, "broker",
     "Dead letters kept for inspection; the oldest go first.", ""},
    {"broker.known_ids_max", integer, "8000000", 1000, 1'000'000'000, "broker",
     "Finished task ids remembered, to recognise a repeated submit.", ""},

    {"router.name", string, "router", 1, kName, "router",
     "Name of this router, unique in the cluster.", ""},
    {"router.endpoint", endpoint, "ipc://run/router.sock", 0, 0, "router",
     "Where the router listens; the only door for clients.", ""},
    {"router.worker_endpoint", endpoint, "ipc://run/router-workers.sock", 0, 0, "router worker",
     "Where the router listens for workers that take calls.", ""},
    {"router.http", http, "unix:run/{name}.http", 0, 0, "router",
     "Where /live, /ready, /metrics and /debug/state are served; {name} is router.name.", ""},
    {"router.client_credit", integer, "256", 1, 65'536, "router",
     "Requests one client may have open.", ""},
    {"router.client_bytes", size, "64MiB", kBody, 64 * kTiB, "router",
     "Bytes one client may have in flight.", ""},
    {"router.inflight_bytes", size, "512MiB", kBody, 64 * kTiB, "router",
     "Bytes all clients together may have in flight.", ""},
    {"router.client_calls", integer, "4096", 1, 1'000'000, "router",
     "Calls one client may have open.", ""},
    {"router.call_bytes", size, "512MiB", kBody, 64 * kTiB, "router",
     "Payload bytes all open calls together may hold.", ""},
    {"router.max_queued", integer, "10000", 1, 10'000'000, "router",
     "Calls that may wait for one handler; more are rejected as overloaded.", ""},
    {"router.call_deadline", duration, "10s", kMs, kHour, "router",
     "Deadline of a call that comes without one.", ""},
    {"router.spin", duration, "0s", 0, 10 * kMs, "router",
     "Look for input so long before sleeping: shorter calls, at the price of a core.", ""},

    {"aggregator.endpoint", endpoint, "ipc://run/aggregator.sock", 0, 0, "aggregator router",
     "Where the aggregator listens; the router dials it.", ""},
    {"aggregator.http", http, "unix:run/aggregator.http", 0, 0, "aggregator",
     "Where /live, /ready, /metrics and /debug/state are served.", ""},
    {"aggregator.nice", integer, "5", 0, 19, "aggregator",
     "How far it stands back (nice value) when others want the CPUs: calls go first.", ""},
    {"aggregator.store_dir", path, "data/results", 0, 0, "aggregator",
     "Folder of the result store. One aggregator owns it at a time.", ""},
    {"aggregator.size_budget", size, "8GiB", 8 * kMiB, 64 * kTiB, "aggregator",
     "Most disk space results may use; the oldest results go first.", ""},
    {"aggregator.result_ttl", duration, "24h", kSecond, 366 * kDay, "aggregator",
     "How long a result is kept.", ""},
    {"aggregator.min_free_disk", size, "512MiB", 0, 64 * kTiB, "aggregator",
     "Nothing is stored while the file system has less free space than this.", ""},
    {"aggregator.waiters_max", integer, "1000000", 1, 100'000'000, "aggregator",
     "Open requests that wait for a result.", ""},

    {"balancer.enabled", boolean, "true", 0, 1, "balancer router broker worker",
     "Whether there is a balancer to dial; without one nothing is deployed or scaled.", ""},
    {"balancer.endpoint", endpoint, "ipc://run/balancer.sock", 0, 0,
     "balancer router broker worker",
     "Where the balancer listens; workers, routers and the broker dial it.", ""},
    {"balancer.http", http, "unix:run/balancer.http", 0, 0, "balancer",
     "Where /live, /ready, /metrics and /debug/state are served.", ""},
    {"balancer.data_dir", path, "data/balancer", 0, 0, "balancer",
     "Folder of the goal: what is deployed. One balancer owns it at a time.", ""},
    {"balancer.settle", duration, "5s", 0, kHour, "balancer",
     "After a start nothing is placed for so long: workers report what they run.", ""},
    {"balancer.prove_time", duration, "10s", 0, kHour, "balancer",
     "A replica of a new version must stay well for so long before an old one goes.", ""},
    {"balancer.roll_failures", integer, "3", 1, 1000, "balancer",
     "Failed starts or health checks of a new version after which it is rolled back.", ""},

    {"worker.name", string, "", 0, kName, "worker",
     "Name of this worker, unique in the cluster; empty means the host name.", ""},
    {"worker.slots", integer, "0", 0, 4096, "worker", "Tasks run at once; 0 means one per core.",
     ""},
    {"worker.call_slots", integer, "0", 0, 4096, "worker",
     "Calls (or batches of them) run at once, beside the tasks; 0 means one per core.", ""},
    {"worker.routers", endpoints, "", 0, 16, "worker",
     "Worker endpoints of all routers; empty means router.worker_endpoint.", ""},
    {"worker.spin", duration, "0s", 0, 10 * kMs, "worker",
     "Look for input so long before sleeping: shorter calls, at the price of a core.", ""},
    {"worker.task_nice", integer, "5", 0, 19, "worker",
     "How far tasks stand back (nice value) when others want the CPUs: calls go first.", ""},
    {"worker.prefetch_max", integer, "4096", 1, 65'536, "worker",
     "Most tasks held by the worker before they start.", ""},
    {"worker.plugins", paths, "", 0, 64, "worker", "Shared objects with handlers, loaded at start.",
     ""},
    {"worker.isolate", boolean, "false", 0, 1, "worker",
     "Run each plugin in a process of its own: a crash ends only what that plugin ran.", ""},
    {"worker.data_dir", path, "data/work", 0, 0, "worker",
     "Folder that handlers may read stored data from (vec.topk).", ""},
    {"worker.allow_test_handlers", boolean, "false", 0, 1, "worker",
     "Load handlers that are made to crash or hang, for tests.", ""},
    {"worker.labels", strings, "", 0, static_cast<int64_t>(kLabelsMax), "worker",
     "Labels that tasks may ask for.", ""},
    {"worker.resources", amounts, "", 0, static_cast<int64_t>(kResourcesMax), "worker",
     "Custom resources of this node: amounts by name.", ""},
    {"worker.gpus", string, "auto", 1, 256, "worker",
     "GPUs to offer: auto finds them, none offers none, fake:2x24GiB makes some for tests.", ""},
    {"worker.gpu_filter", strings, "", 0, static_cast<int64_t>(kDevicesMax), "worker",
     "UUIDs, or how they begin, of the GPUs to offer; empty means all.", ""},
    {"worker.nvml_library", string, "libnvidia-ml.so.1", 1, 4096, "worker",
     "The library that finds and watches GPUs, opened at run time.", ""},
    {"worker.http", http, "unix:run/{name}.http", 0, 0, "worker",
     "Where /live, /ready, /metrics and /debug/state are served; {name} is worker.name.", ""},
    {"worker.drain_timeout", duration, "30s", 0, kHour, "worker",
     "After SIGTERM running tasks may go on for so long; the rest is handed back.", ""},

    {"client.endpoint", endpoint, "ipc://run/router.sock", 0, 0, "client",
     "The router that clients and the console dial.", ""},
    {"client.timeout", duration, "30s", kMs, kDay, "client",
     "How long a client waits for an answer unless it says otherwise.", ""},

    {"log.level", choice, "info", 0, 0, kAll, "Least severe level that is printed.",
     "debug|info|warn|error"},
    {"log.format", choice, "auto", 0, 0, kAll,
     "Lines of key=value or of JSON; auto means text on a terminal, JSON elsewhere.",
     "auto|text|json"},
};

}  // namespace

std::span<const ConfigKey> config_keys() { return kKeys; }

}  // namespace dray
