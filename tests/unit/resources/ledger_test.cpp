#include <catch2/catch.hpp>

#include "common/base/limits.h"
#include "tests/unit/resources/build.h"

using namespace dray;
using namespace dray::test;

TEST_CASE("release gives everything back, once") {
  Bench b(node_of(4));
  const NodeState idle = b.ledger.state();
  b.take(want("2.5", "1GiB", {{"cpu", "3"}}));
  CHECK_FALSE(b.ledger.state() == idle);
  CHECK(b.ledger.release(GrantId{1}));
  CHECK(b.ledger.state() == idle);
  CHECK_FALSE(b.ledger.release(GrantId{1}));
  CHECK_FALSE(b.ledger.release_gpu(GrantId{1}));
  CHECK(b.ledger.size() == 0);
}

TEST_CASE("a grant's id is taken once") {
  NodeLedger ledger(node_of(1));
  CHECK(std::holds_alternative<Grant>(ledger.reserve(GrantId{7}, one(want("0.5")), {})));
  auto again = ledger.reserve(GrantId{7}, one(want("0.5")), {});
  REQUIRE(std::holds_alternative<PlacementRefusal>(again));
  CHECK(std::get<PlacementRefusal>(again).code == Shortage::duplicate_id);
  ledger.check();
}

TEST_CASE("devices can be given back early, the pools stay") {
  Bench b(node_of(1));
  b.take(want("1", "2GiB", {{"cpu", "3"}}));
  CHECK(b.ledger.release_gpu(GrantId{1}));
  b.ledger.check();
  CHECK(b.take(want("1")) == Indexes{0});
  CHECK(b.ledger.state().find_pool("cpu")->free() == 13 * kResourceUnit);
  CHECK(b.ledger.release_gpu(GrantId{1}));  // nothing left to give
  CHECK(b.ledger.release(GrantId{1}));
  b.ledger.check();
  CHECK(b.ledger.state().find_pool("cpu")->free() == 16 * kResourceUnit);
  CHECK(b.ledger.state().devices[0].free().units == 0);
}

TEST_CASE("a device that vanishes names its grants, and everything is exact when they are gone") {
  Bench b(node_of(2));
  b.take(want("0.5"));
  b.take(want("1"));
  Capacity less = node_of(2);
  less.devices.erase(less.devices.begin());  // GPU-0
  CHECK(b.ledger.set_capacity(less) == std::vector<GrantId>{GrantId{1}});
  b.ledger.check();
  CHECK(b.ledger.find(GrantId{2})->shares[0].device == 0);
  CHECK(b.ledger.find(GrantId{2})->uuids[0] == "GPU-1");
  CHECK(b.ledger.state().free_units() == 0);
  b.drop(1);
  CHECK(b.ledger.state().devices.size() == 1);
  CHECK(b.ledger.misfits().empty());
  b.drop(2);
  CHECK(b.ledger.state() == NodeState(less));
}

TEST_CASE("a device that comes back finds its grants") {
  Bench b(node_of(2));
  b.take(want("0.5"));
  Capacity none = node_of(0);
  CHECK(b.ledger.set_capacity(none) == std::vector<GrantId>{GrantId{1}});
  b.ledger.check();
  CHECK(b.take(want("0.1")) == kRefused);
  CHECK_FALSE(b.refusal.is_possible_when_idle);
  CHECK(b.ledger.set_capacity(node_of(2)).empty());
  b.ledger.check();
  CHECK(b.take(want("1")) == Indexes{1});
  CHECK(b.take(want("0.5")) == Indexes{0});
}

TEST_CASE("an unusable device gives nothing and names its grants") {
  Bench b(node_of(2));
  b.take(want("0.5"));
  Capacity sick = node_of(2);
  sick.devices[0].usable = false;
  CHECK(b.ledger.set_capacity(sick) == std::vector<GrantId>{GrantId{1}});
  CHECK(b.ledger.state().devices[0].free().units == 0);
  CHECK(b.take(want("0.5")) == Indexes{1});
  b.drop(1);
  CHECK(b.take(want("1")) == kRefused);
  CHECK(b.ledger.set_capacity(node_of(2)).empty());
  CHECK(b.take(want("1")) == Indexes{0});
}

