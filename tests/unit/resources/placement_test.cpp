#include "common/resources/placement.h"

#include <catch2/catch.hpp>

#include "common/base/rng.h"
#include "common/resources/fragmentation.h"
#include "tests/unit/resources/build.h"

using namespace dray;
using namespace dray::test;

TEST_CASE("two devices with a quarter free each never run a half") {
  for (Strategy s : {Strategy::pack, Strategy::spread, Strategy::strict}) {
    Bench b(node_of(2));
    CHECK(b.take(want("0.75")) == Indexes{0});
    CHECK(b.take(want("0.75")) == Indexes{1});
    CHECK(b.take(want("0.5"), s) == kRefused);
    CHECK(b.refusal.code == Shortage::gpu_share);
    CHECK(b.refusal.explain() == "gpu: needs 0.5 on one device, the most free on one is 0.25");
    CHECK(b.refusal.is_possible_when_idle);
    CHECK(b.take(want("0.25"), s) != kRefused);
  }
}

TEST_CASE("pack fills a device before it opens the next, spread does not") {
  Bench pack(node_of(3));
  CHECK(pack.take(want("0.5")) == Indexes{0});
  CHECK(pack.take(want("0.25")) == Indexes{0});
  CHECK(pack.take(want("0.5")) == Indexes{1});
  CHECK(pack.take(want("0.25")) == Indexes{0});
  Bench spread(node_of(3));
  for (uint32_t device : {0u, 1u, 2u, 0u})
    CHECK(spread.take(want("0.25"), Strategy::spread) == Indexes{device});
}

TEST_CASE("pack takes the device that leaves least for the frequent classes unusable") {
  // Device 0 has 0.6 left, device 1 has 0.5 left. A 0.3 fits best on device 1, but would leave 0.2;
  // on device 0 it leaves 0.3, which the frequent class of 0.3 can use.
  Bench b(node_of(2));
  b.take(want("0.4"));
  b.take(want("0.5"), Strategy::spread);
  CHECK(b.take(want("0.3")) == Indexes{1});  // without classes: best fit
  b.drop(3);
  b.classes = {{want("0.3"), 5}};
  CHECK(b.take(want("0.3")) == Indexes{0});
}

TEST_CASE("among equals pack takes the device with least memory left") {
  Bench b(node_of(2));
  b.take(want("0.5", "1GiB"));
  b.take(want("0.5", "9GiB"), Strategy::spread);
  CHECK(b.take(want("0.1")) == Indexes{1});
}

TEST_CASE("pack keeps whole devices for those who need them") {
  Bench b(node_of(2));
  b.classes = {{want("1"), 10}, {want("0.25"), 10}};
  CHECK(b.take(want("0.25")) == Indexes{0});
  CHECK(b.take(want("0.25")) == Indexes{0});
  CHECK(b.take(want("1")) == Indexes{1});
}

TEST_CASE("2.5 gpus take two unused devices and half of a third") {
  Bench b(node_of(4));
  b.classes = {{want("1"), 1}};
  b.take(want("0.5"));
  CHECK(b.take(want("2.5")) == Indexes{1, 2, 0});
  const Grant* grant = b.ledger.find(GrantId{2});
  REQUIRE(grant != nullptr);
  CHECK(grant->shares[0].units == kResourceUnit);
  CHECK(grant->shares[2].units == 5000);
  CHECK(grant->uuids == std::vector<std::string>{"GPU-1", "GPU-2", "GPU-0"});
  CHECK(b.take(want("1.5")) == kRefused);
  CHECK(b.refusal.explain() ==
        "gpu: needs 0.5 on one device besides 1 whole, the most free on one is 1");
  CHECK(b.take(want("2")) == kRefused);
  CHECK(b.refusal.code == Shortage::gpu_whole);
  CHECK(b.refusal.explain() == "gpu: needs 2 whole devices, 1 are unused");
}

