// CallPool: executors of calls with real plugins and threads; the test plays the loop.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>

#include "common/net/clock.h"
#include "services/worker/shell/call_executor.h"

namespace dray::worker {

inline const std::vector<std::string> kCallHandlers{
    "echo",       "echo.batch",    "bench.work",           "bench.cost",         "stream.count",
    "call.batch", "call.describe", "call.model",           "call.until_stopped", "call.alone",
    "fail",       "sleep",         "call.parts_then_fail", "call.gated"};

inline PluginHost& call_plugins() {
  // Never destroyed: at exit the plugins' own statics go first.
  static PluginHost& host = *new PluginHost;
  static const bool loaded = [] {
    const std::filesystem::path lib =
        std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib/dray";
    REQUIRE(host.load(lib / "plugins/dray_tasks_basic.so"));
    REQUIRE(host.load(lib / "plugins/dray_tasks_calls.so"));
    REQUIRE(host.load(lib / "test_plugins/dray_test_call_probe.so"));
    return true;
  }();
  REQUIRE(loaded);
  return host;
}

struct CallPool {
  using Clock = std::chrono::steady_clock;

  explicit CallPool(uint32_t threads, Duration spin = {})
      : executors(call_plugins(), CallExecutorOptions{threads, kCallHandlers, spin, [this] {
                                                        std::lock_guard lock(mutex);
                                                        ++wakes;
                                                        woken = true;
                                                        wake.notify_one();
                                                      }}) {}

  static uint32_t handler(const std::string& name) {
    const auto it = std::find(kCallHandlers.begin(), kCallHandlers.end(), name);
    REQUIRE(it != kCallHandlers.end());
    return static_cast<uint32_t>(it - kCallHandlers.begin());
  }
  // Calls of batch n are 100 n, 100 n + 1 ...
  static BatchStart batch(uint64_t number, const std::string& name,
                          const std::vector<std::string>& payloads, Duration deadline = 60s,
                          uint64_t window = 0) {
    BatchStart b{number, handler(name), "", {}};
    for (size_t i = 0; i < payloads.size(); ++i)
      b.calls.push_back(
          {100 * number + i, Bytes::copy(payloads[i]), read_clock().mono + deadline, window, 1});
    return b;
  }
  void push(BatchStart b) {
    std::vector<BatchStart> one;
    one.push_back(std::move(b));
    executors.push(std::move(one));
  }
  void push(uint64_t number, const std::string& name, const std::string& payload,
            Duration deadline = 60s) {
    push(batch(number, name, {payload}, deadline));
  }
  // Until `f()`; sleeps on nothing but the wake, so a lost one is a failure.
  template <class F>
  void until(F&& f) {
    const auto end = Clock::now() + 20s;
    for (;;) {
      std::vector<BatchOutcome> list;
      std::vector<CallPart> fresh;
      executors.drain(list, fresh);
      for (CallPart& p : fresh) {
        for (const auto& [number, o] : outcomes)
          for (const CallOutcome& c : o.calls) CHECK(c.call != p.call);  // parts come before ends
        parts[p.call].emplace_back(p.bytes.view());
      }
      for (BatchOutcome& o : list) {
        const uint64_t number = o.batch;
        CHECK(outcomes.emplace(number, std::move(o)).second);
      }
      if (f()) return;
      std::unique_lock lock(mutex);
      const bool heard = wake.wait_until(lock, end, [&] { return woken; });
      REQUIRE(heard);
      woken = false;
    }
  }
  const BatchOutcome& wait(uint64_t number) {
    until([&] { return outcomes.count(number) != 0; });
    return outcomes.at(number);
  }
  std::string text(uint64_t number, size_t i = 0) {
    return std::string(wait(number).calls.at(i).bytes.view());
  }

  std::mutex mutex;
  std::condition_variable wake;
  bool woken = false;
  size_t wakes = 0;
  std::map<uint64_t, BatchOutcome> outcomes;
  std::map<uint64_t, std::vector<std::string>> parts;
  CallExecutors executors;
};

}  // namespace dray::worker
