// The ledger's questions and answers, in the words of the wire.
#include "services/worker/core/node.h"

#include <algorithm>

#include "common/base/assert.h"

namespace dray::worker {
namespace {
constexpr uint8_t kHealthLost = 3;  // gpu::Health::lost
}  // namespace

Node::Node(std::vector<DeviceInfo> devices, Amounts pools, std::vector<std::string> labels)
    : devices_(std::move(devices)), pools_(std::move(pools)), labels_(std::move(labels)) {
  auto capacity = capacity_of(devices_, pools_, labels_);
  DRAY_ASSERT(capacity.has_value());
  ledger_ = NodeLedger(*capacity);
}

std::optional<PlacementRefusal> Node::reserve(GrantId id, const Request& request) {
  auto taken = ledger_.reserve(id, request, mix_.classes());
  if (auto* refusal = std::get_if<PlacementRefusal>(&taken)) return std::move(*refusal);
  if (!std::get<Grant>(taken).shares.empty()) mix_.note(request);
  ++takings_;
  return std::nullopt;
}

void Node::release(GrantId id) {
  const bool had = ledger_.release(id);
  DRAY_ASSERT(had);
  ++takings_;
}

void Node::release_devices(GrantId id) {
  const bool had = ledger_.release_gpu(id);
  DRAY_ASSERT(had);
  ++takings_;
}

bool Node::set_devices(std::vector<DeviceInfo> devices) {
  auto capacity = capacity_of(devices, pools_, labels_);
  if (!capacity) return false;
  devices_ = std::move(devices);
  ledger_.set_capacity(*capacity);
  return true;
}

std::vector<GrantId> Node::lost() const {
  std::vector<GrantId> out;
  for (GrantId id : ledger_.misfits()) {
    const Grant& grant = *ledger_.find(id);
    if (std::any_of(grant.uuids.begin(), grant.uuids.end(),
                    [&](const std::string& uuid) { return is_lost(uuid); }))
      out.push_back(id);
  }
  return out;
}

std::string Node::loss_text(GrantId id) const {
  const Grant* grant = ledger_.find(id);
  if (grant == nullptr) return "a GPU is lost";
  for (const std::string& uuid : grant->uuids) {
    if (!is_lost(uuid)) continue;
    const DeviceInfo* device = find_device(uuid);
    const std::string why =
        device == nullptr || device->reason.empty() ? "it is not there any more" : device->reason;
    return uuid + " is lost: " + why;
  }
  return "a GPU is lost";
}

std::vector<std::string> Node::device_blobs() const {
  std::vector<std::string> blobs;
  const std::vector<DeviceState>& states = ledger_.state().devices;
  for (size_t i = 0; i < devices_.size(); ++i) {
    DeviceInfo info = devices_[i];
    info.taken_units = states[i].taken_units;
    info.taken_mib = states[i].taken_mib;
    blobs.push_back(encode_device(info));
  }
  return blobs;
}

CapacityNews Node::news(uint64_t received) const {
  CapacityNews news;
  news.devices = device_blobs();
  news.resources = pools_;
  for (const PoolState& pool : ledger_.state().pools)
    if (pool.taken > 0) news.taken.emplace_back(pool.name, pool.taken);
  news.labels = labels_;
  news.received = received;
  return news;
}

const DeviceInfo* Node::find_device(const std::string& uuid) const {
  const auto at = std::find_if(devices_.begin(), devices_.end(),
                               [&](const DeviceInfo& d) { return d.uuid == uuid; });
  return at == devices_.end() ? nullptr : &*at;
}

bool Node::is_lost(const std::string& uuid) const {
  const DeviceInfo* device = find_device(uuid);
  return device == nullptr || device->health == kHealthLost;
}

}  // namespace dray::worker