TEST_CASE("memory alone needs one device, and memory is asked on each device") {
  Bench b(node_of(2));
  CHECK(b.take(want("", "20GiB")) == Indexes{0});
  CHECK(b.take(want("", "20GiB")) == Indexes{1});
  CHECK(b.take(want("0.5", "8GiB")) == kRefused);
  CHECK(b.refusal.explain() ==
        "gpu_memory: needs 8192 MiB on each device, the most free on one that has the units is "
        "4096 MiB");
  CHECK(b.take(want("0.5", "4GiB")) == Indexes{0});
  CHECK(b.ledger.state().devices[0].free().memory_mib == 0);
  CHECK(b.take(want("0.5")) == Indexes{0});  // asks for no memory
  Bench big(node_of(4));
  CHECK(big.take(want("2.5", "30GiB")) == kRefused);
  CHECK(big.refusal.code == Shortage::gpu_memory);
  CHECK_FALSE(big.refusal.is_possible_when_idle);
  CHECK(big.take(want("2.5", "20GiB")) == Indexes{0, 1, 2});
  CHECK(big.ledger.state().devices[2].free().memory_mib == 4096);
}

TEST_CASE("spread by memory alone looks at memory") {
  Bench b(node_of(2));
  b.take(want("0.1", "10GiB"));
  b.take(want("0.5"), Strategy::spread);
  CHECK(b.take(want("", "1GiB"), Strategy::spread) == Indexes{1});
}

TEST_CASE("a whole device is nobody else's, and is not made of one that is used by memory alone") {
  Bench b(node_of(1));
  CHECK(b.take(want("1")) == Indexes{0});
  CHECK(b.take(want("", "1GiB")) == kRefused);
  b.drop(1);
  CHECK(b.take(want("", "1GiB")) == Indexes{0});
  CHECK(b.take(want("1")) == kRefused);
  CHECK(b.take(want("0.9999")) == Indexes{0});
}

TEST_CASE("a device of which we own a part is never a whole one") {
  Capacity c = node_of(1);
  c.devices[0].units = 5000;
  Bench b(c);
  CHECK(b.take(want("1")) == kRefused);
  CHECK_FALSE(b.refusal.is_possible_when_idle);
  CHECK(b.take(want("0.5")) == Indexes{0});
}

TEST_CASE("several devices come from as few groups as possible, strict insists on it") {
  Bench b(node_of(8, 4));
  b.take(want("1"));  // group 0 has 3 left
  CHECK(b.take(want("4"), Strategy::strict) == Indexes{4, 5, 6, 7});
  CHECK(b.take(want("2")) == Indexes{1, 2});
  b.drop(2);
  CHECK(b.take(want("1")) == Indexes{3});
  b.drop(3);  // group 0: 1 and 2 are unused, group 1: all
  CHECK(b.take(want("2")) == Indexes{1, 2});  // the smaller group that holds it
  CHECK(b.take(want("3")) == Indexes{4, 5, 6});
  b.drop(5);  // group 0: 1, 2; group 1: 7
  CHECK(b.take(want("3"), Strategy::strict) == kRefused);
  CHECK(b.refusal.explain() ==
        "gpu: strategy strict needs the devices in 1 topology group(s), free ones are in 2");
  CHECK(b.take(want("3"), Strategy::pack) == Indexes{1, 2, 7});
}

TEST_CASE("strict takes several groups where the idle node would need them") {
  Bench b(node_of(8, 4));
  CHECK(b.take(want("6"), Strategy::strict).size() == 6);
  CHECK(b.take(want("2"), Strategy::strict).size() == 2);
}

TEST_CASE("labels and pools are looked at before devices") {
  Capacity c = node_of(1);
  c.labels = {"node:a", "head"};
  Bench b(c);
  CHECK(b.take(want("1", "", {}, {"head", "node:a"})) == Indexes{0});
  CHECK(b.take(want("1", "", {}, {"tail"})) == kRefused);
  CHECK(b.refusal.explain() == "label: needs 'tail', the node does not have it");
  CHECK_FALSE(b.refusal.is_possible_when_idle);
  CHECK(b.take(want("", "", {{"cpu", "12.5"}})) == Indexes{});
  CHECK(b.take(want("1", "", {{"cpu", "4"}})) == kRefused);
  CHECK(b.refusal.explain() == "cpu: needs 4, free is 3.5");
  CHECK(b.take(want("", "", {{"step_a_slot", "1"}})) == kRefused);
  CHECK(b.refusal.explain() == "step_a_slot: needs 1, free is 0");
  CHECK_FALSE(b.refusal.is_possible_when_idle);
}

