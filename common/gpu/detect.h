// detect(): finds the GPUs of this machine once: by NVML, else by CUDA in a child process, else
// none.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/base/time.h"
#include "common/gpu/device.h"

namespace dray::gpu {

enum class Source : uint8_t { none, nvml, cuda, fake };
std::string_view source_name(Source source);

struct DetectOptions {
  std::string fake_gpus;  // "2x24GiB": these, and nothing is looked for
  std::string node = "local";  // part of the ids of fake GPUs
  std::string nvml_library = "libnvidia-ml.so.1";  // empty: not asked
  std::string cuda_library = "libcuda.so.1";  // empty: not asked
  Duration cuda_limit = 10s;
  std::string sysfs = "/sys";
  std::string mps_folder;  // of an MPS control daemon; empty: as CUDA finds it
};

struct Detection {
  Source source = Source::none;
  std::string driver_version;  // empty: not known
  std::string cuda_version;  // "13.0": the newest that the driver can run
  std::vector<Device> devices;
  std::vector<std::string> notes;  // sentences: what was not found or not offered, and why
};

// Finding nothing is not an error; text of fake GPUs that makes no sense is.
// Takes up to a few seconds. Starts a child process if NVML is not there, so call it early.
Result<Detection> detect(const DetectOptions& options);

// A table of the devices and the notes, for people.
std::string describe(const Detection& detection);

}  // namespace dray::gpu
