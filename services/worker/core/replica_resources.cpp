// Needs to requests, and grants of the ledger.
#include "services/worker/core/replica_resources.h"

#include <algorithm>

#include "common/base/assert.h"
#include "services/worker/core/gpu_environment.h"

namespace dray::worker {

namespace {

Result<Request> replica_request(const ReplicaSpec& spec) {
  Request request;
  if (spec.strategy > static_cast<uint8_t>(Strategy::strict))
    return make_error(Errc::bad_argument, "replica strategy is unknown");
  request.strategy = static_cast<Strategy>(spec.strategy);
  for (const std::string& blob : spec.needs) {
    DRAY_TRY_ASSIGN(const NeedInfo need, decode_need(blob));
    request.variants.push_back(variant_of(need));
  }
  if (request.variants.empty()) request.variants.emplace_back();
  DRAY_TRY(check_request(request));
  return request;
}

}  // namespace

Status check_needs(const ReplicaSpec& spec) {
  auto request = replica_request(spec);
  return request ? Status() : Status(request.error());
}

Result<ReplicaGrant> NodeResources::reserve(uint64_t id, const ReplicaSpec& spec) {
  DRAY_TRY_ASSIGN(const Request request, replica_request(spec));
  const GrantId grant = node_.next_id();
  if (const auto refusal = node_.reserve(grant, request))
    return make_error(Errc::infeasible, refusal->explain());
  grants_[id] = grant;
  const Grant& granted = *node_.find(grant);
  return ReplicaGrant{granted.uuids, gpu_environment(granted, node_.devices())};
}

void NodeResources::release(uint64_t id) {
  const auto at = grants_.find(id);
  DRAY_ASSERT(at != grants_.end());
  node_.release(at->second);
  grants_.erase(at);
}

std::optional<std::string> NodeResources::lost(uint64_t id) const {
  const auto at = grants_.find(id);
  const std::vector<GrantId> all = node_.lost();
  if (at == grants_.end() || std::find(all.begin(), all.end(), at->second) == all.end()) return {};
  return node_.loss_text(at->second);
}

void NodeResources::report(NodeReport& report) const {
  CapacityNews news = node_.news(0);
  report.devices = std::move(news.devices);
  report.resources = std::move(news.resources);
  report.taken = std::move(news.taken);
  report.labels = std::move(news.labels);
}

}  // namespace dray::worker
