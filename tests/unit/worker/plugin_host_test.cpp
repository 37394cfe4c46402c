// Tests of PluginHost: what it refuses and why, and what a handler sees and gives back.
#include "services/worker/shell/plugin_host.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

namespace dray {
namespace {

std::string lib_dir() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib/dray";
}
std::string plugin(const std::string& name) {
  return lib_dir() + "/plugins/dray_tasks_" + name + ".so";
}
std::string test_plugin(const std::string& name) {
  return lib_dir() + "/test_plugins/dray_" + name + ".so";
}

std::string load_error(PluginHost& host, const std::string& path) {
  const Status status = host.load(path);
  if (status) return "";
  CHECK(status.error().code == Errc::config);
  CHECK(status.error().detail.find(path) != std::string::npos);
  CHECK(status.error().detail.find('\n') == std::string::npos);
  return status.error().detail;
}

TaskOutput run(const PluginHost& host, std::string_view name, TaskView task) {
  const Handler* handler = host.find(name);
  REQUIRE(handler != nullptr);
  TaskOutput out;
  host.run(*handler, task, out);
  return out;
}
TaskOutput run(const PluginHost& host, std::string_view name, std::string_view payload) {
  TaskView task;
  task.payload = payload;
  return run(host, name, task);
}

struct Sinks : ProgressSink, LogSink {
  void on_progress(const TaskView& task, double fraction, std::string_view text) override {
    lines.push_back(to_string(task.token) + " " + std::to_string(fraction) + " " +
                    std::string(text));
  }
  void on_log(int level, std::string_view text) override {
    lines.push_back("log " + std::to_string(level) + " " + std::string(text));
  }
  std::vector<std::string> lines;
};

}  // namespace

TEST_CASE("a broken plugin is refused with the reason") {
  struct Case {
    std::string name;
    std::string reason;
  };
  const Case cases[] = {
      {"bad_no_entry", "has no dray_plugin_v1"},
      {"bad_null_table", "returned nothing"},
      {"bad_small_table", "plugin table of 16 bytes is too small"},
      {"bad_wrong_abi", "made for plugin ABI 99, this worker speaks 1"},
      {"bad_no_handlers", "has no handlers"},
      {"bad_null_list", "list of handlers is missing"},
      {"bad_null_handler", "a handler is missing"},
      {"bad_small_handler", "handler of 8 bytes is too small"},
      {"bad_no_run", "handler 'raw' has no run function"},
      {"bad_bad_name", "handler 'bad name': a name is"},
      {"bad_empty_name", "handler '': a name is"},
      {"bad_twice", "handler 'fine' is defined twice"},
      {"bad_init_throws", "handler 'fine2' failed to start: no model file"},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    PluginHost host;
    const std::string error = load_error(host, test_plugin(c.name));
    INFO(error);
    CHECK(error.find(c.reason) != std::string::npos);
    CHECK(host.handlers().empty());
  }
}

TEST_CASE("a file that is no plugin is refused with the reason") {
  PluginHost host;
  CHECK(load_error(host, "/nowhere/x.so").find("no such file") != std::string::npos);
  CHECK(load_error(host, "/tmp").find("not a file") != std::string::npos);
  const auto path =
      std::filesystem::temp_directory_path() / ("dray_not_elf_" + std::to_string(getpid()) + ".so");
  std::ofstream(path) << std::string(200, 't');
  CHECK(load_error(host, path).find("invalid ELF header") != std::string::npos);
  std::filesystem::remove(path);
}

TEST_CASE("a second definition of a handler names the first plugin and adds nothing") {
  PluginHost host;
  REQUIRE(host.load(plugin("basic")));
  const auto before = host.handlers();
  const std::string error = load_error(host, test_plugin("bad_duplicate"));
  CHECK(error.find("handler 'echo' is already defined by plugin " + plugin("basic")) !=
        std::string::npos);
  CHECK(host.handlers() == before);
  CHECK(host.find("fine") == nullptr);
  CHECK(!load_error(host, plugin("basic")).empty());
}

