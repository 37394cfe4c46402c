// Needs to requests, and grants of the ledger.
#include "services/worker/core/replica_resources.h"

#include "common/resources/node_ledger.h"

namespace dray::worker {

namespace {

Result<Request> replica_request(const ReplicaSpec& spec) {
  Request request;
  if (spec.strategy > static_cast<uint8_t>(Strategy::strict))
    return make_error(Errc::bad_argument, "replica strategy is unknown");
  request.strategy = static_cast<Strategy>(spec.strategy);
  for (const std::string& blob : spec.needs) {
    DRAY_TRY_ASSIGN(const NeedInfo need, decode_need(blob));
    request.variants.push_back(
        {need.gpus, need.gpu_memory_mib, ResourceVec(need.pools), need.labels});
  }
  if (request.variants.empty()) request.variants.emplace_back();
  DRAY_TRY(check_request(request));
  return request;
}

Capacity capacity_of(const NodeResources::Amounts& pools, const std::vector<std::string>& labels) {
  Capacity capacity;
  capacity.pools = ResourceVec(pools);
  capacity.labels = labels;
  return capacity;
}
}  // namespace

Status check_needs(const ReplicaSpec& spec) {
  auto request = replica_request(spec);
  return request ? Status() : Status(request.error());
}

NodeResources::NodeResources(const Amounts& pools, std::vector<std::string> labels)
    : pools_(pools),
      labels_(std::move(labels)),
      ledger_(std::make_unique<NodeLedger>(capacity_of(pools_, labels_))) {}

NodeResources::~NodeResources() = default;

Result<std::vector<std::string>> NodeResources::reserve(uint64_t id, const ReplicaSpec& spec) {
  DRAY_TRY_ASSIGN(const Request request, replica_request(spec));
  auto granted = ledger_->reserve(GrantId{id}, request, {});
  if (const auto* refusal = std::get_if<Refusal>(&granted))
    return make_error(Errc::infeasible, refusal->explain());
  return std::get<Grant>(granted).uuids;
}

void NodeResources::release(uint64_t id) { ledger_->release(GrantId{id}); }

void NodeResources::report(NodeReport& report) const {
  report.resources = pools_;
  report.labels = labels_;
  for (const PoolState& pool : ledger_->state().pools)
    if (pool.taken != 0) report.taken.emplace_back(pool.name, pool.taken);
}

}  // namespace dray::worker
