// GPUs at the worker: grants by device, CAPACITY, give-back of what does not fit, lost devices.
#include "services/worker/core/gpu_environment.h"
#include "tests/unit/worker/core_rig.h"

namespace dray::worker {
namespace {

DeviceInfo device(const std::string& uuid) {
  DeviceInfo d;
  d.uuid = uuid;
  d.units = 10'000;
  d.memory_mib = 24'576;
  return d;
}

DeviceInfo unwell(const std::string& uuid, uint8_t health) {
  DeviceInfo d = device(uuid);
  d.units = d.memory_mib = 0;
  d.health = health;
  d.reason = "XID 79";
  return d;
}

constexpr uint8_t kDrain = 2, kLost = 3;

AgentOptions options(std::vector<DeviceInfo> devices, uint32_t slots = 4) {
  AgentOptions o;
  o.slots = slots;
  o.handlers = {"echo"};
  o.labels = {"node:a"};
  o.resources = {{"cpu", 40'000}};
  o.devices = std::move(devices);
  return o;
}

TaskSpec asking(uint64_t units, uint64_t mib = 0) {
  TaskSpec spec;
  spec.handler = "echo";
  spec.gpus = units;
  spec.gpu_memory_mib = mib;
  return spec;
}

std::vector<DeviceInfo> devices_of(const std::vector<std::string>& blobs) {
  std::vector<DeviceInfo> list;
  for (const auto& blob : blobs) list.push_back(decode_device(blob).value());
  return list;
}

}  // namespace

TEST_CASE("agent: ATTACH names the devices and what is taken of them") {
  Rig r(options({device("GPU-0"), device("GPU-1")}));
  r.open();
  REQUIRE(r.sends<Attach>().size() == 1);
  CHECK(devices_of(r.sends<Attach>()[0].devices)[1].uuid == "GPU-1");
  CHECK(r.sends<CapacityNews>().empty());
  r.dispatch(1, 1, asking(2'500, 1'024));
  CHECK(r.started.size() == 1);
  r.close();
  r.open();
  REQUIRE(r.sends<Attach>().size() == 1);
  const auto devices = devices_of(r.sends<Attach>()[0].devices);
  CHECK(devices[0].taken_units == 2'500);
  CHECK(devices[0].taken_mib == 1'024);
  CHECK(r.sends<CapacityNews>().size() == 1);  // also of the pools
}

TEST_CASE("agent: what is taken of devices is told soon after it changed") {
  Rig r(options({device("GPU-0")}));
  r.open();
  r.dispatch(1, 1, asking(5'000));
  CHECK(r.sends<CapacityNews>().empty());
  r.pass(150);
  REQUIRE(r.sends<CapacityNews>().size() == 1);
  CHECK(r.sends<CapacityNews>()[0].received == 1);
  CHECK(devices_of(r.sends<CapacityNews>()[0].devices)[0].taken_units == 5'000);
  r.pass(400);
  CHECK(r.sends<CapacityNews>().empty());
  r.finish({1});
  r.pass(150);
  REQUIRE(r.sends<CapacityNews>().size() == 1);
  CHECK(devices_of(r.sends<CapacityNews>()[0].devices)[0].taken_units == 0);
}

TEST_CASE("agent: two devices with a quarter free each do not run half a one") {
  Rig r(options({device("GPU-0"), device("GPU-1")}));
  r.open();
  r.dispatch(1, 2, asking(7'500));
  r.dispatch(3, 1, asking(5'000));
  CHECK(r.started.size() == 2);
  r.dispatch(4, 1, TaskSpec{});
  CHECK(r.started.size() == 3);  // one that needs none passes
  r.finish({1});
  CHECK(r.started.size() == 4);
  CHECK(r.started.back().token.seq == 3);
}

TEST_CASE("agent: a task that waits for devices goes back after a while, with the true vector") {
  Rig r(options({device("GPU-0")}));
  r.open();
  const Request whole{{Variant{10'000, 0, {}, {}}}, Strategy::pack};
  REQUIRE_FALSE(r.agent.node().reserve(r.agent.node().next_id(), whole));  // a replica's
  r.dispatch(1, 1, asking(5'000));
  CHECK(r.started.empty());
  r.pass(400);
  CHECK(r.sends<GiveBack>().empty());
  r.pass(300);
  REQUIRE(r.sends<GiveBack>().size() == 1);
  CHECK(r.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  REQUIRE_FALSE(r.sends<CapacityNews>().empty());
  CHECK(devices_of(r.sends<CapacityNews>().back().devices)[0].taken_units == 10'000);
}

TEST_CASE("agent: what can never fit goes back at once, followed by CAPACITY") {
  Rig r(options({device("GPU-0")}));
  r.open();
  r.dispatch(1, 1, asking(20'000));
  REQUIRE(r.sends<GiveBack>().size() == 1);
  CHECK(r.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  CHECK(r.sends<CapacityNews>().size() == 1);
  CHECK(std::holds_alternative<CapacityNews>(r.out.now.back().message));
}

TEST_CASE("agent: a task on a lost device is cancelled and reported as lost, by name") {
  Rig r(options({device("GPU-0"), device("GPU-1")}));
  r.open();
  r.dispatch(1, 2, asking(10'000));
  CHECK(r.started.size() == 2);
  r.turn([&] { r.agent.set_devices({unwell("GPU-0", kLost), device("GPU-1")}, r.now(), r.out); });
  REQUIRE(r.sends<CapacityNews>().size() == 1);
  CHECK(std::holds_alternative<CapacityNews>(r.out.now[0].message));  // before the result
  REQUIRE(r.sends<Results>().size() == 1);
  const Results m = r.sends<Results>()[0];
  REQUIRE(m.rows.size() == 1);
  CHECK(m.rows[0].token.seq == 1);
  CHECK(m.rows[0].status == static_cast<uint8_t>(Verdict::crashed));
  CHECK(m.rows[0].code == static_cast<uint8_t>(Errc::worker_lost));
  CHECK(m.bytes.view() == "GPU-0 is lost: XID 79");
  CHECK(r.out.cancel == std::vector<Token>{{1, 1}});
  CHECK(r.have() == Seqs{1, 2});  // until its result is acknowledged
  r.finish({1});  // the handler returns at last
  CHECK(r.agent.counters().dropped == 1);
  CHECK(r.agent.node().grants() == 1);
  r.dispatch(3, 1, asking(10'000));
  CHECK(r.started.size() == 2);  // GPU-1 is busy, GPU-0 gives nothing
}

TEST_CASE("agent: a handler that ignores the loss of its device ends the worker") {
  Rig r(options({device("GPU-0")}));
  r.open();
  r.dispatch(1, 1, asking(10'000));
  r.turn([&] { r.agent.set_devices({unwell("GPU-0", kLost)}, r.now(), r.out); });
  CHECK_FALSE(r.agent.leaving());
  r.pass(7'000);
  CHECK(r.agent.leaving());
}

TEST_CASE("agent: a device that takes no more work keeps what runs there") {
  Rig r(options({device("GPU-0")}));
  r.open();
  r.dispatch(1, 1, asking(5'000));
  r.dispatch(2, 1, asking(8'000));
  CHECK(r.started.size() == 1);
  r.turn([&] { r.agent.set_devices({unwell("GPU-0", kDrain)}, r.now(), r.out); });
  CHECK(r.out.cancel.empty());
  CHECK(r.sends<Results>().empty());
  REQUIRE(r.sends<GiveBack>().size() == 1);  // the one that waited can not start here any more
  CHECK(r.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  r.finish({1});
  CHECK(r.sends<Results>().size() == 1);
}

TEST_CASE("agent: a device that comes back is used again") {
  Rig r(options({device("GPU-0")}));
  r.open();
  r.turn([&] { r.agent.set_devices({unwell("GPU-0", kLost)}, r.now(), r.out); });
  r.dispatch(1, 1, asking(5'000));
  CHECK(r.sends<GiveBack>().size() == 1);
  r.turn([&] { r.agent.set_devices({device("GPU-0")}, r.now(), r.out); });
  r.dispatch(2, 1, asking(5'000));
  CHECK(r.started.size() == 1);
}

TEST_CASE("agent: devices that make no sense change nothing") {
  Rig r(options({device("GPU-0")}));
  r.open();
  r.turn([&] { r.agent.set_devices({device("GPU-0"), device("GPU-0")}, r.now(), r.out); });
  CHECK(r.sends<CapacityNews>().empty());
  r.dispatch(1, 1, asking(5'000));
  CHECK(r.started.size() == 1);
}

// --- environment -------------------------------------------------------------------------------

namespace {
using Environment = std::vector<std::pair<std::string, std::string>>;
Grant grant(std::vector<DeviceShare> shares, std::vector<std::string> uuids) {
  return {0, std::move(shares), std::move(uuids), {}};
}
std::string value(const Environment& env, const std::string& name) {
  for (const auto& [key, text] : env)
    if (key == name) return text;
  return "(unset)";
}
}  // namespace

TEST_CASE(
    "gpu_environment: devices by uuid in the order of the grant, and nothing more without MPS") {
  const std::vector<DeviceInfo> devices{device("GPU-0"), device("GPU-1")};
  const auto env =
      gpu_environment(grant({{1, 10'000, 0}, {0, 5'000, 8'192}}, {"GPU-1", "GPU-0"}), devices);
  CHECK(env ==
        Environment{{"CUDA_DEVICE_ORDER", "PCI_BUS_ID"}, {"CUDA_VISIBLE_DEVICES", "GPU-1,GPU-0"}});
  CHECK(value(gpu_environment(grant({}, {}), devices), "CUDA_VISIBLE_DEVICES").empty());
}

TEST_CASE("gpu_environment: MPS gets ceilings for parts of a device") {
  DeviceInfo mps = device("GPU-0");
  mps.enforcement = 2;
  const std::vector<DeviceInfo> devices{mps};
  const auto part = gpu_environment(grant({{0, 2'550, 8'192}}, {"GPU-0"}), devices);
  CHECK(value(part, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") == "25");
  CHECK(value(part, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") == "0=8192M");
  const auto tiny = gpu_environment(grant({{0, 1, 0}}, {"GPU-0"}), devices);
  CHECK(value(tiny, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") == "1");
  CHECK(value(tiny, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") == "(unset)");
  const auto whole = gpu_environment(grant({{0, 10'000, 8'192}}, {"GPU-0"}), devices);
  CHECK(whole.size() == 2);
}

TEST_CASE("gpu_environment: fake devices are hidden, as no driver knows them") {
  DeviceInfo fake = device("FAKE-a-0");
  fake.kind = 2;
  const std::vector<DeviceInfo> devices{fake};
  CHECK(
      value(gpu_environment(grant({{0, 5'000, 0}}, {"FAKE-a-0"}), devices), "CUDA_VISIBLE_DEVICES")
          .empty());
}

}  // namespace dray::worker
