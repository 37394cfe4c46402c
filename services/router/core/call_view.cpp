// The call lane and the balancer: what it is told, and what it tells.
#include <algorithm>

#include "common/wire/fleet.h"
#include "services/router/core/call_lane.h"

namespace dray {

void CallLane::on_view(const View& view, Now now, Outbox& out) {
  for (auto& d : deployments_) d->held = d->in_view = false;
  for (const std::string& blob : view.handlers) {
    auto handler = decode_handler_view(blob);
    if (!handler) {
      out.note("bad_view", "detail=" + handler.error().detail);
      continue;
    }
    if (!knows_or_has_room(handler->handler)) continue;
    Deployment& d = *deployments_[make_deployment(handler->handler, now)];
    d.in_view = true;
    d.held = handler->held;
  }
  suspect(view.suspects);
}

void CallLane::forget_suspects() { suspect({}); }

void CallLane::suspect(const std::vector<std::string>& names) {
  if (names == suspects_) return;
  suspects_ = names;
  for (const auto& [session, i] : worker_ids_) {
    Worker& w = workers_[i];
    w.suspect = std::find(names.begin(), names.end(), w.name) != names.end();
  }
  for (auto& d : deployments_) replicas_changed(*d);
  dirty_ = true;
}

Load CallLane::load() const {
  Load load;
  // A message is bounded: those that the balancer scales come first.
  std::vector<const Deployment*> list;
  for (const auto& d : deployments_) list.push_back(d.get());
  std::stable_partition(list.begin(), list.end(), [](const Deployment* d) { return d->in_view; });
  size_t bytes = 0;
  for (const Deployment* d : list) {
    HandlerLoad h;
    h.handler = d->name;
    for (uint32_t i : d->replicas)
      for (BatchIndex b : replicas_[i].ongoing) h.ongoing += table_.batch(b).calls.size();
    h.waiting = d->queued;
    const auto& ends = d->totals.ends;  // [0] counts parts
    h.arrived = h.ongoing + h.waiting;
    for (size_t i = 1; i < ends.size(); ++i) h.arrived += ends[i];
    h.answered = ends[static_cast<size_t>(CallEnd::reply)];
    h.refused = ends[static_cast<size_t>(CallEnd::rejected)];
    h.p50_us = d->times.total.quantile(0.5);
    h.p99_us = d->times.total.quantile(0.99);
    h.replicas = static_cast<uint32_t>(d->replicas.size());
    load.handlers.push_back(encode_handler_load(h));
    bytes += load.handlers.back().size() + 5;
    if (bytes > kHeadBytesMax - 1024) {
      load.handlers.pop_back();
      break;
    }
  }
  return load;
}

}  // namespace dray
