// CallExecutors: batches, stops, deadlines, streams, the gate shared with tasks, hand-over.
#include <cstdio>
#include <numeric>

#include "services/worker/shell/executor.h"
#include "tests/unit/worker/call_pool.h"

namespace dray::worker {

using Clock = CallPool::Clock;

TEST_CASE("call executor: a batch runs once, together, each call with its own outcome") {
  CallPool pool(2);
  BatchStart b = CallPool::batch(1, "call.batch", {"a", "fail", "skip", "final", "e"});
  b.key = "m7";
  b.calls[4].items = 3;
  pool.push(std::move(b));
  const BatchOutcome& o = pool.wait(1);
  CHECK(o.started);
  REQUIRE(o.calls.size() == 5);
  CHECK(o.calls[0].call == 100);
  CHECK(o.calls[0].end == CallEnd::reply);
  CHECK(o.calls[0].bytes.view() == "5 [a] model=m7 items=1 call deadline");
  CHECK(o.calls[4].bytes.view() == "5 [e] model=m7 items=3 call deadline");
  CHECK(o.calls[1].end == CallEnd::failed);
  CHECK(o.calls[1].code == Errc::app_error);
  CHECK(o.calls[1].bytes.view() == "one");
  CHECK(o.calls[2].bytes.view() == "the handler gave no outcome");
  CHECK(o.calls[3].code == Errc::app_fatal);
}

TEST_CASE("call executor: a throw fails what has no outcome yet") {
  CallPool pool(1);
  pool.push(CallPool::batch(1, "call.batch", {"a", "throw", "b"}));
  CHECK(pool.wait(1).calls[0].end == CallEnd::reply);
  CHECK(pool.text(1, 1) == "broken");
  CHECK(pool.text(1, 2) == "broken");
  CHECK(pool.wait(1).calls[2].code == Errc::app_error);
  pool.push(CallPool::batch(2, "call.batch", {"throw_final"}));
  CHECK(pool.wait(2).calls[0].code == Errc::app_fatal);
}

TEST_CASE("call executor: a handler without batches gets calls one by one") {
  CallPool pool(1);
  pool.push(1, "call.describe", "x");
  CHECK(pool.text(1) == "[x] model= items=1 call deadline");
  pool.push(2, "fail", "0:no");
  CHECK(pool.wait(2).calls[0].end == CallEnd::failed);
}

TEST_CASE("call executor: a slow handler does not block others") {
  CallPool pool(2);
  pool.push(1, "sleep", "3000");
  for (uint64_t n = 2; n < 100; ++n) pool.push(n, "echo", "x");
  const auto begin = Clock::now();
  for (uint64_t n = 2; n < 100; ++n) CHECK(pool.text(n) == "x");
  CHECK(Clock::now() - begin < 2s);
  CHECK(pool.outcomes.count(1) == 0);
  pool.executors.stop({100});
  pool.wait(1);
}

TEST_CASE("call executor: stop reaches a running handler within 50 ms, and what waits never runs") {
  CallPool pool(1);
  pool.push(1, "call.until_stopped", "");
  pool.push(CallPool::batch(2, "call.batch", {"a", "b"}));
  pool.push(CallPool::batch(3, "call.batch", {"c", "d"}));
  std::this_thread::sleep_for(20ms);
  const auto begin = Clock::now();
  pool.executors.stop({200, 201, 301, 100, 4711});
  pool.wait(1);
  const auto took = Clock::now() - begin;
  CHECK(took < 50ms);
  CHECK(pool.text(1) == "stopped");
  CHECK_FALSE(pool.wait(2).started);
  CHECK(pool.wait(2).calls[1].end == CallEnd::cancelled);
  CHECK(pool.wait(3).started);
  CHECK(pool.text(3, 0) == "1 [c] model= items=1 call deadline");
  CHECK(pool.wait(3).calls[1].end == CallEnd::cancelled);
}

TEST_CASE(
    "call executor: what expires before its turn is not executed; the handler sees deadlines") {
  CallPool pool(1);
  pool.push(1, "sleep", "60");
  pool.push(CallPool::batch(2, "echo", {"x"}, 5ms));
  BatchStart mixed = CallPool::batch(3, "call.batch", {"late", "fine"});
  mixed.calls[0].deadline = read_clock().mono + 5ms;
  pool.push(std::move(mixed));
  CHECK_FALSE(pool.wait(2).started);
  CHECK(pool.wait(2).calls[0].end == CallEnd::expired);
  CHECK(pool.wait(3).started);
  CHECK(pool.wait(3).calls[0].end == CallEnd::expired);
  CHECK(pool.text(3, 1) == "1 [fine] model= items=1 call deadline");
  CHECK(pool.wait(3).wait_us > 10'000);
  pool.push(4, "call.until_stopped", "", 50ms);
  const auto begin = Clock::now();
  CHECK(pool.text(4) == "deadline");
  CHECK(Clock::now() - begin < 1s);
}

TEST_CASE("call executor: a writer is held back by the window and goes on when more is granted") {
  CallPool pool(2);
  pool.push(CallPool::batch(1, "stream.count", {"10:20"}, 60s, 50));
  const auto sent = [&] {
    size_t n = 0;
    for (const std::string& part : pool.parts[100]) n += part.size();
    return n;
  };
  pool.until([&] { return sent() == 40; });
  pool.push(2, "sleep", "50");  // meanwhile the stream has every chance to send too much
  pool.wait(2);
  CHECK(sent() <= 50);
  CHECK(pool.outcomes.count(1) == 0);
  for (uint64_t granted = 70; granted < 300; granted += 10) {
    pool.executors.grant({{100, granted}, {100, 1}, {999, 1}});
    pool.until([&] { return sent() >= std::min<size_t>(granted - 24, 200); });
    CHECK(sent() <= granted);
  }
  CHECK(pool.text(1) == "10");
  std::string all;
  for (const std::string& part : pool.parts[100]) all += part;
  CHECK(all.size() == 200);
  CHECK(all.substr(180) == "0000000009..........");
}

TEST_CASE("call executor: a part larger than the window goes in pieces") {
  CallPool pool(1);
  pool.push(CallPool::batch(1, "stream.count", {"1:1000"}, 60s, 100));
  uint64_t sent = 0;
  pool.until([&] {
    sent = 0;
    for (const std::string& part : pool.parts[100]) sent += part.size();
    pool.executors.grant({{100, sent + 100}});
    return pool.outcomes.count(1) != 0;
  });
  CHECK(sent == 1000);
}

TEST_CASE("call executor: a blocked writer hears of a stop and of its deadline") {
  CallPool pool(2);
  pool.push(CallPool::batch(1, "stream.count", {"10:20"}, 60s, 50));
  pool.push(CallPool::batch(2, "stream.count", {"10:20"}, 100ms, 50));
  pool.until([&] { return pool.parts[100].size() >= 2; });
  const auto begin = Clock::now();
  pool.executors.stop({100});
  CHECK(pool.text(1) == "the reader went away");
  CHECK(Clock::now() - begin < 50ms);
  CHECK(pool.text(2) == "the reader went away");
}

TEST_CASE("call executor: without a window the parts become the beginning of the reply") {
  CallPool pool(1);
  pool.push(1, "stream.count", "3:12");
  CHECK(pool.text(1) == "0000000000..0000000001..0000000002..3");
  CHECK(pool.parts.empty());
  pool.push(2, "call.parts_then_fail", "");
  CHECK(pool.text(2) == "after a part");
}

namespace {

std::vector<BatchStart> some(size_t n, const std::string& name, const std::string& payload,
                             uint64_t window = 0) {
  std::vector<BatchStart> batches;
  for (size_t i = 0; i < n; ++i)
    batches.push_back(CallPool::batch(1000 + i, name, {payload}, 60s, window));
  return batches;
}

// Runs one after the other until the pool takes the handler for a quick one; a run that was
// interrupted is forgotten after some hundred others.
bool becomes_short(CallPool& pool, uint64_t& number, const std::string& name,
                   const std::string& payload, int runs) {
  for (int i = 0; i < runs && !pool.executors.are_short(some(1, name, payload)); ++i) {
    pool.push(++number, name, payload);
    pool.wait(number);
  }
  return pool.executors.are_short(some(1, name, payload));
}

}  // namespace

TEST_CASE("call guests: who may be one of the loop") {
  CallPool pool(1);
  uint64_t number = 0;
  CHECK_FALSE(pool.executors.are_short(some(1, "echo", "x")));  // nobody knows it yet
  CHECK(becomes_short(pool, number, "echo", "x", 20'000));
  CHECK_FALSE(pool.executors.are_short(some(1, "echo", "x", 1000)));  // a stream may wait
  CHECK_FALSE(becomes_short(pool, number, "sleep", "2", 10));
  CHECK_FALSE(becomes_short(pool, number, "call.gated", "", 500));
  CHECK(becomes_short(pool, number, "bench.work", "70", 20'000));
  CHECK_FALSE(pool.executors.are_short(some(3, "bench.work", "70")));
}

TEST_CASE("call guests: they end like all others") {
  CallPool pool(1);
  auto guest = pool.executors.as_guest(some(2, "echo", "here"));
  guest();
  CHECK(pool.text(1000) == "here");
  CHECK(pool.text(1001) == "here");
}

TEST_CASE("call executor: max_concurrency holds for tasks and calls together") {
  CallPool pool(3);
  std::atomic<int> ended{0};
  Executors tasks(call_plugins(), ExecutorOptions{3, kCallHandlers, [] {}});
  auto spec = std::make_shared<LocalSpec>();
  spec->handler = CallPool::handler("call.alone");
  std::vector<Start> starts;
  for (uint64_t i = 1; i <= 10; ++i) {
    starts.push_back({TaskId{1, i}, Token{1, i}, 1, spec, {}});
    pool.push(i, "call.alone", "");
  }
  tasks.push(std::move(starts));
  for (uint64_t i = 1; i <= 10; ++i) CHECK(pool.wait(i).calls[0].end == CallEnd::reply);
  std::vector<Outcome> outcomes;
  std::vector<ProgressItem> progress;
  const auto end = Clock::now() + 20s;
  while (outcomes.size() < 10 && Clock::now() < end) {
    tasks.drain(outcomes, progress);
    std::this_thread::sleep_for(1ms);
  }
  REQUIRE(outcomes.size() == 10);
  for (const Outcome& o : outcomes) CHECK(o.verdict == Verdict::ok);
}

TEST_CASE("call executor: many short calls from a busy loop, none lost, no wake lost") {
  for (const Duration spin : {Duration(0), Duration(20us)}) {
    CallPool pool(3, spin);
    constexpr uint64_t kBatches = 50'000;
    uint64_t number = 0;
    while (number < kBatches) {
      std::vector<BatchStart> chunk;
      for (int i = 0; i < 16 && number < kBatches; ++i)
        chunk.push_back(CallPool::batch(++number, "echo", {"x"}));
      pool.executors.push(std::move(chunk));
      pool.until([&] { return pool.outcomes.size() + 32 >= number; });
    }
    pool.until([&] { return pool.outcomes.size() == kBatches; });
  }
}

TEST_CASE("call executor: it ends with work waiting") {
  CallPool pool(2);
  for (uint64_t n = 1; n < 20; ++n) pool.push(n, "bench.work", "1000");
}

TEST_CASE("bench.cost takes the time of its line, bench.work the time it is told") {
  CallPool pool(2);
  pool.push(CallPool::batch(1, "bench.cost", {"1000:500", "", "", ""}));
  const BatchOutcome& o = pool.wait(1);
  CHECK(o.run_us >= 3'000);
  CHECK(pool.text(1, 3) == "4");
  pool.push(2, "bench.work", "2500");
  CHECK(pool.wait(2).run_us >= 2'500);
  pool.push(3, "bench.cost", "");
  CHECK(pool.wait(3).run_us >= 8'250);
  pool.push(4, "bench.cost", "1;2");
  CHECK(pool.wait(4).calls[0].code == Errc::app_fatal);
}

TEST_CASE("hand-over from the loop to an executor and back", "[.bench]") {
  for (const Duration spin : {Duration(0), Duration(50us)}) {
    for (const char* name : {"echo", "echo.batch"}) {
      std::atomic<bool> woken{false};
      CallExecutors executors(call_plugins(), CallExecutorOptions{2, kCallHandlers, spin, [&] {
                                                                    woken.store(true);
                                                                    woken.notify_one();
                                                                  }});
      std::vector<double> us;
      for (uint64_t n = 1; n <= 20'000; ++n) {
        std::vector<BatchStart> one;
        one.push_back(CallPool::batch(n, name, {"payload"}));
        std::vector<BatchOutcome> outcomes;
        std::vector<CallPart> parts;
        const auto begin = Clock::now();
        executors.push(std::move(one));
        while (outcomes.empty()) {
          if (spin == Duration(0)) woken.wait(false);
          woken.store(false);
          executors.drain(outcomes, parts);
        }
        us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
      }
      std::sort(us.begin(), us.end());
      std::printf("hand-over %-10s spin %2lld us: mean %.1f p50 %.1f p99 %.1f us\n", name,
                  static_cast<long long>(spin / 1us),
                  std::accumulate(us.begin(), us.end(), 0.0) / double(us.size()), us[us.size() / 2],
                  us[us.size() * 99 / 100]);
    }
  }
}

}  // namespace dray::worker
