// Real executors: runs, crashes of every kind, limits, output, parts, cancel, health, config.
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "tests/unit/worker/child_rig.h"

namespace dray::worker {
namespace {
using namespace std::chrono_literals;
using Kind = ProcessEvent::Kind;
using Out = TaskOutput::Kind;

bool alive(pid_t pid) { return ::kill(pid, 0) == 0; }

// Parts as a reader takes them: `room` of them, then it stops reading.
struct Reader : PartSink {
  bool send_part(const TaskView&, std::string_view bytes) override {
    std::unique_lock lock(mutex);
    moved.wait(lock, [&] { return open || refuse; });
    if (refuse) return false;
    got += bytes;
    return true;
  }
  void set(bool new_open, bool new_refuse) {
    std::lock_guard lock(mutex);
    open = new_open;
    refuse = new_refuse;
    moved.notify_all();
  }
  std::mutex mutex;
  std::condition_variable moved;
  bool open = true;
  bool refuse = false;
  std::string got;
};

struct Progress : ProgressSink {
  void on_progress(const TaskView&, double fraction, std::string_view text) override {
    last = fraction;
    texts.emplace_back(text);
  }
  double last = 0;
  std::vector<std::string> texts;
};

}  // namespace

TEST_CASE("child: reports its handlers and runs them") {
  ChildRig rig;
  rig.ready();
  REQUIRE(rig.handlers.size() == 5);
  CHECK(rig.handlers[0].offer.name == "child.act");
  CHECK(rig.handlers[0].offer.max_ongoing == 7);
  CHECK((rig.handlers[0].offer.flags & kOfferIdempotent) != 0);
  CHECK(rig.handlers[1].max_concurrency == 1);
  CHECK(rig.handlers[2].can_batch);
  CHECK(rig.run("hello").bytes == "hello");
  CHECK(rig.run("hello").kind == Out::ok);
  CHECK(rig.run("pid").bytes == std::to_string(rig.child->pid()));
  CHECK(rig.run("pid").bytes != std::to_string(getpid()));
  std::vector<std::string> payloads;
  std::vector<TaskView> views;
  for (size_t i = 0; i < 4096; ++i) payloads.push_back("p" + std::to_string(i));
  for (const std::string& p : payloads) views.push_back(ChildRig::view(p));
  std::vector<TaskOutput> outs(views.size());
  REQUIRE(rig.child->run(rig.place("child.batch"), views, outs));
  for (size_t i = 0; i < outs.size(); ++i) {
    CHECK(outs[i].kind == (i % 3 == 2 ? Out::fail : Out::ok));
    CHECK((i % 3 == 2 ? outs[i].text : outs[i].bytes) == (i % 3 == 2 ? "third" : payloads[i]));
  }
}

TEST_CASE("child: payloads of 4 MiB both ways") {
  ChildRig rig;
  rig.ready();
  std::string payload(kPayloadBytesMax, 'x');
  for (size_t i = 0; i < payload.size(); i += 997) payload[i] = static_cast<char>(i);
  for (int i = 0; i < 3; ++i) CHECK((rig.run(payload).bytes == payload));
  CHECK(rig.run("small").bytes == "small");
}

TEST_CASE("child: however it ends its runs end with the reason and nobody else is harmed") {
  const auto [payload, expected] = GENERATE(table<std::string, std::string>({
      {"segv", "executor crashed: SIGSEGV (pid "},
      {"abort", "executor crashed: SIGABRT (pid "},
      {"kill", "executor crashed: SIGKILL (pid "},
      {"exit0", "executor ended: exit code 0 (pid "},
      {"nonsense", "executor killed: executor protocol: bad frame (pid "},
      {"fork", "executor crashed: SIGSEGV (pid "},
  }));
  ChildRig rig;
  rig.ready();
  TaskOutput other;
  std::thread beside([&] { other = rig.run("block"); });
  while (rig.child->ongoing() == 0) std::this_thread::sleep_for(1ms);
  const auto began = ChildRig::Clock::now();
  const TaskOutput out = rig.run(payload);
  beside.join();
  INFO(payload << ": " << out.text);
  if (payload != "nonsense") CHECK(out.kind == Out::crashed);  // it may have answered before
  CHECK(other.kind == Out::crashed);
  CHECK(other.text.find(expected) == 0);
  CHECK(ChildRig::Clock::now() - began < 10s);  // also if a grandchild keeps the socket
  const ProcessEvent gone = rig.wait(Kind::gone);
  CHECK_FALSE(gone.ok);
  CHECK(gone.text == other.text);
  CHECK(rig.run("late").kind == Out::not_started);
}

TEST_CASE("child: killed from outside") {
  ChildRig rig;
  rig.ready();
  TaskOutput out;
  std::thread running([&] { out = rig.run("block"); });
  while (rig.child->ongoing() == 0) std::this_thread::sleep_for(1ms);
  ::kill(rig.child->pid(), SIGKILL);
  running.join();
  CHECK(out.kind == Out::crashed);
  CHECK(out.text.find("executor crashed: SIGKILL") == 0);
}

TEST_CASE("child: one that closes its socket ends") {
  ChildRig rig;
  rig.ready();
  const TaskOutput out = rig.run("hangup");
  CHECK(out.kind == Out::crashed);
  CHECK(out.text.find("executor ended: exit code 0") == 0);
}

TEST_CASE("child: one that does not end when it is told to is killed") {
  ChildRig rig("slow_end");
  rig.ready();
  rig.child->stop(0s);
  const ProcessEvent gone = rig.wait(Kind::gone);
  CHECK(gone.ok);
  CHECK(gone.text.find("executor killed: it did not end") == 0);
}

TEST_CASE("child: a run that ignores its limit costs the child its life") {
  ChildRig rig;
  rig.ready();
  TaskOutput late, other;
  std::thread beside([&] { other = rig.run("block"); });
  const std::string payload = "block";
  TaskView v = ChildRig::view(payload);
  const auto began = ChildRig::Clock::now();
  v.deadline_ns = (began + 200ms).time_since_epoch().count();
  REQUIRE(rig.child->run(rig.place("child.act"), {&v, 1}, {&late, 1}));
  const auto took = ChildRig::Clock::now() - began;
  beside.join();
  CHECK(took > 200ms + kChildGrace - 50ms);
  CHECK(took < 200ms + kChildGrace + 5s);  // of a busy machine
  CHECK(late.kind == Out::fail);
  CHECK(late.text.find("ran longer than its time limit; executor killed") == 0);
  CHECK(other.kind == Out::crashed);
}

TEST_CASE("child: memory above its limit") {
  ChildOptions o = ChildRig::options();
  o.memory_limit_mib = 200;
  ChildRig rig(std::move(o));
  rig.ready();
  const TaskOutput out = rig.run("hog");
  CHECK(out.kind == Out::crashed);
  CHECK(out.text.find("above its memory limit of 200 MiB") != std::string::npos);
}

TEST_CASE("child: output goes to the log line by line and is bounded") {
  ChildRig rig;
  rig.ready();
  rig.run("print");
  CHECK(rig.wait_line("out of").find("stdout: out of the handler") == 0);
  CHECK(rig.wait_line("err of").find("stderr: err of the handler") == 0);
  CHECK(rig.wait_line("log of") == "handler: log of the handler | " + to_hex(TaskId{1, 2}));
  CHECK(rig.run("spam").kind == Out::ok);
  rig.child->stop(1s);
  rig.wait(Kind::gone);
  rig.wait_line("lines were left out: too many a second");
  CHECK(rig.lines.size() < 1000);
}

TEST_CASE("child: a start that fails says why") {
  ChildRig thrown("throw");
  CHECK(thrown.wait(Kind::failed).text.find("'child.act' failed to start: no such model") !=
        std::string::npos);
  thrown.wait(Kind::gone);
  ChildRig ended("exit");
  CHECK(ended.wait(Kind::gone).text.find("executor ended: exit code 9") == 0);
  ChildRig crashed("segv");
  CHECK(crashed.wait(Kind::gone).text.find("executor crashed: SIGSEGV") == 0);
  ChildOptions none = ChildRig::options();
  none.program = "/nowhere/dray-executor";
  ChildRig missing(std::move(none));
  CHECK(missing.wait(Kind::gone).text.find("is it installed beside dray-worker?") !=
        std::string::npos);
  ChildOptions unknown = ChildRig::options();
  unknown.start.handlers = {"child.none"};
  ChildRig absent(std::move(unknown));
  CHECK(absent.wait(Kind::failed).text.find("no handler 'child.none'") != std::string::npos);
}

TEST_CASE("child: only the handlers that were asked for are started") {
  ChildOptions o = ChildRig::options("throw");
  o.start.handlers = {"child.tell", "child.alone"};
  ChildRig rig(std::move(o));
  rig.ready();
  CHECK(rig.handlers.size() == 2);
}

TEST_CASE("child: nothing runs before it is ready or after it is told to stop") {
  ChildRig rig("slow:300");
  const std::string payload = "x";
  const TaskView v = ChildRig::view(payload);
  TaskOutput out;
  CHECK_FALSE(rig.child->run(0, {&v, 1}, {&out, 1}));
  rig.ready();
  std::thread running([&] { out = rig.run("block"); });
  while (rig.child->ongoing() == 0) std::this_thread::sleep_for(1ms);
  rig.child->stop(300ms);
  CHECK(rig.run("x").kind == Out::not_started);
  running.join();
  CHECK(out.text.find("stopped before it was done") != std::string::npos);
  const ProcessEvent gone = rig.wait(Kind::gone);
  CHECK(gone.ok);
}

TEST_CASE("child: an idle one that is told to stop ends at once and by itself") {
  ChildRig rig;
  rig.ready();
  const auto began = ChildRig::Clock::now();
  rig.child->stop(10s);
  const ProcessEvent gone = rig.wait(Kind::gone);
  CHECK(gone.ok);
  CHECK(gone.text.find("executor ended: exit code 0") == 0);
  CHECK(ChildRig::Clock::now() - began < 1s);
}

TEST_CASE("child: dies with its worker") {
  ChildOptions o = ChildRig::options();
  pid_t pid = 0;
  {
    ChildRig rig(std::move(o));
    rig.ready();
    pid = rig.child->pid();
    CHECK(alive(pid));
  }
  CHECK_FALSE(alive(pid));
}

TEST_CASE("child: cancel reaches it within 50 ms") {
  ChildOptions o = ChildRig::options();
  o.start.plugins = {ChildRig::bin().parent_path() / "lib/dray/plugins/dray_tasks_basic.so"};
  ChildRig rig(std::move(o));
  rig.ready();
  std::atomic<bool> cancelled{false};
  const std::string payload = "20000";
  TaskView v = ChildRig::view(payload);
  v.cancelled = &cancelled;
  TaskOutput out;
  std::thread running([&] { rig.child->run(rig.place("sleep"), {&v, 1}, {&out, 1}); });
  std::this_thread::sleep_for(100ms);
  const auto began = ChildRig::Clock::now();
  cancelled.store(true);
  running.join();
  CHECK(ChildRig::Clock::now() - began < 50ms);
  CHECK(out.kind == Out::fail);
}

TEST_CASE("child: a thousand runs at once and each gets its own answer") {
  ChildRig rig;
  rig.ready();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 64; ++i) {
        const std::string payload = std::to_string(t) + "/" + std::to_string(i);
        const TaskOutput out = rig.run(payload);
        wrong += out.kind != Out::ok || out.bytes != payload;
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(wrong == 0);
  CHECK(rig.child->ongoing() == 0);
}

TEST_CASE("child: parts come in order and wait for their reader") {
  ChildRig rig;
  rig.ready();
  Reader reader;
  reader.set(false, false);
  TaskView v = ChildRig::view("");
  v.parts = &reader;
  TaskOutput out;
  std::thread running([&] { rig.child->run(rig.place("child.parts"), {&v, 1}, {&out, 1}); });
  std::this_thread::sleep_for(200ms);
  CHECK(rig.child->ongoing() == 1);  // 10 MB do not fit in its window
  SECTION("read") {
    reader.set(true, false);
    running.join();
    CHECK(out.bytes == "end");
    CHECK((reader.got == std::string(10'000'000, 'p')));
  }
  SECTION("nobody reads any more") {
    reader.set(false, true);
    running.join();
    CHECK(out.kind == Out::fail);
    CHECK(out.text.find("stopped after ") == 0);
  }
  SECTION("it dies meanwhile") {
    rig.child->kill("test");
    reader.set(true, false);
    running.join();
    CHECK(out.kind == Out::crashed);
  }
}

TEST_CASE("child: progress passes through") {
  ChildRig rig;
  rig.ready();
  Progress progress;
  TaskView v = ChildRig::view("");
  v.progress = &progress;
  TaskOutput out;
  REQUIRE(rig.child->run(rig.place("child.tell"), {&v, 1}, {&out, 1}));
  CHECK(out.kind == Out::ok);
  CHECK(progress.texts.size() >= 2);
  CHECK(progress.texts[0] == "step 1");
}

TEST_CASE("child: health and configuration") {
  ChildRig rig("first");
  rig.ready();
  CHECK(rig.run("config").bytes == "first");
  rig.child->ping();
  CHECK(rig.wait(Kind::pong).ok);
  rig.child->configure("second", 5);
  const ProcessEvent set = rig.wait(Kind::configured);
  CHECK(set.ok);
  CHECK(set.number == 5);
  CHECK(rig.run("config").bytes == "second");
  rig.child->configure("bad", 6);
  const ProcessEvent refused = rig.wait(Kind::configured, 2);
  CHECK_FALSE(refused.ok);
  CHECK(refused.text.find("refuses its user_config: bad config") != std::string::npos);
  CHECK(rig.run("config").bytes == "second");
  rig.child->configure("ill", 7);
  rig.wait(Kind::configured, 3);
  rig.child->ping();
  const ProcessEvent ill = rig.wait(Kind::pong, 2);
  CHECK_FALSE(ill.ok);
  CHECK(ill.text.find("feels ill") != std::string::npos);
  rig.child->configure("hang", 8);  // a health check that hangs does not stop other work
  rig.wait(Kind::configured, 4);
  CHECK(rig.run("x").bytes == "x");
}

TEST_CASE("child: its environment and its number of runs") {
  ChildOptions o = ChildRig::options();
  o.environment = {{"CUDA_VISIBLE_DEVICES", "GPU-1,GPU-2"}};
  o.recycle_after = 2;
  ChildRig rig(std::move(o));
  rig.ready();
  CHECK(rig.run("env").bytes == "GPU-1,GPU-2");
  CHECK(std::none_of(rig.news.begin(), rig.news.end(),
                     [](const ProcessEvent& n) { return n.kind == Kind::recycle; }));
  rig.run("x");
  rig.wait(Kind::recycle);
}

TEST_CASE("child: parts without bytes are nonsense") {
  ChildRig rig;
  rig.ready();
  rig.run("empty_part");
  CHECK(rig.wait(Kind::gone).text.find("executor protocol") != std::string::npos);
}

TEST_CASE("child: words about a task that nobody takes do not pile up") {
  struct Slow : ProgressSink {
    explicit Slow(ChildRig& of) : rig(of) {}
    void on_progress(const TaskView&, double, std::string_view) override {
      if (++words > 1) return;
      const auto until = ChildRig::Clock::now() + std::chrono::seconds(20);
      while (rig.child->ongoing() != 0 && ChildRig::Clock::now() < until)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ChildRig& rig;
    int words = 0;
  };
  ChildRig rig;
  rig.ready();
  Slow slow(rig);
  const std::string flood = "flood", other = "x";
  std::array<TaskView, 2> views{ChildRig::view(flood), ChildRig::view(other)};
  for (TaskView& view : views) view.progress = &slow;
  std::array<TaskOutput, 2> outs;
  REQUIRE(rig.child->run(rig.place("child.batch"), views, outs));
  CHECK(outs[0].bytes == "flood");
  CHECK(slow.words >= 1);
  CHECK(slow.words <= 4);  // what the first look found, and then the newest of each
}

}  // namespace dray::worker
