// Groups: sets of tasks and how many of them ended, and how.
//
// A group is kept per id page as bitmaps: member, done, and two bits for the way it ended. Setting
// a bit twice changes nothing, so repeats of a result or of a GROUP_PUT are harmless; nothing is
// ever counted down. The bitmaps go to the store in the same commit as the results they follow.
//
// Rows: "g" group           last change that extends its life, u64 wall ms (little endian)
//       "g" group page      128 bytes: member, done, c0, c1 (each 4 x u64, little endian)
//
// Changes between two commit() or rollback() are one transaction.
#pragma once

#include <tsl/robin_map.h>

#include <array>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/wire/message.h"
#include "services/aggregator/store/result_store.h"

namespace dray {

struct GroupLimits {
  uint64_t members_max = 1'000'000;  // per group
  uint64_t pages_max = 1'000'000;  // of all groups, about 220 bytes each
  uint64_t groups_max = 100'000;
  int64_t idle_ttl_ms = int64_t{30} * 24 * 3600 * 1000;  // after the last GROUP_PUT
  int64_t done_ttl_ms = int64_t{24} * 3600 * 1000;  // after the last member ended
};

struct GroupRefusal {
  const char* limit;
  uint64_t value;
};

class Groups {
 public:
  explicit Groups(GroupLimits limits = {}) : limits_(limits) {}
  bool empty() const { return nodes_.size() == free_nodes_.size(); }
  size_t size() const { return by_id_.size(); }
  uint64_t pages() const { return nodes_.size() - free_nodes_.size(); }

  Status load(const StoreRow& row);  // at start, in key order; `corrupt` if it makes no sense
  // Adds members; all or nothing. Those that ended already must be told by finish().
  std::optional<GroupRefusal> put(TaskId group, std::span<const TaskId> ids, int64_t wall_ms);
  void finish(TaskId id, TaskState state, int64_t wall_ms);
  void collect(StoreBatch& batch);  // rows of this transaction
  std::vector<TaskId> commit();  // groups that changed, in order of first change
  void rollback();
  // Drops groups whose time is over, at most max_pages pages per call. Between transactions only;
  // the rows go with the next one that commits.
  void expire(int64_t wall_ms, size_t max_pages);
  bool find(TaskId group, GroupState& state) const;
  void check() const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  using Bits = std::array<uint64_t, 4>;
  struct PageBits {
    Bits member{}, done{}, c0{}, c1{};
    bool operator==(const PageBits&) const = default;
  };
  struct Node {
    TaskId page;
    TaskId group;
    uint32_t next = kNone;  // other groups with this page
    bool saved = false;
    PageBits bits;
  };
  struct Group {
    int64_t wall_ms = 0;
    uint64_t members = 0;
    std::array<uint64_t, 4> ended{};  // succeeded, failed, cancelled, expired
    std::vector<uint32_t> pages;
    bool saved = false;
    bool header = false;  // wall_ms changed
    uint64_t done() const { return ended[0] + ended[1] + ended[2] + ended[3]; }
  };
  struct SavedGroup {
    TaskId id;
    bool fresh;
    int64_t wall_ms;
    uint64_t members;
    std::array<uint64_t, 4> ended;
  };
  struct SavedNode {
    uint32_t node;
    bool fresh;
    PageBits bits;
  };
  static std::string key(TaskId group);
  static std::string key(TaskId group, TaskId page);
  uint32_t find_node(TaskId group, TaskId page) const;
  uint32_t new_node(TaskId group, TaskId page);
  void drop_node(uint32_t n);
  void save(TaskId id, Group& group, bool fresh);
  void save(uint32_t n, bool fresh);
  std::optional<GroupRefusal> check_put(TaskId group, std::span<const TaskId> ids) const;
  static void count(const PageBits& bits, Group& group);

  GroupLimits limits_;
  std::map<TaskId, Group> by_id_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> free_nodes_;
  tsl::robin_map<TaskId, uint32_t, std::hash<TaskId>> first_;  // first node of a page
  std::vector<SavedGroup> saved_groups_;
  std::vector<SavedNode> saved_nodes_;
  std::map<TaskId, Group> dying_;  // gone for everybody; their rows are being dropped
  std::vector<std::string> dels_;  // rows of dropped groups that are still in the store
  TaskId expire_cursor_;
};

}  // namespace dray
