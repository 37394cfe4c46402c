// The pacer and the tally of open-loop load.
#include "client/console/open_load.h"

#include <time.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>

#include "client/console/commands.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;

void sleep_until(Clock::time_point at) {
  const auto ns = at.time_since_epoch().count();
  const timespec t{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {
  }
}

// Shared with callbacks that may come late.
struct Ledger {
  std::mutex mutex;
  std::condition_variable changed;
  OpenTally tally;
  uint64_t open = 0;
  Clock::time_point start;
  std::chrono::microseconds deadline{0};

  void end(CallOutcome&& outcome, Clock::time_point due) {
    const auto now = Clock::now();
    const std::lock_guard lock(mutex);
    if (outcome.ok()) {
      const auto late = now - due;
      tally.in_time += late <= deadline;
      tally.replies.emplace_back(std::chrono::duration<double>(due - start).count(),
                                 std::chrono::duration<double, std::milli>(late).count());
    }
    tally.calls.add(std::move(outcome), (now - due).count());
    if (--open == 0) changed.notify_all();
  }
};

}  // namespace

OpenTally run_open(Client& client, const OpenLoad& load) {
  auto ledger = std::make_shared<Ledger>();
  std::mt19937_64 random(load.seed);
  std::exponential_distribution<double> gap(load.rate);
  std::vector<int64_t> lags;
  ledger->deadline = load.call.options.deadline;
  ledger->start = Clock::now() + std::chrono::milliseconds(5);
  const auto until = ledger->start + load.call.duration;
  Clock::time_point due = ledger->start;
  for (;;) {
    const double seconds = load.even ? 1 / load.rate : gap(random);
    due += std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
    if (due >= until) break;
    // Early by less than a sleep is worth: start it now rather than oversleep.
    if (due - Clock::now() > std::chrono::microseconds(50)) sleep_until(due);
    lags.push_back((Clock::now() - due).count());
    {
      const std::lock_guard lock(ledger->mutex);
      ++ledger->open;
      ++ledger->tally.offered;
    }
    client.async_call(
        load.call.handler, load.call.payload, load.call.options,
        [ledger, due](CallOutcome&& outcome) { ledger->end(std::move(outcome), due); });
  }
  std::unique_lock lock(ledger->mutex);
  ledger->changed.wait_for(lock, load.call.options.deadline + std::chrono::seconds(3),
                           [&] { return ledger->open == 0; });
  OpenTally tally = ledger->tally;
  tally.lost = ledger->open;
  tally.calls.seconds = std::chrono::duration<double>(Clock::now() - ledger->start).count();
  tally.lag_p99_ms = static_cast<double>(percentile(std::move(lags), 0.99)) / 1e6;
  return tally;
}

OpenLoad BatchLoad::open(double rate, double seconds) const {
  OpenLoad load;
  load.call.handler = handler;
  load.call.options.deadline = deadline;
  load.call.duration = std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
  load.rate = rate;
  load.seed = seed;
  return load;
}

void add_batch_load(CLI::App& command, BatchLoad& load) {
  add_duration(command, "--deadline", load.deadline, "Of every call (default: 150ms)");
  command.add_option("--handler", load.handler, "What to run (default: bench.cost)");
  command.add_option("--base-ms", load.base_ms, "What a batch costs (default: 8)")
      ->check(CLI::Range(0.0, 1e6));
  command.add_option("--item-ms", load.item_ms, "And each item in it (default: 0.25)")
      ->check(CLI::Range(0.0001, 1e6));
  command.add_option("--batch", load.batch, "Largest batch (default: 128)")
      ->check(CLI::Range(1, 65'535));
  command.add_option("--seed", load.seed, "Of the arrivals (default: 1)");
}

}  // namespace dray::console
