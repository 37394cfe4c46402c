// A library that looks like NVML and plays a scenario, so that the path from dlopen to the decision
// is tested without a GPU. Built twice: with FAKE_NVML_OLD it lacks what an old driver lacks.
#include <algorithm>
#include <cstring>
#include <string>

#include "tests/fake_nvml/scenario.h"

namespace {
using namespace fake_nvml;
using abi::Code;
using abi::DeviceHandle;

constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr unsigned kMigPlaces = 7;

Code write_text(const std::string& text, char* out, unsigned size) {
  if (text.size() >= size) return Code::insufficient_size;
  std::memcpy(out, text.c_str(), text.size() + 1);
  return Code::ok;
}

// Enters a call about one device and lets `f` fill the answer.
template <class F>
Code ask(const char* function, DeviceHandle handle, F f) {
  Scenario& s = scenario();
  std::lock_guard lock(s.mutex);
  if (!s.is_open()) return Code::uninitialised;
  const Code code = s.enter(function, handle);
  if (code != Code::ok) return code;
  FakeDevice* device = s.find(handle);
  return device == nullptr ? Code{2} : f(*device);
}

// As ask(), for a number that the device may not have.
template <class T>
Code ask_number(const char* function, DeviceHandle handle, const char* field, T* out) {
  return ask(function, handle, [&](const FakeDevice& d) {
    if (!d.has(field)) return Code::not_supported;
    *out = static_cast<T>(d.number(field));
    return Code::ok;
  });
}

template <class F>
Code ask_machine(const char* function, F f) {
  Scenario& s = scenario();
  std::lock_guard lock(s.mutex);
  if (!s.is_open()) return Code::uninitialised;
  const Code code = s.enter(function);
  return code == Code::ok ? f(s) : code;
}
}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// For tests: how often a function was called since the init; "" for all of them together.
EXPORT uint64_t fake_nvml_calls(const char* function) {
  Scenario& s = scenario();
  std::lock_guard lock(s.mutex);
  if (*function != '\0') return s.calls[function];
  uint64_t sum = 0;
  for (const auto& [name, count] : s.calls) sum += count;
  return sum;
}

EXPORT Code nvmlInit_v2() {
  Scenario& s = scenario();
  std::lock_guard lock(s.mutex);
  s.init();
  const Code code = s.enter("nvmlInit_v2");
  if (code != Code::ok) s.close();
  return code;
}
EXPORT Code nvmlShutdown() {
  return ask_machine("nvmlShutdown", [](Scenario& s) {
    s.close();
    return Code::ok;
  });
}
EXPORT Code nvmlSystemGetDriverVersion(char* out, unsigned size) {
  return ask_machine("nvmlSystemGetDriverVersion",
                     [&](Scenario& s) { return write_text(s.driver, out, size); });
}
EXPORT Code nvmlSystemGetCudaDriverVersion_v2(int* out) {
  return ask_machine("nvmlSystemGetCudaDriverVersion_v2", [&](Scenario& s) {
    *out = s.cuda;
    return Code::ok;
  });
}
EXPORT Code nvmlDeviceGetCount_v2(unsigned* out) {
  return ask_machine("nvmlDeviceGetCount_v2", [&](Scenario& s) {
    *out = s.gpu_count();
    return Code::ok;
  });
}
EXPORT Code nvmlDeviceGetHandleByIndex_v2(unsigned index, DeviceHandle* out) {
  return ask_machine("nvmlDeviceGetHandleByIndex_v2", [&](Scenario& s) {
    *out = s.gpu(index);
    if (*out == nullptr) return Code{2};
    return s.enter("handle", *out);  // "fail handle CODE device=N"
  });
}

EXPORT Code nvmlDeviceGetUUID(DeviceHandle h, char* out, unsigned size) {
  return ask("nvmlDeviceGetUUID", h,
             [&](const FakeDevice& d) { return write_text(d.text("uuid"), out, size); });
}
EXPORT Code nvmlDeviceGetName(DeviceHandle h, char* out, unsigned size) {
  return ask("nvmlDeviceGetName", h,
             [&](const FakeDevice& d) { return write_text(d.text("name"), out, size); });
}
EXPORT Code nvmlDeviceGetPciInfo_v3(DeviceHandle h, abi::Pci* out) {
  return ask("nvmlDeviceGetPciInfo_v3", h, [&](const FakeDevice& d) {
    return write_text(d.text("pci"), out->bus_id, sizeof out->bus_id);
  });
}
EXPORT Code nvmlDeviceGetCudaComputeCapability(DeviceHandle h, int* major, int* minor) {
  return ask("nvmlDeviceGetCudaComputeCapability", h, [&](const FakeDevice& d) {
    const std::string cc = d.text("cc");
    if (cc.empty()) return Code::not_supported;
    *major = std::stoi(cc);
    *minor = std::stoi(cc.substr(cc.find('.') + 1));
    return Code::ok;
  });
}
// As the real one: v1 counts what the driver keeps as used.
EXPORT Code nvmlDeviceGetMemoryInfo(DeviceHandle h, abi::MemoryV1* out) {
  return ask("nvmlDeviceGetMemoryInfo", h, [&](const FakeDevice& d) {
    out->total = d.number("memory") * kMib;
    out->free = d.number("free") * kMib;
    out->used = out->total - out->free;
    return Code::ok;
  });
}
EXPORT Code nvmlDeviceGetUtilizationRates(DeviceHandle h, abi::Utilisation* out) {
  return ask_number("nvmlDeviceGetUtilizationRates", h, "busy", &out->gpu);
}
EXPORT Code nvmlDeviceGetComputeMode(DeviceHandle h, unsigned* out) {
  return ask_number("nvmlDeviceGetComputeMode", h, "mode", out);
}
EXPORT Code nvmlDeviceGetTemperature(DeviceHandle h, unsigned, unsigned* out) {
  return ask_number("nvmlDeviceGetTemperature", h, "heat", out);
}

