#include "common/gpu/health.h"

#include <catch2/catch.hpp>

namespace dray::gpu {
namespace {
constexpr uint64_t kTotal = 10'000;

Device gpu(const std::string& uuid) {
  Device d;
  d.uuid = uuid;
  d.memory_mib = kTotal;
  d.free_mib = 8'000;
  d.throttle = 0;
  return d;
}

Device mig(const std::string& uuid, const std::string& parent, uint32_t gi, uint32_t ci) {
  Device d = gpu(uuid);
  d.kind = Kind::mig;
  d.parent = parent;
  d.gpu_instance = gi;
  d.compute_instance = ci;
  return d;
}

Reading reading(const std::string& uuid, uint64_t free_mib = 8'000) {
  Reading r;
  r.uuid = uuid;
  r.memory_mib = kTotal;
  r.free_mib = free_mib;
  return r;
}

Reading failure(const std::string& uuid, Answer answer) {
  Reading r;
  r.uuid = uuid;
  r.answer = answer;
  r.reason = "because";
  return r;
}

Changes read(HealthBook& book, const Reading& r) { return book.on(std::vector<Reading>{r}); }
Xid xid(uint64_t number, const std::string& uuid = "a") { return {uuid, number, {}, {}}; }
Device only(const Changes& changes) {
  REQUIRE(changes.devices.size() == 1);
  return changes.devices[0];
}
}  // namespace

TEST_CASE("health: nothing is told while memory moves by up to 1 % of what was told") {
  HealthBook book({gpu("a"), gpu("b")});
  CHECK(read(book, reading("a")).empty());
  CHECK(read(book, reading("a", 7'900)).empty());
  CHECK(read(book, reading("a", 8'100)).empty());
  const Changes changes = read(book, reading("a", 7'899));
  CHECK(only(changes).uuid == "a");
  CHECK(only(changes).free_mib == 7'899);
  CHECK(changes.events.empty());
  CHECK(read(book, reading("a", 7'950)).empty());  // against the new value
}

TEST_CASE("health: a slow drift is told when it adds up to more than 1 %") {
  HealthBook book({gpu("a")});
  int told = 0;
  for (uint64_t free = 7'990; free >= 7'000; free -= 10)
    told += read(book, reading("a", free)).empty() ? 0 : 1;
  CHECK(told == 9);  // each 11 steps
}

TEST_CASE("health: devices() has what was not worth telling") {
  HealthBook book({gpu("a")});
  Reading r = reading("a", 7'999);
  r.utilisation = 55;
  r.temperature_c = 70;
  CHECK(read(book, r).empty());
  CHECK(book.devices()[0].free_mib == 7'999);
  CHECK(book.devices()[0].utilisation == 55);
  CHECK(book.devices()[0].temperature_c == 70);
  read(book, reading("a", 7'998));  // not asked this time
  CHECK(book.devices()[0].utilisation == 55);
}

TEST_CASE(
    "health: throttling by the hardware degrades, a power cap only shows, idling is no news") {
  HealthBook book({gpu("a")});
  Reading r = reading("a");
  r.throttle = kThrottleIdle | kThrottleAppClocks;
  CHECK(read(book, r).empty());
  r.throttle = kThrottlePowerCap;
  Device d = only(read(book, r));
  CHECK(d.health == Health::ok);
  CHECK(d.throttle == kThrottlePowerCap);
  for (const uint64_t bit : {kThrottleHardware, kThrottleHeat, kThrottlePowerBrake}) {
    r.throttle = bit;
    d = only(read(book, r));
    CHECK(d.health == Health::degraded);
    CHECK(capacity_mib(d) == kTotal);
  }
  CHECK(read(book, reading("a")).empty());  // clocks were not read: as before
  r.throttle = 0;
  d = only(read(book, r));
  CHECK(d.health == Health::ok);
  CHECK(d.health_reason == "");
}

TEST_CASE("health: the application's XIDs are told and change nothing") {
  const uint64_t number = GENERATE(13, 31, 43, 45, 68, 109);
  HealthBook book({gpu("a"), gpu("b")});
  const Changes changes = book.on(xid(number));
  CHECK(changes.devices.empty());
  REQUIRE(changes.events.size() == 1);
  CHECK(changes.events[0].kind == EventKind::xid);
  CHECK(changes.events[0].uuid == "a");
  CHECK(changes.events[0].xid == number);
  CHECK(changes.events[0].is_app_fault);
  CHECK(takes_work(book.devices()[0]));
}

TEST_CASE("health: any other XID takes the device out for good") {
  const uint64_t number = GENERATE(12, 14, 48, 63, 94, 95, 999);
  HealthBook book({gpu("a"), gpu("b")});
  const Changes changes = book.on(xid(number));
  const Device d = only(changes);
  CHECK(d.uuid == "a");
  CHECK(d.health == Health::drain);
  CHECK(d.health_reason == "XID " + std::to_string(number));
  CHECK(capacity_mib(d) == 0);
  REQUIRE(changes.events.size() == 1);
  CHECK_FALSE(changes.events[0].is_app_fault);
  for (int i = 0; i < 10; ++i) CHECK(read(book, reading("a")).empty());  // memory reads well
  CHECK(book.devices()[0].health == Health::drain);
  CHECK(book.devices()[1].health == Health::ok);
  book.on(xid(31));  // does not make it better
  CHECK(book.devices()[0].health == Health::drain);
}

TEST_CASE("health: XID 79 is the loss of the device, at once and for good") {
  HealthBook book({gpu("a")});
  const Changes changes = book.on(xid(79));
  CHECK(only(changes).health == Health::lost);
  CHECK(capacity_mib(only(changes)) == 0);
  CHECK_FALSE(only(changes).free_mib);
  REQUIRE(changes.events.size() == 2);
  CHECK(changes.events[0].kind == EventKind::xid);
  CHECK(changes.events[1].kind == EventKind::lost);
  book.on(xid(48));
  for (int i = 0; i < 10; ++i) CHECK(read(book, reading("a")).events.empty());
  CHECK(book.devices()[0].health == Health::lost);
  CHECK(book.devices()[0].health_reason == "XID 79");
}

TEST_CASE("health: lists of XIDs go both ways, and hardware wins") {
  XidPolicy policy;
  policy.also_app = {94, 13, 79};
  policy.also_hardware = {13, 45};
  CHECK(policy.is_app_fault(94));
  CHECK(policy.is_app_fault(79));
  CHECK(policy.is_app_fault(31));
  CHECK_FALSE(policy.is_app_fault(45));
  CHECK_FALSE(policy.is_app_fault(13));  // in both
  CHECK_FALSE(policy.is_app_fault(48));
  HealthBook book({gpu("a")}, policy);
  CHECK(book.on(xid(94)).devices.empty());
  CHECK(book.on(xid(79)).devices.empty());
  CHECK(only(book.on(xid(45))).health == Health::drain);
}

TEST_CASE("health: an XID of a GPU hits its MIG devices, or the one it names") {
  HealthBook book({mig("m0", "g", 1, 0), mig("m1", "g", 2, 0), mig("m2", "g", 2, 1), gpu("x")});
  CHECK(only(book.on(Xid{"g", 48, 1, 0})).uuid == "m0");
  CHECK(book.on(Xid{"g", 31, 2, {}}).events.size() == 2);  // both of that instance
  CHECK(only(book.on(Xid{"g", 48, 2, 1})).uuid == "m2");
  CHECK(only(book.on(xid(48, "g"))).uuid == "m1");  // the others are out already
  CHECK(book.devices()[3].health == Health::ok);
}

TEST_CASE("health: an XID of nobody knows which GPU hits all") {
  HealthBook book({gpu("a"), mig("m", "g", 1, 0)});
  CHECK(book.on(xid(48, "")).devices.size() == 2);
}

TEST_CASE("health: a lost device is lost at once, told once, and back after three answers") {
  HealthBook book({gpu("a"), gpu("b")});
  Changes changes = read(book, failure("a", Answer::lost));
  CHECK(only(changes).health == Health::lost);
  CHECK(only(changes).health_reason == "because");
  CHECK(capacity_mib(only(changes)) == 0);
  REQUIRE(changes.events.size() == 1);
  CHECK(changes.events[0].kind == EventKind::lost);
  CHECK(read(book, failure("a", Answer::lost)).empty());

  CHECK(read(book, reading("a")).empty());
  CHECK(read(book, reading("a")).empty());
  CHECK(read(book, failure("a", Answer::lost)).empty());  // begins again
  CHECK(read(book, reading("a")).empty());
  CHECK(read(book, reading("a")).empty());
  changes = read(book, reading("a"));
  CHECK(only(changes).health == Health::ok);
  CHECK(only(changes).free_mib == 8'000);
  REQUIRE(changes.events.size() == 1);
  CHECK(changes.events[0].kind == EventKind::back);
}

TEST_CASE("health: a device that was lost when found is told back, too") {
  Device d = gpu("a");
  d.health = Health::lost;
  HealthBook book({d});
  CHECK(read(book, failure("a", Answer::lost)).events.empty());
  for (int i = 0; i < 2; ++i) CHECK(read(book, reading("a")).events.empty());
  CHECK(read(book, reading("a")).events.at(0).kind == EventKind::back);
}

TEST_CASE("health: one or two failed readings mean nothing, three in a row drain") {
  HealthBook book({gpu("a")});
  CHECK(read(book, failure("a", Answer::failed)).empty());
  CHECK(read(book, failure("a", Answer::failed)).empty());
  CHECK(read(book, reading("a")).empty());
  CHECK(read(book, failure("a", Answer::failed)).empty());
  CHECK(read(book, failure("a", Answer::failed)).empty());
  const Changes changes = read(book, failure("a", Answer::failed));
  CHECK(only(changes).health == Health::drain);
  CHECK(changes.events.empty());
  CHECK(only(read(book, reading("a"))).health == Health::ok);
}

TEST_CASE(
    "health: a driver that is being replaced stops new work at once, and running work goes on") {
  HealthBook book({gpu("a")});
  const Changes changes = read(book, failure("a", Answer::withdrawn));
  CHECK(only(changes).health == Health::drain);
  CHECK(only(changes).free_mib == 8'000);
  CHECK(changes.events.empty());
  CHECK(only(read(book, reading("a"))).health == Health::ok);
}

TEST_CASE("health: readings of strangers are ignored") {
  HealthBook book({gpu("a")});
  CHECK(read(book, failure("z", Answer::lost)).empty());
  CHECK(book.on(xid(48, "z")).empty());
}

}  // namespace dray::gpu
