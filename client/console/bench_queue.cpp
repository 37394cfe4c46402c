// dray bench queue: durable no-op tasks, submit to result, against the floors of this machine.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <unordered_map>

#include "client/console/bench.h"
#include "client/console/process_cpu.h"
#include "common/journal/floor.h"
#include "common/net/floor.h"
#include "common/wire/doc.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;

struct QueueBench {
  uint64_t tasks = 200'000;
  uint32_t payload = 256;
  uint32_t batch = 256;
  uint32_t window = 0;  // messages not finished; 0: chosen by the batch size
  std::string handler = "noop";
  bool awake = false;
  bool no_floor = false;
  uint32_t spin_us = 0;
  bool no_merge = false;
};

struct IdHash {
  size_t operator()(const Id& id) const { return std::hash<uint64_t>()(id.lo ^ id.hi * 31); }
};

// Counts results and times one task of each message.
class Meter {
 public:
  void sent(const std::vector<Id>& ids, Clock::time_point at) {
    std::lock_guard lock(mutex_);
    auto early = early_.find(ids.front());
    if (early != early_.end()) {
      note(early->second - at);
      early_.erase(early);
    } else {
      timed_.emplace(ids.front(), at);
    }
  }
  void results(std::span<const ResultView> rs) {
    auto now = Clock::now();
    std::lock_guard lock(mutex_);
    for (const ResultView& r : rs) {
      if (r.state != State::succeeded) ++failed_;
      auto it = timed_.find(r.id);
      if (it != timed_.end()) {
        note(now - it->second);
        timed_.erase(it);
      } else if (track_early) {
        early_.emplace(r.id, now);  // the answer was faster than our bookkeeping
      }
    }
    done_ += rs.size();
    changed_.notify_all();
  }
  bool wait_below(uint64_t sent, uint64_t open_max, Millis timeout) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return sent - done_ < open_max; });
  }
  uint64_t done() {
    std::lock_guard lock(mutex_);
    return done_;
  }
  uint64_t failed() const { return failed_; }
  double percentile(double p) {
    std::lock_guard lock(mutex_);
    if (us_.empty()) return 0;
    std::sort(us_.begin(), us_.end());
    return us_[std::min(us_.size() - 1, static_cast<size_t>(p * static_cast<double>(us_.size())))];
  }
  bool track_early = false;

 private:
  void note(Clock::duration d) {
    us_.push_back(std::chrono::duration<double, std::micro>(d).count());
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<Id, Clock::time_point, IdHash> timed_;
  std::unordered_map<Id, Clock::time_point, IdHash> early_;
  std::vector<double> us_;
  uint64_t done_ = 0;
  uint64_t failed_ = 0;
};

struct Run {
  double seconds = 0;
  double tasks_per_s = 0;
  double p50_us = 0;
  double p99_us = 0;
  uint64_t failed = 0;
  uint64_t messages = 0;  // that the client sent
  std::map<std::string, ProcessUse> before;
  std::map<std::string, ProcessUse> after;
};