TEST_CASE("the first variant that fits is taken, the shortage is that of the preferred one") {
  Bench b(node_of(2));
  const Request r{{want("2"), want("0.5"), want("", "", {{"cpu", "1"}})}, Strategy::pack};
  auto granted = [&] {
    b.take(r);
    const Grant* g = b.ledger.find(GrantId{b.last});
    return g == nullptr ? 99 : g->variant;
  };
  CHECK(granted() == 0);
  CHECK(granted() == 2);
  b.drop(1);
  b.take(want("1"));
  CHECK(granted() == 1);
  b.take(want("", "", {{"cpu", "15"}}));
  b.take(want("0.5"));
  CHECK(granted() == 99);
  CHECK(b.refusal.code == Shortage::gpu_whole);
  CHECK(b.take(Request{}) == kRefused);
  CHECK(b.refusal.code == Shortage::bad_request);
}

TEST_CASE("unusable units follow the definition") {
  NodeState node(node_of(3));
  node.take({{0, 7000, 0}, {1, 4000, 20000}}, {});
  CHECK(unusable_units(node, want("0.1")) == 0);
  CHECK(unusable_units(node, want("0.5")) == 3000);
  CHECK(unusable_units(node, want("0.5", "8GiB")) == 9000);
  CHECK(unusable_units(node, want("1")) == 9000);
  CHECK(unusable_units(node, want("2")) == 19000);  // does not fit at all
  CHECK(unusable_units(node, want("1.5")) == 3000);
  CHECK(unusable_units(node, want("1.6", "8GiB")) == 19000);
  CHECK(unusable_units(node, want("0.1", "", {{"cpu", "17"}})) == 19000);
}

TEST_CASE("the growth that the gauge predicts is the growth that comes") {
  Rng rng(11);
  const std::vector<RequestClass> classes = {{want("0.1"), 9},
                                             {want("0.5", "4GiB"), 5},
                                             {want("1"), 7},
                                             {want("2.5"), 2},
                                             {want("0.3", "", {{"cpu", "3"}}), 4}};
  for (int round = 0; round < 300; ++round) {
    NodeState node(node_of(1 + rng.below(6)));
    for (int i = 0; i < 60; ++i) {
      DeviceShare s{static_cast<uint32_t>(rng.below(node.devices.size())),
                    rng.below(4) == 0 ? kResourceUnit : rng.below(60) * 100, rng.below(6000)};
      const DeviceFree f = node.devices[s.device].free();
      if (s.is_whole() ? !f.can_give_whole(s.memory_mib) : !f.can_give_part(s.units, s.memory_mib))
        continue;
      const FragmentGauge before(node, classes);
      node.take({s}, {});
      REQUIRE(before.value() + before.growth(s) == FragmentGauge(node, classes).value());
    }
  }
}

TEST_CASE("the mix counts classes, forgets by halving and is bounded") {
  ClassMix mix;
  for (int i = 0; i < 3; ++i) mix.note(one(want("1")));
  for (int i = 0; i < 5; ++i) mix.note(one(want("0.5")));
  mix.note(one(want("", "4GiB")));  // no units: strands nothing
  REQUIRE(mix.classes().size() == 2);
  CHECK(mix.classes()[0] == RequestClass{want("0.5"), 5});
  CHECK(mix.classes()[1] == RequestClass{want("1"), 3});
  for (uint32_t i = 0; i < ClassMix::kHalveEvery - 8; ++i) mix.note(one(want("0.1")));
  CHECK(mix.classes()[0].weight == (ClassMix::kHalveEvery - 8) / 2);
  CHECK(mix.classes()[1].weight == 2);
  for (uint32_t i = 0; i < 2 * ClassMix::kHalveEvery; ++i) mix.note(one(want("0.1")));
  CHECK(mix.classes().size() == 1);
  for (uint64_t i = 1; i < 1000; ++i) {
    Variant v;
    v.gpus = i;
    mix.note(one(v));
  }
  CHECK(mix.classes().size() == ClassMix::kClassesMax);
  CHECK(mix.classes()[0].need == want("0.1"));
}

TEST_CASE("a new class takes the place of the rarest") {
  ClassMix mix;
  Variant v;
  for (uint64_t i = 0; i < 2 * (ClassMix::kKept - 1); ++i) {
    v.gpus = 1 + i / 2;
    mix.note(one(v));
  }
  for (const char* rare : {"1", "2", "1", "1"}) mix.note(one(want(rare)));
  CHECK(mix.classes()[0].weight == 2);  // "1" was forgotten in between
}
