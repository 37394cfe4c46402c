#include "common/gpu/detect.h"

#include <fcntl.h>
#include <sys/prctl.h>

#include <chrono>

#include "tests/unit/gpu/scenario_file.h"

namespace dray::gpu {
namespace {
Detection found(const DetectOptions& options) {
  auto d = detect(options);
  REQUIRE(d);
  return *d;
}

std::string notes(const Detection& d) {
  std::string all;
  for (const std::string& note : d.notes) all += note + "\n";
  return all;
}

bool is_loaded(const char* library) {
  void* handle = ::dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (handle != nullptr) ::dlclose(handle);
  return handle != nullptr;
}

DetectOptions cuda_options(const ScenarioFile& file, const char* behaviour) {
  ::setenv("DRAY_FAKE_CUDA", behaviour, 1);
  DetectOptions o = file.options("libdray-no-such-nvml.so");
  o.cuda_library = LIB_FAKE_CUDA;
  return o;
}
}  // namespace

TEST_CASE("detect: a GPU, and the MIG device of another one in its place") {
  ScenarioFile file(kTwoGpusOneMig);
  const Detection d = found(file.options());
  CHECK(d.source == Source::nvml);
  CHECK(d.driver_version == "580.65.06");
  CHECK(d.cuda_version == "13.0");
  CHECK(notes(d) == "");
  REQUIRE(d.devices.size() == 2);

  Device gpu;
  gpu.uuid = "GPU-a";
  gpu.name = "NVIDIA L4";
  gpu.pci = "00000000:3B:00.0";
  gpu.memory_mib = 23034;
  gpu.free_mib = 22500;
  gpu.sms = 58;
  gpu.cc_major = 8;
  gpu.cc_minor = 9;
  gpu.compute_mode = ComputeMode::standard;
  gpu.throttle = 1;
  gpu.utilisation = 7;
  gpu.temperature_c = 41;
  CHECK(d.devices[0] == gpu);

  const Device& mig = d.devices[1];
  CHECK(mig.uuid == "MIG-c");
  CHECK(mig.kind == Kind::mig);
  CHECK(mig.parent == "GPU-b");
  CHECK(mig.name == "NVIDIA A100 MIG 1g.5gb");
  CHECK(mig.pci == "00000000:86:00.0");
  CHECK(mig.memory_mib == 4864);
  CHECK(mig.free_mib == 4800);
  CHECK(mig.sms == 14);
  CHECK(mig.gpu_instance == 1);
  CHECK(mig.compute_instance == 0);
  CHECK(mig.enforcement == Enforcement::mig);
  CHECK(mig.temperature_c == 35);  // of the GPU
  CHECK_FALSE(mig.utilisation);  // MIG devices do not tell
}

TEST_CASE("detect: the NUMA node is that of the PCI device") {
  ScenarioFile file(kTwoGpusOneMig);
  const std::string pci = file.folder() + "/sys/bus/pci/devices/";
  std::filesystem::create_directories(pci + "0000:3b:00.0");
  std::filesystem::create_directories(pci + "0000:86:00.0");
  std::ofstream(pci + "0000:3b:00.0/numa_node") << "1\n";
  std::ofstream(pci + "0000:86:00.0/numa_node") << "-1\n";
  const Detection d = found(file.options());
  REQUIRE(d.devices.size() == 2);
  CHECK(d.devices[0].numa == 1);
  CHECK(d.devices[1].numa == -1);
}

TEST_CASE("detect: no library is no error") {
  ScenarioFile file("");
  DetectOptions o = file.options("libdray-no-such-nvml.so");
  o.cuda_library = "libdray-no-such-cuda.so";
  const Detection d = found(o);
  CHECK(d.source == Source::none);
  CHECK(d.devices.empty());
  REQUIRE(d.notes.size() == 2);
  CHECK_THAT(d.notes[0], Catch::Contains("NVML: libdray-no-such-nvml.so"));
  CHECK_THAT(d.notes[1], Catch::Contains("CUDA: libdray-no-such-cuda.so"));
}

TEST_CASE("detect: a library that is not NVML") {
  ScenarioFile file("");
  const Detection d = found(file.options(LIB_FAKE_CUDA));
  CHECK(d.source == Source::none);
  CHECK_THAT(notes(d), Catch::Contains("is not NVML"));
}

TEST_CASE("detect: an older driver lacks functions, and only their values") {
  ScenarioFile file(kTwoGpusOneMig);
  const Detection d = found(file.options(LIB_FAKE_NVML_OLD));
  CHECK(d.source == Source::nvml);
  REQUIRE(d.devices.size() == 2);  // it knows no MIG
  CHECK(d.devices[0].memory_mib == 23034);  // memory v1
  CHECK(d.devices[0].free_mib == 22500);
  CHECK(d.devices[0].throttle == 1);  // by its older name
  CHECK(d.devices[0].temperature_c == 41);
  CHECK_FALSE(d.devices[0].sms);
  CHECK(d.devices[0].health == Health::ok);
  CHECK(d.devices[1].uuid == "GPU-b");
}

TEST_CASE("detect: memory v1 where the driver refuses v2") {
  const int code = GENERATE(3, 13, 25);
  ScenarioFile file(kTwoGpusOneMig + ("fail nvmlDeviceGetMemoryInfo_v2 " + std::to_string(code)));
  const Detection d = found(file.options());
  REQUIRE(d.devices.size() == 2);
  CHECK(d.devices[0].free_mib == 22500);
  CHECK(d.devices[0].health == Health::ok);
}

TEST_CASE("detect: what a device does not support is absent, not 0") {
  ScenarioFile file(
      "gpu uuid=GPU-a name=Odd\n"
      "fail nvmlDeviceGetMemoryInfo 3\n"
      "fail nvmlDeviceGetMemoryInfo_v2 3\n");
  const Detection d = found(file.options());
  REQUIRE(d.devices.size() == 1);
  Device odd;
  odd.uuid = "GPU-a";
  odd.name = "Odd";
  CHECK(d.devices[0] == odd);
  CHECK(capacity_mib(d.devices[0]) == 0);
}

TEST_CASE("detect: SMs are not guessed for an architecture nobody knows") {
  ScenarioFile file("gpu uuid=GPU-a cc=19.0 cores=12800\n");
  CHECK_FALSE(found(file.options()).devices.at(0).sms);
}

TEST_CASE(
    "detect: driver and library of different versions, and what CUDA would say is not asked") {
  ScenarioFile file(std::string(kTwoGpusOneMig) + "fail nvmlInit_v2 18\n");
  DetectOptions o = cuda_options(file, "devices=1");
  o.nvml_library = LIB_FAKE_NVML;
  const Detection d = found(o);
  CHECK(d.source == Source::none);
  CHECK(d.devices.empty());
  CHECK_THAT(notes(d), Catch::Contains("different versions"));
}

TEST_CASE("detect: no driver, no permission") {
  const auto [code, text] = GENERATE(table<int, const char*>({
      {9, "driver is not loaded"},
      {4, "no permission"},
      {17, "cgroup"},
      {999, "an error inside the driver"},
      {777, "an error inside the driver"},
  }));
  ScenarioFile file(kTwoGpusOneMig + ("fail nvmlInit_v2 " + std::to_string(code)));
  const Detection d = found(file.options());
  CHECK(d.source == Source::none);
  CHECK_THAT(notes(d), Catch::Contains(text));
}

TEST_CASE("detect: a prohibited device is not offered, by CUDA neither") {
  ScenarioFile file("gpu uuid=GPU-a name=Desk mode=2 memory=1000 free=1000\n");
  DetectOptions o = cuda_options(file, "devices=1");
  o.nvml_library = LIB_FAKE_NVML;
  const Detection d = found(o);
  CHECK(d.source == Source::nvml);
  CHECK(d.devices.empty());
  CHECK_THAT(notes(d), Catch::Contains("GPU 0 (Desk) is in compute mode PROHIBITED"));
}

TEST_CASE("detect: an exclusive device takes fractions only under MPS") {
  ScenarioFile file("gpu uuid=GPU-a mode=3 memory=1000 free=1000\n");
  Device d = found(file.options()).devices.at(0);
  CHECK(d.compute_mode == ComputeMode::exclusive_process);
  CHECK_FALSE(takes_fractions(d));
  d.enforcement = Enforcement::mps;
  CHECK(takes_fractions(d));
}

TEST_CASE("detect: MIG mode without MIG devices") {
  ScenarioFile file("gpu uuid=GPU-a name=Big memory=1000 free=1000 mig=1\n");
  const Detection d = found(file.options());
  CHECK(d.devices.empty());
  CHECK_THAT(notes(d), Catch::Contains("has no MIG devices"));
}

TEST_CASE("detect: a lost GPU has no capacity, or is only told of") {
  SECTION("known") {
    const int code = GENERATE(15, 16);
    ScenarioFile file(std::string(kTwoGpusOneMig) + "fail nvmlDeviceGetMemoryInfo_v2 " +
                      std::to_string(code) + " device=0\n");
    const Detection d = found(file.options());
    REQUIRE(d.devices.size() == 2);
    CHECK(d.devices[0].health == Health::lost);
    CHECK(d.devices[0].health_reason != "");
    CHECK_FALSE(takes_work(d.devices[0]));
    CHECK(capacity_mib(d.devices[0]) == 0);
    CHECK(d.devices[1].health == Health::ok);
  }
  SECTION("without a handle") {
    ScenarioFile file(std::string(kTwoGpusOneMig) + "fail handle 15 device=0\n");
    const Detection d = found(file.options());
    CHECK(d.devices.size() == 1);
    CHECK_THAT(notes(d), Catch::Contains("GPU 0: the GPU is lost"));
  }
  SECTION("without a name") {
    ScenarioFile file(std::string(kTwoGpusOneMig) + "fail nvmlDeviceGetUUID 15 device=0\n");
    const Detection d = found(file.options());
    CHECK(d.devices.size() == 1);
    CHECK_THAT(notes(d), Catch::Contains("GPU 0 (NVIDIA L4) does not tell its UUID"));
  }
}

TEST_CASE("detect: a throttled GPU is degraded") {
  ScenarioFile file("gpu uuid=GPU-a memory=1000 free=900 throttle=0x48\n");
  const Device d = found(file.options()).devices.at(0);
  CHECK(d.health == Health::degraded);
  CHECK(d.health_reason == "throttled: hardware+heat");
  CHECK(capacity_mib(d) == 1000);
}

TEST_CASE(
    "detect: mps is claimed for whole GPUs if its daemon lives, and not if only its file does") {
  ScenarioFile file(kTwoGpusOneMig);
  const std::string folder = file.folder() + "/mps";
  std::filesystem::create_directories(folder);
  const auto levels = [&] {
    const Detection d = found(file.options());
    return std::pair(d.devices.at(0).enforcement, d.devices.at(1).enforcement);
  };
  CHECK(levels() == std::pair(Enforcement::none, Enforcement::mig));
  std::ofstream(folder + "/nvidia-cuda-mps-control.pid") << ::getpid() << "\n";
  CHECK(levels() == std::pair(Enforcement::none, Enforcement::mig));  // lives, with another name
  char before[16];
  ::prctl(PR_GET_NAME, before);
  ::prctl(PR_SET_NAME, "nvidia-cuda-mps-control");
  CHECK(levels() == std::pair(Enforcement::mps, Enforcement::mig));
  ::prctl(PR_SET_NAME, before);
  std::ofstream(folder + "/nvidia-cuda-mps-control.pid") << 99999999 << "\n";
  CHECK(levels() == std::pair(Enforcement::none, Enforcement::mig));
}

TEST_CASE("detect: fake GPUs ask nobody") {
  ScenarioFile file("gpu uuid=GPU-a\n");
  DetectOptions o = file.options();
  o.fake_gpus = "2x24GiB";
  o.node = "n1";
  const Detection d = found(o);
  CHECK(d.source == Source::fake);
  REQUIRE(d.devices.size() == 2);
  CHECK(d.devices[1].uuid == "FAKE-n1-1");
  o.fake_gpus = "lots";
  const auto bad = detect(o);
  REQUIRE_FALSE(bad);
  CHECK(bad.error().code == Errc::bad_argument);
}

TEST_CASE("detect: CUDA is asked in a child where there is no NVML, and never loaded here") {
  ScenarioFile file("");
  const Detection d = found(cuda_options(file, "devices=2"));
  CHECK(d.source == Source::cuda);
  CHECK(d.cuda_version == "12.4");
  REQUIRE(d.devices.size() == 2);
  const Device& card = d.devices[0];
  CHECK(card.uuid == "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f");
  CHECK(card.name == "CUDA card");
  CHECK(card.pci == "00000000:3B:00.0");
  CHECK(card.memory_mib == 24576);
  CHECK_FALSE(card.free_mib);  // needs a context
  CHECK(card.sms == 58);
  CHECK(card.cc_major == 8);
  CHECK(card.cc_minor == 9);
  CHECK(d.devices[1].uuid != card.uuid);
  CHECK_FALSE(is_loaded(LIB_FAKE_CUDA));
  CHECK_THAT(notes(d), Catch::Contains("NVML: libdray-no-such-nvml.so"));
}

TEST_CASE("detect: CUDA that refuses, dies, has nothing or may not be used") {
  ScenarioFile file("");
  const auto [behaviour, why] = GENERATE(table<const char*, const char*>({
      {"error=803", "CUDA does not start (CUDA error 803)"},
      {"crash", "ended the process"},
      {"devices=0", "CUDA lists no GPUs"},
      {"devices=1,prohibited", "PROHIBITED"},
  }));
  const Detection d = found(cuda_options(file, behaviour));
  CHECK(d.devices.empty());
  CHECK_THAT(notes(d), Catch::Contains(why));
}

TEST_CASE("detect: a CUDA child that hangs is ended") {
  ScenarioFile file("");
  DetectOptions o = cuda_options(file, "hang");
  o.cuda_limit = 200ms;
  const auto begin = std::chrono::steady_clock::now();
  const Detection d = found(o);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
  CHECK(d.source == Source::none);
  CHECK_THAT(notes(d), Catch::Contains("CUDA did not answer in time"));
}

TEST_CASE("describe: a table for people") {
  ScenarioFile file(kTwoGpusOneMig);
  CHECK(describe(found(file.options())) ==
        "source nvml, driver 580.65.06, CUDA 13.0\n"
        "UUID   KIND  NAME                    MEMORY     FREE       SMS  CC   NUMA  MODE     "
        "ENFORCES  HEALTH\n"
        "GPU-a  gpu   NVIDIA L4               23034 MiB  22500 MiB  58   8.9  -     default  none  "
        "    ok\n"
        "MIG-c  mig   NVIDIA A100 MIG 1g.5gb  4864 MiB   4800 MiB   14   8.0  -     default  mig   "
        "    ok\n");
  Detection none;
  none.notes.push_back("NVML: nothing");
  CHECK(describe(none) == "source none\nnote: NVML: nothing\n");
}

}  // namespace dray::gpu
