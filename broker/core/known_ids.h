// KnownIds: the ids of finished tasks that the journal still covers, so that a repeated submit is
// answered with the task's end instead of running it again. Compact: about 8 bytes a task for ids
// that were made page by page. What is forgotten raises a floor: an unknown id older than the floor
// may have been used, so it is refused instead of guessed.
#pragma once

#include <tsl/robin_map.h>

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "common/base/ids.h"
#include "common/wire/rows.h"

namespace dray::broker {

struct KnownEnd {
  TaskState state = TaskState::unknown;
  uint32_t fingerprint = 0;  // low half
};

class KnownIds {
 public:
  explicit KnownIds(size_t max) : max_(max) {}
  void add(TaskId id, TaskState state, uint64_t fingerprint);
  std::optional<KnownEnd> find(TaskId id) const;
  // Forgets the oldest pages until the limit holds; returns the highest id time forgotten, 0 if
  // none.
  uint64_t trim();
  size_t size() const { return size_; }

 private:
  struct Entry {
    uint8_t slot;
    TaskState state;
    uint32_t fingerprint;
  };
  struct Page {
    std::array<uint64_t, 4> have{};  // slots present: most look-ups are for ids that are not here
    std::vector<Entry> entries;
  };
  tsl::robin_map<TaskId, Page, std::hash<TaskId>> pages_;
  std::deque<TaskId> order_;
  size_t size_ = 0;
  size_t max_;
};

}  // namespace dray::broker