TEST_CASE("after a shrink the oldest grants are kept, and free is never negative") {
  Bench b(node_of(1));
  b.take(want("0.4", "10GiB", {{"cpu", "10"}}));
  b.take(want("0.3", "10GiB", {{"cpu", "2"}}));
  b.take(want("0.1", "", {{"cpu", "2"}}));
  Capacity half = node_of(1);
  half.devices[0].units = 5000;
  CHECK(b.ledger.set_capacity(half) == std::vector<GrantId>{GrantId{2}});
  CHECK(b.ledger.state().devices[0].free().units == 0);
  b.drop(2);
  CHECK(b.ledger.misfits().empty());
  CHECK(b.ledger.state().devices[0].free().units == 0);
  Capacity small = half;
  small.devices[0].memory_mib = 1024;
  CHECK(b.ledger.set_capacity(small) == std::vector<GrantId>{GrantId{1}});
  CHECK(b.ledger.state().devices[0].free().memory_mib == 0);
  small = half;
  small.pools = ResourceVec({{"cpu", 3 * kResourceUnit}});
  CHECK(b.ledger.set_capacity(small) == std::vector<GrantId>{GrantId{1}});
  CHECK(b.ledger.state().find_pool("cpu")->free() == 0);
  b.ledger.check();
  small.pools = {};
  CHECK(b.ledger.set_capacity(small) == std::vector<GrantId>{GrantId{1}, GrantId{3}});
  b.drop(1);
  b.drop(3);
  CHECK(b.ledger.state() == NodeState(small));
}

TEST_CASE("a whole grant does not fit on a device that shrank") {
  Bench b(node_of(1));
  b.take(want("1"));
  Capacity half = node_of(1);
  half.devices[0].units = 5000;
  CHECK(b.ledger.set_capacity(half) == std::vector<GrantId>{GrantId{1}});
  CHECK(b.take(want("", "1GiB")) == kRefused);  // still nobody else's
}

TEST_CASE("a capacity is checked before it is believed") {
  CHECK(check_capacity(node_of(8)));
  Capacity c = node_of(2);
  c.devices[1].uuid = "GPU-0";
  CHECK_FALSE(check_capacity(c));
  c = node_of(3);
  c.devices[2].uuid = "GPU-0";
  CHECK_FALSE(check_capacity(c));
  c = node_of(1);
  c.labels.assign(kLabelsMax + 1, "x");
  CHECK_FALSE(check_capacity(c));
  c = node_of(1);
  std::vector<std::pair<std::string, uint64_t>> pools;
  for (size_t i = 0; i <= kResourcesMax; ++i) pools.emplace_back(std::to_string(i), 1);
  c.pools = ResourceVec(std::move(pools));
  CHECK_FALSE(check_capacity(c));
  c = node_of(kDevicesMax + 1);
  CHECK_FALSE(check_capacity(c));
  c = node_of(1);
  c.devices[0].units = 0;
  CHECK_FALSE(check_capacity(c));
  c.devices[0].units = kResourceUnit + 1;
  CHECK_FALSE(check_capacity(c));
  c = node_of(1);
  c.devices[0].uuid = "";
  CHECK_FALSE(check_capacity(c));
  c = node_of(1);
  c.devices[0].memory_mib = kMemoryMibMax + 1;
  CHECK_FALSE(check_capacity(c));
  c = node_of(1);
  c.pools = ResourceVec({{"cpu", kPoolUnitsMax + 1}});
  CHECK_FALSE(check_capacity(c));
  c = node_of(1);
  c.labels = {""};
  CHECK_FALSE(check_capacity(c));
}
