// dray bench mixed: calls and an endless backlog of tasks of the same handler, on the same workers:
// what each lane gets.
#include <CLI/CLI.hpp>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <thread>

#include "client/console/bench.h"
#include "client/console/call_text.h"
#include "client/console/cluster_dir.h"
#include "client/console/commands.h"
#include "client/console/deployments.h"
#include "client/console/open_load.h"
#include "client/console/svg_plot.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;

struct MixedBench : BatchLoad {
  std::vector<double> loads{0.2, 0.5};
  double seconds = 15;
  double warm_s = 5;
  std::string plot;
  uint32_t backlog = 2048;  // tasks open for each replica
};

// Keeps so many tasks open until it ends; then waits for them.
class Backlog {
 public:
  Backlog(Context& context, const MixedBench& b, uint32_t open)
      : handler_(b.handler), open_max_(open) {
    ClientOptions options;
    options.endpoint = context.router_endpoint();
    options.name = "bench-backlog";
    client_.emplace(need(Client::connect(options)));
    client_->on_results([this](std::span<const ResultView> rs) {
      std::lock_guard lock(mutex_);
      for (const ResultView& r : rs) failed_ += r.state != State::succeeded;
      done_ += rs.size();
      changed_.notify_all();
    });
    thread_ = std::thread([this] { feed(); });
  }
  ~Backlog() {
    stop_ = true;
    changed_.notify_all();
    thread_.join();
  }
  Backlog(const Backlog&) = delete;
  Backlog& operator=(const Backlog&) = delete;
  uint64_t done() {
    std::lock_guard lock(mutex_);
    return done_;
  }
  uint64_t failed() {
    std::lock_guard lock(mutex_);
    return failed_;
  }
  std::string problem() {
    std::lock_guard lock(mutex_);
    return problem_;
  }

