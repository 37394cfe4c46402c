#include "common/gpu/watch.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/unit/gpu/scenario_file.h"

namespace dray::gpu {
namespace {
using Clock = std::chrono::steady_clock;
constexpr auto kPatience = std::chrono::seconds(20);  // on a busy machine

// What the watch told, and waiting for it.
class Told {
 public:
  GpuWatch::OnChange callback() {
    return [this](const Changes& changes) {
      std::lock_guard lock(mutex_);
      for (const Event& e : changes.events) all_.events.push_back(e);
      for (const Device& d : changes.devices) all_.devices.push_back(d);
      changed_.notify_all();
    };
  }
  template <class F>
  bool wait(F is_true) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return is_true(all_); });
  }
  Changes all() {
    std::lock_guard lock(mutex_);
    return all_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Changes all_;
};

auto has_event(EventKind kind, const std::string& uuid) {
  return [=](const Changes& c) {
    return std::any_of(c.events.begin(), c.events.end(),
                       [&](const Event& e) { return e.kind == kind && e.uuid == uuid; });
  };
}

// Keeps the fake library loaded, and reads its counters.
class Calls {
 public:
  explicit Calls(const char* library = LIB_FAKE_NVML) : library_(::dlopen(library, RTLD_LAZY)) {
    REQUIRE(library_ != nullptr);
    calls_ = std::bit_cast<uint64_t (*)(const char*)>(::dlsym(library_, "fake_nvml_calls"));
    REQUIRE(calls_ != nullptr);
  }
  ~Calls() { ::dlclose(library_); }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;
  uint64_t operator()(const char* function) const { return calls_(function); }
  bool wait_more(const char* function, uint64_t count) const {
    const auto end = Clock::now() + kPatience;
    while (calls_(function) < count && Clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return calls_(function) >= count;
  }

 private:
  void* library_;
  uint64_t (*calls_)(const char*);
};

WatchOptions quick(const char* library = LIB_FAKE_NVML) {
  WatchOptions o;
  o.nvml_library = library;
  o.fast = 20ms;
  o.slow = 60ms;
  o.slice = 10ms;
  return o;
}

struct Run {
  explicit Run(const std::string& scenario, WatchOptions options = quick())
      : file(scenario), found(*detect(file.options(options.nvml_library))) {
    const Status status = watch.start(found, options, told.callback());
    INFO((status ? "" : status.error().detail));
    REQUIRE(status);
  }
  Device device(const std::string& uuid) const {
    for (const Device& d : watch.devices())
      if (d.uuid == uuid) return d;
    FAIL("no device " << uuid);
    return {};
  }
  ScenarioFile file;
  Detection found;
  Told told;
  GpuWatch watch;
};
}  // namespace

TEST_CASE("watch: a hardware XID takes the device out, an application's does not") {
  Run run(std::string(kTwoGpusOneMig) + "at 30 xid 31 device=0\nat 60 xid 48 device=0\n");
  CHECK(run.watch.hears_xids());
  REQUIRE(run.told.wait([](const Changes& c) { return c.events.size() == 2; }));
  const Changes all = run.told.all();
  CHECK(all.events[0].xid == 31);
  CHECK(all.events[0].is_app_fault);
  CHECK(all.events[1].xid == 48);
  REQUIRE(all.devices.size() == 1);
  CHECK(all.devices[0].uuid == "GPU-a");
  CHECK(all.devices[0].health == Health::drain);
  CHECK(run.device("MIG-c").health == Health::ok);
}

TEST_CASE("watch: an XID of a GPU in MIG mode reaches its MIG device") {
  Run run(std::string(kTwoGpusOneMig) + "at 20 xid 79 device=1 gi=1 ci=0\n");
  REQUIRE(run.told.wait(has_event(EventKind::lost, "MIG-c")));
  CHECK(run.device("MIG-c").health == Health::lost);
  CHECK(run.device("GPU-a").health == Health::ok);
}

TEST_CASE("watch: the override lists reach the decision") {
  WatchOptions o = quick();
  o.xids.also_app = {48};
  o.xids.also_hardware = {31};
  Run run(std::string(kTwoGpusOneMig) + "at 10 xid 48 device=0\nat 30 xid 31 device=0\n", o);
  REQUIRE(run.told.wait([](const Changes& c) { return c.devices.size() == 1; }));
  CHECK(run.told.all().events.at(0).is_app_fault);
  CHECK(run.told.all().devices[0].health_reason == "XID 31");
}

TEST_CASE("watch: XIDs are heard between two readings") {
  WatchOptions o = quick();
  o.fast = o.slow = 3600s;
  Run run(std::string(kTwoGpusOneMig) + "at 50 xid 48 device=0\n", o);
  CHECK(run.told.wait(has_event(EventKind::xid, "GPU-a")));
}

