// What is taken is counted anew from the executions, never from a ledger.
#include "tests/sim/gpu_oracle.h"

#include <algorithm>

#include "tests/sim/world.h"

namespace dray::sim {
namespace {
constexpr uint64_t kMemoryMib = 24'576;
constexpr uint8_t kOk = 0, kLost = 3;
}  // namespace

GpuOracle::GpuOracle(const std::string& node, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    DeviceInfo d;
    d.uuid = "GPU-" + node + "-" + std::to_string(i);
    d.units = kResourceUnit;
    d.memory_mib = kMemoryMib;
    d.group = static_cast<uint32_t>(i / 2);
    devices_.push_back(std::move(d));
  }
}

bool GpuOracle::lose(size_t i) {
  DeviceInfo& d = devices_[i];
  if (d.health == kLost) return false;
  d.health = kLost;
  d.units = d.memory_mib = 0;
  d.reason = "XID 79";
  return has_news_ = true;
}

void GpuOracle::mend(size_t i) {
  DeviceInfo& d = devices_[i];
  if (d.health == kOk) return;
  d.health = kOk;
  d.units = kResourceUnit;
  d.memory_mib = kMemoryMib;
  d.reason.clear();
  has_news_ = true;
}

std::vector<DeviceInfo> GpuOracle::boot() {
  held_.clear();
  return tell();
}

std::vector<DeviceInfo> GpuOracle::tell() {
  has_news_ = false;
  told_lost_.clear();
  for (const DeviceInfo& d : devices_)
    if (d.health == kLost) {
      told_lost_.push_back(d.uuid);
      held_.erase(d.uuid);
    }
  return devices_;
}

bool GpuOracle::is_lost(const Grant& grant) const {
  return std::any_of(grant.uuids.begin(), grant.uuids.end(), [&](const std::string& uuid) {
    return std::find(told_lost_.begin(), told_lost_.end(), uuid) != told_lost_.end();
  });
}

void GpuOracle::take(const worker::Start& start) {
  if (!start.grant) return;
  const Grant& grant = *start.grant;
  const Variant& need = start.spec->request.variants.at(grant.variant);
  const std::string who = "task " + to_hex(start.id);
  uint64_t units = 0;
  for (size_t i = 0; i < grant.shares.size(); ++i) {
    const DeviceShare& share = grant.shares[i];
    if (share.memory_mib != need.gpu_memory_mib) violate("GPU", who + " has other memory");
    units += share.units;
    held_[grant.uuids.at(i)].push_back({start.token, share});
    check(grant.uuids[i]);
  }
  if (grant.shares.size() != need.device_count() || units != need.gpus)
    violate("GPU", who + " has not what it asked for");
  if (is_lost(grant)) violate("GPU", who + " starts on a lost GPU");
}

void GpuOracle::give(Token token) {
  for (auto& [uuid, list] : held_)
    std::erase_if(list, [&](const Held& h) { return h.token == token; });
}

void GpuOracle::check(const std::string& uuid) const {
  uint64_t units = 0, mib = 0, wholes = 0;
  const std::vector<Held>& list = held_.at(uuid);
  for (const Held& h : list) {
    units += h.share.units;
    mib += h.share.memory_mib;
    wholes += h.share.is_whole();
  }
  if (units > kResourceUnit || mib > kMemoryMib || (wholes > 0 && list.size() > 1))
    violate("GPU", uuid + " is given away twice: " + std::to_string(units) + " units and " +
                       std::to_string(mib) + " MiB to " + std::to_string(list.size()));
}

}  // namespace dray::sim
