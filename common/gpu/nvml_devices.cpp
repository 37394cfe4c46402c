// Which devices are advertised, and from which handle each of their values comes.
#include "common/gpu/nvml_devices.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <utility>

#include "common/base/limits.h"
#include "common/gpu/health.h"

namespace dray::gpu {
namespace {
using nvml::Code;

// Cores of one SM. It belongs to the architecture; NVML tells the sum only.
std::optional<uint32_t> cores_per_sm(const NvmlCapability& cc) {
  switch (cc.major * 10 + cc.minor) {
    case 70:
    case 72:
    case 75:
    case 80:
      return 64;
    case 86:
    case 87:
    case 89:
    case 90:
    case 100:
    case 103:
    case 120:
    case 121:
      return 128;
    default:
      return std::nullopt;
  }
}

std::optional<uint32_t> sms_of(const NvmlAnswer<unsigned>& cores, const NvmlCapability& cc) {
  const auto each = cores_per_sm(cc);
  if (!cores || !each || cores.value < *each) return std::nullopt;
  return cores.value / *each;
}

// The node of the CPUs next to a PCI device. NVML's own call of that name tells something else: the
// node that the GPU's memory is, where it is one.
int numa_of(const std::string& sysfs, std::string pci) {
  std::transform(pci.begin(), pci.end(), pci.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const size_t colon = pci.find(':');
  if (colon == std::string::npos) return -1;
  if (colon > 4) pci.erase(0, colon - 4);  // sysfs writes domains with four digits
  std::ifstream file(sysfs + "/bus/pci/devices/" + pci + "/numa_node");
  int node = -1;
  return file >> node && node >= 0 ? node : -1;
}

std::optional<ComputeMode> compute_mode_of(const NvmlAnswer<unsigned>& mode) {
  if (!mode || mode.value > static_cast<unsigned>(ComputeMode::exclusive_process)) return {};
  return static_cast<ComputeMode>(mode.value);
}

std::string label(unsigned index, const std::string& name) {
  return "GPU " + std::to_string(index) + (name.empty() ? "" : " (" + name + ")");
}

Answer answer_of(Code code) {
  if (is_loss(code)) return Answer::lost;
  switch (code) {
    case Code::ok:
    case Code::not_supported:
    case Code::function_not_found:
    case Code::argument_version:
    case Code::no_permission:
      return Answer::ok;  // the value is absent, the device is there
    case Code::driver_not_loaded:
    case Code::blocked:
    case Code::version_mismatch:
      return Answer::withdrawn;
    default:
      return Answer::failed;
  }
}

class Lister {
 public:
  Lister(const Nvml& nvml, const std::string& sysfs) : nvml_(nvml), sysfs_(sysfs) {}

  NvmlList list() {
    const auto count = nvml_.count();
    if (!count) note("NVML does not list its GPUs: ", count.code);
    for (unsigned i = 0; count && i < count.value; ++i) add(i);
    return std::move(list_);
  }

 private:
  void note(std::string text) { list_.notes.push_back(std::move(text)); }
  void note(std::string text, Code code) { note(std::move(text += nvml_text(code))); }

  void add(unsigned index) {
    const auto handle = nvml_.device(index);
    if (!handle) return note(label(index, "") + ": ", handle.code);
    const auto uuid = nvml_.uuid(handle.value);
    Device d;
    d.name = nvml_.name(handle.value).optional().value_or("");
    if (!uuid) return note(label(index, d.name) + " does not tell its UUID: ", uuid.code);
    d.uuid = uuid.value;
    d.compute_mode = compute_mode_of(nvml_.compute_mode(handle.value));
    if (d.compute_mode == ComputeMode::prohibited)
      return note(label(index, d.name) + " is in compute mode PROHIBITED: not offered");
    describe(d, handle.value);
    if (const auto mig = nvml_.has_mig(handle.value); mig && mig.value)
      return add_mig(index, d, handle.value);
    d.sms = sms_of(nvml_.cores(handle.value), {d.cc_major.value_or(0), d.cc_minor.value_or(0)});
    finish(std::move(d), handle.value, handle.value);
  }

  void describe(Device& d, Nvml::Handle gpu) {
    if (const auto cc = nvml_.capability(gpu)) {
      d.cc_major = cc.value.major;
      d.cc_minor = cc.value.minor;
    }
    d.pci = nvml_.pci(gpu).optional().value_or("");
    d.numa = numa_of(sysfs_, d.pci);
  }

  // The GPU itself can not be used any more, only its parts.
  void add_mig(unsigned index, const Device& gpu, Nvml::Handle handle) {
    const auto count = nvml_.mig_count_max(handle);
    size_t found = 0;
    for (unsigned i = 0; count && i < count.value; ++i) {
      const auto mig = nvml_.mig_device(handle, i);
      if (mig.code == Code::not_found) continue;  // a place without an instance
      if (!mig) {
        note(label(index, gpu.name) + ", MIG device " + std::to_string(i) + ": ", mig.code);
        continue;
      }
      found += add_mig_device(gpu, mig.value, handle) ? 1 : 0;
    }
    if (found == 0) note(label(index, gpu.name) + " is in MIG mode and has no MIG devices");
  }

  bool add_mig_device(const Device& gpu, Nvml::Handle mig, Nvml::Handle handle) {
    const auto uuid = nvml_.uuid(mig);
    if (!uuid) {
      note("a MIG device of " + gpu.uuid + " does not tell its UUID: ", uuid.code);
      return false;
    }
    Device d = gpu;
    d.uuid = uuid.value;
    d.kind = Kind::mig;
    d.parent = gpu.uuid;
    d.name = nvml_.name(mig).optional().value_or(gpu.name);
    d.enforcement = Enforcement::mig;
    d.gpu_instance = nvml_.gpu_instance(mig).optional();
    d.compute_instance = nvml_.compute_instance(mig).optional();
    if (const auto attributes = nvml_.mig_attributes(mig)) {
      d.sms = attributes.value.sms;
      d.memory_mib = attributes.value.memory_mib;
    }
    finish(std::move(d), mig, handle);
    return true;
  }

  void finish(Device d, Nvml::Handle handle, Nvml::Handle gpu) {
    if (list_.devices.size() == kDevicesMax) return note(d.uuid + ": more devices than dray takes");
    NvmlDevice device{std::move(d), handle, gpu};
    HealthBook book({device.device});
    book.on(std::vector<Reading>{read_device(nvml_, device, true)});
    device.device = book.devices().front();
    list_.devices.push_back(std::move(device));
  }

  const Nvml& nvml_;
  const std::string& sysfs_;
  NvmlList list_;
};
}  // namespace

NvmlList list_devices(const Nvml& nvml, const std::string& sysfs) {
  return Lister(nvml, sysfs).list();
}

Reading read_device(const Nvml& nvml, const NvmlDevice& device, bool is_full) {
  Reading r;
  r.uuid = device.device.uuid;
  const auto judge = [&r](Code code) {
    const Answer answer = answer_of(code);
    if (answer <= r.answer) return;
    r.answer = answer;
    r.reason = nvml_text(code);
  };
  const auto memory = nvml.memory(device.handle);
  judge(memory.code);
  if (memory) {
    r.memory_mib = memory.value.total_mib;
    r.free_mib = memory.value.free_mib;
  }
  const auto utilisation = nvml.utilisation(device.handle);  // not supported by MIG devices
  judge(utilisation.code);
  r.utilisation = utilisation.optional();
  if (!is_full) return r;
  const auto throttle = nvml.throttle(device.gpu);
  judge(throttle.code);
  r.throttle = throttle.optional();
  const auto temperature = nvml.temperature(device.gpu);
  judge(temperature.code);
  r.temperature_c = temperature.optional();
  return r;
}

}  // namespace dray::gpu
