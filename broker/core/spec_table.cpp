#include "broker/core/spec_table.h"

#include <algorithm>

#include "broker/core/fingerprint.h"
#include "common/base/assert.h"
#include "common/resources/advertised.h"

namespace dray::broker {
namespace {
constexpr size_t kSpecsInUseMax = 200'000;
constexpr size_t kSpecBytesMax = 128 << 20;  // of their blobs
constexpr size_t kSpecBlobMax = 32 * 1024;  // so that a DISPATCH head can carry it
constexpr size_t kLanesMax = 50'000;  // lanes are never taken apart
}  // namespace

Result<uint32_t> SpecTable::intern(std::string_view blob) {
  std::string key(blob);
  auto known = by_blob_.find(key);
  if (known != by_blob_.end()) return known->second;
  if (blob.size() > kSpecBlobMax) return make_error(Errc::too_large, "task options over 32 KiB");
  if (by_blob_.size() >= kSpecsInUseMax || blob_bytes_ + blob.size() > kSpecBytesMax)
    return make_error(Errc::overloaded, "too many different task option sets in use");
  if (lanes_.size() >= kLanesMax)
    return make_error(Errc::overloaded,
                      "too many different queues, handlers and needs since the broker's start");
  DRAY_TRY_ASSIGN(TaskSpec options, decode_spec(blob));
  uint32_t index;
  if (free_.empty()) {
    index = static_cast<uint32_t>(specs_.size());
    specs_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  LaneKey lane{queue_index(options.queue), options.priority, class_index(options)};
  Spec& spec = specs_[index];
  spec.hash = fingerprint(blob);
  spec.users = 0;
  spec.lane = lane_index(lane);
  spec.options = std::move(options);
  spec.blob = key;
  blob_bytes_ += blob.size();
  by_blob_.emplace(std::move(key), index);
  return index;
}

void SpecTable::drop_user(uint32_t spec) {
  DRAY_ASSERT(specs_[spec].users > 0);
  --specs_[spec].users;
  forget_if_unused(spec);
}

void SpecTable::forget_if_unused(uint32_t spec) {
  Spec& s = specs_[spec];
  if (s.users != 0 || s.blob.empty()) return;
  by_blob_.erase(s.blob);
  blob_bytes_ -= s.blob.size();
  s = Spec{};
  free_.push_back(spec);
}

uint32_t SpecTable::queue_index(const std::string& name) {
  auto [it, fresh] = queue_by_name_.emplace(name, static_cast<uint32_t>(queues_.size()));
  if (fresh) queues_.push_back(name);
  return it->second;
}

uint32_t SpecTable::class_index(const TaskSpec& options) {
  TaskClass c{options.handler, request_of(options), false, false};
  std::string key = c.handler + '\x01' + static_cast<char>('0' + options.strategy);
  for (Variant& v : c.request.variants) {
    std::sort(v.labels.begin(), v.labels.end());
    c.has_devices = c.has_devices || v.device_count() > 0;
    c.has_needs = c.has_needs || c.has_devices || !v.pools.empty();
    key += '\x04' + std::to_string(v.gpus) + '\x05' + std::to_string(v.gpu_memory_mib);
    for (const auto& [name, units] : v.pools.amounts())
      key += '\x01' + name + '\x02' + std::to_string(units);
    for (const auto& label : v.labels) key += '\x03' + label;
  }
  auto [it, fresh] = class_by_key_.emplace(std::move(key), static_cast<uint32_t>(classes_.size()));
  if (fresh) classes_.push_back(std::move(c));
  return it->second;
}

uint32_t SpecTable::lane_index(const LaneKey& key) {
  auto [it, fresh] = lane_by_key_.emplace(key, static_cast<uint32_t>(lanes_.size()));
  if (fresh) lanes_.push_back(key);
  return it->second;
}

}  // namespace dray::broker
