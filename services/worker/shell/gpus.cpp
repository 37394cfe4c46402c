// Detection by the settings, locks, and readings on their way to the loop.
#include "services/worker/shell/gpus.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "common/base/limits.h"
#include "common/service/log.h"

namespace dray::worker {
namespace {
constexpr std::string_view kFakePrefix = "fake:";
constexpr size_t kReasonMax = 128;  // all devices travel in one head
static_assert(static_cast<int>(gpu::Health::lost) == 3);  // as core/node.cpp reads it
static_assert(static_cast<int>(gpu::Kind::fake) == 2);  // as core/gpu_environment.cpp does
static_assert(static_cast<int>(gpu::Enforcement::mps) == 2);

bool is_chosen(const gpu::Device& device, const std::vector<std::string>& filter) {
  const auto matches = [&](const std::string& item) {
    return device.uuid.starts_with(item) || (!device.parent.empty() && device.parent == item);
  };
  return filter.empty() || std::any_of(filter.begin(), filter.end(), matches);
}

// What a router must know: not heat, load and free memory.
bool is_same_offer(const DeviceInfo& a, const DeviceInfo& b) {
  return a.uuid == b.uuid && a.health == b.health && a.reason == b.reason && a.units == b.units &&
         a.memory_mib == b.memory_mib;
}

bool is_same_offer(const std::vector<DeviceInfo>& a, const std::vector<DeviceInfo>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const DeviceInfo& x, const DeviceInfo& y) { return is_same_offer(x, y); });
}

}  // namespace

DeviceInfo to_info(const gpu::Device& device) {
  DeviceInfo info;
  info.uuid = device.uuid;
  info.kind = static_cast<uint8_t>(device.kind);
  info.health = static_cast<uint8_t>(device.health);
  info.enforcement = static_cast<uint8_t>(device.enforcement);
  info.reason = device.health_reason.substr(0, kReasonMax);
  info.name = device.name.substr(0, kNameBytesMax);
  info.units = gpu::takes_work(device) ? 10'000 : 0;
  info.memory_mib = gpu::capacity_mib(device);
  info.sms = device.sms.value_or(0);
  info.cc_major = device.cc_major.value_or(0);
  info.cc_minor = device.cc_minor.value_or(0);
  info.numa = device.numa;
  info.throttle = device.throttle.value_or(0);
  info.utilisation = device.utilisation.value_or(0);
  info.temperature_c = device.temperature_c.value_or(0);
  if (device.memory_mib && device.free_mib && *device.free_mib <= *device.memory_mib)
    info.used_mib = *device.memory_mib - *device.free_mib;
  info.group = device.numa < 0 ? 0 : static_cast<uint32_t>(device.numa);
  return info;
}

Gpus::~Gpus() { stop(); }

Status Gpus::find(const Config& config) {
  const std::string& setting = config.text("worker.gpus");
  if (setting == "none") return {};
  gpu::DetectOptions options;
  options.node = config.text("worker.name");
  options.nvml_library = config.text("worker.nvml_library");
  if (setting.starts_with(kFakePrefix))
    options.fake_gpus = setting.substr(kFakePrefix.size());
  else if (setting != "auto")
    return make_error(Errc::config, "worker.gpus '" + setting.substr(0, 64) +
                                        "' is none of auto, none, fake:2x24GiB");
  if (setting == kFakePrefix)
    return make_error(Errc::config, "worker.gpus: which fake GPUs? such as fake:2x24GiB");
  auto found = gpu::detect(options);
  if (!found) return make_error(Errc::config, "worker.gpus: " + found.error().detail);
  found_ = std::move(*found);
  DRAY_TRY(choose(config));
  DRAY_TRY(lock(config));
  report();
  told_ = devices();
  return {};
}