TEST_CASE("plugins do not see each other's handlers") {
  PluginHost host;
  REQUIRE(host.load(plugin("basic")));
  REQUIRE(host.load(test_plugin("test_probe")));
  REQUIRE(host.load(plugin("cpu")));
  CHECK(host.find("echo")->info().plugin == plugin("basic"));
  CHECK(host.find("probe.count")->info().plugin == test_plugin("test_probe"));
  CHECK(host.find("probe.count")->info().max_concurrency == 2);
  CHECK_FALSE(host.find("probe.count")->info().can_batch);
  CHECK(host.find("nobody") == nullptr);
  std::vector<std::string> names;
  for (const auto& info : host.handlers())
    if (info.plugin != test_plugin("test_probe")) names.push_back(info.name);
  CHECK(names == std::vector<std::string>{"echo", "fail", "linalg.gemm", "noop", "sleep",
                                          "text.hash_embed", "vec.topk"});
}

TEST_CASE("test handlers are loaded only where they are allowed") {
  PluginHost strict;
  REQUIRE(strict.load(test_plugin("bad_test_only")));
  CHECK(strict.find("hidden") == nullptr);
  CHECK(strict.find("fine") != nullptr);
  REQUIRE(strict.load(plugin("test")));
  CHECK(strict.find("crash") == nullptr);
  PluginHost open({.allow_test_handlers = true});
  REQUIRE(open.load(plugin("test")));
  REQUIRE(open.find("crash") != nullptr);
  CHECK(open.find("crash")->info().test_only);
}

