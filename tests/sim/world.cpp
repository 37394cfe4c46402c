// The event loop of the simulation and the choice of a seed's knobs.
#include "tests/sim/world.h"

#include <algorithm>
#include <cstdio>

namespace dray::sim {

void violate(const char* oracle, std::string text) { throw Violation{oracle, std::move(text)}; }

void World::run_until(Duration end) {
  while (!events_.empty() && events_.front().when <= end) {
    std::pop_heap(events_.begin(), events_.end(), std::greater<>());
    Event e = std::move(events_.back());
    events_.pop_back();
    now_ = e.when;
    if (++events_run_ > 20'000'000) violate("I7", "the run does not come to rest (livelock)");
    e.f();
  }
  now_ = std::max(now_, end);
}

void World::trace(std::string_view who, const std::string& text) {
  if (!verbose_) return;
  std::printf("%10.4f %-10.*s %s\n", static_cast<double>(now_.count()) / 1e9,
              static_cast<int>(who.size()), who.data(), text.c_str());
}

namespace {
// Each seed switches every kind of fault on or off for itself: rare combinations come up that a
// mix of everything would hide.
Duration mean(World& w, uint64_t percent, Duration low, Duration high) {
  return w.percent(percent) ? w.between(low, high) : Duration{0};
}
uint64_t some(World& w, uint64_t percent, uint64_t max) {
  return w.percent(percent) ? 1 + w.below(max) : 0;
}

void choose_faults(World& w, Knobs& k) {
  if (k.calls.graceful) {
    k.retire = w.between(4s, 10s);
    return;
  }
  if (w.one_in(12) || k.calls.crowded) return;  // a quiet seed
  k.crash_broker = mean(w, 50, 4s, 40s);
  k.crash_worker = mean(w, 40, 4s, 40s);
  k.crash_service = mean(w, 35, 5s, 40s);
  k.crash_client = mean(w, 25, 10s, 40s);
  k.pause = mean(w, 35, 5s, 40s);
  k.reset = mean(w, 50, 2s, 30s);
  k.hole = mean(w, 30, 5s, 30s);
  k.partition = mean(w, 30, 5s, 40s);
  k.wall_jump = mean(w, 25, 5s, 30s);
  k.disk_full = mean(w, 20, 5s, 30s);
  k.store_fault = mean(w, 20, 5s, 30s);
  k.retire = mean(w, 25, 10s, 40s);
  k.suspend = mean(w, 15, 10s, 40s);
  k.repeat_percent = some(w, 15, 20);
  if (k.calls.lose_routers) k.crash_service = w.between(2s, 5s);
}

// Several of each, and the network does what it should.
void make_graceful(Knobs& k) {
  k.workers = k.calls.crowded ? std::min(k.workers, 2) : std::max(k.workers, 2);
  k.delay_max = k.calls.crowded ? 1ms : 5ms;
  k.sync_max = 30ms;  // submits are on their way for a while
  k.poison_percent = k.long_tasks = 0;
  k.admin = false;
  k.task_time = std::min<Duration>(k.task_time, 100ms);
}

void choose_limits(World& w, Knobs& k) {
  if (w.percent(35)) {
    k.journal_keep = 1000 << w.below(7);
    k.resubmit_percent += 10;
    if (w.one_in(4)) k.clock_late = w.between(5s, 55s);
  }
  if (w.percent(25)) k.known_ids_max = 5 + w.below(100);
  if (w.percent(20)) k.tasks_max = k.batch_max + w.below(60);
  if (w.percent(10)) k.journal_budget = 20'000 + w.below(20'000);
  if (w.percent(25)) k.dead_letters_max = w.below(5);
  if (w.percent(30)) k.segment_records = 1 + w.below(20);
  if (w.percent(20)) k.router_credit = 1 + w.below(8);
}
}  // namespace

namespace {
void choose_gpus(World& w, Knobs& k) {
  if (!w.one_in(2)) return;
  k.gpus_max = 1 + w.below(4);
  k.gpu_percent = 10 + w.below(80);
  const bool quiet = k.calls.graceful || k.calls.crowded;
  if (!quiet && w.one_in(2)) k.lose_gpu = w.between(2s, 20s);
}

// Calls and tasks of one handler on the same places. Not where nothing may be in the way of calls.
void choose_shared(World& w, Knobs& k) {
  if (k.calls.graceful || k.calls.crowded || !w.one_in(3)) return;
  k.shared = 1 + static_cast<uint32_t>(w.below(2));
  k.shared_percent = 20 + w.below(70);
}
}  // namespace

Knobs choose_knobs(World& w) {
  Knobs k;
  k.workers = 1 + static_cast<int>(w.below(4));
  k.clients = 1 + static_cast<int>(w.below(3));
  k.lease_ttl = std::chrono::seconds(4 + w.below(5));
  k.resume_window = k.lease_ttl + k.lease_ttl / 2 + 2s;
  k.chaos = std::chrono::seconds(15 + w.below(w.one_in(4) ? 150 : 60));
  k.tasks = 20 + w.below(w.one_in(4) ? 1000 : 300);
  k.batch_max = 1 + w.below(w.one_in(4) ? 300 : 30);
  k.slots_max = 1 + static_cast<uint32_t>(w.below(4));
  k.prefetch_max = static_cast<uint32_t>(w.below(20));
  static constexpr Duration kTimes[] = {1ms, 10ms, 100ms, 1000ms, 3000ms};
  k.task_time = kTimes[w.below(5)];
  k.long_tasks = some(w, 20, 3);
  k.fail_percent = some(w, 60, 30);
  k.poison_percent = some(w, 10, 3);
  k.delay_percent = some(w, 30, 40);
  k.expires_percent = some(w, 30, 40);
  k.limit_percent = some(w, 25, 30);
  k.label_percent = some(w, 20, 40);
  k.resubmit_percent = some(w, 50, 30);
  k.conflict_percent = some(w, 30, 10);
  k.cancel_percent = some(w, 40, 30);
  k.admin = w.percent(30);
  static constexpr Duration kDelays[] = {1ms, 5ms, 40ms, 300ms};
  k.delay_max = kDelays[w.below(4)];
  k.sync_max = w.one_in(3) ? Duration(30ms) : Duration(1ms);
  // No more work than one worker can do in a bearable time, so that settling has a bound.
  Duration work = k.task_time * 4 / 5 + k.lease_ttl * static_cast<int64_t>(k.long_tasks) / 10;
  k.tasks = std::min<uint64_t>(k.tasks, 2 + static_cast<uint64_t>((k.chaos + 300s) / work));
  choose_limits(w, k);
  k.calls = choose_calls(w);
  if (k.calls.graceful || k.calls.crowded) make_graceful(k);
  choose_faults(w, k);
  // Not where somebody leaves in peace or the cost of calls is judged.
  if (!k.calls.graceful && !k.calls.crowded && w.one_in(3)) k.crash_process = w.between(5s, 60s);
  choose_gpus(w, k);
  choose_shared(w, k);
  return k;
}

}  // namespace dray::sim
