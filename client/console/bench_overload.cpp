// dray bench overload: open-loop floods of a batched handler at multiples of what it can do, and
// how much of the work still comes in time.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

#include "client/console/bench.h"
#include "client/console/call_text.h"
#include "client/console/cluster_dir.h"
#include "client/console/commands.h"
#include "client/console/deployments.h"
#include "client/console/open_load.h"
#include "client/console/process_cpu.h"
#include "client/console/svg_plot.h"

namespace dray::console {
namespace {

struct OverloadBench : BatchLoad {
  std::vector<double> loads{0.5, 1.1, 1.5, 3};
  double seconds = 10;
  std::string plot;
};

constexpr double kProbeRate = 50;
constexpr double kProbeSeconds = 2;

// The most resident memory of the routers while alive.
class RouterMemory {
 public:
  explicit RouterMemory(const std::string& dir)
      : thread_([this, dir] {
          while (!stop_) {
            const auto all = read_process_use(dir);
            const auto found = all.find("dray-router");
            if (found != all.end()) most_ = std::max(most_.load(), found->second.rss_bytes);
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
          }
        }) {}
  ~RouterMemory() {
    stop_ = true;
    thread_.join();
  }
  RouterMemory(const RouterMemory&) = delete;
  RouterMemory& operator=(const RouterMemory&) = delete;
  double mib() const { return static_cast<double>(most_) / (1024 * 1024); }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> most_{0};
  std::thread thread_;
};

// A few calls per second, evenly spaced.
OpenTally probe(Client& client, const OverloadBench& b) {
  OpenLoad load = b.open(kProbeRate, kProbeSeconds);
  load.even = true;
  return run_open(client, load);
}

double p_ms(const OpenTally& t, double p) {
  return static_cast<double>(percentile(t.calls.reply_ns, p)) / 1e6;
}

// Seconds after the flood until every later probe was answered about as fast as before it.
double recovered_after(const OpenTally& t, double normal_p99_ms) {
  double last_bad = 0;
  uint64_t good = 0;
  std::vector<std::pair<double, double>> replies = t.replies;
  std::sort(replies.begin(), replies.end());
  for (const auto& [due_s, ms] : replies) {
    if (ms > normal_p99_ms * 1.5)
      last_bad = due_s + ms / 1000;
    else
      ++good;
  }
  if (good == 0) return -1;  // not within the time of the probe
  // Probes without a reply: every one of them came before the first reply, or it is not recovered.
  if (t.calls.total() > replies.size() && !replies.empty())
    last_bad = std::max(last_bad, replies.front().first);
  return last_bad;
}

Json counts_json(const OpenTally& t) {
  Json doc = Json::object();
  for (size_t i = 1; i < t.calls.ends.size(); ++i)
    if (t.calls.ends[i] > 0)
      doc[std::string(call_end_text(static_cast<CallEnd>(i)))] = t.calls.ends[i];
  return doc;
}

Json run_load(Client& client, const OverloadBench& b, double x, double capacity) {
  OpenLoad load = b.open(x * capacity, b.seconds);
  const OpenTally t = run_open(client, load);
  const double share =
      t.offered ? static_cast<double>(t.in_time) / static_cast<double>(t.offered) : 0;
  const double most = std::min(1.0, 1 / x);
  Json doc = {{"load", x},
              {"offered", t.offered},
              {"offered_per_s", static_cast<double>(t.offered) / b.seconds},
              {"in_time", t.in_time},
              {"in_time_share", share},
              {"most_share", most},
              {"ratio", share / most},
              {"p50_ms", p_ms(t, 0.5)},
              {"p99_ms", p_ms(t, 0.99)},
              {"outcomes", counts_json(t)},
              {"reasons", Json::object()},
              {"no_end", t.lost},
              {"mean_batch_items",
               parts_of(t.calls.sums, t.calls.batch_items, t.calls.replies()).batch_items},
              {"client_lag_p99_ms", t.lag_p99_ms}};
  for (const auto& [reason, n] : t.calls.reasons) doc["reasons"][reason] = n;
  return doc;
}

void write_plot(const OverloadBench& b, const Json& doc) {
  PlotSeries ideal{"ideal", {{0, 0}, {1, 1}}, true, false};
  PlotSeries got{"in time", {{0, 0}}, false, true};
  double x_max = 1;
  for (const auto& r : doc["loads"]) {
    const double x = r["load"];
    got.points.emplace_back(x, r["in_time_share"].get<double>() * x);
    x_max = std::max(x_max, x);
  }
  std::sort(got.points.begin(), got.points.end());
  ideal.points.emplace_back(x_max, 1);
  const Plot plot{"Calls answered within " + format_millis(b.deadline.count()),
                  "offered load (1 = capacity)",
                  "answered in time (1 = capacity)",
                  {got, ideal},
                  x_max * 1.05,
                  1.2};
  write_file(b.plot, svg_of(plot));
}

void print_people(const Json& doc) {
  std::printf("replicas: %.0f, capacity %.0f calls/s; normal p99 %.1f ms\n",
              doc["replicas"].get<double>(), doc["capacity_per_s"].get<double>(),
              doc["normal_p99_ms"].get<double>());
  Table table({"LOAD", "OFFERED/S", "IN TIME", "MOST", "RATIO", "P50", "P99", "BATCH", "NO REPLY",
               "ROUTER", "NORMAL AFTER"});
  const auto text = [](const char* format, const Json& v) {
    char out[48];
    std::snprintf(out, sizeof out, format, v.get<double>());
    return std::string(out);
  };
  for (const auto& r : doc["loads"])
    table.add({text("%.2f", r["load"]), text("%.0f", r["offered_per_s"]),
               text("%.3f", r["in_time_share"]), text("%.3f", r["most_share"]),
               text("%.3f", r["ratio"]), text("%.1f ms", r["p50_ms"]), text("%.1f ms", r["p99_ms"]),
               text("%.1f", r["mean_batch_items"]), largest(r["reasons"]),
               text("%.0f MiB", r["router_rss_mib"]),
               r["normal_after_s"].get<double>() < 0 ? std::string("not yet")
                                                     : text("%.2f s", r["normal_after_s"])});
  std::fputs(table.text().c_str(), stdout);
}

int bench_overload(Context& context, const OverloadBench& b) {
  const double replicas = replicas_of(context, b.handler);
  const double capacity = b.capacity(replicas);
  const std::string dir = context.endpoint.empty() ? ClusterDir(context.dir).short_path() : "";
  ClientOptions options;
  options.endpoint = context.router_endpoint();
  options.name = "bench";
  Client client = need(Client::connect(options));
  // The line of costs is learnt from the first batches.
  OpenLoad warm = b.open(capacity * 0.5, std::min(b.seconds, 2.0));
  const OpenTally warmed = run_open(client, warm);
  if (warmed.calls.replies() == 0 && warmed.calls.first_bad)
    throw to_failure(b.handler, *warmed.calls.first_bad);
  const double normal = p_ms(probe(client, b), 0.99);
  Json doc = {{"handler", b.handler},    {"deadline_ms", b.deadline.count()},
              {"replicas", replicas},    {"capacity_per_s", capacity},
              {"seconds", b.seconds},    {"seed", b.seed},
              {"normal_p99_ms", normal}, {"loads", Json::array()}};
  for (const double x : b.loads) {
    Json row;
    {
      const RouterMemory memory(dir);
      row = run_load(client, b, x, capacity);
      row["router_rss_mib"] = memory.mib();
    }
    const OpenTally after = probe(client, b);
    row["normal_after_s"] = recovered_after(after, normal);
    row["after_p99_ms"] = p_ms(after, 0.99);
    doc["loads"].push_back(std::move(row));
  }
  if (!b.plot.empty()) write_plot(b, doc);
  if (context.json())
    print_json(doc);
  else
    print_people(doc);
  const bool all_ended = std::all_of(doc["loads"].begin(), doc["loads"].end(),
                                     [](const Json& r) { return r["no_end"] == 0; });
  return all_ended ? kOk : kTaskFailed;
}

}  // namespace

void add_bench_overload(CLI::App& bench, Context& context) {
  auto b = std::make_shared<OverloadBench>();
  CLI::App* cmd = bench.add_subcommand("overload", "Floods of calls: how much comes in time?");
  cmd->footer(
      "Capacity: replicas * batch / (base + item * batch), by default 3200 calls/s for each\n"
      "replica of bench.cost. Calls arrive at random (Poisson), whatever the answers. The ideal\n"
      "is min(1, 1/load).\n\n"
      "Examples:\n"
      "  dray bench overload\n"
      "  dray bench overload --loads 0.5,1.1,1.5,3 --seconds 10 --plot overload.svg -o json\n");
  cmd->add_option("--loads", b->loads, "Multiples of the capacity (default: 0.5,1.1,1.5,3)")
      ->delimiter(',')
      ->check(CLI::Range(0.01, 100.0));
  cmd->add_option("--seconds", b->seconds, "Length of each flood (default: 10)")
      ->check(CLI::Range(0.1, 3600.0));
  add_batch_load(*cmd, *b);
  cmd->add_option("--plot", b->plot, "Write an SVG plot")->type_name("FILE");
  cmd->callback(
      [&context, b] { context.action = [&context, b] { return bench_overload(context, *b); }; });
}

}  // namespace dray::console
