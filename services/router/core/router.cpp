#include "services/router/core/router.h"

#include <algorithm>
#include <set>

#include "common/base/assert.h"
#include "common/base/mutant.h"
#include "services/router/core/peek.h"

namespace dray {
namespace {

bool is_request(Kind kind) {
  switch (kind) {
    case Kind::submit:
    case Kind::cancel:
    case Kind::query:
    case Kind::admin:
    case Kind::wait:
    case Kind::unwait:
    case Kind::fetch:
    case Kind::forget:
    case Kind::group_put:
    case Kind::group_watch:
      return true;
    default:
      return false;
  }
}

bool is_about_calls(Kind kind) {
  return kind == Kind::call || kind == Kind::call_cancel || kind == Kind::call_credit;
}

bool is_for_workers(Kind kind) {
  return kind == Kind::offer || kind == Kind::done || kind == Kind::drain || kind == Kind::reject ||
         kind == Kind::share || kind == Kind::capacity;
}

bool is_for_clients(Kind kind) {
  switch (kind) {
    case Kind::reject:
    case Kind::ok:
    case Kind::states:
    case Kind::submitted:
    case Kind::admin_reply:
    case Kind::ready:
    case Kind::group_state:
      return true;
    default:
      return false;
  }
}

uint64_t size_of(const Frames& frames) {
  uint64_t n = 0;
  for (uint8_t i = 0; i < frames.count; ++i) n += frames.frame[i].size();
  return n;
}

constexpr Duration kLoadEvery = std::chrono::milliseconds(500);
constexpr Duration kLoadAgain = std::chrono::milliseconds(50);  // at once, but not at every call

const char* service_name(Kind kind) {
  return kind == Kind::submit || kind == Kind::cancel || kind == Kind::query ? "broker"
                                                                             : "aggregator";
}

Message overloaded(const char* limit, uint64_t value, uint32_t retry_ms) {
  return make_reject(Errc::overloaded, std::string("over ") + limit, retry_ms, limit, value);
}

}  // namespace

void Router::on_open(const SessionInfo& session, Now now, Out& out) {
  if (session.port == kWorkers) {
    if (session.role == Role::worker) return lane_.on_worker_open(session);
    out.note("wrong_door", "name=" + session.name);
    out.close.push_back(session.id);
    return;
  }
  if (session.port == kBroker) {
    broker_ = session.id;
    out.note("broker_up", "epoch=" + std::to_string(session.epoch));
  } else if (session.port == kAggregator) {
    aggregator_ = session.id;
    out.note("aggregator_up", {});
  } else if (session.port == kBalancer) {
    balancer_ = session.id;
    load_at_ = now.mono;
    out.note("balancer_up", {});
  } else {
    Client& client = clients_[session.id];
    client.name = session.name;
    say(session.id, client, 0, Sync{0}, out);
    lane_.on_client_open(session.id);
  }
}

void Router::on_close(SessionId session, CloseReason, Now now, Out& out) {
  if (lane_.has_worker(session)) return lane_.on_worker_close(session, now, out);
  if (session == broker_) {
    broker_ = SessionId::none;
    on_service_lost(session, "broker", out);
    for (auto& [id, client] : clients_) {
      if (!client.watches) continue;
      client.watches = false;
      ++counters_.watch_lost;
      say(id, client, 0, WatchLost{}, out);
    }
  } else if (session == aggregator_) {
    aggregator_ = SessionId::none;
    on_service_lost(session, "aggregator", out);
  } else if (session == balancer_) {
    balancer_ = SessionId::none;
    load_at_ = kNever;
    on_service_lost(session, "balancer", out);
    // What it held stays held: it will be back, and calls have deadlines.
    lane_.forget_suspects();
  } else if (auto it = clients_.find(session); it != clients_.end()) {
    drop_client(session, it->second, out);
    clients_.erase(it);
    lane_.on_client_close(session, now);
  }
}

void Router::on_frames(SessionId from, const Envelope& envelope, Frames&& frames, Now now,
                       Out& out) {
  if (lane_.has_worker(from)) return on_worker(from, envelope, std::move(frames), now, out);
  auto it = clients_.find(from);
  if (it == clients_.end()) {
    if (from == balancer_ && envelope.kind == Kind::view)
      return on_view(std::move(frames), now, out);
    if (from == broker_ || from == aggregator_ || from == balancer_)
      on_answer(from, envelope, std::move(frames), out);
    return;
  }
  Client& client = it->second;
  Asked asked{from, client, envelope, size_of(frames)};
  if (is_about_calls(envelope.kind)) return on_calls(asked, std::move(frames), now, out);
  if (!is_request(envelope.kind)) {
    refuse(asked, Refusal::bad_message,
           make_reject(Errc::bad_message,
                       "a client may not send " + std::string(kind_name(envelope.kind))),
           out);
    return;
  }
  client.credit.on_received_upto(client.credit.received() + 1);
  if (client.credit.received() > client.published) {
    refuse(asked, Refusal::client_credit,
           overloaded("router.client_credit", options_.client_credit, options_.retry_ms), out);
    return;
  }
  on_request(asked, std::move(frames), out);
  // Waits are answered late or never; without this their credit would come back only then.
  const uint64_t fresh = client.credit.granted(options_.client_credit, client.inflight.size());
  if (fresh >= client.published + std::max<uint64_t>(1, options_.client_credit / 4))
    say(from, client, 0, Sync{client.credit.received()}, out);
}

void Router::on_calls(const Asked& asked, Frames&& frames, Now now, Out& out) {
  auto in = decode(frames);
  if (in)
    return lane_.on_client_message(asked.from, asked.envelope, std::move(in->message), now, out);
  // Whoever sent it counts the calls in it against its credit.
  if (asked.envelope.kind == Kind::call && frames.count > 1)
    lane_.on_client_garbage(asked.from, frames.frame[1].size() / sizeof(CallRow));
  refuse(asked, Refusal::bad_message, make_reject(in.error().code, in.error().detail), out);
}

void Router::on_worker(SessionId from, const Envelope& envelope, Frames&& frames, Now now,
                       Out& out) {
  Error error = make_error(Errc::bad_message,
                           "a worker may not send " + std::string(kind_name(envelope.kind)));
  if (is_for_workers(envelope.kind)) {
    auto in = decode(frames);
    if (in) return lane_.on_worker_message(from, envelope, std::move(in->message), now, out);
    error = in.error();
  }
  ++counters_.refused[static_cast<size_t>(Refusal::bad_message)];
  if (envelope.kind != Kind::reject)
    out.now.push_back(reply_to(from, envelope, make_reject(error.code, error.detail)));
  out.note("bad_worker_message", "detail=" + error.detail);
}

void Router::on_request(const Asked& asked, Frames&& frames, Out& out) {
  const Kind kind = asked.envelope.kind;
  if (kind == Kind::admin) return on_admin(asked, std::move(frames), out);
  if (kind == Kind::submit && draining_ && asked.client.inflight.count(asked.envelope.req) == 0) {
    refuse(asked, Refusal::draining,
           make_reject(Errc::draining, "the router is leaving", options_.retry_ms), out);
    return;
  }
  const SessionId dest = service_for(kind);
  if (dest == SessionId::none) return refuse_away(asked, kind, out);
  if (kind == Kind::unwait) return on_unwait(asked, std::move(frames), out);
  if (kind == Kind::wait) {
    if (!admit_wait(asked, out)) return;
    asked.client.waits[asked.envelope.req] = dest;
    return pass(asked, dest, std::move(frames), out);
  }
  bool push = false;
  if (kind == Kind::group_watch) {
    auto in = decode(frames);
    if (!in)
      return refuse(asked, Refusal::bad_message, make_reject(in.error().code, in.error().detail),
                    out);
    push = std::get<GroupWatch>(in->message).push;
    if (push && !admit_wait(asked, out)) return;
  }
  if (!admit(asked, out)) return;
  if (kind == Kind::submit && peek_flag(frames)) asked.client.watches = true;
  if (push) asked.client.waits[asked.envelope.req] = dest;
  track(asked, dest);
  pass(asked, dest, std::move(frames), out);
}

void Router::on_unwait(const Asked& asked, Frames&& frames, Out& out) {
  auto in = decode(frames);
  if (!in)
    return refuse(asked, Refusal::bad_message, make_reject(in.error().code, in.error().detail),
                  out);
  asked.client.waits.erase(std::get<Unwait>(in->message).wait_req);
  pass(asked, aggregator_, std::move(frames), out);
}

void Router::on_admin(const Asked& asked, Frames&& frames, Out& out) {
  auto in = decode(frames);
  if (!in)
    return refuse(asked, Refusal::bad_message, make_reject(in.error().code, in.error().detail),
                  out);
  const Admin& admin = std::get<Admin>(in->message);
  const Role target = static_cast<Role>(admin.target);
  if (target == Role::router) {
    const bool deployments = admin.verb == "deployments";
    if (admin.verb != "status" && !deployments)
      return refuse(asked, Refusal::bad_argument,
                    make_reject(Errc::bad_argument, "router knows: status, deployments"), out);
    ++counters_.requests[Kind::admin];
    return say(asked.from, asked.client, asked.envelope.req,
               AdminReply{deployments ? lane_.deployments_doc() : to_doc()}, out);
  }
  if (target == Role::balancer) {
    if (balancer_ == SessionId::none)
      return refuse(asked, Refusal::unavailable,
                    make_reject(Errc::unavailable, "balancer is away", options_.retry_ms), out);
    if (!admit(asked, out)) return;
    track(asked, balancer_);
    return pass(asked, balancer_, std::move(frames), out);
  }
  if (target != Role::broker && target != Role::aggregator)
    return refuse(
        asked, Refusal::bad_argument,
        make_reject(Errc::bad_argument, "admin target is router, broker, aggregator or balancer"),
        out);
  const bool broker = target == Role::broker;
  const SessionId dest = broker ? broker_ : aggregator_;
  if (dest == SessionId::none) return refuse_away(asked, broker ? Kind::submit : Kind::fetch, out);
  if (!admit(asked, out)) return;
  track(asked, dest);
  pass(asked, dest, std::move(frames), out);
}

SessionId Router::service_for(Kind kind) const {
  return service_name(kind)[0] == 'b' ? broker_ : aggregator_;
}

bool Router::admit_wait(const Asked& asked, Out& out) {
  const Client& c = asked.client;
  if (c.waits.count(asked.envelope.req) != 0 || c.waits.size() < options_.client_waits) return true;
  refuse(asked, Refusal::client_waits,
         overloaded("router.client_waits", options_.client_waits, options_.retry_ms), out);
  return false;
}

bool Router::admit(const Asked& asked, Out& out) {
  Client& c = asked.client;
  if (c.inflight.count(asked.envelope.req) != 0) return true;  // a resend, counted already
  if (c.inflight.size() >= options_.client_credit) {
    refuse(asked, Refusal::client_credit,
           overloaded("router.client_credit", options_.client_credit, options_.retry_ms), out);
  } else if (c.bytes + asked.bytes > options_.client_bytes) {
    refuse(asked, Refusal::client_bytes,
           overloaded("router.client_bytes", options_.client_bytes, options_.retry_ms), out);
  } else if (inflight_bytes_ + asked.bytes > options_.inflight_bytes) {
    refuse(asked, Refusal::inflight_bytes,
           overloaded("router.inflight_bytes", options_.inflight_bytes, options_.retry_ms), out);
  } else {
    return true;
  }
  return false;
}

void Router::track(const Asked& asked, SessionId dest) {
  auto [it, fresh] = asked.client.inflight.try_emplace(asked.envelope.req);
  if (fresh) {
    it->second.bytes = asked.bytes;
    asked.client.bytes += asked.bytes;
    inflight_bytes_ += asked.bytes;
    ++inflight_;
  }
  it->second.kind = asked.envelope.kind;
  it->second.dest = dest;
}

void Router::pass(const Asked& asked, SessionId dest, Frames&& frames, Out& out) {
  ++counters_.requests[asked.envelope.kind];
  Forward f{dest, asked.envelope, std::move(frames)};
  f.envelope.route = static_cast<uint64_t>(asked.from);
  f.envelope.granted = 0;
  out.forwards.push_back(std::move(f));
}

void Router::on_answer(SessionId from, const Envelope& envelope, Frames&& frames, Out& out) {
  if (!is_for_clients(envelope.kind)) {
    ++counters_.not_for_clients;
    return;
  }
  auto it = clients_.find(SessionId{envelope.route});
  if (it == clients_.end()) {
    ++counters_.unknown_route;
    return;
  }
  Client& client = it->second;
  // Pushes of the broker belong to no open request.
  const bool push = envelope.kind == Kind::ready && from == broker_;
  const bool last = envelope.kind != Kind::ready || peek_flag(frames);
  if (!push && !settle(client, envelope, from, last)) {
    ++counters_.late;
    return;
  }
  ++counters_.answers[envelope.kind];
  Forward f{it->first, envelope, std::move(frames)};
  f.envelope.deadline_us = 0;
  f.envelope.granted = grant(client);
  out.forwards.push_back(std::move(f));
}

// False if nothing of this client waits for such an answer.
bool Router::settle(Client& client, const Envelope& envelope, SessionId from, bool last) {
  const uint64_t req = envelope.req;
  auto request = client.inflight.find(req);
  if (request != client.inflight.end() && request->second.dest == from) {
    if (envelope.kind == Kind::reject) client.waits.erase(req);  // a refused group watch
    if (last && !(DRAY_MUTANT(router_leaks_credit) && envelope.kind == Kind::reject))
      finish_request(client, req);
    return true;
  }
  auto wait = client.waits.find(req);
  if (wait == client.waits.end() || wait->second != from) return false;
  if (envelope.kind == Kind::group_state) return true;
  if (last) client.waits.erase(wait);
  return true;
}

void Router::finish_request(Client& client, uint64_t req) {
  auto it = client.inflight.find(req);
  client.bytes -= it->second.bytes;
  inflight_bytes_ -= it->second.bytes;
  --inflight_;
  client.inflight.erase(it);
}

void Router::on_service_lost(SessionId service, const char* name, Out& out) {
  uint64_t refused = 0;
  const std::string detail = std::string("lost the ") + name + "; the outcome is not known";
  for (auto& [id, client] : clients_) {
    std::set<uint64_t> gone;  // a group watch may be in both tables
    for (const auto& [req, request] : client.inflight)
      if (request.dest == service) gone.insert(req);
    for (uint64_t req : gone) finish_request(client, req);
    for (const auto& [req, dest] : client.waits)
      if (dest == service) gone.insert(req);
    std::erase_if(client.waits, [&](const auto& wait) { return wait.second == service; });
    for (uint64_t req : gone)
      say(id, client, req, make_reject(Errc::unavailable, detail, options_.retry_ms), out);
    refused += gone.size();
  }
  counters_.refused[static_cast<size_t>(Refusal::unavailable)] += refused;
  out.note("service_lost", std::string("name=") + name + " refused=" + std::to_string(refused));
}

void Router::drop_client(SessionId id, Client& client, Out& out) {
  // Behind the forwards of this turn, or a WAIT that is still among them would stay for ever.
  for (const auto& [req, dest] : client.waits) {
    Envelope e;
    e.kind = Kind::unwait;
    e.route = static_cast<uint64_t>(id);
    out.forwards.push_back({dest, e, encode(e, Unwait{req})});
  }
  while (!client.inflight.empty()) finish_request(client, client.inflight.begin()->first);
}

void Router::begin_drain(Now, Out& out) {
  draining_ = true;
  lane_.begin_drain();
  out.note("draining", "inflight=" + std::to_string(inflight_) +
                           " calls=" + std::to_string(lane_.open_calls()));
}

void Router::say_load(Now now, Out& out) {
  load_said_ = now.mono;
  load_at_ = now.mono + kLoadEvery;
  out.now.emplace_back();
  out.now.back().to = balancer_;
  out.now.back().message = lane_.load();
}

void Router::on_view(Frames&& frames, Now now, Out& out) {
  auto in = decode(frames);
  if (!in) {
    out.note("bad_view", "detail=" + in.error().detail);
    return;
  }
  lane_.on_view(std::get<View>(in->message), now, out);
}

// Calls that are on their way now will be refused. A client that is told so before it hears BYE
// knows that they were not executed.
void Router::end_turn(Now now, Out& out) {
  lane_.end_turn(now, out);
  const bool waits = lane_.take_held_call();
  if (has_balancer() && waits) load_at_ = std::min(load_at_, load_said_ + kLoadAgain);
  if (now.mono >= load_at_) say_load(now, out);
  if (!draining_ || (lane_.open_calls() > 0 && !DRAY_MUTANT(drained_told_early))) return;
  told_drained_ = true;
  for (auto& [id, client] : clients_) {
    if (client.told_drained) continue;
    client.told_drained = true;
    say(id, client, 0, Drain{true}, out);
  }
}

void Router::refuse(const Asked& asked, Refusal refusal, Message reject, Out& out) {
  ++counters_.refused[static_cast<size_t>(refusal)];
  say(asked.from, asked.client, asked.envelope.req, std::move(reject), out);
}

void Router::refuse_away(const Asked& asked, Kind kind, Out& out) {
  refuse(asked, Refusal::unavailable,
         make_reject(Errc::unavailable, std::string(service_name(kind)) + " is away",
                     options_.retry_ms),
         out);
}

uint64_t Router::grant(Client& client) {
  client.published = std::max(
      client.published, client.credit.granted(options_.client_credit, client.inflight.size()));
  return client.published;
}

void Router::say(SessionId to, Client& client, uint64_t req, Message message, Out& out) {
  Send s;
  s.to = to;
  s.route = static_cast<uint64_t>(to);
  s.req = req;
  s.granted = grant(client);
  s.message = std::move(message);
  out.now.push_back(std::move(s));
}

void Router::check() const {
  lane_.check();
  uint64_t n = 0, bytes = 0;
  for (const auto& [id, client] : clients_) {
    uint64_t own = 0;
    for (const auto& [req, request] : client.inflight) {
      own += request.bytes;
      DRAY_ASSERT(request.dest == broker_ || request.dest == aggregator_ ||
                  request.dest == balancer_);
    }
    for (const auto& [req, dest] : client.waits) DRAY_ASSERT(dest == aggregator_);
    DRAY_ASSERT(own == client.bytes && own <= options_.client_bytes);
    DRAY_ASSERT(client.inflight.size() <= options_.client_credit);
    DRAY_ASSERT(client.waits.size() <= options_.client_waits);
    DRAY_ASSERT(client.published <= client.credit.received() + options_.client_credit);
    n += client.inflight.size();
    bytes += own;
  }
  DRAY_ASSERT(n == inflight_ && bytes == inflight_bytes_);
  DRAY_ASSERT(bytes <= options_.inflight_bytes);
}

}  // namespace dray
