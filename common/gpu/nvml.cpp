// Nvml: dlopen, the table of functions, and one small wrapper for each call.
#include "common/gpu/nvml.h"

#include <dlfcn.h>

#include <bit>
#include <string_view>
#include <utility>

namespace dray::gpu {
namespace {
using nvml::Code;

constexpr uint64_t kMib = uint64_t{1} << 20;

// Calls `f` if this driver has it.
template <class F, class... Args>
Code call(F* f, Args... args) {
  return f == nullptr ? Code::function_not_found : f(args...);
}

template <class F>
void find(void* library, F*& f, const char* name) {
  f = std::bit_cast<F*>(dlsym(library, name));
}

void find_all(void* library, nvml::Functions& f) {
  find(library, f.init, "nvmlInit_v2");
  find(library, f.shutdown, "nvmlShutdown");
  find(library, f.driver_version, "nvmlSystemGetDriverVersion");
  find(library, f.cuda_version, "nvmlSystemGetCudaDriverVersion_v2");
  find(library, f.count, "nvmlDeviceGetCount_v2");
  find(library, f.handle_by_index, "nvmlDeviceGetHandleByIndex_v2");
  find(library, f.uuid, "nvmlDeviceGetUUID");
  find(library, f.name, "nvmlDeviceGetName");
  find(library, f.pci, "nvmlDeviceGetPciInfo_v3");
  find(library, f.compute_capability, "nvmlDeviceGetCudaComputeCapability");
  find(library, f.cores, "nvmlDeviceGetNumGpuCores");
  find(library, f.memory_v1, "nvmlDeviceGetMemoryInfo");
  find(library, f.memory_v2, "nvmlDeviceGetMemoryInfo_v2");
  find(library, f.utilisation, "nvmlDeviceGetUtilizationRates");
  find(library, f.compute_mode, "nvmlDeviceGetComputeMode");
  find(library, f.clock_reasons, "nvmlDeviceGetCurrentClocksEventReasons");
  if (f.clock_reasons == nullptr)  // its name before the driver series 535
    find(library, f.clock_reasons, "nvmlDeviceGetCurrentClocksThrottleReasons");
  find(library, f.temperature, "nvmlDeviceGetTemperatureV");
  find(library, f.temperature_plain, "nvmlDeviceGetTemperature");
  find(library, f.mig_mode, "nvmlDeviceGetMigMode");
  find(library, f.mig_count_max, "nvmlDeviceGetMaxMigDeviceCount");
  find(library, f.mig_by_index, "nvmlDeviceGetMigDeviceHandleByIndex");
  find(library, f.mig_attributes, "nvmlDeviceGetAttributes_v2");
  find(library, f.gpu_instance, "nvmlDeviceGetGpuInstanceId");
  find(library, f.compute_instance, "nvmlDeviceGetComputeInstanceId");
  find(library, f.event_set_create, "nvmlEventSetCreate");
  find(library, f.event_set_free, "nvmlEventSetFree");
  find(library, f.event_types, "nvmlDeviceGetSupportedEventTypes");
  find(library, f.register_events, "nvmlDeviceRegisterEvents");
  find(library, f.event_wait, "nvmlEventSetWait_v2");
}

// A call that fills a text of at most N bytes.
template <size_t N, class F, class... Args>
NvmlAnswer<std::string> text_of(F* f, Args... args) {
  char text[N + 1] = {};
  const Code code = call(f, args..., text, unsigned{N});
  return {code, std::string(text)};
}

template <class T, class F, class... Args>
NvmlAnswer<T> value_of(F* f, Args... args) {
  NvmlAnswer<T> answer;
  answer.code = call(f, args..., &answer.value);
  return answer;
}

// What a driver says that does not have the function, or not for this struct or device.
bool is_missing(Code code) {
  return code == Code::function_not_found || code == Code::not_supported ||
         code == Code::argument_version;
}

Error init_error(const std::string& library, Code code) {
  Errc errc = Errc::unavailable;
  if (code == Code::version_mismatch) errc = Errc::bad_version;
  if (code == Code::no_permission || code == Code::blocked) errc = Errc::denied;
  return make_error(errc, library + ": " + std::string(nvml_text(code)));
}
}  // namespace

std::string_view nvml_text(Code code) {
  switch (code) {
    case Code::ok:
      return "ok";
    case Code::uninitialised:
      return "the library is not initialised";
    case Code::not_supported:
      return "not supported by this device";
    case Code::no_permission:
      return "no permission to use the GPUs";
    case Code::not_found:
      return "not found";
    case Code::insufficient_size:
      return "a buffer was too small";
    case Code::driver_not_loaded:
      return "the NVIDIA driver is not loaded";
    case Code::timeout:
      return "nothing came in time";
    case Code::library_not_found:
      return "a library of the driver is missing";
    case Code::function_not_found:
      return "the driver is too old for this function";
    case Code::gpu_lost:
      return "the GPU is lost (fallen off the bus)";
    case Code::reset_required:
      return "the GPU needs a reset";
    case Code::blocked:
      return "the GPU is blocked by the operating system or a cgroup";
    case Code::version_mismatch:
      return "driver and library have different versions (an upgrade is under way; reboot, or load "
             "the new driver)";
    case Code::argument_version:
      return "the driver does not know this version of a struct";
    case Code::unknown:
      break;
  }
  return "an error inside the driver";
}

Result<std::unique_ptr<Nvml>> Nvml::open(const std::string& library) {
  std::unique_ptr<Nvml> nvml(new Nvml);
  DRAY_TRY(nvml->load(library));
  const Code code = call(nvml->f_.init);
  if (code != Code::ok) return init_error(library, code);
  nvml->initialised_ = true;
  return nvml;
}

Result<Unit> Nvml::load(const std::string& library) {
  library_ = dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library_ == nullptr) {
    const char* reason = dlerror();
    return make_error(Errc::not_found,
                      reason != nullptr ? reason : library + ": can not be opened");
  }
  find_all(library_, f_);
  if (f_.init == nullptr || f_.count == nullptr || f_.handle_by_index == nullptr ||
      f_.uuid == nullptr)
    return make_error(Errc::unavailable, library + ": is not NVML, or too old");
  return {};
}

