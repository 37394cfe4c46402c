// Sessions: what an earlier life of a listener said is never taken for a word of the present one,
// how a session ends whose peer is unreachable, and how often a listener speaks to whom.
#include "common/wire/link.h"

#include <catch2/catch.hpp>

#include "common/wire/message.h"

using namespace dray;

namespace {

constexpr Port kPort = 0;

// Carries what both say until nobody says anything more; the session the dialer has then.
SessionId settle(Links& dialer, Links& listener, Peer peer, Time now) {
  SessionId open = SessionId::none;
  dialer.tick(now, true);
  while (!dialer.packets.empty() || !listener.packets.empty()) {
    for (Packet& p : std::exchange(dialer.packets, {}))
      listener.on_packet({kPort, peer, std::move(p.frames)}, now);
    for (Packet& p : std::exchange(listener.packets, {}))
      dialer.on_packet({kPort, 0, std::move(p.frames)}, now);
  }
  for (const LinkEvent& e : std::exchange(dialer.events, {}))
    if (e.type == LinkEvent::Type::opened) open = e.session.id;
  return open;
}

SessionId first_client(Links& listener) {
  for (const LinkEvent& e : std::exchange(listener.events, {}))
    if (e.type == LinkEvent::Type::opened) return e.session.id;
  return SessionId::none;
}

struct Couple {
  Couple(Role dials, Role listens)
      : dialer({dials, "d", {1, 1}}), listener({listens, "l", {7, 1'000'001}}) {
    dialer.dial(kPort, listens);
    listener.listen(kPort);
    of_dialer = settle(dialer, listener, 5, now);
    of_listener = first_client(listener);
    REQUIRE(of_dialer != SessionId::none);
    REQUIRE(of_listener != SessionId::none);
  }
  const Time now = Time(100s);
  Links dialer, listener;
  SessionId of_dialer, of_listener;
};

}  // namespace

TEST_CASE("a late message of the listener's earlier life is dropped") {
  const Time now = Time(100s);
  Links worker({Role::worker, "w", {1, 1}});
  worker.dial(kPort, Role::router);
  Links before({Role::router, "r", {7, 1'000'001}});
  before.listen(kPort);
  REQUIRE(settle(worker, before, 5, now) != SessionId::none);
  before.send(first_client(before), Envelope{}, Drain{true}, now);
  Packet late = std::move(before.packets.at(0));

  worker.on_unreachable(kPort, 0, now);  // the router was killed and is back
  worker.events.clear();
  Links after({Role::router, "r", {8, 2'000'002}});
  after.listen(kPort);
  REQUIRE(settle(worker, after, 6, now + 1s) != SessionId::none);

  worker.on_packet({kPort, 0, std::move(late.frames)}, now + 1s);
  CHECK(worker.events.empty());
  CHECK(worker.counters().stale_messages == 1);
  after.send(first_client(after), Envelope{}, Drain{true}, now + 1s);
  worker.on_packet({kPort, 0, std::move(after.packets.at(0).frames)}, now + 1s);
  CHECK(worker.events.size() == 1);
}

TEST_CASE("what a peer said before it became unreachable is read before its session ends") {
  Couple c(Role::worker, Role::router);
  c.dialer.send(c.of_dialer, Envelope{}, Drain{true}, c.now);
  Packet last = std::move(c.dialer.packets.at(0));

  c.listener.on_unreachable(kPort, 5, c.now);  // it has left, its last word waits in our socket
  CHECK(c.listener.next_deadline() <= c.now);
  c.listener.tick(c.now, false);
  CHECK(c.listener.events.empty());
  c.listener.on_packet({kPort, 5, std::move(last.frames)}, c.now);
  REQUIRE(c.listener.events.size() == 1);
  CHECK(c.listener.events[0].type == LinkEvent::Type::message);
  CHECK(c.listener.next_deadline() <= c.now);
  c.listener.tick(c.now, true);
  REQUIRE(c.listener.events.size() == 2);
  CHECK(c.listener.events[1].type == LinkEvent::Type::closed);
  CHECK(c.listener.events[1].reason == CloseReason::unreachable);
  CHECK(c.listener.size() == 0);
}

TEST_CASE("a dialer too reads what is there before it ends an unreachable session") {
  Couple c(Role::client, Role::router);
  c.listener.send(c.of_listener, Envelope{}, Drain{true}, c.now);
  Packet last = std::move(c.listener.packets.at(0));

  c.dialer.on_unreachable(kPort, 0, c.now);
  c.dialer.tick(c.now, false);
  CHECK(c.dialer.events.empty());
  CHECK(c.dialer.packets.empty());  // no HELLO before that
  c.dialer.on_packet({kPort, 0, std::move(last.frames)}, c.now);
  REQUIRE(c.dialer.events.size() == 1);
  CHECK(c.dialer.events[0].type == LinkEvent::Type::message);
  c.dialer.tick(c.now, true);
  REQUIRE(c.dialer.events.size() == 2);
  CHECK(c.dialer.events[1].reason == CloseReason::unreachable);
  CHECK(c.dialer.packets.size() == 1);
}

TEST_CASE("an unreachable session ends soon, however much the others say") {
  Couple c(Role::worker, Role::router);
  c.listener.on_unreachable(kPort, 5, c.now);
  c.listener.on_unreachable(kPort, 5, c.now + 200ms);  // told again
  c.listener.tick(c.now + 200ms, false);
  CHECK(c.listener.events.empty());
  c.listener.tick(c.now + 250ms, false);
  REQUIRE(c.listener.events.size() == 1);
  CHECK(c.listener.events[0].reason == CloseReason::unreachable);
}

TEST_CASE("a router speaks to its workers more often: so it learns soon that one is gone") {
  auto quarters = [](Role listens, Role dials) {  // of a beat, until the peer hears something
    Couple c(dials, listens);
    c.listener.packets.clear();
    for (int n = 1; n < 20; ++n) {
      c.listener.tick(c.now + n * 250ms, false);
      if (!c.listener.packets.empty()) return n;
    }
    return 0;
  };
  CHECK(quarters(Role::router, Role::worker) == 1);
  CHECK(quarters(Role::router, Role::client) == 4);
  CHECK(quarters(Role::broker, Role::worker) == 4);
}

TEST_CASE("when a connection has ended something is said to everybody soon but not often") {
  Couple c(Role::worker, Role::broker);
  Links& l = c.listener;
  l.tick(c.now, true);
  l.packets.clear();
  l.on_departure(c.now + 1ms);
  l.on_departure(c.now + 2ms);  // while the first one is due
  CHECK(l.next_deadline() == Time(c.now + 11ms));
  l.tick(c.now + 10ms, true);
  CHECK(l.packets.empty());
  l.tick(c.now + 11ms, true);
  CHECK(l.packets.size() == 1);
  l.packets.clear();
  CHECK(l.next_deadline() == Time(c.now + 61ms));  // the second one
  l.tick(c.now + 61ms, true);
  CHECK(l.packets.size() == 1);
  l.packets.clear();
  CHECK(l.next_deadline() > Time(c.now + 200ms));
  l.on_departure(c.now + 62ms);
  CHECK(l.next_deadline() == Time(c.now + 111ms));

  // It has no use where the other side listens: there the connection itself is watched.
  c.dialer.packets.clear();
  c.dialer.on_departure(c.now + 1ms);
  c.dialer.tick(c.now + 11ms, true);
  CHECK(c.dialer.packets.empty());
}
