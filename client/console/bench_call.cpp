// dray bench call: calls one after the other or many at once, in alternation with a bare ZeroMQ
// forwarder and echo worker that do the same hops.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "client/console/bench.h"
#include "client/console/call_load.h"
#include "client/console/call_text.h"
#include "client/console/cluster_dir.h"
#include "client/console/floor_peers.h"
#include "client/console/pinning.h"
#include "client/console/process_cpu.h"
#include "client/console/procs.h"
#include "common/net/floor.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kRunSeconds = 50;  // all slices together, at most
constexpr double kSliceSeconds = 1;  // when no number of requests is given

struct CallBench {
  uint64_t requests = 0;
  uint32_t payload = 64;
  uint32_t concurrency = 1;
  std::string handler = "echo";
  uint32_t pairs = 7;
  uint32_t spin_us = 0;
  bool awake = false;
  bool one_cpu = false;
  bool no_floor = false;
};

// What one slice of either side showed.
struct Slice {
  double p50_us = 0, p99_us = 0, rate = 0;
};

struct Side {
  std::vector<Slice> slices;
  std::vector<int64_t> ns;  // of all slices
  double seconds = 0;
  std::map<std::string, double> cpu_s;  // by program

  void add(std::vector<int64_t> slice_ns, double slice_seconds) {
    const double n = static_cast<double>(slice_ns.size());
    slices.push_back({static_cast<double>(percentile(slice_ns, 0.5)) / 1000,
                      static_cast<double>(percentile(slice_ns, 0.99)) / 1000,
                      slice_seconds > 0 ? n / slice_seconds : 0});
    ns.insert(ns.end(), slice_ns.begin(), slice_ns.end());
    seconds += slice_seconds;
  }
};

class CallBenchRun {
 public:
  CallBenchRun(Context& context, const CallBench& b) : context_(context), b_(b) {
    if (context.endpoint.empty()) dir_ = ClusterDir(context.dir).short_path();
    endpoint_ = context.router_endpoint();
  }

  void run() {
    // First of all, so that every process and thread that follows is where it belongs.
    if (!b_.no_floor) peers_.emplace(endpoint_.starts_with("tcp://"));
    if (b_.one_cpu) pin();
    Client client = connect();
    FloorClient floor;
    if (peers_) {
      if (const Status up = floor.open(peers_->endpoint()); !up)
        throw Failure{kTaskFailed, up.error().detail, "leave out the floor: --no-floor"};
    }
    warm_up(client);
    for (uint32_t i = 0; i < b_.pairs; ++i) {
      dray_slice(client);
      if (peers_) floor_slice(floor);
    }
    pinned_.restore();
  }

  const Side& dray() const { return dray_; }
  const Side& floor() const { return floor_; }
  int cpu() const { return pinned_.cpu(); }
  const CallTally& bad() const { return bad_; }
  const CallParts parts() const { return parts_of(sums_, batch_items_, dray_.ns.size()); }

 private:
  void pin() {
    if (dir_.empty())
      throw Failure{kUsage, "--one-cpu needs the cluster's folder", "dray bench call --dir DIR"};
    std::vector<pid_t> pids = peers_ ? peers_->pids() : std::vector<pid_t>{};
    for (const Process& p : find_processes(dir_))
      if (p.name != "supervisord") pids.push_back(p.pid);
    if (!pinned_.pin(pids))
      throw Failure{kTaskFailed, "not allowed to move the cluster's processes to one CPU",
                    "run it as the user who started the cluster"};
  }

  Client connect() const {
    context_.client();  // its errors name the next command
    ClientOptions options;
    options.endpoint = endpoint_;
    options.name = "bench";
    options.spin = std::chrono::microseconds(b_.spin_us);
    return need(Client::connect(options));
  }

  CallLoad load(uint64_t count, double seconds) const {
    CallLoad l{b_.handler, std::string(b_.payload, 'x'), {}, b_.concurrency, count, {}};
    l.options.deadline = context_.timeout;
    l.duration = std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
    return l;
  }
  uint64_t slice_count() const {
    return b_.requests ? std::max<uint64_t>(b_.requests / b_.pairs, 1) : 0;
  }
  double slice_seconds() const {
    const double most = kRunSeconds / b_.pairs / (peers_ ? 2 : 1);
    return b_.requests ? most : std::min(most, kSliceSeconds);
  }

  void warm_up(Client& client) {
    const CallTally t = run_calls(client, load(std::max(64u, b_.concurrency * 4), 2));
    if (t.replies() == 0 && t.first_bad) throw to_failure(b_.handler, *t.first_bad);
  }

