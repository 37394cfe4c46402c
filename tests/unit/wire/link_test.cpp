// Sessions: what an earlier life of a listener said is never taken for a word of the present one.
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
  const Time now = Time(100s);
  Links worker({Role::worker, "w", {1, 1}});
  worker.dial(kPort, Role::router);
  Links router({Role::router, "r", {7, 1'000'001}});
  router.listen(kPort);
  const SessionId open = settle(worker, router, 5, now);
  router.events.clear();
  worker.send(open, Envelope{}, Drain{true}, now);
  Packet last = std::move(worker.packets.at(0));

  router.on_unreachable(kPort, 5, now);  // it has left, and its last word waits in our socket
  CHECK(router.next_deadline() <= now);
  router.tick(now, false);
  CHECK(router.events.empty());
  router.on_packet({kPort, 5, std::move(last.frames)}, now);
  REQUIRE(router.events.size() == 1);
  CHECK(router.events[0].type == LinkEvent::Type::message);
  CHECK(router.next_deadline() <= now);
  router.tick(now, true);
  REQUIRE(router.events.size() == 2);
  CHECK(router.events[1].type == LinkEvent::Type::closed);
  CHECK(router.events[1].reason == CloseReason::unreachable);
  CHECK(router.size() == 0);
}

TEST_CASE("a dialer too reads what is there before it ends an unreachable session") {
  const Time now = Time(100s);
  Links client({Role::client, "c", {1, 1}});
  client.dial(kPort, Role::router);
  Links router({Role::router, "r", {7, 1'000'001}});
  router.listen(kPort);
  REQUIRE(settle(client, router, 5, now) != SessionId::none);
  router.send(first_client(router), Envelope{}, Drain{true}, now);
  Packet last = std::move(router.packets.at(0));

  client.on_unreachable(kPort, 0, now);
  client.tick(now, false);
  CHECK(client.events.empty());
  CHECK(client.packets.empty());  // no HELLO before that
  client.on_packet({kPort, 0, std::move(last.frames)}, now);
  REQUIRE(client.events.size() == 1);
  CHECK(client.events[0].type == LinkEvent::Type::message);
  client.tick(now, true);
  REQUIRE(client.events.size() == 2);
  CHECK(client.events[1].reason == CloseReason::unreachable);
  CHECK(client.packets.size() == 1);
}
