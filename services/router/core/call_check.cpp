// For tests: recomputes what the call lane keeps, from its tables.
#include <map>
#include <set>
#include <utility>

#include "common/base/assert.h"
#include "services/router/core/call_lane.h"

namespace dray {

void CallLane::check_clients() const {
  uint64_t open = 0, bytes = 0;
  for (uint32_t i = 0; i < clients_.slots(); ++i) {
    const Client& client = clients_[i];
    if (client.id == SessionId::none) {
      DRAY_ASSERT(client.open.empty());
      continue;
    }
    uint64_t own = 0;
    for (const auto& [number, call] : client.open) {
      const CallRecord& c = table_[call];
      DRAY_ASSERT(c.client == i && c.client_call == number && !c.is_hedge);
      DRAY_ASSERT(c.state == CallState::queued || c.state == CallState::running);
      DRAY_ASSERT(c.timer_pos != kNoSlot);
      if (c.state == CallState::queued) DRAY_ASSERT(c.batch == kNoSlot && c.queue_pos != kNoSlot);
      if (c.state == CallState::running)
        DRAY_ASSERT(c.batch != kNoSlot || (c.twin != kNoSlot && table_[c.twin].is_hedge));
      own += c.payload.size();
    }
    DRAY_ASSERT(own == client.bytes && own <= options_.client_bytes);
    DRAY_ASSERT(client.open.size() <= options_.client_calls);
    DRAY_ASSERT(client.published <= client.credit.received() + options_.client_calls);
    open += client.open.size();
    bytes += own;
  }
  DRAY_ASSERT(open == open_ && open == timers_.size());
  DRAY_ASSERT(bytes == bytes_ && bytes <= options_.call_bytes);
}

void CallLane::check_batches() const {
  size_t batches = 0, runs = 0;
  for (uint32_t i = 0; i < workers_.slots(); ++i) {
    const Worker& w = workers_[i];
    if (w.id == SessionId::none) continue;
    uint64_t own = 0;
    for (uint32_t r : w.replicas)
      if (r != kNoSlot) own += replicas_[r].ongoing.size();
    DRAY_ASSERT(own == w.batches);
    batches += own;
  }
  for (BatchIndex b = 0; b < table_.batches().slots(); ++b) {
    const BatchRecord& batch = table_.batch(b);
    if (batch.replica == kNoSlot) continue;
    const Replica& r = replicas_[batch.replica];
    DRAY_ASSERT(batch.pos < r.ongoing.size() && r.ongoing[batch.pos] == b);
    const Deployment& d = *deployments_[r.deployment];
    uint64_t bytes = 0;
    for (CallIndex call : batch.calls) {
      const CallRecord& c = table_[call];
      if (c.batch != b) continue;
      ++runs;
      DRAY_ASSERT(c.state == CallState::running || c.state == CallState::ended);
      DRAY_ASSERT(c.key == batch.key && deployments_[c.deployment].get() == &d);
      bytes += c.payload.size();
    }
    DRAY_ASSERT(bytes <= kBodyBytesMax);
  }
  DRAY_ASSERT(batches == table_.batches().used());
  DRAY_ASSERT(runs <= table_.calls().used());
}

void CallLane::check_deployment(const Deployment& d) const {
  uint64_t queued = 0, items = 0;
  std::set<uint32_t> waiting(d.waiting.begin(), d.waiting.end());
  DRAY_ASSERT(waiting.size() == d.waiting.size());
  for (uint32_t key : waiting) {
    const KeyQueue& q = d.keys[key];
    DRAY_ASSERT(!q.calls.empty() && d.waiting[q.waiting_pos] == key);
    uint64_t own = 0, bytes = 0;
    for (const auto& e : q.calls.entries()) {
      const CallRecord& c = table_[e.call];
      DRAY_ASSERT(c.state == CallState::queued && c.key == key && e.at == c.deadline);
      DRAY_ASSERT(q.calls.entries()[c.queue_pos].call == e.call && !(e < q.calls.top()));
      own += c.items;
      bytes += c.payload.size();
    }
    DRAY_ASSERT(own == q.items && bytes == q.bytes);
    queued += q.calls.size();
    items += own;
  }
  DRAY_ASSERT(queued == d.queued && items == d.tally.total());
  DRAY_ASSERT(d.waiting.empty() || d.active_pos != kNoSlot);
  for (uint32_t i : d.replicas) {
    const Replica& r = replicas_[i];
    DRAY_ASSERT(workers_[r.worker].replicas[r.handler] == i);
    DRAY_ASSERT(r.models.size() <= r.offer.max_models);
    // What runs was sent under the offer of its time.
    DRAY_ASSERT(r.changed || r.offer.max_ongoing == 0 || r.ongoing.size() <= r.offer.max_ongoing);
  }
}

void CallLane::check() const {
  check_clients();
  check_batches();
  uint64_t queued = 0, in_queues = 0;
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> users;
  for (const auto& d : deployments_) {
    check_deployment(*d);
    queued += d->queued;
  }
  for (CallIndex i = 0; i < table_.calls().slots(); ++i) {
    const CallRecord& c = table_[i];
    in_queues += c.state == CallState::queued;
    if (!c.is_hedge && (c.state == CallState::queued || c.state == CallState::running))
      ++users[{c.deployment, c.key}];
    if (c.state == CallState::ended) DRAY_ASSERT(c.batch != kNoSlot && c.twin == kNoSlot);
    if (c.twin != kNoSlot) DRAY_ASSERT(table_[c.twin].twin == i);
  }
  DRAY_ASSERT(queued == in_queues);
  for (const auto& [key, n] : users)
    DRAY_ASSERT(deployments_[key.first]->keys[key.second].users == n);
}

}  // namespace dray