  void dray_slice(Client& client) {
    const auto before = read_process_use(dir_);
    CallTally t = run_calls(client, load(slice_count(), slice_seconds()));
    for (const auto& [name, use] : read_process_use(dir_)) {
      const auto old = before.find(name);
      dray_.cpu_s[name] += use.cpu_s - (old == before.end() ? 0 : old->second.cpu_s);
    }
    for (const auto& [reason, n] : t.reasons) bad_.reasons[reason] += n;
    if (t.first_bad && !bad_.first_bad) bad_.first_bad = t.first_bad;
    sums_.total += t.sums.total;
    sums_.queue += t.sums.queue;
    sums_.gather += t.sums.gather;
    sums_.worker += t.sums.worker;
    sums_.wait += t.sums.wait;
    sums_.run += t.sums.run;
    sums_.attempts += t.sums.attempts;
    batch_items_ += t.batch_items;
    dray_.add(std::move(t.reply_ns), t.seconds);
  }

  void floor_slice(FloorClient& floor) {
    FloorOptions o;
    o.payload_bytes = b_.payload;
    o.window = b_.concurrency;
    o.round_trips = slice_count();
    o.duration = std::chrono::nanoseconds(static_cast<int64_t>(slice_seconds() * 1e9));
    const std::map<std::string, double> before = floor_cpu();
    std::vector<int64_t> trips;
    const auto done = floor.run(o, trips);
    if (!done) throw Failure{kTaskFailed, done.error().detail, "leave out the floor: --no-floor"};
    for (const auto& [name, cpu_s] : floor_cpu()) floor_.cpu_s[name] += cpu_s - before.at(name);
    const double n = static_cast<double>(trips.size());
    floor_.add(std::move(trips), n / done->msgs_per_s);
  }

  std::map<std::string, double> floor_cpu() const {
    return {{"forwarder", cpu_seconds_of(peers_->pids().at(0))},
            {"worker", cpu_seconds_of(peers_->pids().at(1))},
            {"client", cpu_seconds_of(::getpid())}};
  }

  Context& context_;
  const CallBench& b_;
  std::string dir_, endpoint_;
  std::optional<FloorPeers> peers_;
  OneCpu pinned_;
  Side dray_, floor_;
  CallTally bad_;
  CallTimes sums_;
  uint64_t batch_items_ = 0;
};

Json cpu_json(const Side& side) {
  const double n = static_cast<double>(std::max<size_t>(side.ns.size(), 1));
  Json doc = Json::object();
  double total = 0;
  for (const auto& [name, s] : side.cpu_s) {
    doc[name] = s * 1e6 / n;
    total += s * 1e6 / n;
  }
  doc["total"] = total;
  return doc;
}

void set_side(Json& doc, const Side& side) {
  const auto us = [&](double p) { return static_cast<double>(percentile(side.ns, p)) / 1000; };
  doc["p50_us"] = us(0.5);
  doc["p99_us"] = us(0.99);
  doc["p999_us"] = us(0.999);
  doc["calls_per_s"] = side.seconds > 0 ? static_cast<double>(side.ns.size()) / side.seconds : 0.0;
  doc["cpu_us_per_call"] = cpu_json(side);
}

// Of one figure in all pairs: dray by floor.
Json ratio_json(const Side& dray, const Side& floor, double Slice::*figure) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(dray.slices.size(), floor.slices.size()); ++i)
    if (floor.slices[i].*figure > 0)
      ratios.push_back(dray.slices[i].*figure / (floor.slices[i].*figure));
  if (ratios.empty()) return Json();
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  return {{"median", median(ratios)}, {"min", *low}, {"max", *high}};
}

Json to_json(const CallBench& b, const CallBenchRun& run, const std::string& endpoint) {
  Json doc = {{"handler", b.handler},
              {"payload", b.payload},
              {"concurrency", b.concurrency},
              {"pairs", b.pairs},
              {"awake", b.awake},
              {"one_cpu", b.one_cpu},
              {"spin_us", b.spin_us},
              {"transport", endpoint.substr(0, 3)},
              {"calls", run.dray().ns.size()}};
  if (b.one_cpu) doc["cpu"] = run.cpu();
  set_side(doc, run.dray());
  doc["times"] = parts_json(run.parts());
  doc["not_replied"] = Json::object();
  for (const auto& [reason, n] : run.bad().reasons) doc["not_replied"][reason] = n;
  if (run.floor().slices.empty()) return doc;
  Json floor = {{"round_trips", run.floor().ns.size()}};
  set_side(floor, run.floor());
  doc["floor"] = std::move(floor);
  doc["ratio"] = {{"p50", ratio_json(run.dray(), run.floor(), &Slice::p50_us)},
                  {"p99", ratio_json(run.dray(), run.floor(), &Slice::p99_us)},
                  {"calls_per_s", ratio_json(run.dray(), run.floor(), &Slice::rate)}};
  return doc;
}

