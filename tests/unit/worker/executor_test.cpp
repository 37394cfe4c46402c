// Executors with real plugins and threads: outcomes, cancel, recall, deadlines, progress, load.
#include "services/worker/shell/executor.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>

#include "common/wire/message.h"

namespace dray::worker {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

const std::vector<std::string> kHandlers{
    "echo", "noop", "sleep", "fail", "probe.progress", "probe.remaining_ms", "bench.cost"};

PluginHost& plugins() {
  // Never destroyed: at exit the plugins' own statics go first.
  static PluginHost& host = *new PluginHost;
  static const bool loaded = [] {
    const std::filesystem::path lib =
        std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib/dray";
    REQUIRE(host.load(lib / "plugins/dray_tasks_basic.so"));
    REQUIRE(host.load(lib / "plugins/dray_tasks_calls.so"));
    REQUIRE(host.load(lib / "test_plugins/dray_test_probe.so"));
    return true;
  }();
  REQUIRE(loaded);
  return host;
}

struct Pool {
  explicit Pool(uint32_t threads)
      : executors(plugins(), ExecutorOptions{threads, kHandlers, [this] {
                                               std::lock_guard lock(mutex);
                                               ++wakes;
                                               woken = true;
                                               wake.notify_one();
                                             }}) {}

  static Start start(uint64_t seq, const std::string& handler, const std::string& payload = "",
                     Duration limit = Duration::zero()) {
    auto spec = std::make_shared<LocalSpec>();
    spec->spec.handler = handler;
    spec->spec.header = std::string("h");
    spec->time_limit = limit;
    spec->handler = static_cast<uint32_t>(std::find(kHandlers.begin(), kHandlers.end(), handler) -
                                          kHandlers.begin());
    return {TaskId{1, seq}, Token{1, seq}, 1, spec, Bytes::copy(payload)};
  }
  void push(Start s) {
    std::vector<Start> one;
    one.push_back(std::move(s));
    executors.push(std::move(one));
  }
  // Until `n` outcomes came, in all.
  std::map<uint64_t, Outcome>& wait(size_t n) {
    const auto until = Clock::now() + 20s;
    for (;;) {
      std::vector<Outcome> list;
      executors.drain(list, progress);
      for (Outcome& o : list) {
        CHECK(o.id.lo == o.token.seq);
        const bool fresh = outcomes.emplace(o.token.seq, std::move(o)).second;
        CHECK(fresh);
      }
      if (outcomes.size() >= n) return outcomes;
      std::unique_lock lock(mutex);
      // No other way to hear of an outcome: a lost wake is a failure.
      const bool heard = wake.wait_until(lock, until, [&] { return woken; });
      REQUIRE(heard);
      woken = false;
    }
  }

  std::mutex mutex;
  std::condition_variable wake;
  bool woken = false;
  size_t wakes = 0;
  std::map<uint64_t, Outcome> outcomes;
  std::vector<ProgressItem> progress;
  Executors executors;
};

}  // namespace

