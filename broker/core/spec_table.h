// SpecTable: the option sets in use, interned by their bytes, with what the scheduler derives from
// them: the queue, the class (what a worker must offer) and the lane (queue x band x class).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/resources/request.h"
#include "common/wire/spec.h"

namespace dray::broker {

struct Spec {
  TaskSpec options;
  std::string blob;
  uint64_t hash = 0;  // of the blob
  uint64_t users = 0;  // tasks that refer to it
  uint32_t lane = 0;
};

// What a worker must offer. Tasks of one class are interchangeable for placement.
struct TaskClass {
  std::string handler;
  Request request;
  bool has_needs = false;  // of pools or devices; else a lease takes nothing
  bool has_devices = false;
};

struct LaneKey {
  uint32_t queue = 0;
  uint8_t band = 0;
  uint32_t task_class = 0;
  auto operator<=>(const LaneKey&) const = default;
};

class SpecTable {
 public:
  // Index of the spec with these bytes, parsing and checking it if it is new. The caller accounts
  // for its tasks with add_users / drop_user.
  Result<uint32_t> intern(std::string_view blob);
  void add_users(uint32_t spec, uint64_t n) { specs_[spec].users += n; }
  void drop_user(uint32_t spec);
  // Frees an interned spec that got no user.
  void forget_if_unused(uint32_t spec);
  const Spec& operator[](uint32_t i) const { return specs_[i]; }
  const TaskClass& task_class(uint32_t i) const { return classes_[i]; }
  const LaneKey& lane(uint32_t i) const { return lanes_[i]; }
  size_t lanes() const { return lanes_.size(); }
  const std::string& queue_name(uint32_t i) const { return queues_[i]; }
  size_t queues() const { return queues_.size(); }
  uint32_t queue_index(const std::string& name);
  size_t size() const { return by_blob_.size(); }
  bool has(std::string_view blob) const { return by_blob_.count(std::string(blob)) != 0; }

 private:
  uint32_t class_index(const TaskSpec& options);
  uint32_t lane_index(const LaneKey& key);

  std::vector<Spec> specs_;
  std::vector<uint32_t> free_;
  std::unordered_map<std::string, uint32_t> by_blob_;
  size_t blob_bytes_ = 0;
  std::vector<TaskClass> classes_;
  std::unordered_map<std::string, uint32_t> class_by_key_;
  std::vector<LaneKey> lanes_;
  std::map<LaneKey, uint32_t> lane_by_key_;
  std::vector<std::string> queues_;
  std::unordered_map<std::string, uint32_t> queue_by_name_;
};

}  // namespace dray::broker