TEST_CASE("watch: a GPU that is lost, needs a reset or comes back") {
  const int code = GENERATE(15, 16);
  Run run(std::string(kTwoGpusOneMig) + "at 40 fail * " + std::to_string(code) +
          " device=0\nat 800 fail * 0 device=0\nat 1200 xid 48 device=0\n");
  REQUIRE(run.told.wait(has_event(EventKind::lost, "GPU-a")));
  const Changes lost = run.told.all();
  REQUIRE(lost.devices.size() == 1);
  CHECK(capacity_mib(lost.devices[0]) == 0);
  REQUIRE(run.told.wait(has_event(EventKind::back, "GPU-a")));
  CHECK(run.told.all().devices.back().health == Health::ok);
  CHECK(run.told.wait(has_event(EventKind::xid, "GPU-a")));  // its events are heard again
  CHECK(run.device("MIG-c").health == Health::ok);
}

TEST_CASE("watch: a device lost after some calls") {
  Run run(std::string(kTwoGpusOneMig) + "fail nvmlDeviceGetMemoryInfo_v2 15 device=2 after=20\n");
  REQUIRE(run.told.wait(has_event(EventKind::lost, "MIG-c")));
  CHECK(run.device("GPU-a").health == Health::ok);
}

TEST_CASE("watch: a MIG device is lost with its GPU") {
  Run run(std::string(kTwoGpusOneMig) + "at 20 fail * 15 device=1\n");
  CHECK(run.told.wait(has_event(EventKind::lost, "MIG-c")));
}

TEST_CASE("watch: an event wait that tells of a loss makes it look at once") {
  WatchOptions o = quick();
  o.fast = o.slow = 3600s;
  Run run(
      std::string(kTwoGpusOneMig) + "at 40 fail * 15 device=0\nat 40 fail nvmlEventSetWait_v2 15\n",
      o);
  CHECK(run.told.wait(has_event(EventKind::lost, "GPU-a")));
}

TEST_CASE("watch: XIDs of the others are heard after one GPU was lost") {
  Run run(std::string(kTwoGpusOneMig) + "at 30 fail * 15 device=0\nat 200 xid 48 device=1\n");
  REQUIRE(run.told.wait(has_event(EventKind::lost, "GPU-a")));
  CHECK(run.told.wait(has_event(EventKind::xid, "MIG-c")));
  CHECK(run.watch.hears_xids());
}

TEST_CASE("watch: XIDs of the others are heard after one GPU told of its own loss and then left") {
  Run run(std::string(kTwoGpusOneMig) +
          "at 30 xid 79 device=0\nat 60 fail * 15 device=0\nat 200 xid 48 device=1\n");
  REQUIRE(run.told.wait(has_event(EventKind::lost, "GPU-a")));
  CHECK(run.told.wait(has_event(EventKind::xid, "MIG-c")));
}

TEST_CASE("watch: a GPU registers once for all its MIG devices") {
  Calls calls;
  Run run(std::string(kTwoGpusOneMig) + "mig uuid=MIG-d gpu=1 gi=2 ci=0 memory=9 free=9\n");
  CHECK(run.watch.devices().size() == 3);
  CHECK(calls("nvmlDeviceRegisterEvents") == 2);
}

TEST_CASE("watch: does not wait for events that can not come") {
  Calls calls;
  Run run("gpu uuid=GPU-a memory=9 free=9 events=0\n");
  CHECK_FALSE(run.watch.hears_xids());
  CHECK(calls.wait_more("nvmlDeviceGetMemoryInfo_v2", 5));
  CHECK(calls("nvmlEventSetWait_v2") == 0);
}

TEST_CASE("watch: the loss of one GPU does not swallow what another one said meanwhile") {
  Run run(std::string(kTwoGpusOneMig) + "at 30 xid 79 device=0\nat 30 xid 48 device=1\n");
  CHECK(run.told.wait(has_event(EventKind::lost, "GPU-a")));
  CHECK(run.told.wait(has_event(EventKind::xid, "MIG-c")));
}