EXPORT Code nvmlEventSetCreate(abi::EventSet* out) {
  return ask_machine("nvmlEventSetCreate", [&](Scenario& s) {
    *out = reinterpret_cast<abi::EventSet>(&s);
    return Code::ok;
  });
}
EXPORT Code nvmlEventSetFree(abi::EventSet) {
  return ask_machine("nvmlEventSetFree", [](Scenario& s) {
    s.drop_events();
    return Code::ok;
  });
}
EXPORT Code nvmlDeviceGetSupportedEventTypes(DeviceHandle h, unsigned long long* out) {
  return ask("nvmlDeviceGetSupportedEventTypes", h, [&](const FakeDevice& d) {
    *out = d.number("events", 1) != 0 ? abi::kEventXid | 0x10 : 0;
    return Code::ok;
  });
}
EXPORT Code nvmlDeviceRegisterEvents(DeviceHandle h, unsigned long long, abi::EventSet) {
  return ask("nvmlDeviceRegisterEvents", h, [&](const FakeDevice& d) {
    if (d.is_mig) return Code::not_supported;
    scenario().add_to_events(h);
    return Code::ok;
  });
}

#ifdef FAKE_NVML_OLD
EXPORT Code nvmlDeviceGetCurrentClocksThrottleReasons(DeviceHandle h, unsigned long long* out) {
  return ask_number("nvmlDeviceGetCurrentClocksThrottleReasons", h, "throttle", out);
}
#else
EXPORT Code nvmlDeviceGetNumGpuCores(DeviceHandle h, unsigned* out) {
  return ask_number("nvmlDeviceGetNumGpuCores", h, "cores", out);
}
EXPORT Code nvmlDeviceGetMemoryInfo_v2(DeviceHandle h, abi::MemoryV2* out) {
  return ask("nvmlDeviceGetMemoryInfo_v2", h, [&](const FakeDevice& d) {
    if (out->version != abi::version_word<abi::MemoryV2>(2)) return Code::argument_version;
    out->total = d.number("memory") * kMib;
    out->free = d.number("free") * kMib;
    out->reserved = d.number("reserved") * kMib;
    out->used = out->total - out->free - out->reserved;
    return Code::ok;
  });
}
EXPORT Code nvmlDeviceGetCurrentClocksEventReasons(DeviceHandle h, unsigned long long* out) {
  return ask_number("nvmlDeviceGetCurrentClocksEventReasons", h, "throttle", out);
}
EXPORT Code nvmlDeviceGetTemperatureV(DeviceHandle h, abi::Temperature* out) {
  if (out->version != abi::version_word<abi::Temperature>(1)) return Code::argument_version;
  return ask_number("nvmlDeviceGetTemperatureV", h, "heat", &out->celsius);
}
EXPORT Code nvmlDeviceGetMigMode(DeviceHandle h, unsigned* now, unsigned* later) {
  *later = 0;
  return ask_number("nvmlDeviceGetMigMode", h, "mig", now);
}
EXPORT Code nvmlDeviceGetMaxMigDeviceCount(DeviceHandle h, unsigned* out) {
  return ask("nvmlDeviceGetMaxMigDeviceCount", h, [&](const FakeDevice& d) {
    *out = d.has("mig") ? kMigPlaces : 0;
    return Code::ok;
  });
}
// The first place is always empty.
EXPORT Code nvmlDeviceGetMigDeviceHandleByIndex(DeviceHandle h, unsigned index, DeviceHandle* out) {
  return ask("nvmlDeviceGetMigDeviceHandleByIndex", h, [&](const FakeDevice&) {
    if (index > 0) *out = scenario().mig(h, index - 1);
    return index == 0 || *out == nullptr ? Code::not_found : Code::ok;
  });
}
EXPORT Code nvmlDeviceGetAttributes_v2(DeviceHandle h, abi::MigAttributes* out) {
  return ask("nvmlDeviceGetAttributes_v2", h, [&](const FakeDevice& d) {
    if (!d.is_mig) return Code::not_supported;
    *out = {};
    out->sms = static_cast<uint32_t>(d.number("sms"));
    out->memory_mib = d.number("memory");
    return Code::ok;
  });
}
EXPORT Code nvmlDeviceGetGpuInstanceId(DeviceHandle h, unsigned* out) {
  return ask_number("nvmlDeviceGetGpuInstanceId", h, "gi", out);
}
EXPORT Code nvmlDeviceGetComputeInstanceId(DeviceHandle h, unsigned* out) {
  return ask_number("nvmlDeviceGetComputeInstanceId", h, "ci", out);
}
EXPORT Code nvmlEventSetWait_v2(abi::EventSet, abi::EventData* out, unsigned timeout_ms) {
  return scenario().wait(*out, timeout_ms);
}
#endif