TEST_CASE("a handler sees everything about its task") {
  PluginHost host({.worker_name = "w1", .data_dir = "/data"});
  REQUIRE(host.load(test_plugin("test_probe")));
  TaskView task;
  task.id = {0x0123456789abcdef, 0xfedcba9876543210};
  task.token = {3, 44};
  task.attempt = 7;
  task.payload = "pay";
  task.user_header = "head";
  CHECK(run(host, "probe.describe", task).bytes ==
        "0123456789abcdeffedcba9876543210 3:44 7 probe.describe [pay] [head] w1 /data");
  const std::atomic<bool> cancelled{true};
  task.cancelled = &cancelled;
  task.deadline_ns = 1;
  const auto out = run(host, "probe.describe", task);
  CHECK(out.bytes.find(" cancelled deadline") != std::string::npos);
  CHECK(run(host, "probe.remaining_ms", task).bytes == "0");
  const auto in_a_minute = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  task.deadline_ns = in_a_minute.time_since_epoch().count();
  const int left = std::stoi(run(host, "probe.remaining_ms", task).bytes);
  CHECK(left > 50'000);
  CHECK(left <= 60'000);
}

TEST_CASE("state is made once for each worker and shared by its runs") {
  PluginHost first({.worker_name = "a"});
  PluginHost second({.worker_name = "b"});
  REQUIRE(first.load(test_plugin("test_probe")));
  REQUIRE(second.load(test_plugin("test_probe")));
  CHECK(run(first, "probe.count", "").bytes == "a 1");
  CHECK(run(first, "probe.count", "").bytes == "a 2");
  CHECK(run(second, "probe.count", "").bytes == "b 1");
}

TEST_CASE("nothing a handler throws gets out") {
  PluginHost host;
  REQUIRE(host.load(test_plugin("test_probe")));
  REQUIRE(host.load(test_plugin("bad_raw_throw")));
  auto out = run(host, "probe.throw", "");
  CHECK(out.kind == TaskOutput::Kind::fail);
  CHECK(out.text == "try again later");
  out = run(host, "probe.throw", "final");
  CHECK(out.kind == TaskOutput::Kind::fail_final);
  CHECK(out.text == "no way");
  out = run(host, "probe.throw", "int");
  CHECK(out.kind == TaskOutput::Kind::fail);
  CHECK(out.text == "unknown exception");
  CHECK(run(host, "raw", "").text == "unknown exception");
}

TEST_CASE("results and errors are bounded") {
  PluginHost host({.max_result_bytes = 1000});
  REQUIRE(host.load(test_plugin("test_probe")));
  for (const char* name : {"probe.size", "probe.result", "probe.buffer"}) {
    CHECK(run(host, name, "1000").bytes.size() == 1000);
    const auto out = run(host, name, "1001");
    CHECK(out.kind == TaskOutput::Kind::fail_final);
    CHECK(out.text.find("result of 1001 bytes is") == 0);
    CHECK(out.bytes.empty());
  }
  CHECK(run(host, "probe.long_error", "").text.size() == kErrorTextMax);
  const auto out = run(host, "probe.buffer_then_fail", "");
  CHECK(out.bytes.empty());
  CHECK(out.text == "failed without a reason");
}

TEST_CASE("one output object serves many runs") {
  PluginHost host;
  REQUIRE(host.load(plugin("basic")));
  TaskOutput out;
  TaskView task;
  task.payload = "final:x";
  host.run(*host.find("fail"), task, out);
  CHECK(out.kind == TaskOutput::Kind::fail_final);
  host.run(*host.find("noop"), task, out);
  CHECK(out.kind == TaskOutput::Kind::ok);
  CHECK((out.bytes.empty() && out.text.empty()));
}

TEST_CASE("progress and log reach their sinks") {
  Sinks sinks;
  PluginHost host({.log = &sinks});
  REQUIRE(host.load(test_plugin("test_probe")));
  CHECK(run(host, "probe.progress", "").kind == TaskOutput::Kind::ok);  // no progress sink
  TaskView task;
  task.token = {1, 2};
  task.progress = &sinks;
  run(host, "probe.progress", task);
  CHECK(sinks.lines == std::vector<std::string>{"log 2 careful", "1:2 0.250000 quarter",
                                                "1:2 1.000000 ", "log 2 careful"});
}

TEST_CASE("overhead of a run", "[.bench]") {
  PluginHost host;
  REQUIRE(host.load(plugin("basic")));
  const std::string small(100, 'p');
  const std::string large(4000, 'p');
  for (const auto& [name, payload] :
       {std::pair<const char*, std::string_view>{"noop", ""}, {"echo", small}, {"echo", large}}) {
    const Handler* handler = host.find(name);
    TaskOutput out;
    TaskView task;
    task.payload = payload;
    constexpr int kRuns = 5'000'000;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kRuns; ++i) host.run(*handler, task, out);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    std::cout << name << " " << payload.size() << " bytes: " << took.count() / kRuns << " ns\n";
  }
}

TEST_CASE("user_config and hooks reach a plugin; only what was asked for is loaded") {
  PluginOptions options;
  options.user_config = "first";
  options.deployment = "d";
  options.only = {"child.act", "child.alone"};
  PluginHost host(options);
  REQUIRE(host.load(test_plugin("test_child_probe")));
  CHECK(host.handlers().size() == 2);
  CHECK(run(host, "child.act", "config").bytes == "first");
  CHECK(host.health());
  REQUIRE(host.reconfigure("ill"));
  CHECK(run(host, "child.act", "config").bytes == "ill");
  const Status ill = host.health();
  REQUIRE_FALSE(ill);
  CHECK(ill.error().detail == "handler 'child.act' is not well: feels ill");
  const Status bad = host.reconfigure("bad");
  REQUIRE_FALSE(bad);
  CHECK(bad.error().detail == "handler 'child.act' refuses its user_config: bad config");
}

TEST_CASE("a plugin of an older ABI has no hooks") {
  PluginHost host;
  REQUIRE(host.load(test_plugin("bad_abi_1_0")));
  CHECK(host.health());
  CHECK(host.reconfigure("x"));
}

TEST_CASE("a hook that fits no handler refuses the plugin") {
  PluginHost host;
  CHECK(load_error(host, test_plugin("bad_hook_without_handler"))
            .find("a hook for 'nobody': there is no such handler") != std::string::npos);
  CHECK(load_error(host, test_plugin("bad_hook_of_other_state"))
            .find("a hook for 'it': its state is of another type") != std::string::npos);
}

}  // namespace dray