TEST_CASE("executor: outcomes carry verdict, code, bytes and time") {
  Pool pool(2);
  pool.push(Pool::start(1, "echo", "hello"));
  pool.push(Pool::start(2, "echo", std::string(100'000, 'b')));
  pool.push(Pool::start(3, "sleep", "20"));
  pool.push(Pool::start(4, "fail", "9:no"));
  auto& got = pool.wait(4);
  CHECK(got[1].verdict == Verdict::ok);
  CHECK(got[1].code == Errc::ok);
  CHECK(got[1].result.view() == "hello");
  CHECK(got[2].result.size() == 100'000);
  CHECK(got[3].exec_us >= 19'000);
  CHECK(got[4].verdict == Verdict::fail);
  CHECK(got[4].code == Errc::app_error);
  CHECK_FALSE(got[4].result.empty());
}

TEST_CASE("executor: cancel reaches what runs and what waits") {
  Pool pool(1);
  pool.push(Pool::start(1, "sleep", "10000"));
  pool.push(Pool::start(2, "echo", "x"));
  pool.push(Pool::start(3, "echo", "x"));
  std::this_thread::sleep_for(30ms);
  const auto begin = Clock::now();
  pool.executors.cancel({Token{1, 2}, Token{1, 1}});
  auto& got = pool.wait(3);
  CHECK(Clock::now() - begin < 5s);
  CHECK(got[1].started);
  CHECK_FALSE(got[2].started);
  CHECK(got[3].result.view() == "x");
}

TEST_CASE("executor: tasks that start together are one run, each with an outcome of its own") {
  Pool pool(1);
  Start piece = Pool::start(1, "bench.cost", "10000:100");
  for (uint64_t seq = 2; seq <= 5; ++seq)
    piece.more.push_back(Pool::start(seq, "bench.cost", "10000:100"));
  pool.push(std::move(piece));
  auto& got = pool.wait(5);
  for (uint64_t seq = 1; seq <= 5; ++seq) {
    CHECK(got[seq].started);
    CHECK(got[seq].result.view() == "5");  // items of its batch
    CHECK(got[seq].piece_us >= 10'000);
    CHECK(got[seq].exec_us == got[1].piece_us / 5);
  }
}

TEST_CASE("executor: one of a piece that is cancelled before does not run, one during is told") {
  Pool pool(1);
  pool.push(Pool::start(1, "sleep", "100"));
  Start piece = Pool::start(2, "sleep", "10000");
  piece.more.push_back(Pool::start(3, "sleep", "1"));
  piece.more.push_back(Pool::start(4, "sleep", "1"));
  pool.push(std::move(piece));
  pool.executors.cancel({Token{1, 3}});
  pool.wait(1);
  std::this_thread::sleep_for(30ms);
  const auto begin = Clock::now();
  pool.executors.cancel({Token{1, 2}});
  auto& got = pool.wait(4);
  CHECK(Clock::now() - begin < 5s);
  CHECK(got[2].started);
  CHECK_FALSE(got[3].started);
  CHECK(got[4].started);
  CHECK(got[4].verdict == Verdict::ok);
}

TEST_CASE("executor: a piece that has not begun is recalled whole") {
  Pool pool(1);
  pool.push(Pool::start(1, "sleep", "200"));
  std::this_thread::sleep_for(30ms);
  Start piece = Pool::start(2, "sleep", "1");
  piece.more.push_back(Pool::start(3, "sleep", "1"));
  pool.push(std::move(piece));
  pool.executors.recall();
  auto& got = pool.wait(3);
  CHECK(got[1].started);
  CHECK_FALSE(got[2].started);
  CHECK_FALSE(got[3].started);
}

TEST_CASE("executor: recall brings back what has not begun") {
  Pool pool(1);
  pool.push(Pool::start(1, "sleep", "200"));
  std::this_thread::sleep_for(30ms);
  for (uint64_t seq = 2; seq < 20; ++seq) pool.push(Pool::start(seq, "echo"));
  CHECK(pool.executors.has_waiting());
  pool.executors.recall();
  CHECK_FALSE(pool.executors.has_waiting());
  auto& got = pool.wait(19);
  CHECK(got[1].started);
  for (uint64_t seq = 2; seq < 20; ++seq) CHECK_FALSE(got[seq].started);
}

TEST_CASE("executor: the time limit is the handler's deadline") {
  Pool pool(1);
  pool.push(Pool::start(1, "probe.remaining_ms", "", 5s));
  auto& got = pool.wait(1);
  const int ms = std::stoi(std::string(got[1].result.view()));
  CHECK(ms > 3'000);
  CHECK(ms <= 5'000);
  pool.push(Pool::start(2, "sleep", "9000", 50ms));
  auto& late = pool.wait(2);
  CHECK(late[2].verdict == Verdict::time_limit);
  CHECK(late[2].code == Errc::time_limit);
}

TEST_CASE("executor: progress is passed on, at most four a second") {
  Pool pool(1);
  pool.push(Pool::start(1, "probe.progress"));
  pool.wait(1);
  REQUIRE(pool.progress.size() == 1);
  CHECK(pool.progress[0].permille == 250);
  CHECK(pool.progress[0].text == "quarter");
  CHECK(pool.progress[0].token == Token{1, 1});
}

TEST_CASE("executor: an outcome does not wait for the next task of its thread") {
  Pool pool(1);
  pool.push(Pool::start(1, "noop"));
  pool.push(Pool::start(2, "sleep", "2000"));
  const auto begin = Clock::now();
  pool.wait(1);
  CHECK(Clock::now() - begin < 1s);
  pool.executors.cancel({Token{1, 2}});
  pool.wait(2);
}

TEST_CASE("executor: many short tasks, in chunks, none lost, no wake lost") {
  Pool pool(3);
  constexpr uint64_t kTasks = 200'000;
  const auto begin = Clock::now();
  uint64_t seq = 0;
  while (seq < kTasks) {
    std::vector<Start> chunk;
    for (uint64_t i = 0; i < 128 && seq < kTasks; ++i) chunk.push_back(Pool::start(++seq, "noop"));
    pool.executors.push(std::move(chunk));
    pool.wait(seq - 64);
    if (seq % 1280 == 0) pool.executors.recall();
  }
  auto& got = pool.wait(kTasks);
  CHECK(got.size() == kTasks);
  const std::chrono::duration<double> took = Clock::now() - begin;
  std::lock_guard lock(pool.mutex);
  std::printf("executor: %.2f M no-op tasks/s, %zu wakes\n", double(kTasks) / took.count() / 1e6,
              pool.wakes);
}

}  // namespace dray::worker
