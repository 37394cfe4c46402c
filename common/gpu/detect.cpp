// detect(): who is asked, in which order, and which answers end the search.
#include "common/gpu/detect.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "common/gpu/cuda_child.h"
#include "common/gpu/fake_gpus.h"
#include "common/gpu/nvml.h"
#include "common/gpu/nvml_devices.h"

namespace dray::gpu {
namespace {

// An MPS control daemon leaves its process id in its folder, also when it was killed; so the
// process must live and have the daemon's name. In doubt: no.
bool has_mps(std::string folder) {
  if (folder.empty()) {
    const char* set = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
    folder = set != nullptr && *set != '\0' ? set : "/tmp/nvidia-mps";
  }
  std::ifstream file(folder + "/nvidia-cuda-mps-control.pid");
  pid_t pid = 0;
  if (!(file >> pid) || pid <= 0) return false;
  std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  return std::getline(comm, name) && name == "nvidia-cuda-mps";  // 15 bytes of it are kept
}

void set_enforcement(Detection& d, const std::string& mps_folder) {
  if (d.devices.empty() || !has_mps(mps_folder)) return;
  for (Device& device : d.devices)
    if (device.kind == Kind::gpu) device.enforcement = Enforcement::mps;
}

// What NVML lists is all there is: CUDA is not asked for what NVML holds back.
void take(Detection& d, const Nvml& nvml, const std::string& sysfs) {
  d.source = Source::nvml;
  d.driver_version = nvml.driver_version().optional().value_or("");
  d.cuda_version = nvml.cuda_version().optional().value_or("");
  NvmlList list = list_devices(nvml, sysfs);
  for (NvmlDevice& device : list.devices) d.devices.push_back(std::move(device.device));
  d.notes = std::move(list.notes);
  if (d.devices.empty() && d.notes.empty()) d.notes.push_back("NVML works and lists no GPUs");
}

// False: NVML is not there, somebody else may know more.
bool ask_nvml(Detection& d, const DetectOptions& options) {
  if (options.nvml_library.empty()) return false;
  const auto nvml = Nvml::open(options.nvml_library);
  if (nvml) {
    take(d, **nvml, options.sysfs);
    return true;
  }
  d.notes.push_back("NVML: " + nvml.error().detail);
  // Driver and library differ during an upgrade, and CUDA would fail in its own way; a refusal is
  // meant.
  return nvml.error().code == Errc::bad_version || nvml.error().code == Errc::denied;
}

void ask_cuda(Detection& d, const DetectOptions& options) {
  if (options.cuda_library.empty()) return;
  auto list = list_cuda_devices(options.cuda_library, options.cuda_limit);
  if (!list) {
    d.notes.push_back("CUDA: " + list.error().detail);
    return;
  }
  d.source = Source::cuda;
  d.cuda_version = list->version;
  d.devices = std::move(list->devices);
  for (std::string& note : list->notes) d.notes.push_back(std::move(note));
  if (d.devices.empty() && list->notes.empty()) d.notes.push_back("CUDA lists no GPUs");
}

template <class T>
std::string text_or_dash(const std::optional<T>& number) {
  return number ? std::to_string(*number) : "-";
}

using Cells = std::array<std::string, 11>;

Cells cells_of(const Device& d) {
  const auto mib = [](const std::optional<uint64_t>& n) {
    return n ? std::to_string(*n) + " MiB" : std::string("-");
  };
  std::string cc = "-";
  if (d.cc_major) cc = std::to_string(*d.cc_major) + "." + text_or_dash(d.cc_minor);
  std::string health(health_name(d.health));
  if (!d.health_reason.empty()) health += " (" + d.health_reason + ")";
  return {d.uuid,
          std::string(kind_name(d.kind)),
          d.name.empty() ? "-" : d.name,
          mib(d.memory_mib),
          mib(d.free_mib),
          text_or_dash(d.sms),
          cc,
          d.numa < 0 ? "-" : std::to_string(d.numa),
          d.compute_mode ? std::string(compute_mode_name(*d.compute_mode)) : "-",
          std::string(enforcement_name(d.enforcement)),
          health};
}

std::string table(const std::vector<Device>& devices) {
  std::vector<Cells> rows{{"UUID", "KIND", "NAME", "MEMORY", "FREE", "SMS", "CC", "NUMA", "MODE",
                           "ENFORCES", "HEALTH"}};
  for (const Device& d : devices) rows.push_back(cells_of(d));
  std::array<size_t, std::tuple_size_v<Cells>> widths{};
  for (const Cells& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string out;
  for (const Cells& row : rows) {
    for (size_t i = 0; i + 1 < row.size(); ++i)
      out += row[i] + std::string(widths[i] - row[i].size() + 2, ' ');
    out += row.back() + "\n";
  }
  return out;
}
}  // namespace

std::string_view source_name(Source source) {
  constexpr std::array<std::string_view, 4> kNames{"none", "nvml", "cuda", "fake"};
  return kNames[static_cast<size_t>(source)];
}

Result<Detection> detect(const DetectOptions& options) {
  Detection d;
  if (!options.fake_gpus.empty()) {
    d.source = Source::fake;
    DRAY_TRY_ASSIGN(d.devices, parse_fake_gpus(options.fake_gpus, options.node));
    return d;
  }
  if (!ask_nvml(d, options)) ask_cuda(d, options);
  set_enforcement(d, options.mps_folder);
  return d;
}

std::string describe(const Detection& d) {
  std::string out = "source " + std::string(source_name(d.source));
  if (!d.driver_version.empty()) out += ", driver " + d.driver_version;
  if (!d.cuda_version.empty()) out += ", CUDA " + d.cuda_version;
  out += "\n";
  if (!d.devices.empty()) out += table(d.devices);
  for (const std::string& note : d.notes) out += "note: " + note + "\n";
  return out;
}

}  // namespace dray::gpu
