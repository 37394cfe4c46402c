// ReadyLanes: tasks that could start now, FIFO per lane (queue x priority band x class), and the
// order in which lanes are visited. Costs depend on lanes touched, never on how many tasks wait.
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <vector>

#include "broker/core/spec_table.h"
#include "broker/core/task.h"

namespace dray::broker {

class ReadyLanes {
 public:
  ReadyLanes(const TaskPool& tasks, const SpecTable& specs) : tasks_(tasks), specs_(specs) {}

  void push_back(Handle h) { push(h, false); }
  void push_front(Handle h) { push(h, true); }  // it had its turn before (retry, given back)
  // The task left the queued state other than by pop: its entry is now stale and skipped later.
  void note_gone(Handle h);

  // Lanes with something in them, best first: higher band, then older head.
  struct Head {
    uint8_t inverse_band;
    uint64_t order;
    uint32_t lane;
    auto operator<=>(const Head&) const = default;
  };
  const std::set<Head>& heads() const { return heads_; }
  uint64_t live(uint32_t lane) const { return lane < lanes_.size() ? lanes_[lane].live : 0; }
  // Takes the oldest task of the lane; kNil when only stale entries were left.
  Handle pop(uint32_t lane);
  uint64_t total() const;

 private:
  struct Entry {
    Handle handle;
    uint64_t order;
  };
  struct Lane {
    std::deque<Entry> entries;
    uint64_t live = 0;
    bool listed = false;
    Head head{};
  };
  void push(Handle h, bool front);
  Lane& lane(const Task& t);
  bool stale(const Entry& e) const;
  void relist(uint32_t index, Lane& l);

  const TaskPool& tasks_;
  const SpecTable& specs_;
  std::vector<Lane> lanes_;
  std::set<Head> heads_;
};

}  // namespace dray::broker