Nvml::~Nvml() {
  if (events_ != nullptr) call(f_.event_set_free, events_);
  if (initialised_) call(f_.shutdown);
  if (library_ != nullptr) dlclose(library_);
}

NvmlAnswer<std::string> Nvml::driver_version() const {
  return text_of<nvml::kVersionBytes>(f_.driver_version);
}

NvmlAnswer<std::string> Nvml::cuda_version() const {
  const auto v = value_of<int>(f_.cuda_version);
  return {v.code, std::to_string(v.value / 1000) + "." + std::to_string(v.value % 1000 / 10)};
}

NvmlAnswer<unsigned> Nvml::count() const { return value_of<unsigned>(f_.count); }
NvmlAnswer<Nvml::Handle> Nvml::device(unsigned index) const {
  return value_of<Handle>(f_.handle_by_index, index);
}
NvmlAnswer<std::string> Nvml::uuid(Handle device) const {
  return text_of<nvml::kUuidBytes>(f_.uuid, device);
}
NvmlAnswer<std::string> Nvml::name(Handle device) const {
  return text_of<nvml::kNameBytes>(f_.name, device);
}

NvmlAnswer<std::string> Nvml::pci(Handle device) const {
  const auto pci = value_of<nvml::Pci>(f_.pci, device);
  const std::string_view text(pci.value.bus_id, sizeof pci.value.bus_id);
  return {pci.code, std::string(text.substr(0, text.find('\0')))};
}

NvmlAnswer<NvmlCapability> Nvml::capability(Handle device) const {
  int major = 0, minor = 0;
  const Code code = call(f_.compute_capability, device, &major, &minor);
  return {code, {static_cast<uint32_t>(major), static_cast<uint32_t>(minor)}};
}

