// Which replica gets a batch, and what that means for the models it has loaded.
#include <algorithm>

#include "common/base/mutant.h"
#include "services/router/core/call_lane.h"

namespace dray {

bool CallLane::has_room(const Replica& r) const {
  const Worker& w = workers_[r.worker];
  if (w.draining || r.withdrawn || w.credit.available() == 0) return false;
  // If all are suspect, it is more likely the balancer that hears badly.
  if (w.suspect && deployments_[r.deployment]->trusted > 0) return false;
  if (is_shared(r) && r.sent >= r.allowed) return false;
  const uint32_t most = r.offer.max_ongoing;
  return most == 0 || r.ongoing.size() < most || DRAY_MUTANT(max_ongoing_ignored);
}

// A free slot first, then the fewest ongoing batches, then who was idle longest. With credit beyond
// its slots a worker may queue a little; that is worse than any free slot elsewhere.
bool CallLane::is_better(const Replica& a, const Replica& b) const {
  auto queued = [this](const Replica& r) {
    const Worker& w = workers_[r.worker];
    return w.batches < w.slots ? 0 : w.batches - w.slots + 1;
  };
  const uint64_t qa = queued(a), qb = queued(b);
  if (qa != qb) return qa < qb;
  if (a.ongoing.size() != b.ongoing.size()) return a.ongoing.size() < b.ongoing.size();
  if (is_shared(a) != is_shared(b)) return !is_shared(a);  // where nothing gathers
  return a.ongoing.empty() && a.idle_since < b.idle_since;
}

uint32_t CallLane::best_of(const std::vector<uint32_t>& replicas) const {
  uint32_t best = kNoSlot;
  for (uint32_t i : replicas) {
    const Replica& r = replicas_[i];
    if (has_room(r) && (best == kNoSlot || is_better(r, replicas_[best]))) best = i;
  }
  return best;
}

uint32_t CallLane::idle_besides(const Deployment& d, uint32_t worker) const {
  uint32_t best = kNoSlot;
  for (uint32_t i : d.replicas) {
    const Replica& r = replicas_[i];
    const Worker& w = workers_[r.worker];
    if (r.worker == worker || !r.ongoing.empty() || w.batches >= w.slots || !has_room(r)) continue;
    if (best == kNoSlot || r.idle_since < replicas_[best].idle_since) best = i;
  }
  return best;
}

// Models: a replica that has the key's model or is loading it is worth a short wait, so that a
// model is loaded once and not everywhere; but never longer than the call can bear. Calls without a
// key need no model: any replica will do.
uint32_t CallLane::choose(Deployment& d, KeyQueue& q, Now now) {
  if (d.max_models == 0 || q.name.empty()) return best_of(d.replicas);
  const uint32_t home = best_of(q.homes);
  if (home != kNoSlot) return home;
  uint32_t best = kNoSlot;
  auto has_place = [](const Replica& r) { return r.models.size() < r.offer.max_models; };
  for (uint32_t i : d.replicas) {
    const Replica& r = replicas_[i];
    if (!has_room(r)) continue;
    if (best == kNoSlot || has_place(r) > has_place(replicas_[best]) ||
        (has_place(r) == has_place(replicas_[best]) && is_better(r, replicas_[best])))
      best = i;
  }
  if (best == kNoSlot || q.homes.empty()) return best;
  if (q.blocked_since == kNever) q.blocked_since = now.mono;
  const Duration bound =
      std::min<Duration>(kModelWaitMax, (q.calls.top().at - q.blocked_since) / 2);
  if (now.mono >= q.blocked_since + bound) return best;
  wake_at_ = std::min(wake_at_, q.blocked_since + bound);
  return kNoSlot;
}

// Newest first; what falls out at the end is what the replica unloads.
void CallLane::use_model(uint32_t replica, uint32_t key) {
  Replica& r = replicas_[replica];
  Deployment& d = *deployments_[r.deployment];
  if (r.offer.max_models == 0 || d.keys[key].name.empty()) return;
  auto it = std::find(r.models.begin(), r.models.end(), key);
  if (it != r.models.end()) {
    std::rotate(r.models.begin(), it, it + 1);
    return;
  }
  r.models.insert(r.models.begin(), key);
  KeyQueue& q = d.keys[key];
  q.homes.push_back(replica);
  q.loading = replica;
  if (r.models.size() > r.offer.max_models) forget_model(d, r.models.back(), replica);
}

void CallLane::forget_model(Deployment& d, uint32_t key, uint32_t replica) {
  std::erase(replicas_[replica].models, key);
  KeyQueue& q = d.keys[key];
  std::erase(q.homes, replica);
  if (q.loading == replica) q.loading = kNoSlot;
  d.release_key(key);
}

}  // namespace dray
