// World: virtual time, the event queue, the seed's random numbers, the trace and the counters of
// what was reached. Everything in a run is a function of the seed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/rng.h"
#include "common/base/time.h"
#include "tests/sim/call_plan.h"

namespace dray::sim {

// A broken oracle. Thrown wherever it is seen; ends the run.
struct Violation {
  std::string oracle;
  std::string text;
};
[[noreturn]] void violate(const char* oracle, std::string text);

class World {
 public:
  World(uint64_t seed, bool verbose) : rng_(mix64(seed + 0x51)), verbose_(verbose) {}

  Duration now() const { return now_; }
  void at(Duration when, std::function<void()> f) {
    events_.push_back({std::max(when, now_), next_seq_++, std::move(f)});
    std::push_heap(events_.begin(), events_.end(), std::greater<>());
  }
  void after(Duration delay, std::function<void()> f) { at(now_ + delay, std::move(f)); }
  // Runs events until `end`; false when none is left.
  void run_until(Duration end);

  uint64_t below(uint64_t n) { return rng_.below(n); }
  bool one_in(uint64_t n) { return n != 0 && rng_.below(n) == 0; }
  bool percent(uint64_t p) { return rng_.below(100) < p; }
  Duration up_to(Duration d) {
    return Duration(static_cast<int64_t>(rng_.below(static_cast<uint64_t>(d.count()) + 1)));
  }
  Duration between(Duration a, Duration b) { return a + up_to(b - a); }
  // Small values often, large ones now and then.
  Duration skewed(Duration max) { return up_to(Duration((max.count() + 1) >> rng_.below(8))); }
  Rng& rng() { return rng_; }

  void reach(const char* what, uint64_t n = 1) { reached_[what] += n; }
  const std::map<std::string, uint64_t, std::less<>>& reached() const { return reached_; }
  void mix(uint64_t v) { hash_ = mix64(hash_ ^ v) + now_.count(); }
  uint64_t hash() const { return hash_; }
  bool verbose() const { return verbose_; }
  void trace(std::string_view who, const std::string& text);
  uint64_t events_run() const { return events_run_; }
  // A fault that may be felt until then. Without any, oracles allow nothing.
  void disturb(Duration until) { disturbed_until_ = std::max({disturbed_until_, until, now_}); }
  bool disturbed() const { return disturbed_until_ >= Duration{0}; }
  Duration disturbed_until() const { return disturbed_until_; }

 private:
  struct Event {
    Duration when;
    uint64_t seq;
    std::function<void()> f;
    bool operator>(const Event& o) const { return when != o.when ? when > o.when : seq > o.seq; }
  };
  Rng rng_;
  bool verbose_;
  Duration now_{0};
  Duration disturbed_until_{-1};
  uint64_t next_seq_ = 0;
  uint64_t hash_ = 1;
  uint64_t events_run_ = 0;
  std::vector<Event> events_;  // a heap
  std::map<std::string, uint64_t, std::less<>> reached_;
};

// What a seed chooses for a whole run.
struct Knobs {
  int workers = 1;
  int clients = 1;
  Duration lease_ttl = 4s;
  Duration resume_window = 6s;
  Duration chaos = 60s;  // how long faults go on
  uint64_t tasks = 100;  // tasks to submit, about
  uint64_t batch_max = 30;
  // broker
  uint64_t tasks_max = 100'000;
  uint64_t journal_budget = 1 << 20;
  uint64_t journal_keep = 1 << 20;
  uint64_t known_ids_max = 1'000'000;
  uint64_t dead_letters_max = 10'000;
  uint64_t segment_records = 1;
  // workers
  uint32_t slots_max = 4;
  uint32_t prefetch_max = 8;
  Duration task_time = 50ms;
  uint64_t long_tasks = 0;  // percent of tasks that run up to 20 x lease_ttl
  uint64_t fail_percent = 5;
  uint64_t poison_percent = 0;  // tasks that kill their worker
  uint64_t handler_kinds = 2;
  uint32_t shared =
      0;  // the first handler of calls runs so often at once, also for tasks; 0: calls only
  uint64_t shared_percent = 0;  // option sets of tasks that name it
  uint64_t gpus_max = 0;  // of one worker; the first one has at least one then
  // options of tasks, percent
  uint64_t delay_percent = 0;
  uint64_t expires_percent = 0;
  uint64_t limit_percent = 0;
  uint64_t label_percent = 0;
  uint64_t gpu_percent = 0;
  uint64_t resubmit_percent = 0;
  uint64_t conflict_percent = 0;
  uint64_t cancel_percent = 0;
  bool admin = false;
  uint64_t router_credit = 256;
  // network
  Duration delay_max = 2ms;
  Duration sync_max = 1ms;
  // faults: mean time between two of a kind, 0 = off
  Duration crash_broker{0}, crash_worker{0}, crash_service{0}, crash_client{0};
  Duration pause{0}, reset{0}, hole{0}, partition{0}, wall_jump{0}, disk_full{0}, store_fault{0};
  Duration lose_gpu{0};
  Duration retire{0};  // SIGTERM
  Duration crash_process{0};  // of handlers; 0: handlers have none
  Duration suspend{0};  // the whole machine
  Duration clock_late{0};  // the broker's wall clock is behind all the time
  uint64_t repeat_percent = 0;  // DISPATCH, RUN and FINISHED that come twice
  CallKnobs calls{};
};
Knobs choose_knobs(World& world);

}  // namespace dray::sim
