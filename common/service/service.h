// Service: what every dray process does the same way around its Host: command line, config, log,
// HTTP admin, signals, ready state, metrics, exit codes.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/base/ids.h"
#include "common/service/config.h"
#include "common/service/host.h"
#include "common/service/http_admin.h"

namespace dray {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;  // something was not made durable, or a store is damaged
constexpr int kExitConfig = 2;

// Reads the command line (--config FILE, --dir DIR, --set key=value ..., --print-config, --help,
// --version) and the config. Empty: the process shall end with `exit_code`; the reason was printed.
std::optional<Config> start_service(const std::string& process, int argc, char** argv,
                                    int& exit_code);

BootId random_boot_id();
uint64_t random_seed();
// Sets the log up for this process. `name` is what its lines carry.
void start_log(const Config& config, const std::string& name);
// Logs a core's note: "key=value key=value" becomes fields.
void log_note(const Note& note);
void count_host(const std::string& process, const HostCounters& counters);
int report_failure(const std::string& what, const Error& error);  // one line; returns kExitFailed

template <class Core>
struct ServiceHooks {
  std::function<std::vector<std::string>(Core&)> not_ready;  // reasons, in the loop's thread
  std::function<std::string(Core&, Now)> state;  // JSON, in the loop's thread
  std::function<void(Core&, Now)> metrics;  // ten times a second, in the loop's thread
  std::function<void(Now, typename Core::Out&)> poll;  // every turn
};

// Opens the sockets, serves HTTP, runs until SIGTERM or SIGINT and a clean drain.
template <class Core, class Durable>
int run_service(const std::string& process, const std::string& http, Host<Core, Durable>& host,
                ServiceHooks<Core> hooks) {
  Status opened = host.open();
  if (!opened) return report_failure("open sockets", opened.error());
  std::mutex mutex;
  Health ready{false, {"starting"}};
  std::atomic<int64_t> last_turn{0};
  std::atomic<bool> running{true};
  Time next_metrics{};
  host.set_on_note(log_note);
  host.set_poll([&](Now now, typename Core::Out& out) {
    if (hooks.poll) hooks.poll(now, out);
    last_turn = now.mono.time_since_epoch().count();
    if (now.mono < next_metrics) return;
    next_metrics = now.mono + std::chrono::milliseconds(100);
    auto reasons = hooks.not_ready ? hooks.not_ready(host.core()) : std::vector<std::string>{};
    {
      std::lock_guard lock(mutex);
      ready = {reasons.empty(), std::move(reasons)};
    }
    if (hooks.metrics) hooks.metrics(host.core(), now);
    count_host(process, host.counters());
  });
  HttpAdminOptions admin;
  admin.listen = http;
  admin.on_signal = [&](int) { host.request_stop(); };
  admin.live = [&] {
    auto silent = read_clock().mono.time_since_epoch().count() - last_turn;
    return silent < Duration(10s).count() ? Health{} : Health{false, {"the loop does not turn"}};
  };
  admin.ready = [&] {
    std::lock_guard lock(mutex);
    return ready;
  };
  admin.state = [&]() -> std::string {
    if (!hooks.state || !running) return "{}";
    auto answer = std::make_shared<std::promise<std::string>>();
    auto future = answer->get_future();
    host.post([&hooks, answer](Now now, Core& core, typename Core::Out&) {
      answer->set_value(hooks.state(core, now));
    });
    if (future.wait_for(1s) != std::future_status::ready) return "{}";
    return future.get();
  };
  last_turn = read_clock().mono.time_since_epoch().count();
  auto server = HttpAdmin::start(std::move(admin));
  if (!server) return report_failure("serve http", server.error());
  Status ran = host.run();
  running = false;
  server.value().reset();
  if (!ran) return report_failure("run", ran.error());
  return kExitOk;
}

}  // namespace dray