TEST_CASE("watch: changes of memory and throttling are told, and only those") {
  Run run(std::string(kTwoGpusOneMig) +
          "at 30 set device=0 free=22400\nat 60 set device=0 free=20000\n"
          "at 90 set device=2 free=100\nat 120 set device=0 throttle=0x40\n");
  REQUIRE(run.told.wait([](const Changes& c) {
    return !c.devices.empty() && c.devices.back().health == Health::degraded;
  }));
  const Changes all = run.told.all();
  CHECK(all.devices.back().uuid == "GPU-a");
  CHECK(all.devices.size() <= 3);  // less if this machine stood still
  for (const Device& d : all.devices) CHECK(d.free_mib == (d.uuid == "GPU-a" ? 20'000 : 100));
  CHECK(all.events.empty());
}

TEST_CASE("watch: a device that is gone before it begins is lost") {
  ScenarioFile before(kTwoGpusOneMig);
  const Detection found = *detect(before.options());
  ScenarioFile after("gpu uuid=GPU-b memory=1000 free=1000\n");
  Told told;
  GpuWatch watch;
  REQUIRE(watch.start(found, quick(), told.callback()));
  CHECK(told.wait(has_event(EventKind::lost, "GPU-a")));
  CHECK(told.wait(has_event(EventKind::lost, "MIG-c")));
}

TEST_CASE("watch: starts only with NVML's devices, and once") {
  ScenarioFile file(kTwoGpusOneMig);
  const Detection found = *detect(file.options());
  GpuWatch watch;
  Detection other = found;
  other.source = Source::cuda;
  CHECK_FALSE(watch.start(other, quick(), [](const Changes&) {}));
  CHECK_FALSE(watch.start(found, quick("libdray-no-such-nvml.so"), [](const Changes&) {}));
  REQUIRE(watch.start(found, quick(), [](const Changes&) {}));
  CHECK_FALSE(watch.start(found, quick(), [](const Changes&) {}));
  CHECK(watch.devices().size() == 2);
  watch.stop();
  watch.stop();
  CHECK(watch.devices().empty());
  CHECK(watch.start(found, quick(), [](const Changes&) {}));
}

TEST_CASE("watch: stops promptly with the rates of production, and is silent then") {
  Calls calls;
  WatchOptions o;
  o.nvml_library = LIB_FAKE_NVML;
  o.fast = 60s;  // no reading ends the wait
  Run run(std::string(kTwoGpusOneMig) + "at 600000 xid 48 device=0\n", o);
  REQUIRE(calls.wait_more("nvmlEventSetWait_v2", 1));
  const auto begin = Clock::now();
  run.watch.stop();
  CHECK(Clock::now() - begin < o.stop_limit);  // 200 ms, on a busy machine more
  CHECK(calls("nvmlShutdown") == 1);  // ended, not left alone
}

TEST_CASE("watch: without events it still reads, and stops at once") {
  Calls calls(LIB_FAKE_NVML_OLD);
  WatchOptions o = quick(LIB_FAKE_NVML_OLD);
  Run run(std::string(kTwoGpusOneMig) + "at 50 fail * 15 device=0\n", o);
  CHECK_FALSE(run.watch.hears_xids());
  CHECK(run.told.wait(has_event(EventKind::lost, "GPU-a")));
}

TEST_CASE("watch: says when one GPU has no events") {
  Run run(std::string("gpu uuid=GPU-a memory=9 free=9\n") +
          "gpu uuid=GPU-b memory=9 free=9 events=0\nat 30 xid 48 device=0\n");
  CHECK_FALSE(run.watch.hears_xids());
  CHECK(run.told.wait(has_event(EventKind::xid, "GPU-a")));
}

TEST_CASE("watch: does not poll busily, whatever the event wait does") {
  const char* trouble = GENERATE("", "early\n", "at 30 fail * 15 device=0\n",
                                 "fail nvmlEventSetWait_v2 15\n", "fail nvmlEventSetWait_v2 999\n");
  INFO(trouble);
  Calls calls;
  WatchOptions o;  // the rates of production, ten times as fast
  o.nvml_library = LIB_FAKE_NVML;
  o.fast = 100ms;
  o.slow = 500ms;
  o.slice = 20ms;
  Run run(std::string("gpu uuid=GPU-a memory=9 free=9 throttle=0 busy=1 heat=1\n") + trouble, o);
  REQUIRE(calls.wait_more("nvmlDeviceGetMemoryInfo_v2", 1));
  const auto begin = Clock::now();
  const uint64_t memory = calls("nvmlDeviceGetMemoryInfo_v2");
  const uint64_t heat = calls("nvmlDeviceGetTemperatureV");
  const uint64_t waits = calls("nvmlEventSetWait_v2");
  const uint64_t all = calls("");
  std::this_thread::sleep_for(std::chrono::milliseconds(550));
  const double s = std::chrono::duration<double>(Clock::now() - begin).count();
  const auto at_most = [s](double a_second) { return static_cast<uint64_t>(s * a_second) + 2; };
  CHECK(calls("nvmlDeviceGetMemoryInfo_v2") - memory <= at_most(10));
  CHECK(calls("nvmlDeviceGetTemperatureV") - heat <= at_most(2));
  CHECK(calls("nvmlEventSetWait_v2") - waits <= at_most(60));
  CHECK(calls("") - all <= at_most(100) + 20);  // the first loss: a look, and new events
}

TEST_CASE("watch: a driver that hangs is left alone, and can not delay the end") {
  Calls calls;
  WatchOptions o = quick();
  o.stop_limit = 100ms;
  Run run(std::string(kTwoGpusOneMig) +
              "at 40 hang nvmlDeviceGetMemoryInfo_v2 3000\n"
              "at 80 fail * 15 device=0\n",
          o);
  const auto end = Clock::now() + kPatience;
  while (run.watch.age() < Duration(500ms) && Clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(run.watch.age() >= Duration(500ms));
  CHECK(run.watch.devices().size() == 2);  // what was read last
  const auto begin = Clock::now();
  run.watch.stop();
  CHECK(Clock::now() - begin < std::chrono::seconds(2));
  CHECK(calls("nvmlShutdown") == 0);
  CHECK(calls.wait_more("nvmlShutdown", 1));  // the driver woke up: the thread cleans up
  CHECK(run.told.all().events.empty());  // and what it saw then is told to nobody
}

}  // namespace dray::gpu