void print_side(const char* name, const Json& d) {
  std::printf("%-6s p50 %7.1f us   p99 %7.1f us   p99.9 %7.1f us   %9.0f calls/s   cpu us/call:",
              name, d["p50_us"].get<double>(), d["p99_us"].get<double>(),
              d["p999_us"].get<double>(), d["calls_per_s"].get<double>());
  for (const auto& [program, us] : d["cpu_us_per_call"].items())
    std::printf(" %s %.1f", program.c_str(), us.get<double>());
  std::printf("\n");
}

void print_people(const Json& d, const CallParts& parts) {
  std::printf("%s calls of %s, %u bytes, %u at once, %s%s%s\n",
              format_count(d["calls"].get<uint64_t>()).c_str(), cell(d, "handler").c_str(),
              d["payload"].get<unsigned>(), d["concurrency"].get<unsigned>(),
              cell(d, "transport").c_str(), d["one_cpu"].get<bool>() ? ", one CPU" : "",
              d["awake"].get<bool>() ? ", awake" : "");
  print_side("dray", d);
  if (d.contains("floor")) {
    print_side("floor", d["floor"]);
    std::printf("ratio, median of %s pairs (least to most):", cell(d, "pairs").c_str());
    for (const auto& [name, r] : d["ratio"].items())
      if (r.is_object())
        std::printf("  %s %.2f (%.2f-%.2f)", name.c_str(), r["median"].get<double>(),
                    r["min"].get<double>(), r["max"].get<double>());
    std::printf("\n");
  }
  std::printf("%s", waterfall(parts).c_str());
  if (!d["not_replied"].empty())
    std::printf("without a reply: %s\n", d["not_replied"].dump().c_str());
}

int bench_call(Context& context, const CallBench& b) {
  const KeepAwake awake(b.awake);
  if (b.awake && !awake.active())
    throw Failure{kUsage, "--awake needs write access to /dev/cpu_dma_latency", "sudo dray bench"};
  CallBenchRun run(context, b);
  run.run();
  const Json doc = to_json(b, run, context.router_endpoint());
  if (context.json())
    print_json(doc);
  else
    print_people(doc, run.parts());
  return run.bad().first_bad ? exit_code_of(*run.bad().first_bad) : kOk;
}

}  // namespace

void add_bench_call(CLI::App& bench, Context& context) {
  auto b = std::make_shared<CallBench>();
  CLI::App* call = bench.add_subcommand(
      "call", "Calls, in alternation with a bare ZeroMQ forwarder of the same shape");
  call->footer(
      "Slices of dray and of the floor alternate; ratios are taken within each pair. For figures\n"
      "that hold still: --one-cpu (all processes on one CPU meanwhile).\n\n"
      "Examples:\n"
      "  dray bench call                                       one at a time\n"
      "  dray bench call --one-cpu --requests 70000 -o json\n"
      "  dray bench call --concurrency 256 --payload 1024\n");
  call->add_option("--requests,-n", b->requests, "Calls in all (default: 1 s in each pair)")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1'000'000'000}));
  call->add_option("--payload", b->payload, "Bytes of each (default: 64)")
      ->check(CLI::Range(0, 4 << 20));
  call->add_option("--concurrency,-c", b->concurrency, "Calls open at once (default: 1)")
      ->check(CLI::Range(1, 65'536));
  call->add_option("--handler", b->handler, "What to call (default: echo)");
  call->add_option("--pairs", b->pairs, "Pairs of slices (default: 7)")->check(CLI::Range(1, 1000));
  call->add_option("--spin-us", b->spin_us, "Client polls so long before it sleeps")
      ->check(CLI::Range(0, 1'000'000));
  call->add_flag("--awake", b->awake, "Keep the CPUs out of deep idle states meanwhile (root)");
  call->add_flag("--one-cpu", b->one_cpu, "All processes on one CPU meanwhile");
  call->add_flag("--no-floor", b->no_floor, "Do not measure the floor");
  call->callback(
      [&context, b] { context.action = [&context, b] { return bench_call(context, *b); }; });
}

}  // namespace dray::console
