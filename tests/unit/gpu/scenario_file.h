// ScenarioFile: puts a scenario where the fake NVML finds it, for the life of a test.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/gpu/detect.h"

namespace dray::gpu {

class ScenarioFile {
 public:
  explicit ScenarioFile(const std::string& text)
      : folder_(std::filesystem::temp_directory_path() /
                ("dray_unit_gpu." + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
    std::ofstream(folder_ / "scenario") << text;
    ::setenv("DRAY_FAKE_NVML", (folder_ / "scenario").c_str(), 1);
  }
  ~ScenarioFile() { std::filesystem::remove_all(folder_); }
  ScenarioFile(const ScenarioFile&) = delete;
  ScenarioFile& operator=(const ScenarioFile&) = delete;
  std::string folder() const { return folder_; }

  // Nothing of the machine that the test runs on gets in.
  DetectOptions options(const std::string& library = LIB_FAKE_NVML) const {
    DetectOptions o;
    o.nvml_library = library;
    o.cuda_library.clear();
    o.sysfs = folder_ / "sys";
    o.mps_folder = folder_ / "mps";
    return o;
  }

 private:
  std::filesystem::path folder_;
};

inline const char* const kTwoGpusOneMig =
    "driver 580.65.06\n"
    "cuda 13000\n"
    "gpu uuid=GPU-a name=NVIDIA_L4 memory=23034 free=22500 reserved=500 cc=8.9 cores=7424 mode=0 "
    "pci=00000000:3B:00.0 throttle=1 busy=7 heat=41\n"
    "gpu uuid=GPU-b name=NVIDIA_A100 memory=40960 free=40400 cc=8.0 cores=6912 mode=0 "
    "pci=00000000:86:00.0 throttle=0 heat=35 mig=1\n"
    "mig uuid=MIG-c gpu=1 gi=1 ci=0 name=NVIDIA_A100_MIG_1g.5gb memory=4864 free=4800 sms=14\n";

}  // namespace dray::gpu