NvmlAnswer<unsigned> Nvml::cores(Handle device) const {
  return value_of<unsigned>(f_.cores, device);
}

// `free` only: headers disagree on whether v2's `used` has the driver's reserve in it.
NvmlAnswer<NvmlMemory> Nvml::memory(Handle device) const {
  nvml::MemoryV2 v2{};
  v2.version = nvml::version_word<nvml::MemoryV2>(2);
  const Code code = call(f_.memory_v2, device, &v2);
  if (!is_missing(code)) return {code, {v2.total / kMib, v2.free / kMib}};
  const auto v1 = value_of<nvml::MemoryV1>(f_.memory_v1, device);
  return {v1.code, {v1.value.total / kMib, v1.value.free / kMib}};
}

NvmlAnswer<unsigned> Nvml::utilisation(Handle device) const {
  const auto both = value_of<nvml::Utilisation>(f_.utilisation, device);
  return {both.code, both.value.gpu};
}

NvmlAnswer<unsigned> Nvml::compute_mode(Handle device) const {
  return value_of<unsigned>(f_.compute_mode, device);
}

NvmlAnswer<uint64_t> Nvml::throttle(Handle device) const {
  const auto bits = value_of<unsigned long long>(f_.clock_reasons, device);
  return {bits.code, bits.value};
}

NvmlAnswer<unsigned> Nvml::temperature(Handle device) const {
  nvml::Temperature t{nvml::version_word<nvml::Temperature>(1), nvml::kSensorGpu, 0};
  const Code code = call(f_.temperature, device, &t);
  if (is_missing(code)) return value_of<unsigned>(f_.temperature_plain, device, nvml::kSensorGpu);
  return {code, t.celsius < 0 ? 0U : static_cast<unsigned>(t.celsius)};
}

NvmlAnswer<bool> Nvml::has_mig(Handle device) const {
  unsigned now = 0, later = 0;
  const Code code = call(f_.mig_mode, device, &now, &later);
  return {code, now == 1};
}

NvmlAnswer<unsigned> Nvml::mig_count_max(Handle device) const {
  return value_of<unsigned>(f_.mig_count_max, device);
}
NvmlAnswer<Nvml::Handle> Nvml::mig_device(Handle device, unsigned index) const {
  return value_of<Handle>(f_.mig_by_index, device, index);
}
NvmlAnswer<nvml::MigAttributes> Nvml::mig_attributes(Handle mig) const {
  return value_of<nvml::MigAttributes>(f_.mig_attributes, mig);
}
NvmlAnswer<unsigned> Nvml::gpu_instance(Handle mig) const {
  return value_of<unsigned>(f_.gpu_instance, mig);
}
NvmlAnswer<unsigned> Nvml::compute_instance(Handle mig) const {
  return value_of<unsigned>(f_.compute_instance, mig);
}

Code Nvml::open_events() {
  if (events_ != nullptr) call(f_.event_set_free, std::exchange(events_, nullptr));
  if (f_.event_wait == nullptr) return Code::function_not_found;
  return call(f_.event_set_create, &events_);
}

Code Nvml::watch(Handle device) {
  unsigned long long types = 0;
  const Code code = call(f_.event_types, device, &types);
  if (code != Code::ok) return code;
  if ((types & nvml::kEventXid) == 0) return Code::not_supported;
  return call(f_.register_events, device, types & nvml::kEventXid, events_);
}

NvmlAnswer<NvmlEvent> Nvml::wait_event(unsigned timeout_ms) const {
  nvml::EventData data{};
  const Code code = call(f_.event_wait, events_, &data, timeout_ms);
  NvmlEvent event{data.device, data.type, data.data, {}, {}};
  if (data.gpu_instance != nvml::kNoInstance) event.gpu_instance = data.gpu_instance;
  if (data.compute_instance != nvml::kNoInstance) event.compute_instance = data.compute_instance;
  return {code, event};
}

}  // namespace dray::gpu
