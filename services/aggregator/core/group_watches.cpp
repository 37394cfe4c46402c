#include "services/aggregator/core/group_watches.h"

#include "common/base/assert.h"

namespace dray {

void GroupWatches::add(const WaitKey& key, TaskId group, Time now) {
  remove(key);
  by_key_[key] = {group, now, false};
  by_group_.insert({group, key});
}

bool GroupWatches::remove(const WaitKey& key) {
  auto it = by_key_.find(key);
  if (it == by_key_.end()) return false;
  by_group_.erase({it->second.group, key});
  if (it->second.waiting) due_.erase({it->second.told + kGap, key});
  by_key_.erase(it);
  return true;
}

void GroupWatches::remove_session(SessionId session) {
  for (;;) {
    auto it = by_key_.lower_bound({session, 0, 0});
    if (it == by_key_.end() || it->first.session != session) return;
    remove(WaitKey(it->first));
  }
}

void GroupWatches::changed(TaskId group, Time now, std::vector<std::pair<WaitKey, TaskId>>& tell) {
  auto it = by_group_.lower_bound({group, WaitKey{}});
  for (; it != by_group_.end() && it->first == group; ++it) {
    Watch& watch = by_key_.at(it->second);
    if (watch.waiting) continue;
    if (now - watch.told >= kGap) {
      watch.told = now;
      tell.emplace_back(it->second, group);
    } else {
      watch.waiting = true;
      due_.insert({watch.told + kGap, it->second});
    }
  }
}

void GroupWatches::due(Time now, std::vector<std::pair<WaitKey, TaskId>>& tell) {
  while (!due_.empty() && due_.begin()->first <= now) {
    const WaitKey key = due_.begin()->second;
    due_.erase(due_.begin());
    Watch& watch = by_key_.at(key);
    watch.waiting = false;
    watch.told = now;
    tell.emplace_back(key, watch.group);
  }
}

void GroupWatches::check() const {
  DRAY_ASSERT(by_key_.size() == by_group_.size());
  size_t waiting = 0;
  for (const auto& [key, watch] : by_key_) {
    DRAY_ASSERT(by_group_.count({watch.group, key}) == 1);
    DRAY_ASSERT(due_.count({watch.told + kGap, key}) == (watch.waiting ? 1u : 0u));
    waiting += watch.waiting;
  }
  DRAY_ASSERT(waiting == due_.size());
}

}  // namespace dray
