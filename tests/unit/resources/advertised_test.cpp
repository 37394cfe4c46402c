// Advertised: from the wire to the ledger and back; words about what is missing.
#include "common/resources/advertised.h"

#include <catch2/catch.hpp>

using namespace dray;

namespace {
DeviceInfo device(const std::string& uuid, uint64_t units, uint64_t mib) {
  DeviceInfo d;
  d.uuid = uuid;
  d.units = units;
  d.memory_mib = mib;
  return d;
}
CapacityNews news(const std::vector<DeviceInfo>& devices) {
  CapacityNews m;
  for (const DeviceInfo& d : devices) m.devices.push_back(encode_device(d));
  return m;
}
}  // namespace

TEST_CASE("advertised: a device of 0 units is there and gives nothing") {
  const auto read = read_advertised(news({device("a", 0, 100), device("b", 10'000, 100)}));
  REQUIRE(read.has_value());
  CHECK_FALSE(read->state.devices[0].device.usable);
  CHECK(read->state.free_units() == 10'000);
  CHECK(largest_of(read->state).get("gpus") == 10'000);
  CHECK(largest_of(read->state).get("gpu_memory") == 100 * kResourceUnit);
}

TEST_CASE("advertised: what is taken comes along, and nonsense is refused") {
  DeviceInfo half = device("a", 10'000, 100);
  half.taken_units = 5'000;
  half.taken_mib = 40;
  CapacityNews m = news({half});
  m.resources = {{"cpu", 20'000}};
  m.taken = {{"cpu", 15'000}, {"unknown", 1}};
  const auto read = read_advertised(m);
  REQUIRE(read.has_value());
  CHECK(read->state.devices[0].free().units == 5'000);
  CHECK(read->state.devices[0].free().memory_mib == 60);
  CHECK(read->state.find_pool("cpu")->free() == 5'000);
  half.taken_units = 10'001;
  CHECK_FALSE(read_advertised(news({half})).has_value());
  CHECK_FALSE(read_advertised(news({device("a", 1, 1), device("a", 1, 1)})).has_value());
  m.devices = {"x"};
  CHECK_FALSE(read_advertised(m).has_value());
}

TEST_CASE("advertised: a task's request, and a need there and back") {
  TaskSpec spec;
  spec.gpus = 5'000;
  spec.strategy = 1;
  spec.labels = {"head"};
  const Variant other{0, 0, ResourceVec({{"cpu", 7}}), {"x"}};
  spec.variants = {encode_need(need_of(other))};
  const Request request = request_of(spec);
  REQUIRE(request.variants.size() == 2);
  CHECK(request.strategy == Strategy::spread);
  CHECK(request.variants[0].gpus == 5'000);
  CHECK(request.variants[0].labels == std::vector<std::string>{"head"});
  CHECK(request.variants[1] == other);
}

TEST_CASE("advertised: an excess counts only if no variant is within") {
  const ResourceVec most({{"gpus", 20'000}, {"gpu_memory", 80 * kResourceUnit}, {"cpu", 5}});
  Request request{{Variant{30'000, 0, {}, {}}}, Strategy::pack};
  CHECK(first_excess(request, most) == "gpus");
  request.variants.push_back({0, 81, {}, {}});
  CHECK(first_excess(request, most) == "gpus");
  request.variants[0].gpus = 0;
  request.variants[0].gpu_memory_mib = 81;
  CHECK(first_excess(request, most) == "gpu_memory");
  request.variants.push_back({0, 80, ResourceVec({{"cpu", 5}}), {}});
  CHECK(first_excess(request, most).empty());
}

TEST_CASE("advertised: explanations count the devices") {
  NodeState node = read_advertised(news({device("a", 10'000, 100), device("b", 10'000, 100),
                                         device("c", 10'000, 100)}))
                       ->state;
  node.take({{0, 7'500, 90}, {1, 7'500, 90}, {2, 9'000, 90}}, {});
  const auto explain = [&](const Variant& need) {
    const auto found = place_variant(node, need, Strategy::pack, {});
    return explain_on(node, need, std::get<PlacementRefusal>(found));
  };
  CHECK(explain({5'000, 0, {}, {}}) ==
        "no device with 0.5 free: 2 devices have 0.25, 1 device has 0.1");
  node.devices[2].device.usable = false;
  CHECK(explain({5'000, 0, {}, {}}) == "no device with 0.5 free: 2 devices have 0.25");
  node.devices[2].device.usable = true;
  CHECK(explain({20'000, 0, {}, {}}) == "too few unused devices, it needs 2: 0 of 3");
  CHECK(explain({2'000, 50, {}, {}}) ==
        "no device with 0.2 and 50 MiB free: 3 devices have 10 MiB");
  CHECK(explain({0, 0, {}, {"head"}}) == "label: needs 'head', the node does not have it");
}
