#include <catch2/catch.hpp>
#include <map>

#include "common/base/rng.h"
#include "tests/unit/resources/build.h"
#include "tests/unit/resources/naive_ledger.h"

using namespace dray;
using namespace dray::test;

namespace {

// A node with three groups of devices of unlike size.
Capacity full_capacity() {
  Capacity c;
  for (uint32_t i = 0; i < 7; ++i)
    c.devices.push_back({"GPU-" + std::to_string(i), i == 6 ? 6000 : kResourceUnit,
                         i < 4 ? uint64_t{24576} : uint64_t{81920}, i / 3, true});
  c.pools = ResourceVec({{"cpu", 24 * kResourceUnit}, {"step_a_slot", 5 * kResourceUnit}});
  c.labels = {"head", "node:a"};
  return c;
}

// Random operations on a ledger and on the naive one; both must agree after each.
class Comparison {
 public:
  explicit Comparison(uint64_t seed) : rng_(seed), ledger_(full_capacity()) {
    naive_.capacity = full_capacity();
  }

  void step() {
    const uint64_t dice = rng_.below(100);
    if (dice < 48)
      reserve();
    else if (dice < 84)
      release();
    else if (dice < 94)
      release_gpu();
    else
      change_capacity();
    compare();
  }

  void rest() {
    while (!naive_.entries.empty()) release();
    ledger_.check();
    REQUIRE(ledger_.size() == 0);
    REQUIRE(ledger_.state() == NodeState(naive_.capacity));
  }

  std::map<std::string, uint64_t> seen;  // what happened how often

 private:
  Variant random_variant() {
    static const std::vector<uint64_t> gpus = {0,    1000,  2500,  3333,  5000,  7500,
                                               9999, 10000, 15000, 20000, 25000, 40000};
    Variant v;
    v.gpus = gpus[rng_.below(gpus.size())];
    if (rng_.below(3) == 0) v.gpu_memory_mib = 1 + rng_.below(30000);
    std::vector<std::pair<std::string, uint64_t>> pools;
    if (rng_.below(2) == 0) pools.emplace_back("cpu", rng_.below(60000));
    if (rng_.below(6) == 0) pools.emplace_back("step_a_slot", kResourceUnit);
    v.pools = ResourceVec(std::move(pools));
    if (rng_.below(10) == 0) v.labels = {"head"};
    return v;
  }

  void reserve() {
    Request r;
    r.strategy = static_cast<Strategy>(rng_.below(3));
    for (uint64_t n = 1 + rng_.below(kVariantsMax); n > 0; --n)
      r.variants.push_back(random_variant());
    if (rng_.below(2) == 0) r.variants.resize(1);
    mix_.note(r);
    const size_t expected = naive_.first_fit(r);
    const GrantId id{++last_};
    auto got = ledger_.reserve(id, r, mix_.classes());
    if (auto* refusal = std::get_if<PlacementRefusal>(&got)) {
      REQUIRE(expected == r.variants.size());
      REQUIRE_FALSE(refusal->explain().empty());
      ++seen["refused " + std::to_string(static_cast<int>(refusal->code))];
      ++seen[refusal->is_possible_when_idle ? "refused now" : "refused for ever"];
      return;
    }
    const Grant& grant = std::get<Grant>(got);
    REQUIRE(grant.variant == expected);
    REQUIRE(naive_.is_right(grant, r.variants[grant.variant]));
    naive_.entries.push_back({id, grant});
    ++seen["granted " + std::to_string(grant.variant)];
  }

  GrantId random_id() {
    if (naive_.entries.empty()) return GrantId{0};
    return naive_.entries[rng_.below(naive_.entries.size())].id;
  }

  void release() {
    const GrantId id = random_id();
    REQUIRE(ledger_.release(id) == (naive_.find(id) != nullptr));
    naive_.release(id);
    ++seen["released"];
  }

  void release_gpu() {
    const GrantId id = random_id();
    NaiveLedger::Entry* entry = naive_.find(id);
    REQUIRE(ledger_.release_gpu(id) == (entry != nullptr));
    if (entry == nullptr) return;
    entry->grant.shares.clear();
    entry->grant.uuids.clear();
    ++seen["released gpu"];
  }

  // Devices and pools are lost, shrink, turn unusable, change places; half of the time all is back.
  void change_capacity() {
    Capacity c = full_capacity();
    if (rng_.below(2) == 0) {
      for (Device& d : c.devices) {
        if (rng_.below(8) == 0) d.units = 1 + rng_.below(kResourceUnit);
        if (rng_.below(8) == 0) d.memory_mib = rng_.below(d.memory_mib);
        if (rng_.below(8) == 0) d.usable = false;
      }
      std::erase_if(c.devices, [&](const Device&) { return rng_.below(6) == 0; });
      if (c.devices.size() > 1) std::swap(c.devices[0], c.devices[rng_.below(c.devices.size())]);
      if (rng_.below(3) == 0) c.pools = ResourceVec({{"cpu", rng_.below(24) * kResourceUnit}});
      if (rng_.below(3) == 0) c.labels.clear();
    }
    naive_.capacity = c;
    const std::vector<GrantId> misfits = ledger_.set_capacity(c);
    REQUIRE(misfits == naive_.misfits());
    seen["misfits"] += misfits.size();
    if (rng_.below(4) == 0) return;  // a caller that takes its time
    for (GrantId id : misfits) {
      REQUIRE(ledger_.release(id));
      naive_.release(id);
    }
    REQUIRE(ledger_.misfits().empty());
    for (const DeviceState& d : ledger_.state().devices) {
      REQUIRE(d.taken_units <= d.device.units);
      REQUIRE((d.held_whole || d.taken_mib <= d.device.memory_mib));
    }
  }

  void compare() {
    REQUIRE(ledger_.size() == naive_.entries.size());
    const NodeState& state = ledger_.state();
    for (size_t i = 0; i < naive_.capacity.devices.size(); ++i) {
      const Device& d = naive_.capacity.devices[i];
      const DeviceFree free = state.devices[i].free();
      if (state.devices[i].device.uuid != d.uuid || free.units != naive_.free_units(d) ||
          free.memory_mib != naive_.free_mib(d) || free.units > d.units ||
          free.memory_mib > d.memory_mib)
        FAIL("device " << d.uuid << " differs");
    }
    for (const PoolState& p : state.pools)
      if (p.free() != naive_.free(p.name) || p.taken != naive_.taken(p.name))
        FAIL("pool " << p.name << " differs");
    if (rng_.below(64) == 0) ledger_.check();
  }

  Rng rng_;
  NodeLedger ledger_;
  NaiveLedger naive_;
  ClassMix mix_;
  uint64_t last_ = 0;
};

}  // namespace

TEST_CASE("a million random operations agree with the naive ledger, and are exact at rest") {
  std::map<std::string, uint64_t> seen;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    Comparison c(seed);
    for (int i = 1; i <= 50'000; ++i) {
      c.step();
      if (i % 5'000 == 0) c.rest();
    }
    for (const auto& [what, count] : c.seen) seen[what] += count;
  }
  // What the random operations must have reached, or they prove nothing.
  for (const char* what :
       {"granted 0", "granted 1", "granted 2", "granted 3", "refused 4", "refused 5", "refused 6",
        "refused 7", "refused 8", "refused 9", "refused now", "refused for ever", "released",
        "released gpu", "misfits"}) {
    INFO(what);
    CHECK(seen[what] > 100);
  }
}
