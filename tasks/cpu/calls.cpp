// dray_tasks_calls: handlers made to be called: a model accelerator, exact work, echo in batches,
// and a stream.
//
// bench.cost    "" or "A:B" -> the items of its batch, in ASCII digits. A batch of n items takes
//               A + B n microseconds, one batch at a time, like a GPU that nothing interrupts. The
//               first call of the batch names A and B; without them DRAY_BENCH_COST of the worker's
//               environment does, and then 8000:250.
// bench.work    microseconds as 1..9 ASCII digits -> the same text, after that time. Stopped or at
//               its deadline it ends within 2 ms and fails (retryable).
// echo.batch    any bytes -> the same bytes; up to 256 calls together.
// stream.count  "N:B" -> N parts of B bytes each, then N in ASCII digits. Part i (from 0) is its
//               number in ten digits, then dots, cut to B bytes.
#include <dray/worker.h>
#include <sys/prctl.h>

#include <cstdlib>
#include <ctime>

#include "payload.h"

namespace {

using Clock = std::chrono::steady_clock;

// Wakes at `end`, not the default 50 us of timer slack later.
void sleep_until(Clock::time_point end) {
  thread_local const int slack = prctl(PR_SET_TIMERSLACK, 1'000UL, 0, 0, 0);
  static_cast<void>(slack);
  const int64_t ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(end.time_since_epoch()).count();
  const timespec at{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
  }
}

struct Line {  // L(n) = a + b n
  std::chrono::microseconds a{8'000};
  std::chrono::microseconds b{250};
};

std::pair<uint64_t, uint64_t> two_numbers(std::string_view text, const char* what) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos)
    throw dray::FinalError(std::string(what) + ": the payload is not 'A:B'");
  return {dray_tasks::decimal(text.substr(0, colon), what),
          dray_tasks::decimal(text.substr(colon + 1), what)};
}

Line parse_line(std::string_view text) {
  const auto [a, b] = two_numbers(text, "bench.cost");
  return {std::chrono::microseconds(a), std::chrono::microseconds(b)};
}

Line line_of_worker(const dray::WorkerInfo&) {
  const char* text = std::getenv("DRAY_BENCH_COST");
  return text == nullptr ? Line{} : parse_line(text);
}

void cost(dray::Batch& batch, const Line& of_worker) {
  const auto begin = Clock::now();
  const std::string_view own = batch[0].payload();
  const Line line = own.empty() ? of_worker : parse_line(own);
  uint64_t items = 0;
  for (size_t i = 0; i < batch.size(); ++i) items += batch[i].items();
  sleep_until(begin + line.a + line.b * items);
  for (size_t i = 0; i < batch.size(); ++i) batch.set(i, dray::ok(std::to_string(items)));
}

dray::Outcome work(dray::Context& ctx) {
  const auto begin = Clock::now();
  const auto us = dray_tasks::decimal(ctx.payload(), "bench.work: the number of microseconds");
  const auto end = begin + std::chrono::microseconds(us);
  for (auto now = begin; now < end; now = Clock::now()) {
    if (ctx.should_stop()) return dray::fail(ctx.cancelled() ? "cancelled" : "deadline passed");
    sleep_until(std::min(end, now + std::chrono::milliseconds(2)));
  }
  return dray::ok(ctx.payload());
}

void echo_batch(dray::Batch& batch) {
  for (size_t i = 0; i < batch.size(); ++i) {
    batch[i].result(batch[i].payload());
    batch.set(i, dray::ok());
  }
}

dray::Outcome count(dray::Context& ctx) {
  const auto [n, size] = two_numbers(ctx.payload(), "stream.count");
  if (size > 1'000'000) return dray::fail_final("stream.count: B is above 1000000");
  std::string part;
  for (uint64_t i = 0; i < n; ++i) {
    const std::string digits = std::to_string(i);
    part.assign(10 - digits.size(), '0');
    part += digits;
    part.resize(size, '.');
    if (!ctx.send(part)) return dray::fail("the reader went away");
  }
  return dray::ok(std::to_string(n));
}

}  // namespace

DRAY_BATCH_HANDLER("bench.cost",
                   dray::HandlerOptions{
                       .max_concurrency = 1, .max_ongoing = 1, .max_batch_size = 128},
                   line_of_worker, cost);
DRAY_HANDLER("bench.work", dray::HandlerOptions{.idempotent = true}, work);
DRAY_BATCH_HANDLER("echo.batch", dray::HandlerOptions{.idempotent = true, .max_batch_size = 256},
                   echo_batch);
DRAY_HANDLER("stream.count", dray::HandlerOptions{.streams = true}, count);
