// Goal: what shall run. The only thing of the balancer that is kept on disk; everything else is
// told by workers and routers when they connect.
//
// A deployment has versions; `current` is what its replicas become, `stable` the last version that
// proved itself, to which a roll that fails goes back. An older version that is wanted again keeps
// its number: replicas of it that are still there are right as they are.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/deploy/deployment_spec.h"

namespace dray {

struct GoalVersion {
  uint64_t version = 0;
  int64_t wall_ms = 0;  // when it was deployed
  DeploymentSpec spec;
};

struct DeploymentGoal {
  static constexpr size_t kVersionsMax = 8;
  std::string name;
  std::vector<GoalVersion> versions;  // oldest first; current and stable are always among them
  uint64_t current = 0;
  uint64_t stable = 0;  // 0: none proved itself yet
  uint64_t next_version = 1;
  uint64_t config_version = 1;
  int64_t desired = 0;  // replicas, if they are scaled automatically
  uint64_t failed_version = 0;  // the last one that was given up
  std::string failed_why;
  std::vector<std::string> handlers;  // of the replicas, when the spec does not list them

  const GoalVersion* find(uint64_t version) const;
  const DeploymentSpec& spec() const;  // of current
  DeploymentSpec& spec();
  const std::vector<std::string>& all_handlers() const;
  int64_t replicas() const;  // wanted now
  // Makes a new version current and forgets the oldest ones.
  void add(DeploymentSpec spec, int64_t wall_ms);
  // Makes a version current that exists, with the present rule for the number of replicas.
  void go_back_to(uint64_t version);
};

struct Goal {
  uint64_t epoch = 0;  // lives of the balancer on this data folder
  std::map<std::string, DeploymentGoal> deployments;
  std::set<std::string> drained;  // nodes that get no replicas
};

Doc goal_doc(const Goal& goal);
// The error names what is wrong; then the file is not touched.
Result<Goal> parse_goal(const Doc& doc);

}  // namespace dray