Status Gpus::choose(const Config& config) {
  const std::vector<std::string>& filter = config.strings("worker.gpu_filter");
  for (const std::string& item : filter)
    if (std::none_of(found_.devices.begin(), found_.devices.end(),
                     [&](const gpu::Device& d) { return is_chosen(d, {item}); }))
      found_.notes.push_back("worker.gpu_filter: no GPU is called " + item +
                             "; see: dray gpus --detect");
  std::erase_if(found_.devices, [&](const gpu::Device& d) { return !is_chosen(d, filter); });
  return {};
}

// A device that two workers offer would be given away twice.
Status Gpus::lock(const Config& config) {
  namespace fs = std::filesystem;
  const fs::path dir = fs::path(config.dir()) / "run";
  std::error_code ec;
  fs::create_directories(dir, ec);
  std::vector<gpu::Device> ours;
  for (gpu::Device& device : found_.devices) {
    if (device.kind == gpu::Kind::fake) {
      ours.push_back(std::move(device));
      continue;
    }
    std::string name = device.uuid;
    std::replace(name.begin(), name.end(), '/', '_');
    const std::string path = dir / ("gpu-" + name + ".lock");
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return make_error(Errc::config, "cannot open " + path);
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      locks_.push_back(fd);
      ours.push_back(std::move(device));
      continue;
    }
    ::close(fd);
    found_.notes.push_back(device.uuid +
                           " is offered by another worker of this folder; worker.gpu_filter "
                           "divides the GPUs");
  }
  found_.devices = std::move(ours);
  return {};
}

void Gpus::report() const {
  const auto level = found_.source == gpu::Source::none ? LogLevel::debug : LogLevel::info;
  log_event(level, "gpus",
            {{"source", gpu::source_name(found_.source)}, {"devices", found_.devices.size()}});
  for (const std::string& note : found_.notes) log_event(level, "gpus", {{"note", note}});
  for (const gpu::Device& d : found_.devices) {
    log_event(LogLevel::info, "gpu", {{"uuid", d.uuid}, {"name", d.name}});
    if (!gpu::takes_fractions(d))
      log_event(LogLevel::warn, "gpu",
                {{"uuid", d.uuid},
                 {"note",
                  "its compute mode lets one process in, so a second task that has a share "
                  "of it will fail; set the default mode or run MPS"}});
  }
}

void Gpus::watch(const Config& config, std::function<void()> wake) {
  if (found_.source != gpu::Source::nvml || found_.devices.empty()) return;
  gpu::WatchOptions options;
  options.nvml_library = config.text("worker.nvml_library");
  const Status started =
      watch_.start(found_, options, [this, wake = std::move(wake)](const gpu::Changes& changes) {
        for (const gpu::Event& e : changes.events)
          log_event(e.is_app_fault ? LogLevel::info : LogLevel::warn, "gpu_event",
                    {{"kind", gpu::event_name(e.kind)}, {"uuid", e.uuid}, {"text", e.text}});
        changed_.store(true);
        wake();
      });
  is_watched_ = started.has_value();
  if (!started)
    log_event(LogLevel::warn, "gpus", {{"note", "not watched: " + started.error().detail}});
  else if (!watch_.hears_xids())
    log_event(LogLevel::warn, "gpus",
              {{"note", "this driver tells no XIDs here; a lost GPU is noticed by its readings"}});
}

std::vector<DeviceInfo> Gpus::devices() const {
  std::vector<DeviceInfo> list;
  for (const gpu::Device& d : is_watched_ ? watch_.devices() : found_.devices)
    list.push_back(to_info(d));
  return list;
}

std::optional<Gpus::News> Gpus::poll(Time now) {
  if (!is_watched_) return std::nullopt;
  const bool changed = changed_.exchange(false);
  if (!changed && now < next_refresh_) return std::nullopt;
  next_refresh_ = now + kRefresh;
  News news{devices(), false};
  if (news.devices == told_) return std::nullopt;
  news.for_routers = !is_same_offer(news.devices, told_);
  told_ = news.devices;
  return news;
}

}  // namespace dray::worker
