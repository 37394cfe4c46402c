// Options of a task on their way to the wire: what it asks of GPUs.
#include <catch2/catch.hpp>

#include "client/src/convert.h"
#include "common/resources/advertised.h"

using namespace dray;

TEST_CASE("client: GPUs, memory, strategy and variants reach the wire") {
  TaskOptions o;
  o.gpus = 0.5;
  o.gpu_memory_mib = 8'192;
  o.strategy = GpuStrategy::spread;
  o.resources = {{"step_a_slot", 1}};
  o.labels = {"node:a"};
  o.variants = {{2.5, 0, {{"cpu", 0.25}}, {"head"}}};
  const auto blob = make_spec("echo", o);
  REQUIRE(blob.has_value());
  const TaskSpec spec = decode_spec(*blob).value();
  CHECK(spec.gpus == 5'000);
  CHECK(spec.gpu_memory_mib == 8'192);
  const Request request = request_of(spec);
  CHECK(request.strategy == Strategy::spread);
  REQUIRE(request.variants.size() == 2);
  CHECK(request.variants[0].pools.get("step_a_slot") == 10'000);
  CHECK(request.variants[1].gpus == 25'000);
  CHECK(request.variants[1].labels == std::vector<std::string>{"head"});
}

TEST_CASE("client: needs that make no sense are refused here") {
  const auto refused = [](const TaskOptions& o) {
    const auto blob = make_spec("echo", o);
    CHECK_FALSE(blob.has_value());
    return blob.has_value() ? std::string() : blob.error().text();
  };
  TaskOptions o;
  o.resources = {{"gpu", 1}};
  CHECK(refused(o).find("resources.gpu: has a field of its own") != std::string::npos);
  o = {};
  o.gpus = -1;
  CHECK(refused(o).find("gpus") != std::string::npos);
  o.gpus = 0.00001;
  CHECK(refused(o).find("1/10,000") != std::string::npos);
  o = {};
  o.variants.resize(4);
  CHECK(refused(o).find("variants") != std::string::npos);
  o = {};
  o.variants = {{0, 0, {{"gpus", 1}}, {}}};
  CHECK(refused(o).find("resources.gpus") != std::string::npos);
}