Run run_tasks(Context& ctx, const QueueBench& b, uint32_t window) {
  ClientOptions options;
  options.endpoint = ctx.router_endpoint();
  options.name = "bench";
  options.batch = b.batch;
  options.window = window + 1;
  options.merge = !b.no_merge;
  options.spin = std::chrono::microseconds(b.spin_us);
  Client client = need(Client::connect(options));
  Meter meter;
  meter.track_early = b.batch == 1;
  client.on_results([&](std::span<const ResultView> rs) { meter.results(rs); });
  std::string payload(b.payload, 'x');
  std::vector<std::string_view> views(b.batch, payload);
  TaskOptions task;
  task.result_ttl = Millis(600'000);
  Run run;
  run.before = read_process_use(ctx.dir);
  auto begin = Clock::now();
  uint64_t sent = 0;
  uint64_t open_max = uint64_t{window} * b.batch;
  while (sent < b.tasks) {
    if (!meter.wait_below(sent + b.batch - 1, open_max, Millis(30'000)))
      throw Failure{kTimeout, "no result for 30 s", "dray status"};
    size_t n = std::min<uint64_t>(b.batch, b.tasks - sent);
    auto at = Clock::now();
    auto ids = need(client.post_many(b.handler, std::span(views.data(), n), task, Millis(30'000)));
    meter.sent(ids, at);
    sent += n;
  }
  if (!meter.wait_below(sent, 1, Millis(60'000)))
    throw Failure{kTimeout, "tasks did not finish within 60 s", "dray status"};
  run.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  run.after = read_process_use(ctx.dir);
  run.tasks_per_s = static_cast<double>(b.tasks) / run.seconds;
  run.p50_us = meter.percentile(0.50);
  run.p99_us = meter.percentile(0.99);
  run.failed = meter.failed();
  run.messages = client.stats().sent;
  return run;
}

Doc to_doc(const QueueBench& b, const Run& run, uint32_t window, bool awake) {
  Doc d{Doc::Object{}};
  d.set("tasks", b.tasks).set("payload", b.payload).set("batch", b.batch).set("window", window);
  d.set("merge", !b.no_merge).set("messages", run.messages);
  d.set("handler", b.handler).set("durable", true).set("awake", awake);
  d.set("seconds", run.seconds).set("tasks_per_s", run.tasks_per_s).set("failed", run.failed);
  d.set("p50_us", run.p50_us).set("p99_us", run.p99_us);
  Doc cpu{Doc::Object{}};
  Doc rss{Doc::Object{}};
  double total = 0;
  for (const auto& [name, use] : run.after) {
    auto it = run.before.find(name);
    double used = use.cpu_s - (it == run.before.end() ? 0 : it->second.cpu_s);
    total += used;
    cpu.set(name, used * 1e6 / static_cast<double>(b.tasks));
    rss.set(name, use.rss_bytes / (1024 * 1024));
  }
  cpu.set("total", total * 1e6 / static_cast<double>(b.tasks));
  d.set("cpu_us_per_task", std::move(cpu)).set("rss_mib", std::move(rss));
  return d;
}

// What the machine can do at most: the same bytes through a bare synced log, and through a bare
// one-thread ZeroMQ forwarder.
void add_floor(const QueueBench& b, uint32_t window, Doc& d) {
  auto dir = std::filesystem::temp_directory_path() / ("dray-floor-" + std::to_string(getpid()));
  std::filesystem::create_directories(dir);
  auto log = measure_journal_floor(dir, b.payload + 32, b.batch, 1s);
  FloorOptions o;
  o.ipc_folder = dir;
  o.payload_bytes = b.payload;
  o.items_per_message = b.batch;
  o.window = window;
  auto zmq = measure_forwarder_floor(o);
  std::filesystem::remove_all(dir);
  double rate = d["tasks_per_s"].as_number();
  Doc f{Doc::Object{}};
  if (log) {
    f.set("journal_tasks_per_s", log->records_per_s).set("journal_p50_us", log->p50_us);
    f.set("ratio_to_journal", rate / log->records_per_s);
  }
  if (zmq) {
    double items = zmq->msgs_per_s * b.batch;
    f.set("zmq_tasks_per_s", items).set("zmq_p50_us", zmq->p50_us);
    f.set("ratio_to_zmq", rate / items);
    // One after the other, as one task must: what both floors together would take.
    if (log) f.set("floor_p50_us", zmq->p50_us * 1.5 + 2 * log->p50_us);
  }
  d.set("floor", std::move(f));
}

void print_people(const Doc& d) {
  std::printf("%.0f tasks/s  (%lld tasks of %lld bytes, %lld a message, %.2f s, durable)\n",
              d["tasks_per_s"].as_number(), static_cast<long long>(d["tasks"].as_int()),
              static_cast<long long>(d["payload"].as_int()),
              static_cast<long long>(d["batch"].as_int()), d["seconds"].as_number());
  std::printf("submit to result: p50 %.0f us, p99 %.0f us\n", d["p50_us"].as_number(),
              d["p99_us"].as_number());
  std::printf("cpu us/task:");
  for (const auto& [name, v] : d["cpu_us_per_task"].object())
    std::printf("  %s %.2f", name.c_str(), v.as_number());
  std::printf("\n");
  const Doc& f = d["floor"];
  if (!f.is_object()) return;
  std::printf(
      "floor: bare synced log %.0f tasks/s (ratio %.2f), bare ZeroMQ hop %.0f (ratio %.2f)\n",
      f["journal_tasks_per_s"].as_number(), f["ratio_to_journal"].as_number(),
      f["zmq_tasks_per_s"].as_number(), f["ratio_to_zmq"].as_number());
}

int bench_queue(Context& ctx, const QueueBench& b) {
  uint32_t window = b.window ? b.window : b.batch == 1 ? 256 : std::max(4096u / b.batch, 16u);
  KeepAwake awake(b.awake);
  if (b.awake && !awake.active())
    throw Failure{kUsage, "--awake needs write access to /dev/cpu_dma_latency", "sudo dray bench"};
  QueueBench warm = b;
  warm.tasks = std::min<uint64_t>(b.tasks / 10 + b.batch, 20'000);
  run_tasks(ctx, warm, window);
  Run run = run_tasks(ctx, b, window);
  Doc d = to_doc(b, run, window, awake.active());
  if (!b.no_floor) add_floor(b, window, d);
  if (ctx.json()) {
    std::printf("%s\n", to_json(d).c_str());
  } else {
    print_people(d);
  }
  return run.failed ? kTaskFailed : kOk;
}

}  // namespace

void add_bench_queue(CLI::App& bench, Context& ctx) {
  auto b = std::make_shared<QueueBench>();
  CLI::App* queue = bench.add_subcommand("queue", "Durable no-op tasks, submit to stored result");
  queue->footer(
      "Examples:\n"
      "  dray bench queue --tasks 1000000 --batch 256 -o json\n"
      "  dray bench queue --tasks 2000 --batch 1 --window 1    one at a time");
  queue->add_option("--tasks", b->tasks, "How many")->check(CLI::Range(1, 1'000'000'000));
  queue->add_option("--payload", b->payload, "Bytes of each")->check(CLI::Range(0, 4 << 20));
  queue->add_option("--batch", b->batch, "Tasks in one message")->check(CLI::Range(1, 4096));
  queue->add_option("--window", b->window, "Messages submitted and not finished (0: chosen)")
      ->check(CLI::Range(0, 65'536));
  queue->add_option("--handler", b->handler, "What to run");
  queue->add_flag("--no-merge", b->no_merge, "One wire message for each submit");
  queue->add_option("--spin-us", b->spin_us, "Client polls so long before it sleeps")
      ->check(CLI::Range(0, 1'000'000));
  queue->add_flag("--awake", b->awake, "Keep the CPUs out of deep idle states meanwhile (root)");
  queue->add_flag("--no-floor", b->no_floor, "Do not measure the floors");
  queue->callback([&ctx, b] { ctx.action = [&ctx, b] { return bench_queue(ctx, *b); }; });
}

}  // namespace dray::console
