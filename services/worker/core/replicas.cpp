// Processes: start, readiness, crashes, health, stop.
#include "services/worker/core/replicas.h"

#include <algorithm>
#include <set>

#include "common/base/assert.h"

namespace dray::worker {
namespace {

constexpr Duration kStartTime = 120s;  // to become ready, unless the spec says otherwise
constexpr Duration kHealthPeriod = 5s;
constexpr Duration kHealthTime = 10s;
constexpr Duration kStable = 30s;  // ready for so long: crashes before are forgotten
constexpr Duration kBackoffMax = 60s;
constexpr Duration kEndSlack = 10s;  // a process that was told to end
constexpr Duration kRoomAgain = 1s;  // between two looks for resources

Duration ms_or(uint32_t ms, Duration otherwise) {
  return ms != 0 ? Duration(std::chrono::milliseconds(ms)) : otherwise;
}

// 0, 1, 2, 4 ... 60 s after the first, second ... crash in a row.
Duration backoff(uint32_t crashes) {
  if (crashes <= 1) return 0s;
  return std::min<Duration>(std::chrono::seconds(1ull << std::min<uint32_t>(crashes - 2, 10)),
                            kBackoffMax);
}

}  // namespace

Replicas::Replicas(ReplicaOptions options, ReplicaResources& resources)
    : options_(std::move(options)), resources_(resources) {
  for (const ReplicaSpec& spec : options_.fixed) {
    DRAY_ASSERT((spec.id & kFixedBit) != 0);
    Replica r;
    r.spec = spec;
    r.fixed = true;
    replicas_.emplace(spec.id, std::move(r));
  }
}

void Replicas::set_state(Replica& r, ReplicaState state, std::string error) {
  if (r.state == state && r.error == error) return;
  r.state = state;
  r.error = std::move(error);
  r.news = news_ = changed_ = true;
}

// --- starting and stopping ---------------------------------------------------------------------

void Replicas::begin(Now now, Out& out) {
  for (auto& [id, r] : replicas_)
    if (r.process == 0) start(r, now, out);
}

void Replicas::start(Replica& r, Now now, Out& out) {
  r.start_at = kNever;
  if (!r.fixed && !r.granted) {
    auto grant = resources_.reserve(r.spec.id, r.spec);
    if (!grant) {
      set_state(r, ReplicaState::starting, "waits for resources: " + grant.error().detail);
      r.start_at = now.mono + kRoomAgain;
      next_ = std::min(next_, r.start_at);
      return;
    }
    r.granted = true;
    r.grant = std::move(*grant);
  }
  r.process = next_process_++;
  by_process_[r.process] = r.spec.id;
  r.began = now.mono;
  r.limit_at = now.mono + ms_or(r.spec.start_timeout_ms, kStartTime);
  r.config_version = r.spec.config_version;
  next_ = std::min(next_, r.limit_at);
  set_state(r, ReplicaState::starting, r.error);
  out.orders.start.push_back({r.process, r.spec, r.grant.environment, r.fixed});
}

void Replicas::stop(Replica& r, Now now, Out& out) {
  r.ping_at = r.pong_by = r.start_at = kNever;
  const Duration grace = std::chrono::milliseconds(r.spec.graceful_ms);
  r.limit_at = now.mono + grace + kEndSlack;
  next_ = std::min(next_, r.limit_at);
  set_state(r, ReplicaState::stopping);
  out.orders.stop.push_back({r.process, grace});
}

// Its end is heard of as `gone`, and only then anything else is done.
void Replicas::kill(Replica& r, std::string why, Out& out) {
  r.ping_at = r.pong_by = r.limit_at = kNever;
  out.orders.kill.push_back({r.process, std::move(why)});
}

void Replicas::release(Replica& r, Now now) {
  if (r.granted) resources_.release(r.spec.id);
  r.granted = false;
  r.grant = {};
  // Somebody may have waited for it.
  for (auto& [id, other] : replicas_)
    if (other.start_at != kNever && !other.granted && !other.fixed)
      next_ = other.start_at = std::min(other.start_at, now.mono);
}

void Replicas::forget(Map::iterator it) {
  Replica& r = it->second;
  set_state(r, ReplicaState::stopped, r.error);
  if (!r.fixed) ended_.push_back(encode_replica_status(status(r)));
  if (ended_.size() > kReplicasMax) ended_.erase(ended_.begin());  // nobody listens
  replicas_.erase(it);
}

void Replicas::stop_all(Now now, Out& out) {
  stopping_ = true;
  for (auto& [id, r] : replicas_) {
    r.start_at = kNever;
    if (r.process != 0 && r.state != ReplicaState::stopping) stop(r, now, out);
  }
}

// --- PLACE -------------------------------------------------------------------------------------

Status Replicas::on_place(const Place& place, Now now, Out& out) {
  if (place.goal < goal_before_) return {};  // overtaken by a newer one
  std::map<uint64_t, ReplicaSpec> wanted;
  for (const std::string& blob : place.replicas) {
    DRAY_TRY_ASSIGN(ReplicaSpec spec, decode_replica(blob));
    DRAY_TRY(check_needs(spec));
    if ((spec.id & kFixedBit) != 0)
      return make_error(Errc::bad_argument, "replica id is above 2^63");
    if (spec.code.empty()) return make_error(Errc::bad_argument, "replica code is empty");
    const uint64_t id = spec.id;
    if (!wanted.emplace(id, std::move(spec)).second)
      return make_error(Errc::bad_argument, "replica id is there twice");
  }
  if (wanted.size() > kReplicasMax)
    return make_error(Errc::too_large, "more than 256 replicas for one worker");
  news_ = news_ || place.goal != goal_;
  goal_ = goal_before_ = place.goal;
  for (auto it = replicas_.begin(); it != replicas_.end();) {
    const auto here = it++;
    Replica& r = here->second;
    if (r.fixed || r.leaving || wanted.count(here->first) != 0) continue;
    r.leaving = true;
    if (r.process == 0) {
      release(r, now);
      forget(here);
    } else if (r.state != ReplicaState::stopping) {
      stop(r, now, out);
    }
    changed_ = true;
  }
  for (auto& [id, spec] : wanted) {
    const auto known = replicas_.find(id);
    if (known != replicas_.end()) {
      update(known->second, spec, now, out);
      continue;
    }
    Replica& r = replicas_[id];
    r.spec = std::move(spec);
    news_ = changed_ = true;
    if (!stopping_) start(r, now, out);
  }
  return {};
}

// One that leaves does not come back: its id is never used again.
void Replicas::update(Replica& r, const ReplicaSpec& spec, Now now, Out& out) {
  if (r.leaving || r.spec == spec) return;
  r.spec = spec;
  changed_ = true;
  if (r.state == ReplicaState::failed && !stopping_) {  // it is worth another try
    r.crashes = 0;
    r.hopeless = false;
    return start(r, now, out);
  }
  send_config(r, out);
}

void Replicas::send_config(Replica& r, Out& out) {
  const bool runs = r.state == ReplicaState::ready || r.state == ReplicaState::unhealthy;
  if (!runs || r.config_version == r.spec.config_version) return;
  r.config_version = r.spec.config_version;
  out.orders.config.push_back({r.process, r.spec.user_config, r.spec.config_version});
}

// --- news of processes -------------------------------------------------------------------------

void Replicas::on_events(std::vector<ProcessEvent>&& events, Now now, Out& out) {
  for (ProcessEvent& event : events) on_event(std::move(event), now, out);
}

void Replicas::on_event(ProcessEvent&& event, Now now, Out& out) {
  const auto known = by_process_.find(event.process);
  if (known == by_process_.end()) return;
  const auto it = replicas_.find(known->second);
  if (it == replicas_.end() || it->second.process != event.process) return;
  Replica& r = it->second;
  switch (event.kind) {
    case ProcessEvent::Kind::ready:
      return on_ready(r, std::move(event), now, out);
    case ProcessEvent::Kind::failed:
      r.error = event.text;
      return;
    case ProcessEvent::Kind::pong:
      return on_pong(r, event, now);
    case ProcessEvent::Kind::configured:
      if (!event.ok)
        out.note("config_refused", "deployment=" + r.spec.deployment + " text=" + event.text);
      if (!event.ok && r.state == ReplicaState::ready) set_state(r, r.state, event.text);
      return;
    case ProcessEvent::Kind::load:
      if (!r.fixed && r.ongoing != event.number) r.news = news_ = true;
      r.ongoing = event.number;
      return;
    case ProcessEvent::Kind::recycle:
      if (r.state == ReplicaState::stopping) return;
      r.recycling = true;
      r.offer_until = now.mono + kKeepOffer;
      next_ = std::min(next_, r.offer_until);
      return stop(r, now, out);
    case ProcessEvent::Kind::gone:
      return on_gone(r, event, now, out);
  }
}

// Replicas of one deployment share names; anything else would be a mix-up.
std::string Replicas::other_owner(const Replica& r, const std::string& name) const {
  if (std::find(options_.handlers.begin(), options_.handlers.end(), name) !=
      options_.handlers.end())
    return "this worker's own plugins";
  for (const auto& [id, other] : replicas_) {
    if (&other == &r || (!r.fixed && !other.fixed && r.spec.deployment == other.spec.deployment))
      continue;
    for (const ReplicaHandler& h : other.handlers)
      if (h.offer.name == name)
        return other.fixed ? "plugin " + other.spec.code : "deployment " + other.spec.deployment;
  }
  return {};
}

void Replicas::on_ready(Replica& r, ProcessEvent&& event, Now now, Out& out) {
  if (r.state != ReplicaState::starting) return;
  for (const ReplicaHandler& h : event.handlers) {
    const std::string other = other_owner(r, h.offer.name);
    if (other.empty()) continue;
    r.hopeless = true;
    r.crashes = kCrashesMax;
    return kill(r, "handler '" + h.offer.name + "' is already defined by " + other, out);
  }
  r.handlers = std::move(event.handlers);
  r.ready_at = now.mono;
  r.was_ready = true;
  r.started_ms = static_cast<uint64_t>(to_us(now.mono - r.began) / 1000);
  r.limit_at = kNever;
  r.ping_at = now.mono + ms_or(r.spec.health_period_ms, kHealthPeriod);
  next_ = std::min(next_, r.ping_at);
  set_state(r, ReplicaState::ready);
  out.note("replica_ready", "deployment=" + r.spec.deployment + " code=" + r.spec.code +
                                " ms=" + std::to_string(r.started_ms));
  send_config(r, out);
}

void Replicas::on_pong(Replica& r, const ProcessEvent& event, Now now) {
  if (r.pong_by == kNever) return;
  r.pong_by = kNever;
  r.ping_at = now.mono + ms_or(r.spec.health_period_ms, kHealthPeriod);
  next_ = std::min(next_, r.ping_at);
  if (r.state != ReplicaState::ready && r.state != ReplicaState::unhealthy) return;
  if (event.ok && r.state == ReplicaState::unhealthy) set_state(r, ReplicaState::ready);
  if (!event.ok) set_state(r, ReplicaState::unhealthy, event.text);
}

void Replicas::on_gone(Replica& r, const ProcessEvent& event, Now now, Out& out) {
  by_process_.erase(r.process);
  r.process = 0;
  r.limit_at = r.ping_at = r.pong_by = kNever;
  changed_ = true;
  if (r.leaving) {
    release(r, now);
    return forget(replicas_.find(r.spec.id));
  }
  if (stopping_) return set_state(r, ReplicaState::stopped);
  if (!r.recycling) return crashed(r, event.text, now, out);
  r.recycling = false;
  r.error.clear();
  start(r, now, out);
}

void Replicas::fail(Replica& r, const std::string& text, Now now) {
  r.start_at = kNever;
  set_state(r, ReplicaState::failed, text);
  release(r, now);
}

void Replicas::on_devices(Now now, Out& out) {
  for (auto& [id, r] : replicas_) {
    if (!r.granted || r.grant.devices.empty() || r.hopeless) continue;
    const auto why = resources_.lost(id);
    if (!why) continue;
    r.hopeless = true;
    r.crashes = kCrashesMax;
    if (r.process == 0)
      fail(r, *why, now);
    else
      kill(r, *why, out);
  }
}

void Replicas::crashed(Replica& r, const std::string& text, Now now, Out& out) {
  const bool was_ready = r.state == ReplicaState::ready || r.state == ReplicaState::unhealthy;
  if (was_ready && !r.hopeless && now.mono - r.ready_at >= kStable) r.crashes = 0;
  ++r.crashes;
  ++crashes_;
  ++r.restarts;
  out.note("executor_ended", "deployment=" + r.spec.deployment + " code=" + r.spec.code +
                                 " crashes=" + std::to_string(r.crashes) + " text=" + text);
  if (was_ready) r.offer_until = now.mono + kKeepOffer;
  if (r.crashes >= (r.was_ready ? kCrashesMax : kStartsMax) && !r.fixed) return fail(r, text, now);
  set_state(r, ReplicaState::starting, text);
  r.start_at = now.mono + backoff(r.crashes);
  next_ = std::min({next_, r.start_at, r.offer_until > now.mono ? r.offer_until : kNever});
  if (r.start_at <= now.mono) start(r, now, out);
}

// --- time --------------------------------------------------------------------------------------

Time Replicas::deadline(const Replica& r) const {
  return std::min({r.start_at, r.limit_at, r.ping_at, r.pong_by});
}

// next_ is only a lower bound; a look at all gives the next one.
void Replicas::tick(Now now, Out& out) {
  if (now.mono < next_) return;
  next_ = kNever;
  for (auto& [id, r] : replicas_) {
    look(r, now, out);
    next_ = std::min(next_, deadline(r));
    if (r.offer_until > now.mono) next_ = std::min(next_, r.offer_until);
  }
  changed_ = true;
}

Time Replicas::next_deadline() const { return next_; }

void Replicas::look(Replica& r, Now now, Out& out) {
  if (now.mono >= r.start_at) return start(r, now, out);
  if (now.mono >= r.limit_at) {
    const bool starts = r.state == ReplicaState::starting;
    return kill(r, starts ? "it was not ready in time" : "it did not end in time", out);
  }
  if (now.mono >= r.pong_by) return kill(r, "it did not answer a health check", out);
  if (now.mono < r.ping_at) return;
  r.ping_at = kNever;
  r.pong_by = now.mono + ms_or(r.spec.health_timeout_ms, kHealthTime);
  out.orders.ping.push_back(r.process);
}

// --- invariants --------------------------------------------------------------------------------

void Replicas::check() const {
  size_t processes = 0;
  for (const auto& [id, r] : replicas_) {
    DRAY_ASSERT(id == r.spec.id && r.fixed == ((id & kFixedBit) != 0));
    DRAY_ASSERT(next_ <= deadline(r));
    processes += r.process != 0;
    if (r.process == 0) {
      DRAY_ASSERT(r.limit_at == kNever && r.ping_at == kNever && r.pong_by == kNever && !r.leaving);
    } else {
      const auto known = by_process_.find(r.process);
      DRAY_ASSERT(known != by_process_.end() && known->second == id);
      DRAY_ASSERT(r.start_at == kNever && (r.fixed || r.granted));
    }
    DRAY_ASSERT(r.state != ReplicaState::failed || (r.process == 0 && !r.granted));
  }
  DRAY_ASSERT(processes == by_process_.size());
}

}  // namespace dray::worker
