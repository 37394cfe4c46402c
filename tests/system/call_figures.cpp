// call_figures: the loads that tests/bench/call_figures.py measures. Every verb prints one JSON
// line.
//
//   streams --count N --parts N --bytes B [--slow-us N]
//           so many streams at once, each with a reader of its own. With --slow-us one more stream
//           without an end is read besides, one part each N us.
//   single  --seconds S [--handler H]
//           one call at a time, as fast as the answers come; where its time goes: in the router's
//           queue, from the router to the worker and back, and all the rest
#include <dray/client.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <thread>

#include "tests/system/arguments.h"

using namespace std::chrono_literals;
using namespace storm;
using SteadyClock = std::chrono::steady_clock;

namespace {

double us_since(SteadyClock::time_point start) {
  return std::chrono::duration<double, std::micro>(SteadyClock::now() - start).count();
}

double quantile(std::vector<double> of, double p) {
  if (of.empty()) return 0;
  const auto at = static_cast<std::ptrdiff_t>(p * static_cast<double>(of.size() - 1));
  std::nth_element(of.begin(), of.begin() + at, of.end());
  return of[static_cast<size_t>(at)];
}

// A reader that holds its writer back all the time, from before the others begin until they end.
class SlowReader {
 public:
  SlowReader(dray::Client& client, uint64_t bytes, uint64_t pause_us)
      : stream_(client.call_stream("stream.count", "999999999:" + std::to_string(bytes),
                                   {.deadline = 600s})),
        thread_([this, pause_us] { read(std::chrono::microseconds(pause_us)); }) {
    while (parts_ == 0 && !over_) std::this_thread::sleep_for(1ms);
  }
  uint64_t stop() {
    stop_ = true;
    thread_.join();
    return over_ ? 0 : parts_.load();
  }

 private:
  void read(std::chrono::microseconds pause) {
    while (!stop_) {
      if (!stream_.next()) {
        over_ = true;
        return;
      }
      ++parts_;
      std::this_thread::sleep_for(pause);
    }
    stream_.cancel();
  }

  dray::CallStream stream_;
  std::atomic<uint64_t> parts_{0};
  std::atomic<bool> stop_{false}, over_{false};
  std::thread thread_;  // last: it uses the others
};

struct Reading {
  double first_us = 0;
  uint64_t parts = 0;
  bool good = false;
};

Reading read_all(dray::Client& client, const std::string& wish, uint64_t parts) {
  Reading r;
  const auto start = SteadyClock::now();
  auto stream = client.call_stream("stream.count", wish, {.deadline = 600s});
  while (stream.next())
    if (r.parts++ == 0) r.first_us = us_since(start);
  r.good = stream.outcome().ok() && r.parts == parts;
  return r;
}

int streams(dray::Client& client, const Arguments& a) {
  const uint64_t count = a.number("count", 200), parts = a.number("parts", 50);
  const uint64_t bytes = a.number("bytes", 1000);
  const std::string wish = std::to_string(parts) + ':' + std::to_string(bytes);
  std::optional<SlowReader> slow;
  if (a.has("slow-us")) slow.emplace(client, bytes, a.number("slow-us", 0));
  std::vector<Reading> all(count);
  std::vector<std::thread> threads;
  std::latch gate(static_cast<std::ptrdiff_t>(count) + 1);
  for (Reading& r : all)
    threads.emplace_back([&] {
      gate.arrive_and_wait();
      r = read_all(client, wish, parts);
    });
  gate.arrive_and_wait();
  const auto start = SteadyClock::now();
  for (std::thread& t : threads) t.join();
  const double seconds = us_since(start) / 1e6;
  const uint64_t slow_parts = slow ? slow->stop() : 0;
  uint64_t good = 0, got = 0;
  std::vector<double> first;
  for (const Reading& r : all) {
    good += r.good;
    got += r.parts;
    first.push_back(r.first_us / 1000);
  }
  JsonLine json;
  json.add("streams", count).add("good", good).add("parts", got).add("slow_parts", slow_parts);
  json.add("first_p50_ms", quantile(first, 0.5)).add("first_p99_ms", quantile(first, 0.99));
  json.add("parts_per_s", static_cast<double>(got) / seconds).print();
  return good == count && (!slow || slow_parts > 0) ? 0 : 1;
}

int single(dray::Client& client, const Arguments& a) {
  const std::string handler = a.text("handler", "echo");
  const double seconds = a.real("seconds", 3);
  std::vector<double> ms, queue, worker, rest;
  uint64_t bad = 0;
  for (const auto start = SteadyClock::now(); us_since(start) < seconds * 1e6;) {
    const auto begin = SteadyClock::now();
    const dray::CallOutcome o = client.call(handler, "x", {.deadline = 10s});
    if (!o.ok()) {
      ++bad;
      continue;
    }
    ms.push_back(us_since(begin) / 1000);
    const auto inside = o.times.queue + o.times.gather + o.times.worker;
    queue.push_back(static_cast<double>((o.times.queue + o.times.gather).count()) / 1000);
    worker.push_back(static_cast<double>(o.times.worker.count()) / 1000);
    rest.push_back(ms.back() - static_cast<double>(inside.count()) / 1000);
  }
  JsonLine json;
  json.add("calls", uint64_t{ms.size()}).add("bad", bad).add("p50_ms", quantile(ms, 0.5));
  json.add("p99_ms", quantile(ms, 0.99)).add("max_ms", quantile(ms, 1));
  json.add("queue_p99_ms", quantile(queue, 0.99)).add("worker_p99_ms", quantile(worker, 0.99));
  json.add("rest_p99_ms", quantile(rest, 0.99)).print();
  return bad == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments a(argc, argv);
  const std::string verb = argc > 1 ? argv[1] : "";
  auto client = dray::Client::connect({.endpoint = a.text("endpoint")});
  if (!client) return std::fprintf(stderr, "%s\n", client.error().text().c_str()), 2;
  if (verb == "streams") return streams(*client, a);
  if (verb == "single") return single(*client, a);
  return std::fprintf(stderr, "call_figures: unknown verb '%s'\n", verb.c_str()), 64;
}
