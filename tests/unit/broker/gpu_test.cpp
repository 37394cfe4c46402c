// GPUs at the broker: placement by device, corrections by CAPACITY, lost devices, explanations.
#include "tests/unit/broker/fixture.h"

using namespace dray;
using namespace dray::broker;

namespace {

DeviceInfo device(const std::string& uuid, uint64_t taken_units = 0, uint64_t taken_mib = 0) {
  DeviceInfo d;
  d.uuid = uuid;
  d.units = 10'000;
  d.memory_mib = 24'576;
  d.taken_units = taken_units;
  d.taken_mib = taken_mib;
  return d;
}

DeviceInfo lost(const std::string& uuid) {
  DeviceInfo d = device(uuid);
  d.units = d.memory_mib = 0;
  d.health = 3;
  d.reason = "XID 79";
  return d;
}

CapacityNews news(const std::vector<DeviceInfo>& devices, uint64_t received = 0) {
  CapacityNews m;
  for (const DeviceInfo& d : devices) m.devices.push_back(encode_device(d));
  m.resources = {{"cpu", 80'000}};
  m.labels = {"node:x"};
  m.received = received;
  return m;
}

TaskSpec asking(uint64_t units, uint64_t mib = 0) {
  TaskSpec spec;
  spec.handler = "echo";
  spec.gpus = units;
  spec.gpu_memory_mib = mib;
  return spec;
}

struct GpuBench : Bench {
  GpuBench() { open(kRouter, Role::router, "router"); }
  void attach_gpus(SessionId s, const std::string& name, const std::vector<DeviceInfo>& devices,
                   uint32_t slots = 8, uint64_t credit = 16) {
    open(s, Role::worker, name);
    const CapacityNews m = news(devices);
    Attach a;
    a.slots = slots;
    a.handlers = {"echo"};
    a.resources = m.resources;
    a.labels = m.labels;
    a.results_from = 1;
    a.devices = m.devices;
    say(s, a, credit);
    turn();
  }
  std::string ask(const std::string& verb, const Doc& args) {
    sent.clear();
    say(kRouter, Admin{static_cast<uint8_t>(Role::broker), verb, args});
    turn();
    for (const auto& reply : got<AdminReply>()) return to_json(reply.body);
    for (const auto& reject : got<Reject>()) return reject.detail;
    return "";
  }
  std::string explain(TaskId id) {
    return ask("explain", Doc(Doc::Object{}).set("id", to_hex(id)));
  }
};

bool has(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
  return true;
}

}  // namespace

TEST_CASE("two devices with a quarter free each never run half a one") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1")});
  b.submit(2, asking(7'500));
  CHECK(b.leases(kWorkerA).size() == 2);
  const auto half = b.submit(1, asking(5'000));
  CHECK(b.leases(kWorkerA).size() == 2);
  CHECK(b.state(half[0]) == TaskState::queued);
  has(b.explain(half[0]), "no device with 0.5 free: 2 devices have 0.25");
  b.sent.clear();
  const auto quarters = b.submit(3, asking(2'500));
  CHECK(b.leases(kWorkerA).size() == 2);
  CHECK(b.state(quarters[2]) == TaskState::queued);
}

TEST_CASE("a lease gives its devices back when it ends") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0")});
  b.submit(1, asking(10'000));
  const auto first = b.leases(kWorkerA).at(0);
  const auto next = b.submit(1, asking(10'000));
  CHECK(b.state(next[0]) == TaskState::queued);
  b.result(kWorkerA, first, 1);
  CHECK(b.state(next[0]) == TaskState::leased);
}

TEST_CASE("GPU memory alone is placed by device") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1")});
  b.submit(3, asking(0, 16'384));
  CHECK(b.leases(kWorkerA).size() == 2);
  const auto more = b.submit(1, asking(0, 16'384));
  has(b.explain(more[0]), "no device with 16384 MiB free: 2 devices have 8192 MiB");
}

TEST_CASE("tasks with GPUs are not held behind busy slots") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1")}, 1);
  b.attach_gpus(kWorkerB, "b", {device("GPU-2"), device("GPU-3")}, 1);
  b.submit(4, asking(5'000));
  CHECK(b.leases(kWorkerA).size() == 1);
  CHECK(b.leases(kWorkerB).size() == 1);
}

TEST_CASE("what others took of a device is not given away") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0", 10'000), device("GPU-1", 6'000)});
  const auto list = b.submit(1, asking(5'000));
  CHECK(b.state(list[0]) == TaskState::queued);
  b.say(kWorkerA, news({device("GPU-0"), device("GPU-1", 6'000)}), 16);
  b.turn();
  CHECK(b.state(list[0]) == TaskState::leased);
}

TEST_CASE("CAPACITY corrects where a lease is believed to be") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1")});
  b.submit(1, asking(5'000));  // the broker's choice is GPU-0, the worker's was GPU-1
  const auto lease = b.leases(kWorkerA).at(0);
  b.say(kWorkerA, news({device("GPU-0"), device("GPU-1", 5'000)}, 1), 16);
  b.turn();
  const auto whole = b.submit(1, asking(10'000));
  CHECK(b.state(whole[0]) == TaskState::leased);  // GPU-0 is free
  b.result(kWorkerA, lease, 1);
  const auto more = b.submit(1, asking(10'000));
  CHECK(b.state(more[0]) == TaskState::leased);  // and so is GPU-1
}

TEST_CASE("what is still on its way comes on top of what a node says") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0")});
  b.submit(1, asking(10'000));
  CHECK(b.leases(kWorkerA).size() == 1);
  b.say(kWorkerA, news({device("GPU-0")}, 0), 16);  // sent before the task arrived
  b.turn();
  const auto next = b.submit(1, asking(10'000));
  CHECK(b.state(next[0]) == TaskState::queued);
}

TEST_CASE("what others have is not taken for a lease that is on its way") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1")});
  b.submit(1, asking(10'000));
  CHECK(b.leases(kWorkerA).size() == 1);
  b.say(kWorkerA, news({device("GPU-0"), device("GPU-1", 10'000)}, 0), 16);  // a replica's
  b.turn();
  const auto next = b.submit(1, asking(10'000));
  CHECK(b.state(next[0]) == TaskState::queued);
}

TEST_CASE("a lease is looked for with the variant it was placed by") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0", 10'000)});
  TaskSpec spec = asking(10'000);
  spec.variants = {encode_need({0, 0, {{"cpu", 20'000}}, {}})};
  b.submit(1, spec);
  const auto lease = b.leases(kWorkerA).at(0);  // on CPUs
  CapacityNews m = news({device("GPU-0", 10'000)}, 1);
  m.taken = {{"cpu", 20'000}};
  b.say(kWorkerA, m, 16);
  b.turn();
  b.result(kWorkerA, lease, 1);
  const auto next = b.submit(1, asking(10'000));
  CHECK(b.state(next[0]) == TaskState::queued);
}

TEST_CASE(
    "a lost device gives nothing at once, and its task runs elsewhere as if its worker was lost") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0")});
  TaskSpec spec = asking(10'000);
  spec.max_failures = 1;
  const auto list = b.submit(1, spec);
  const auto lease = b.leases(kWorkerA).at(0);
  b.say(kWorkerA, news({lost("GPU-0")}, 1), 16);
  Results m;
  m.first = 1;
  const std::string text = "GPU-0 is lost: XID 79";
  m.rows = make_rows<ResultRow>(std::vector<ResultRow>{
      {lease.id, lease.token, static_cast<uint32_t>(text.size()), 5, 0, 1,
       static_cast<uint8_t>(Verdict::crashed), static_cast<uint8_t>(Errc::worker_lost)}});
  m.bytes = Bytes(text);
  b.say(kWorkerA, m);
  b.turn();
  CHECK(b.state(list[0]) == TaskState::queued);  // it is no failure: max_failures is 1
  CHECK(b.core->counters().lost_leases == 1);
  const std::string why = b.explain(list[0]);
  has(why, "GPU-0 gives nothing: XID 79");
  has(why, "worker a: no device that works");
  has(why, "GPU-0 is lost: XID 79 (a, attempt 1)");
  b.attach_gpus(kWorkerB, "b", {device("GPU-9")});
  CHECK(b.state(list[0]) == TaskState::leased);
  CHECK(b.leases(kWorkerB).size() == 1);
}

TEST_CASE("more than any node ever had is refused with the largest that was seen") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1")});
  b.sent.clear();
  b.submit(1, asking(25'000));
  REQUIRE(b.got<Reject>().size() == 1);
  CHECK(b.got<Reject>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  has(b.got<Reject>()[0].detail, "'gpus' (largest seen: 2)");
  b.sent.clear();
  b.submit(1, asking(0, 50'000));
  REQUIRE(b.got<Reject>().size() == 1);
  has(b.got<Reject>()[0].detail, "'gpu_memory' (largest seen: 24576 MiB on one device)");
}

TEST_CASE("variants are tried in order") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0")});
  TaskSpec spec = asking(10'000);
  spec.variants = {encode_need({0, 0, {{"cpu", 20'000}}, {}})};
  b.submit(2, spec);
  CHECK(b.leases(kWorkerA).size() == 2);  // one on the GPU, one on CPUs
  const std::string gpus = b.ask("gpus", Doc(Doc::Object{}));
  has(gpus, "\"taken_units\":10000");
}

TEST_CASE("gpus lists each device with what is taken, and in pages") {
  GpuBench b;
  std::vector<DeviceInfo> many;
  for (int i = 0; i < 128; ++i) many.push_back(device("GPU-" + std::to_string(i), 2'500, 1'024));
  b.attach_gpus(kWorkerA, "a", many);
  const std::string first = b.ask("gpus", Doc(Doc::Object{}));
  has(first, "\"node\":\"x\"");
  has(first, "\"taken_mib\":1024");
  REQUIRE(first.find("\"next\":") != std::string::npos);
  const auto next = std::stoll(first.substr(first.find("\"next\":") + 7));
  CHECK(first.find("\"index\":" + std::to_string(next - 1) + ",") != std::string::npos);
  const std::string second = b.ask("gpus", Doc(Doc::Object{}).set("after", next));
  CHECK(second.find("\"index\":" + std::to_string(next) + ",") != std::string::npos);
}

TEST_CASE("a node whose devices make no sense keeps its handlers and has nothing") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-0")});
  CHECK(b.got<Reject>(kWorkerA).size() == 1);
  const auto plain = b.submit(1);
  CHECK(b.state(plain[0]) == TaskState::leased);
  DeviceInfo wrong = device("GPU-1", 20'000);
  b.sent.clear();
  b.say(kWorkerA, news({wrong}), 16);
  b.turn();
  CHECK(b.got<Reject>(kWorkerA).size() == 1);
}

TEST_CASE("a restarted broker learns from ATTACH on which devices its leases are") {
  GpuBench b;
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1")});
  b.submit(1, asking(10'000));
  const auto lease = b.leases(kWorkerA).at(0);
  b.boot();
  b.open(kRouter, Role::router, "router");
  b.attach_gpus(kWorkerA, "a", {device("GPU-0"), device("GPU-1", 10'000)});
  b.submit(2, asking(10'000));
  CHECK(b.leases(kWorkerA).size() == 1);  // one device is left, not none and not two
  b.result(kWorkerA, lease, 1);
  CHECK(b.leases(kWorkerA).size() == 2);
}
