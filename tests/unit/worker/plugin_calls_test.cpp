// PluginHost and ABI 1.1: offers, plugins of 1.0, batch-only handlers, tables that make no sense.
#include <catch2/catch.hpp>
#include <filesystem>

#include "services/worker/shell/plugin_host.h"

namespace dray {
namespace {

std::string lib(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib/dray" /
         name;
}
std::string load_error(const std::string& name) {
  PluginHost host;
  const Status status = host.load(lib("test_plugins/dray_" + name + ".so"));
  CHECK(host.handlers().empty());
  return status ? "" : status.error().detail;
}
TaskOutput run(const PluginHost& host, std::string_view name, std::string_view payload) {
  TaskView task;
  task.payload = payload;
  TaskOutput out;
  host.run(*host.find(name), task, out);
  return out;
}

}  // namespace

TEST_CASE("abi: how a handler takes calls is what its options say") {
  PluginHost host;
  REQUIRE(host.load(lib("test_plugins/dray_test_call_probe.so")));
  const HandlerOffer o = host.find("call.batch")->info().offer;
  CHECK(o == HandlerOffer{"call.batch", 3, 16, 1000, 2'000, kOfferIdempotent, 2});
  CHECK(host.find("call.batch")->info().can_batch);
  CHECK(host.find("call.describe")->info().offer ==
        HandlerOffer{"call.describe", 0, 1, 0, 0, kOfferStreams, 0});
  CHECK(host.find("call.alone")->info().offer.max_ongoing == 1);  // from max_concurrency
  CHECK(host.find("call.alone")->gate() != nullptr);
  CHECK(host.find("call.batch")->gate() == nullptr);
}

TEST_CASE("abi: a plugin of 1.0 works as before, and what it does not know is not read") {
  PluginHost host;
  REQUIRE(host.load(lib("test_plugins/dray_bad_abi_1_0.so")));
  CHECK(host.find("raw")->info().offer == HandlerOffer{"raw", 0, 1, 0, 0, 0, 0});
  CHECK_FALSE(host.find("raw")->info().can_batch);
  CHECK(run(host, "raw", "x").kind == TaskOutput::Kind::ok);
}

TEST_CASE("abi: a batch-only handler serves tasks as batches of one") {
  PluginHost host;
  REQUIRE(host.load(lib("test_plugins/dray_bad_batch_only.so")));
  REQUIRE(host.load(lib("test_plugins/dray_test_call_probe.so")));
  CHECK(host.find("raw")->info().offer.max_batch_size == 8);
  CHECK(run(host, "raw", "task").bytes == "task");
  CHECK(run(host, "call.batch", "t").bytes == "1 [t] model= items=1 task");
  CHECK(run(host, "call.batch", "throw").text == "broken");
  CHECK(run(host, "call.model", "").bytes == " 1");
  std::vector<TaskView> tasks(3);
  for (TaskView& t : tasks) t.payload = "p";
  std::vector<TaskOutput> outs(3);
  host.run_batch(*host.find("raw"), tasks, outs);
  CHECK(outs[0].bytes == "p");
  CHECK(outs[1].text == "odd");
  CHECK(outs[2].kind == TaskOutput::Kind::ok);
}

TEST_CASE("abi: what a handler says about batches must make sense") {
  CHECK(load_error("bad_no_run").find("has no run function") != std::string::npos);
  CHECK(load_error("bad_batch_without_run").find("max_batch_size and no run_batch") !=
        std::string::npos);
  CHECK(load_error("bad_wait_too_long").find("batch_wait: is above a minute") != std::string::npos);
}

TEST_CASE("abi: parts without a reader are bounded like results") {
  PluginHost host({.max_result_bytes = 100});
  REQUIRE(host.load(lib("plugins/dray_tasks_calls.so")));
  CHECK(run(host, "stream.count", "9:11").bytes.size() == 100);
  TaskOutput out = run(host, "stream.count", "10:10");  // the number at the end is too much
  CHECK(out.kind == TaskOutput::Kind::fail_final);
  CHECK(out.text.find("result of 102 bytes is above") == 0);
  out = run(host, "stream.count", "11:10");
  CHECK(out.bytes.empty());
  CHECK(out.text.find("result of 110 bytes is above") == 0);
}

}  // namespace dray
