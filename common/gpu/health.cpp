// HealthBook: the rules.
#include "common/gpu/health.h"

#include <algorithm>
#include <array>
#include <utility>

namespace dray::gpu {
namespace {
constexpr int kFailuresMax = 3;  // readings in a row that failed: the device does not answer
constexpr int kAnswersMin = 3;  // readings in a row that make a lost device come back
constexpr uint64_t kXidOffBus = 79;
// Idle and configured clocks come and go with every kernel and slow nothing down.
constexpr uint64_t kThrottleTold = ~uint64_t{kThrottleIdle | kThrottleAppClocks};

// What was not read stays as it was.
void take_values(Device& device, const Reading& reading) {
  if (reading.memory_mib) device.memory_mib = reading.memory_mib;
  if (reading.free_mib) device.free_mib = reading.free_mib;
  if (reading.throttle) device.throttle = reading.throttle;
  if (reading.utilisation) device.utilisation = reading.utilisation;
  if (reading.temperature_c) device.temperature_c = reading.temperature_c;
}

bool is_meant(const Device& device, const Xid& xid) {
  if (xid.gpu.empty()) return true;
  if (device.kind != Kind::mig) return device.uuid == xid.gpu;
  if (device.parent != xid.gpu) return false;
  if (xid.gpu_instance && device.gpu_instance && *xid.gpu_instance != *device.gpu_instance)
    return false;
  return !xid.compute_instance || !device.compute_instance ||
         *xid.compute_instance == *device.compute_instance;
}

// More than 1 % of the device's memory. Against what was told, so that a slow drift adds up.
bool has_moved(const Device& now, const Device& told) {
  if (now.free_mib.has_value() != told.free_mib.has_value()) return true;
  if (!now.free_mib) return false;
  const uint64_t a = *now.free_mib, b = *told.free_mib;
  return (a > b ? a - b : b - a) * 100 > now.memory_mib.value_or(0);
}

bool is_news(const Device& now, const Device& told) {
  const auto slow = [](const Device& d) { return d.throttle.value_or(0) & kThrottleTold; };
  return now.health != told.health || now.health_reason != told.health_reason ||
         now.memory_mib != told.memory_mib || has_moved(now, told) || slow(now) != slow(told);
}
}  // namespace

bool XidPolicy::is_app_fault(uint64_t xid) const {
  // A program's illegal access, push buffer, page fault, ended process, video and context errors.
  constexpr std::array<uint64_t, 6> kAppFaults{13, 31, 43, 45, 68, 109};
  if (also_hardware.contains(xid)) return false;
  return also_app.contains(xid) || std::count(kAppFaults.begin(), kAppFaults.end(), xid) > 0;
}

std::string_view event_name(EventKind kind) {
  constexpr std::array<std::string_view, 3> kNames{"xid", "lost", "back"};
  return kNames[static_cast<size_t>(kind)];
}

HealthBook::HealthBook(std::vector<Device> devices, XidPolicy policy) : policy_(std::move(policy)) {
  for (Device& device : devices) {
    Entry entry{device, device, Answer::ok, device.health_reason, 0, 0, 0};
    if (device.health == Health::lost) entry.answer = Answer::lost;
    if (device.health == Health::drain) entry.answer = Answer::withdrawn;
    entries_.push_back(std::move(entry));
  }
}

Changes HealthBook::on(const std::vector<Reading>& readings) {
  Changes out;
  for (const Reading& reading : readings) {
    const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const Entry& e) { return e.now.uuid == reading.uuid; });
    if (entry == entries_.end()) continue;
    take(*entry, reading);
    judge(*entry, out);
    tell(*entry, out);
  }
  return out;
}

void HealthBook::take(Entry& entry, const Reading& reading) {
  take_values(entry.now, reading);
  entry.failures = reading.answer == Answer::failed ? entry.failures + 1 : 0;
  entry.answers = reading.answer == Answer::ok ? entry.answers + 1 : 0;
  if (reading.answer == Answer::failed && entry.failures < kFailuresMax) return;
  if (entry.answer == Answer::lost && reading.answer != Answer::lost && entry.answers < kAnswersMin)
    return;
  entry.answer = reading.answer;
  entry.reason = reading.reason;
}

Changes HealthBook::on(const Xid& xid) {
  Changes out;
  for (Entry& entry : entries_) {
    if (!is_meant(entry.now, xid)) continue;
    note_xid(entry, xid, out);
    judge(entry, out);
    tell(entry, out);
  }
  return out;
}

void HealthBook::note_xid(Entry& entry, const Xid& xid, Changes& out) const {
  const bool is_app = policy_.is_app_fault(xid.number);
  std::string text = "XID " + std::to_string(xid.number) + " on " + entry.now.uuid;
  text += is_app ? ": a fault of the application" : ": the device takes no more work";
  out.events.push_back({EventKind::xid, entry.now.uuid, xid.number, is_app, std::move(text)});
  if (!is_app && entry.xid != kXidOffBus) entry.xid = xid.number;
}

// The worst of what is known wins.
void HealthBook::judge(Entry& entry, Changes& out) {
  Device& d = entry.now;
  const Health before = d.health;
  const uint64_t slow = d.throttle.value_or(0) & kThrottleSlow;
  d.health = Health::ok;
  d.health_reason.clear();
  if (slow != 0) {
    d.health = Health::degraded;
    d.health_reason = "throttled: " + throttle_text(slow);
  }
  if (entry.answer != Answer::ok) {
    d.health = entry.answer == Answer::lost ? Health::lost : Health::drain;
    d.health_reason = entry.reason;
  }
  if (entry.xid != 0 && d.health != Health::lost) {
    d.health = entry.xid == kXidOffBus ? Health::lost : Health::drain;
    d.health_reason = "XID " + std::to_string(entry.xid);
  }
  if (d.health == Health::lost) d.free_mib.reset();  // nobody knows
  if (d.health == Health::lost && before != Health::lost)
    out.events.push_back(
        {EventKind::lost, d.uuid, entry.xid, false, d.uuid + " is lost: " + d.health_reason});
  if (before == Health::lost && takes_work(d))
    out.events.push_back({EventKind::back, d.uuid, 0, false, d.uuid + " answers again"});
}

void HealthBook::tell(Entry& entry, Changes& out) {
  if (!is_news(entry.now, entry.told)) return;
  entry.told = entry.now;
  out.devices.push_back(entry.now);
}

std::vector<Device> HealthBook::devices() const {
  std::vector<Device> out;
  for (const Entry& entry : entries_) out.push_back(entry.now);
  return out;
}

}  // namespace dray::gpu
