// DeploymentSpec: what somebody wants to run: handlers, code, resources and the rule for the number
// of replicas. It is read from a Doc, which comes from app.toml, from an admin request or from the
// stored goal; all three are checked by the same code.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/deploy/autoscaler.h"
#include "common/resources/request.h"
#include "common/wire/doc.h"
#include "common/wire/fleet.h"

namespace dray {

// Replicas beyond the wanted number during a rolling update.
struct Surge {
  int64_t count = 1;
  int64_t percent = 25;  // of the replicas; the larger of both counts
  int64_t of(int64_t replicas) const { return std::max(count, replicas * percent / 100); }
  bool operator==(const Surge&) const = default;
};

struct DeploymentSpec {
  std::string name;
  std::string code;  // plugin file
  std::vector<std::string> handlers;  // empty: all of the code
  bool autoscale = false;
  int64_t num_replicas = 1;  // without autoscale
  ScaleParams scale;
  uint32_t max_ongoing_requests = 5;  // batches at once, of one replica
  uint32_t max_batch_size = 0;  // 0: the handler's own
  uint32_t batch_wait_us = 0;  // 0: the handler's own
  std::vector<VariantText> variants{1};
  std::string strategy;  // empty: pack with GPUs, else spread over the nodes
  Request request{{Variant{}}, Strategy::pack};  // of the two before
  std::string user_config;
  int64_t health_check_period_ms = 10'000;
  int64_t health_check_timeout_ms = 30'000;
  int64_t graceful_shutdown_timeout_ms = 20'000;
  int64_t start_timeout_ms = 300'000;
  uint64_t memory_limit_mib = 0;
  Surge max_surge;
  bool operator==(const DeploymentSpec&) const = default;

  bool uses_gpus() const;
  // Whether replicas of the other spec can serve as ours without a restart.
  bool same_replicas(const DeploymentSpec& other) const;
};

struct SpecProblem {
  std::string field;  // "autoscaling_config.min_replicas"; empty: the whole
  std::string text;
};
struct ParsedSpec {
  DeploymentSpec spec;  // meaningful without problems
  std::vector<SpecProblem> problems;
};

ParsedSpec parse_spec(const std::string& name, const Doc& doc);
// What a deployment must have besides when somebody deploys it.
std::vector<SpecProblem> fresh_problems(const DeploymentSpec& spec);
// Every field, as parse_spec reads it.
Doc spec_doc(const DeploymentSpec& spec);
// "field: text; field: text"
std::string problems_text(const std::vector<SpecProblem>& problems);

bool is_deployment_name(std::string_view name);

ReplicaSpec replica_spec(const DeploymentSpec& spec, uint64_t version, uint64_t config_version);

// {"a.b": 1, "list.0.x": 2} <-> {a: {b: 1}, list: [{x: 2}]}: admin arguments are flat.
Doc unflatten(const Doc& flat);
std::vector<std::pair<std::string, Doc>> flatten(const Doc& doc);  // lists of texts stay whole

}  // namespace dray
