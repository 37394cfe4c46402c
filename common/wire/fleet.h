// What nodes, routers and the balancer say about capacity, replicas and load. Each struct travels
// as one msgpack blob in a list field of a message, so that a minor version may add fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.h"

namespace dray {

// One GPU of a node (common/gpu/device.h), in CAPACITY and NODE_REPORT. What the driver did not
// tell is 0, or -1 for numa.
struct DeviceInfo {
  std::string uuid{};
  uint8_t kind = 0;  // gpu::Kind
  uint8_t health = 0;  // gpu::Health
  uint8_t enforcement = 0;  // gpu::Enforcement
  std::string reason{};  // of its health
  std::string name{};
  uint64_t units = 0;  // of 1/10,000 that may be given; 0: none of it
  uint64_t memory_mib = 0;  // that may be given
  uint32_t sms = 0;
  uint32_t cc_major = 0;
  uint32_t cc_minor = 0;
  int64_t numa = -1;
  uint64_t throttle = 0;  // gpu::Throttle bits
  uint32_t utilisation = 0;  // percent
  uint32_t temperature_c = 0;
  uint64_t used_mib = 0;
  uint32_t group = 0;  // topology group
  uint64_t taken_units = 0;  // by grants of the node's ledger
  uint64_t taken_mib = 0;
  bool operator==(const DeviceInfo&) const = default;
};

// One way to satisfy a request of resources (common/resources/request.h, Variant).
struct NeedInfo {
  uint64_t gpus = 0;  // units of 1/10,000
  uint64_t gpu_memory_mib = 0;
  std::vector<std::pair<std::string, uint64_t>> pools{};  // units of 1/10,000
  std::vector<std::string> labels{};
  bool operator==(const NeedInfo&) const = default;
};

// What a replica is and asks for, in PLACE. A worker starts, keeps and stops replicas until it has
// exactly those of the last PLACE.
struct ReplicaSpec {
  uint64_t id = 0;  // chosen by the balancer, never used again
  std::string deployment{};
  uint64_t version = 0;  // of the deployment's goal
  std::string code{};  // plugin file
  std::vector<std::string> handlers{};  // of it; empty: all
  uint8_t strategy = 0;  // Strategy
  std::vector<std::string> needs{};  // NeedInfo blobs, the preferred one first
  uint32_t max_ongoing = 0;  // batches at once; 0: the handler's own limit
  uint32_t max_batch_size = 0;  // 0: the handler's own
  uint32_t batch_wait_us = 0;  // 0: the handler's own
  std::string user_config{};  // given to the code, also live
  uint64_t config_version = 0;  // grows with user_config; the replica is not restarted for it
  uint32_t start_timeout_ms = 0;
  uint32_t health_period_ms = 0;
  uint32_t health_timeout_ms = 0;
  uint32_t graceful_ms = 0;  // given to running work when it is stopped
  uint64_t memory_limit_mib = 0;  // of its process; 0: none
  uint32_t recycle_after = 0;  // batches; 0: never
  bool standby = false;  // start it and check its health, offer it to nobody yet
  bool operator==(const ReplicaSpec&) const = default;
};

enum class ReplicaState : uint8_t {
  starting = 0,
  ready = 1,  // healthy; offered unless standby
  unhealthy = 2,  // its last health check failed; not offered
  stopping = 3,  // finishes what it has
  stopped = 4,
  failed = 5,  // could not be started, or crashed too often; `error` says why
};
std::string_view replica_state_name(ReplicaState state);

struct ReplicaStatus {
  uint64_t id = 0;
  std::string deployment{};
  uint64_t version = 0;
  uint64_t config_version = 0;
  uint8_t state = 0;  // ReplicaState
  std::string error{};
  std::vector<std::string> handlers{};  // known once it is ready
  std::vector<std::string> devices{};  // uuids of its grant
  uint32_t restarts = 0;  // of its process
  uint64_t started_ms = 0;  // how long its last start took
  uint64_t ongoing = 0;  // batches of calls and tasks
  bool operator==(const ReplicaStatus&) const = default;
};

// One handler at one router, in LOAD.
struct HandlerLoad {
  std::string handler{};
  uint64_t ongoing = 0;  // calls at replicas
  uint64_t waiting = 0;  // calls in the queue
  uint64_t arrived = 0;  // calls in all, in this life of the router
  uint64_t answered = 0;  // in all, with a reply
  uint64_t refused = 0;  // in all
  uint64_t p50_us = 0;  // of recent replies
  uint64_t p99_us = 0;
  uint32_t replicas = 0;  // workers that offer it here
  bool operator==(const HandlerLoad&) const = default;
};

// One handler of a deployment, in VIEW.
struct HandlerView {
  std::string handler{};
  std::string deployment{};
  uint32_t replicas = 0;  // ready ones
  uint32_t starting = 0;
  uint64_t start_ms = 0;  // a start takes about this long
  bool held = false;  // calls without a replica wait for one instead of being refused
  bool operator==(const HandlerView&) const = default;
};

std::string encode_device(const DeviceInfo& info);
Result<DeviceInfo> decode_device(std::string_view blob);
std::string encode_need(const NeedInfo& need);
Result<NeedInfo> decode_need(std::string_view blob);
std::string encode_replica(const ReplicaSpec& spec);
Result<ReplicaSpec> decode_replica(std::string_view blob);
std::string encode_replica_status(const ReplicaStatus& status);
Result<ReplicaStatus> decode_replica_status(std::string_view blob);
std::string encode_handler_load(const HandlerLoad& load);
Result<HandlerLoad> decode_handler_load(std::string_view blob);
std::string encode_handler_view(const HandlerView& view);
Result<HandlerView> decode_handler_view(std::string_view blob);

}  // namespace dray
