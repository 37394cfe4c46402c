#include "common/wire/link.h"

#include <algorithm>

#include "common/base/mutant.h"

namespace dray {
namespace {
constexpr size_t kRememberedBoots = 16 * 1024;
constexpr Duration kHelloPatience = std::chrono::milliseconds(50);
Envelope plain(uint64_t session) {
  Envelope e;
  e.session = session;
  return e;
}
bool is_link_verb(Kind k) { return k >= Kind::hello && k <= Kind::who; }
// A listener learns that a connection is lost from what can not be sent there (on_departure is the
// quick way to that, not the sure one). A router wants to know soon of its workers: calls wait for
// the ends of what they run.
Duration beat_of(const LinkOptions& own, const SessionInfo& peer) {
  const bool urgent = own.role == Role::router && peer.role == Role::worker;
  return urgent ? own.beat / 4 : own.beat;
}
}  // namespace

const char* close_reason_name(CloseReason reason) {
  switch (reason) {
    case CloseReason::timeout:
      return "timeout";
    case CloseReason::replaced:
      return "replaced";
    case CloseReason::bye:
      return "bye";
    case CloseReason::unreachable:
      return "unreachable";
    case CloseReason::reset:
      return "reset";
  }
  return "?";
}

void Links::dial(Port port, Role expected) {
  PortState& state = ports_[port];
  state.expected = expected;
  dialing_.push_back(port);
}

Links::Session* Links::find(Port port, Peer peer) {
  auto p = ports_.find(port);
  if (p == ports_.end()) return nullptr;
  SessionId id = p->second.session;
  if (p->second.listening) {
    auto it = p->second.peers.find(peer);
    if (it == p->second.peers.end()) return nullptr;
    id = it->second;
  }
  auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : &it->second;
}

void Links::on_packet(Packet&& packet, Time now) {
  auto envelope = decode_envelope(packet.frames);
  if (!envelope) {
    ++counters_.bad_messages;
    if (Session* s = find(packet.port, packet.peer)) {
      Message m =
          Reject{static_cast<uint8_t>(envelope.error().code), envelope.error().detail, 0, {}, 0};
      put(packet.port, packet.peer, encode(plain(s->wire_id), m));
    }
    return;
  }
  if (envelope->kind == Kind::hello || envelope->kind == Kind::welcome) {
    auto in = decode(packet.frames);
    if (!in) {
      ++counters_.bad_messages;
      return;
    }
    bool listening = ports_[packet.port].listening;
    if (envelope->kind == Kind::hello && listening) return on_hello(packet, *in, now);
    if (envelope->kind == Kind::welcome && !listening) return on_welcome(packet, *in, now);
    ++counters_.bad_messages;
    return;
  }
  Session* session = find(packet.port, packet.peer);
  if (!session || session->wire_id != envelope->session) {
    ++counters_.stale_messages;
    PortState& state = ports_[packet.port];
    if (state.listening) {
      if (envelope->kind != Kind::who && envelope->kind != Kind::bye)
        put(packet.port, packet.peer, encode(plain(0), Who{}));
    } else if (envelope->kind == Kind::who && now - state.said_hello >= kHelloPatience) {
      // Several stale messages draw several WHOs; one HELLO answers them all.
      if (state.session != SessionId::none) drop(state.session, CloseReason::replaced);
      state.hello_at = now;
      next_tick_ = now;
    }
    return;
  }
  session->heard = now;
  if (is_link_verb(envelope->kind)) {
    on_link_verb(*session, packet, std::move(envelope).value(), now);
    return;
  }
  LinkEvent event{
      LinkEvent::Type::message, {}, {}, std::move(envelope).value(), std::move(packet.frames)};
  event.session.id = session->info.id;
  events.push_back(std::move(event));
}

void Links::on_link_verb(Session& session, const Packet& packet, Envelope&& envelope, Time now) {
  SessionId id = session.info.id;
  if (envelope.kind == Kind::bye) {
    drop(id, CloseReason::bye);
    PortState& state = ports_[packet.port];
    // The listener left on purpose; give it a moment before knocking again.
    if (!state.listening) state.hello_at = now + options_.beat / 4;
    next_tick_ = now;
  } else if (envelope.kind == Kind::who) {
    PortState& state = ports_[packet.port];
    drop(id, CloseReason::replaced);
    state.hello_at = now;
    next_tick_ = now;
  }
}

void Links::on_hello(const Packet& packet, const Incoming& in, Time now) {
  const Hello& hello = std::get<Hello>(in.message);
  Newest& newest = newest_[hello.boot];
  if (hello.connect_no <= newest.connect_no && !DRAY_MUTANT(old_hello_accepted)) {
    // A late HELLO of a connection that was replaced. Without this rule it would rebind the peer to
    // a dead connection. The same HELLO twice on the live connection is answered again.
    Session* s = find(packet.port, packet.peer);
    if (!s || s->info.boot != hello.boot || s->connect_no != hello.connect_no) {
      ++counters_.stale_messages;
      return;
    }
    s->heard = now;
    Welcome again{s->wire_id,
                  static_cast<uint8_t>(options_.role),
                  options_.name,
                  options_.boot,
                  options_.epoch,
                  hello.connect_no,
                  static_cast<uint32_t>(to_ms(options_.beat)),
                  static_cast<uint32_t>(to_ms(options_.liveness)),
                  options_.payload_max};
    put(packet.port, packet.peer, encode(plain(s->wire_id), again));
    return;
  }
  if (newest.session != SessionId::none) drop(newest.session, CloseReason::replaced);
  if (Session* other = find(packet.port, packet.peer)) drop(other->info.id, CloseReason::replaced);
  SessionId id{next_session_++};
  Session s;
  s.info = {id, packet.port, static_cast<Role>(hello.role), hello.name, hello.boot, 0, 0};
  s.peer = packet.peer;
  s.wire_id = wire_base_ + static_cast<uint64_t>(id);
  s.connect_no = hello.connect_no;
  s.heard = s.spoke = now;
  newest_[hello.boot] = {hello.connect_no, id};
  ports_[packet.port].peers[packet.peer] = id;
  Welcome welcome{s.wire_id,
                  static_cast<uint8_t>(options_.role),
                  options_.name,
                  options_.boot,
                  options_.epoch,
                  hello.connect_no,
                  static_cast<uint32_t>(to_ms(options_.beat)),
                  static_cast<uint32_t>(to_ms(options_.liveness)),
                  options_.payload_max};
  put(packet.port, packet.peer, encode(plain(s.wire_id), welcome));
  events.push_back({LinkEvent::Type::opened, s.info, {}, {}, {}});
  sessions_.emplace(id, std::move(s));
  order_.push_back(id);
  ++counters_.opened;
}

void Links::on_welcome(const Packet& packet, const Incoming& in, Time now) {
  const Welcome& w = std::get<Welcome>(in.message);
  PortState& state = ports_[packet.port];
  if (w.connect_no != state.connect_no || static_cast<Role>(w.role) != state.expected) {
    ++counters_.stale_messages;
    return;
  }
  if (state.session != SessionId::none) {
    auto it = sessions_.find(state.session);
    if (it != sessions_.end() && it->second.wire_id == w.session) {
      it->second.heard = now;
      return;
    }
    drop(state.session, CloseReason::replaced);
  }
  SessionId id{next_session_++};
  Session s;
  s.info = {id, packet.port, static_cast<Role>(w.role), w.name, w.boot, w.epoch, w.payload_max};
  s.wire_id = w.session;
  s.connect_no = w.connect_no;
  s.heard = s.spoke = now;
  // Both sides use the listener's numbers.
  options_.beat = std::chrono::milliseconds(std::clamp<uint32_t>(w.beat_ms, 10, 60'000));
  state.session = id;
  state.hellos = 0;
  events.push_back({LinkEvent::Type::opened, s.info, {}, {}, {}});
  sessions_.emplace(id, std::move(s));
  order_.push_back(id);
  ++counters_.opened;
}

void Links::drop(SessionId id, CloseReason reason) {
  auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  Session& s = it->second;
  PortState& state = ports_[s.info.port];
  if (state.listening) {
    state.peers.erase(s.peer);
    auto newest = newest_.find(s.info.boot);
    if (newest != newest_.end() && newest->second.session == id)
      newest->second.session = SessionId::none;
    if (newest_.size() > kRememberedBoots) newest_.erase(s.info.boot);
  } else {
    state.session = SessionId::none;
  }
  LinkEvent event{LinkEvent::Type::closed, {}, reason, {}, {}};
  event.session.id = id;
  events.push_back(std::move(event));
  sessions_.erase(it);
  order_.erase(std::remove(order_.begin(), order_.end(), id), order_.end());
  ++counters_.closed;
}

void Links::say_hello(Port port, PortState& state, Time now) {
  ++state.connect_no;
  ++state.hellos;
  state.said_hello = now;
  Hello hello{static_cast<uint8_t>(options_.role), options_.name, options_.boot, state.connect_no};
  put(port, 0, encode(Envelope{}, hello));
  // 100 ms, 200, 400 ... 1.6 s between knocks.
  state.hello_at = now + std::chrono::milliseconds(100 << std::min(state.hellos - 1, 4));
}

void Links::tick_dialer(Port port, PortState& state, Time now) {
  if (state.session != SessionId::none) {
    Session& s = sessions_.at(state.session);
    if (now - s.heard < 3 * options_.beat) return;
    // The watchdog: a socket whose session was killed by a protocol error never comes back.
    drop(state.session, CloseReason::timeout);
    resets.push_back(port);
    ++counters_.resets;
    state.hellos = 0;
    state.hello_at = now;
  }
  if (now < state.hello_at) return;
  if (state.hellos > 0 && state.hellos % 4 == 0) {
    resets.push_back(port);
    ++counters_.resets;
  }
  say_hello(port, state, now);
}

void Links::tick(Time now, bool drained) {
  if (last_tick_ != Time{} && now - last_tick_ > options_.beat * 3 / 2) {
    Duration gap = now - last_tick_;
    for (auto& [id, s] : sessions_)
      if (!DRAY_MUTANT(stop_not_given_back)) s.heard = std::min(s.heard + gap, now);
  }
  last_tick_ = now;
  const bool probe = now >= probe_at_;
  if (probe) {
    probed_at_ = now;
    probe_at_ = kNever;
    if (std::exchange(probe_again_, false)) on_departure(now);
  }
  std::vector<SessionId> dead;
  bool waits_for_input = false;
  for (SessionId id : order_) {
    Session& s = sessions_.at(id);
    const bool unreachable = s.unreachable_at != kNever;
    const bool silent = ports_[s.info.port].listening && now - s.heard >= options_.liveness &&
                        !DRAY_MUTANT(silence_never_ends);
    // Others may say so much that never everything is read.
    const bool waited = unreachable && now - s.unreachable_at >= options_.beat / 4;
    if (waited || (drained && (silent || unreachable))) {
      dead.push_back(id);
    } else if (unreachable) {
      waits_for_input = true;
    } else if (now - s.spoke >= beat_of(options_, s.info) ||
               (probe && ports_[s.info.port].listening)) {
      put(s.info.port, s.peer, encode(plain(s.wire_id), Beat{}));
      s.spoke = now;
    }
  }
  for (SessionId id : dead)
    drop(id, sessions_.at(id).unreachable_at != kNever ? CloseReason::unreachable
                                                       : CloseReason::timeout);
  for (Port port : dialing_) tick_dialer(port, ports_[port], now);
  next_tick_ = waits_for_input ? now : std::min(probe_at_, now + options_.beat / 4);
  for (Port port : dialing_)
    if (ports_[port].session == SessionId::none)
      next_tick_ = std::min(next_tick_, std::max(now, ports_[port].hello_at));
}

// Not at once: libzmq says that a connection ended before it takes nothing more for it. Not often:
// connections that come and go must not make much of it.
void Links::on_departure(Time now) {
  probe_again_ = probe_at_ != kNever;
  if (probe_again_) return;
  probe_at_ = std::max(now + options_.beat / 100, probed_at_ + options_.beat / 20);
  next_tick_ = std::min(next_tick_, probe_at_);
}

void Links::on_unreachable(Port port, Peer peer, Time now) {
  Session* s = find(port, peer);
  PortState& state = ports_[port];
  if (s && !DRAY_MUTANT(unreachable_at_once))
    s->unreachable_at = std::min(s->unreachable_at, now);
  else if (s)
    drop(s->info.id, CloseReason::unreachable);
  if (!state.listening) state.hello_at = now;
  next_tick_ = now;
}

void Links::send(SessionId to, Envelope envelope, const Message& message, Time now) {
  auto it = sessions_.find(to);
  if (it == sessions_.end() || it->second.unreachable_at != kNever) return;
  envelope.session = it->second.wire_id;
  it->second.spoke = now;
  put(it->second.info.port, it->second.peer, encode(envelope, message));
}

void Links::forward(SessionId to, const Envelope& envelope, const Frames& frames, Time now) {
  auto it = sessions_.find(to);
  if (it == sessions_.end() || it->second.unreachable_at != kNever) return;
  Envelope e = envelope;
  e.session = it->second.wire_id;
  auto out = with_envelope(frames, e);
  if (!out) return;
  it->second.spoke = now;
  put(it->second.info.port, it->second.peer, std::move(out).value());
}

void Links::close(SessionId id, Time) {
  auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  put(it->second.info.port, it->second.peer, encode(plain(it->second.wire_id), Bye{}));
  drop(id, CloseReason::bye);
}

void Links::close_all(Time now) {
  for (SessionId id : std::vector<SessionId>(order_)) close(id, now);
}

}  // namespace dray
