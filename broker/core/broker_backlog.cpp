// What the balancer is told: queued tasks by handler.
#include <map>

#include "broker/core/broker.h"

namespace dray::broker {
namespace {
constexpr size_t kWalkMax = 65'536;  // leases looked at; more need no exact number
constexpr size_t kListBytesMax = kHeadBytesMax / 2 - 1024;  // there are two lists

std::vector<std::pair<std::string, uint64_t>> bounded(const std::map<std::string, uint64_t>& map) {
  std::vector<std::pair<std::string, uint64_t>> list;
  size_t bytes = 0;
  for (const auto& [handler, n] : map) {
    bytes += handler.size() + 16;
    if (bytes > kListBytesMax) break;
    if (n > 0) list.emplace_back(handler, n);
  }
  return list;
}

}  // namespace

void Broker::tell_backlog(Out& out) {
  SessionId balancer = SessionId::none;
  for (const auto& [id, session] : sessions_)
    if (session.role == Role::balancer) balancer = id;
  if (balancer == SessionId::none) return;
  const SpecTable& specs = ledger_.specs();
  std::map<std::string, uint64_t> waiting, leased;
  for (uint32_t lane = 0; lane < specs.lanes(); ++lane)
    if (const auto n = lanes_.live(lane); n > 0)
      waiting[specs.task_class(specs.lane(lane).task_class).handler] += n;
  size_t walked = 0;
  for (const Worker& w : workers_)
    for (Handle h = w.head; h != kNil && walked < kWalkMax; h = ledger_.tasks()[h].next, ++walked)
      ++leased[ledger_.options(ledger_.tasks()[h]).handler];
  out.now.push_back({balancer, 0, 0, 0, Backlog{bounded(waiting), bounded(leased)}, {}, 0});
}

}  // namespace dray::broker