 private:
  static constexpr uint32_t kBatch = 256;
  void feed() {
    const std::vector<std::string_view> payloads(kBatch);
    TaskOptions task;
    task.result_ttl = Millis(60'000);
    uint64_t sent = 0;
    std::unique_lock lock(mutex_);
    while (!stop_) {
      changed_.wait_for(lock, Millis(100),
                        [&] { return stop_ || sent - done_ + kBatch <= open_max_; });
      if (stop_ || sent - done_ + kBatch > open_max_) continue;
      lock.unlock();
      const auto ids = client_->post_many(handler_, std::span(payloads), task, Millis(10'000));
      lock.lock();
      if (ids)
        sent += kBatch;
      else
        problem_ = ids.error().detail;
    }
    changed_.wait_for(lock, Millis(30'000), [&] { return done_ >= sent; });
  }

  std::string handler_;
  uint64_t open_max_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> stop_{false};
  uint64_t done_ = 0;
  uint64_t failed_ = 0;
  std::string problem_;
  std::optional<Client> client_;
  std::thread thread_;
};

void sleep_s(double s) { std::this_thread::sleep_for(std::chrono::duration<double>(s)); }

OpenTally calls(Client& client, const MixedBench& b, double rate, double seconds) {
  return run_open(client, b.open(rate, seconds));
}

double ms_of(const OpenTally& t, double p) {
  return static_cast<double>(percentile(t.calls.reply_ns, p)) / 1e6;
}
double share_of(uint64_t part, uint64_t all) {
  return all ? static_cast<double>(part) / static_cast<double>(all) : 0;
}

Json run_load(Context& context, Client& client, const MixedBench& b, double load, double replicas,
              double queued_only) {
  const double rate = load * b.capacity(replicas);
  calls(client, b, rate, std::min(b.warm_s, 2.0));  // the cost is learnt
  const OpenTally alone = calls(client, b, rate, b.seconds / 2);
  Backlog backlog(context, b, static_cast<uint32_t>(b.backlog * replicas));
  calls(client, b, rate, b.warm_s);
  const uint64_t before = backlog.done();
  const auto from = Clock::now();
  const OpenTally t = calls(client, b, rate, b.seconds);
  const double took = std::chrono::duration<double>(Clock::now() - from).count();
  const double tasks_per_s = static_cast<double>(backlog.done() - before) / took;
  Json doc = {{"load", load},
              {"calls_per_s", static_cast<double>(t.offered) / b.seconds},
              {"in_time_share", share_of(t.in_time, t.offered)},
              {"p50_ms", ms_of(t, 0.5)},
              {"p99_ms", ms_of(t, 0.99)},
              {"alone_p50_ms", ms_of(alone, 0.5)},
              {"alone_p99_ms", ms_of(alone, 0.99)},
              {"no_end", t.lost},
              {"tasks_per_s", tasks_per_s},
              {"tasks_share", queued_only > 0 ? tasks_per_s / queued_only : 0},
              {"tasks_failed", backlog.failed()},
              {"reasons", Json::object()}};
  for (const auto& [reason, n] : t.calls.reasons) doc["reasons"][reason] = n;
  if (const std::string problem = backlog.problem(); !problem.empty()) doc["problem"] = problem;
  return doc;
}

void write_plot(const MixedBench& b, const Json& doc) {
  PlotSeries p99{"p99 of calls / deadline", {}, false, true};
  PlotSeries tasks{"tasks/s / tasks alone", {{0, 1}}, false, true};
  PlotSeries whole{"1 - load", {{0, 1}, {1, 0}}, true, false};
  for (const auto& r : doc["loads"]) {
    const double x = r["load"];
    p99.points.emplace_back(x, r["p99_ms"].get<double>() /
                                   static_cast<double>(std::max<int64_t>(1, b.deadline.count())));
    tasks.points.emplace_back(x, r["tasks_share"].get<double>());
  }
  std::sort(p99.points.begin(), p99.points.end());
  std::sort(tasks.points.begin(), tasks.points.end());
  write_file(b.plot, svg_of({"Calls and an endless backlog on the same device",
                             "load of calls (1 = all the device can do)",
                             "of the deadline, of tasks alone",
                             {tasks, p99, whole},
                             1.05,
                             1.1}));
}

void print_people(const Json& doc) {
  std::printf("replicas: %.0f; tasks alone: %.0f tasks/s\n", doc["replicas"].get<double>(),
              doc["queued_only_per_s"].get<double>());
  Table table(
      {"LOAD", "CALLS/S", "IN TIME", "P50", "P99", "P99 ALONE", "NO REPLY", "TASKS/S", "OF ALONE"});
  const auto text = [](const char* format, const Json& v) {
    char out[48];
    std::snprintf(out, sizeof out, format, v.get<double>());
    return std::string(out);
  };
  for (const auto& r : doc["loads"])
    table.add({text("%.2f", r["load"]), text("%.0f", r["calls_per_s"]),
               text("%.4f", r["in_time_share"]), text("%.1f ms", r["p50_ms"]),
               text("%.1f ms", r["p99_ms"]), text("%.1f ms", r["alone_p99_ms"]),
               largest(r["reasons"]), text("%.0f", r["tasks_per_s"]),
               text("%.2f", r["tasks_share"])});
  std::fputs(table.text().c_str(), stdout);
}

int bench_mixed(Context& context, const MixedBench& b) {
  const double replicas = replicas_of(context, b.handler);
  ClientOptions options;
  options.endpoint = context.router_endpoint();
  options.name = "bench";
  Client client = need(Client::connect(options));
  double queued_only = 0;
  {
    Backlog backlog(context, b, static_cast<uint32_t>(b.backlog * replicas));
    sleep_s(b.warm_s);
    const uint64_t before = backlog.done();
    sleep_s(b.seconds / 2);
    queued_only = static_cast<double>(backlog.done() - before) / (b.seconds / 2);
    if (queued_only == 0)
      throw Failure{kTimeout, "no task of " + b.handler + " ended: " + backlog.problem(),
                    "dray status"};
  }
  Json doc = {{"handler", b.handler},  {"deadline_ms", b.deadline.count()},
              {"replicas", replicas},  {"queued_only_per_s", queued_only},
              {"seconds", b.seconds},  {"seed", b.seed},
              {"loads", Json::array()}};
  for (const double load : b.loads)
    doc["loads"].push_back(run_load(context, client, b, load, replicas, queued_only));
  if (!b.plot.empty()) write_plot(b, doc);
  if (context.json())
    print_json(doc);
  else
    print_people(doc);
  const bool all_ended = std::all_of(doc["loads"].begin(), doc["loads"].end(), [](const Json& r) {
    return r["no_end"] == 0 && r["tasks_failed"] == 0;
  });
  return all_ended ? kOk : kTaskFailed;
}

}  // namespace

void add_bench_mixed(CLI::App& bench, Context& context) {
  auto b = std::make_shared<MixedBench>();
  CLI::App* cmd = bench.add_subcommand("mixed", "Calls and a backlog of tasks on the same device");
  cmd->footer(
      "Both lanes run the same handler, by default bench.cost: a batch of n takes 8 + 0.25 n ms,\n"
      "one batch at a time, as on a GPU that nothing interrupts. Load 1 is what calls alone\n"
      "could get through. For the same on model devices: dray_sim --mixed.\n\n"
      "Examples:\n"
      "  dray bench mixed\n"
      "  dray bench mixed --loads 0.2,0.5,0.8 --seconds 30 --plot mixed.svg -o json\n");
  cmd->add_option("--loads", b->loads, "Calls, as parts of the capacity (default: 0.2,0.5)")
      ->delimiter(',')
      ->check(CLI::Range(0.01, 10.0));
  cmd->add_option("--seconds", b->seconds, "Length of each measurement (default: 15)")
      ->check(CLI::Range(0.1, 3600.0));
  cmd->add_option("--warm", b->warm_s, "Seconds before each of them (default: 5)")
      ->check(CLI::Range(0.0, 600.0));
  add_batch_load(*cmd, *b);
  cmd->add_option("--backlog", b->backlog, "Tasks open for each replica (default: 2048)")
      ->check(CLI::Range(256, 1'000'000));
  cmd->add_option("--plot", b->plot, "Write an SVG plot")->type_name("FILE");
  cmd->callback(
      [&context, b] { context.action = [&context, b] { return bench_mixed(context, *b); }; });
}

}  // namespace dray::console
