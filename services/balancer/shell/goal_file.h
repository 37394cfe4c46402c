// GoalFile: the goal on disk, as JSON that a person can read. Replaced as a whole: a new file is
// written and synced beside the old one and renamed over it. One process holds the folder.
#pragma once

#include <string>

#include "common/base/result.h"
#include "services/balancer/core/balancer.h"

namespace dray {

class GoalFile {
 public:
  explicit GoalFile(std::string dir) : dir_(std::move(dir)) {}
  ~GoalFile();
  GoalFile(const GoalFile&) = delete;
  GoalFile& operator=(const GoalFile&) = delete;

  Status open();  // makes the folder and takes it
  Result<Goal> load() const;  // an empty goal if there is no file
  Status save(const Goal& goal);
  std::string path() const { return dir_ + "/goal.json"; }

 private:
  std::string dir_;
  int lock_ = -1;
};

// The balancer's Durable: a turn that changed the goal is written before it promises anything.
class GoalDurable {
 public:
  GoalDurable(Balancer& core, GoalFile& file) : core_(core), file_(file) {}
  Status persist(BalancerOut& out) {
    if (!out.goal_changed) return {};
    ++saves_;
    return file_.save(core_.goal());
  }
  Status load(Send&) { return {}; }
  uint64_t saves() const { return saves_; }

 private:
  Balancer& core_;
  GoalFile& file_;
  uint64_t saves_ = 0;
};

}  // namespace dray
