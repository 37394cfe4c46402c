// GroupWatches: who watches which group, and when each of them may be told again.
#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "services/aggregator/core/waits.h"

namespace dray {

class GroupWatches {
 public:
  size_t size() const { return by_key_.size(); }
  void add(const WaitKey& key, TaskId group, Time now);  // told just now
  bool remove(const WaitKey& key);
  void remove_session(SessionId session);
  // The group changed: those that may be told at once are returned, the others become due later.
  void changed(TaskId group, Time now, std::vector<std::pair<WaitKey, TaskId>>& tell);
  void due(Time now, std::vector<std::pair<WaitKey, TaskId>>& tell);
  Time next_due() const { return due_.empty() ? kNever : due_.begin()->first; }
  void check() const;

 private:
  static constexpr Duration kGap = 100ms;  // between two pushes to one watcher
  struct Watch {
    TaskId group;
    Time told{};
    bool waiting = false;  // is in due_, at told + kGap
  };
  std::map<WaitKey, Watch> by_key_;
  std::set<std::pair<TaskId, WaitKey>> by_group_;
  std::set<std::pair<Time, WaitKey>> due_;
};

}  // namespace dray
