// Tests of the basic and test handlers: payload rules, cancellation, attempts, witness lines.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include "services/worker/shell/plugin_host.h"

namespace dray {
namespace {

using Kind = TaskOutput::Kind;

struct Rig {
  Rig() : host({.allow_test_handlers = true}) {
    const auto dir = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() /
                     "lib/dray/plugins";
    REQUIRE(host.load(dir / "dray_tasks_basic.so"));
    REQUIRE(host.load(dir / "dray_tasks_test.so"));
  }
  TaskOutput run(std::string_view handler, std::string_view payload, TaskView task = {}) {
    task.payload = payload;
    TaskOutput out;
    host.run(*host.find(handler), task, out);
    return out;
  }
  PluginHost host;
};

int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

// How a child process that runs `crash` ends.
int crash_status(Rig& rig, const char* mode) {
  const pid_t child = fork();
  if (child == 0) {
    close(2);
    signal(SIGABRT, SIG_DFL);  // Catch's handler would report the child's death as a failed test
    signal(SIGSEGV, SIG_DFL);
    rig.run("crash", mode);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST_CASE("echo and noop") {
  Rig rig;
  const std::string all("a\0b\xff", 4);
  CHECK(rig.run("echo", all).bytes == all);
  CHECK(rig.run("echo", "").bytes.empty());
  CHECK(rig.run("echo", std::string(kPayloadBytesMax, 'x')).bytes.size() == kPayloadBytesMax);
  CHECK(rig.run("noop", "anything").bytes.empty());
  CHECK(rig.run("noop", "anything").kind == Kind::ok);
}

TEST_CASE("sleep observes cancellation and deadline") {
  Rig rig;
  const int64_t start = now_ns();
  CHECK(rig.run("sleep", "20").bytes == "20");
  CHECK(now_ns() - start >= 20'000'000);
  for (const char* bad : {"", "-1", "1.5", " 1", "1234567890", "x"}) {
    CHECK(rig.run("sleep", bad).kind == Kind::fail_final);
  }
  TaskView task;
  const std::atomic<bool> cancelled{true};
  task.cancelled = &cancelled;
  CHECK(rig.run("sleep", "999999999", task).text == "cancelled");
  task.cancelled = nullptr;
  task.deadline_ns = now_ns() + 5'000'000;
  const auto out = rig.run("sleep", "999999999", task);
  CHECK(out.kind == Kind::fail);
  CHECK(out.text == "deadline passed");
}

TEST_CASE("fail by attempt") {
  Rig rig;
  TaskView task;
  task.attempt = 2;
  CHECK(rig.run("fail", "3:no: yet", task).kind == Kind::fail);
  CHECK(rig.run("fail", "3:no: yet", task).text == "no: yet");
  task.attempt = 3;
  CHECK(rig.run("fail", "3:fine", task).bytes == "fine");
  task.attempt = 900;
  CHECK(rig.run("fail", "0:never", task).kind == Kind::fail);
  CHECK(rig.run("fail", "final:x").kind == Kind::fail_final);
  for (const char* bad : {"", "text", ":x", "x:y", "-1:x", "1234567890:x"}) {
    CHECK(rig.run("fail", bad).kind == Kind::fail_final);
  }
}

TEST_CASE("crash does what its mode says") {
  Rig rig;
  CHECK(rig.run("crash", "throw").text == "unknown exception");
  CHECK(rig.run("crash", "").kind == Kind::fail_final);
  CHECK(rig.run("crash", "nonsense").kind == Kind::fail_final);
  CHECK(rig.run("crash", "hang:x").kind == Kind::fail_final);
  CHECK(rig.run("crash", "ignore_cancel:5").bytes == "ignore_cancel");
  CHECK(rig.run("crash", "hang:5").bytes == "hang");
  TaskView task;
  const std::atomic<bool> cancelled{true};
  task.cancelled = &cancelled;
  CHECK(rig.run("crash", "hang", task).text == "cancelled");
  CHECK(rig.run("crash", "ignore_cancel:5", task).kind == Kind::ok);
  const int aborted = crash_status(rig, "abort");
  CHECK((WIFSIGNALED(aborted) && WTERMSIG(aborted) == SIGABRT));
  const int exited = crash_status(rig, "exit");
  CHECK((WIFEXITED(exited) && WEXITSTATUS(exited) == 3));
  const int segv = crash_status(rig, "segv");
  CHECK_FALSE((WIFEXITED(segv) && WEXITSTATUS(segv) == 0));
}

TEST_CASE("witness writes when it starts and ends") {
  Rig rig;
  const std::string path =
      std::filesystem::temp_directory_path() / ("dray_witness_" + std::to_string(getpid()));
  std::filesystem::remove(path);
  TaskView task;
  task.id = {1, 2};
  task.attempt = 4;
  task.token = {5, 6};
  CHECK(rig.run("witness", path + "\n1\nthe\nrest", task).bytes == "the\nrest");
  const std::atomic<bool> cancelled{true};
  task.cancelled = &cancelled;
  CHECK(rig.run("witness", path + "\n1\n", task).kind == Kind::fail);
  std::ifstream file(path);
  std::string line;
  for (const std::string word : {"start", "end", "start", "stop"}) {
    REQUIRE(std::getline(file, line));
    const std::string head =
        word + " 00000000000000010000000000000002 4 5:6 " + std::to_string(getpid()) + " ";
    REQUIRE(line.substr(0, head.size()) == head);
    CHECK(line.size() == head.size() + 16);
    CHECK(line.find_first_not_of("0123456789", head.size()) == std::string::npos);
  }
  CHECK_FALSE(std::getline(file, line));
  std::filesystem::remove(path);
  CHECK(rig.run("witness", "").kind == Kind::fail_final);
  CHECK(rig.run("witness", path + "\n1").kind == Kind::fail_final);
  CHECK(rig.run("witness", path + "\nx\n").kind == Kind::fail_final);
  CHECK(rig.run("witness", "/nowhere/at/all\n1\n").kind == Kind::fail);
  CHECK_FALSE(std::filesystem::exists(path));
}

}  // namespace dray
