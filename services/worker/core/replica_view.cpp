// What replicas look like from outside: the handlers they offer together, and their statuses.
#include <algorithm>
#include <map>

#include "common/base/limits.h"
#include "services/worker/core/replicas.h"

namespace dray::worker {
namespace {

// The limits of one replica of a handler.
HandlerOffer offer_of(const ReplicaSpec& spec, const ReplicaHandler& h) {
  HandlerOffer o = h.offer;
  if (spec.max_ongoing != 0)
    o.max_ongoing =
        o.max_ongoing == 0 ? spec.max_ongoing : std::min(o.max_ongoing, spec.max_ongoing);
  if (spec.max_batch_size != 0 && h.can_batch) o.max_batch_size = spec.max_batch_size;
  if (spec.batch_wait_us != 0) o.batch_wait_us = spec.batch_wait_us;
  return o;
}

uint32_t sum(uint32_t a, uint32_t b) {  // 0 means no limit
  return a == 0 || b == 0 ? 0
                          : static_cast<uint32_t>(std::min<uint64_t>(uint64_t{a} + b, kItemsMax));
}

// What all of them can bear.
void merge(OfferedHandler& all, const HandlerOffer& one, const ReplicaHandler& h) {
  HandlerOffer& o = all.offer;
  o.max_ongoing = sum(o.max_ongoing, one.max_ongoing);
  o.max_batch_size = std::min(o.max_batch_size, one.max_batch_size);
  if (one.max_batch_bytes != 0)
    o.max_batch_bytes = o.max_batch_bytes == 0 ? one.max_batch_bytes
                                               : std::min(o.max_batch_bytes, one.max_batch_bytes);
  o.batch_wait_us = std::min(o.batch_wait_us, one.batch_wait_us);
  o.max_models = std::min(o.max_models, one.max_models);
  o.flags = (o.flags & one.flags & kOfferIdempotent) | ((o.flags | one.flags) & kOfferStreams);
  all.limit = sum(all.limit, h.max_concurrency);
  all.can_batch = all.can_batch && h.can_batch;
}

}  // namespace

bool Replicas::is_offered(const Replica& r, Time now) const {
  if (r.leaving || r.spec.standby || r.handlers.empty() || stopping_) return false;
  if (r.state == ReplicaState::ready) return true;
  const bool comes_back = r.state == ReplicaState::starting || r.recycling;
  return comes_back && now < r.offer_until;
}

std::vector<OfferedHandler> Replicas::offered(Time now) const {
  std::map<std::string, OfferedHandler> by_name;
  for (const auto& [id, r] : replicas_) {
    if (!is_offered(r, now)) continue;
    for (size_t i = 0; i < r.handlers.size(); ++i) {
      const ReplicaHandler& h = r.handlers[i];
      const HandlerOffer one = offer_of(r.spec, h);
      const auto [it, fresh] = by_name.try_emplace(one.name);
      OfferedHandler& all = it->second;
      if (fresh) {
        all.offer = one;
        all.limit = h.max_concurrency;
        all.can_batch = h.can_batch;
      } else {
        merge(all, one, h);
      }
      if (r.state == ReplicaState::ready)
        all.places.push_back({r.process, static_cast<uint16_t>(i), h.max_concurrency});
      else
        all.expected = true;
    }
  }
  std::vector<OfferedHandler> list;
  for (auto& [name, handler] : by_name) list.push_back(std::move(handler));
  return list;
}

bool Replicas::take_changed() { return std::exchange(changed_, false); }

bool Replicas::fixed_ready() const {
  return std::all_of(replicas_.begin(), replicas_.end(), [](const auto& entry) {
    return !entry.second.fixed || entry.second.state == ReplicaState::ready;
  });
}

std::string Replicas::fixed_problem() const {
  for (const auto& [id, r] : replicas_)
    if (r.fixed && r.crashes != 0) return r.spec.code + ": " + r.error;
  return {};
}

ReplicaStatus Replicas::status(const Replica& r) const {
  ReplicaStatus s;
  s.id = r.spec.id;
  s.deployment = r.spec.deployment;
  s.version = r.spec.version;
  s.config_version = r.config_version;
  s.state = static_cast<uint8_t>(r.state);
  s.error = r.error.substr(0, kErrorTextMax);
  for (const ReplicaHandler& h : r.handlers) s.handlers.push_back(h.offer.name);
  s.devices = r.grant.devices;
  s.restarts = r.restarts;
  s.started_ms = r.started_ms;
  s.ongoing = r.ongoing;
  return s;
}

std::vector<std::string> Replicas::statuses(bool all) {
  std::vector<std::string> list = std::move(ended_);
  ended_.clear();
  for (auto& [id, r] : replicas_) {
    if (r.fixed) continue;
    if (all || r.news) list.push_back(encode_replica_status(status(r)));
    r.news = false;
  }
  news_ = false;
  return list;
}

Doc Replicas::to_doc() const {
  Doc doc;
  for (const auto& [id, r] : replicas_) {
    Doc row;
    row.set("deployment", r.spec.deployment).set("code", r.spec.code);
    row.set("state", std::string(replica_state_name(r.state))).set("error", r.error);
    row.set("process", r.process).set("crashes", r.crashes).set("restarts", r.restarts);
    row.set("standby", r.spec.standby).set("handlers", r.handlers.size());
    doc.set((r.fixed ? "fixed " : "") + std::to_string(id & ~kFixedBit), std::move(row));
  }
  return doc;
}

}  // namespace dray::worker
