// Links: how often a listener speaks to whom.
#include <catch2/catch.hpp>

#include "common/wire/link.h"

using namespace dray;

namespace {
constexpr Port kPort = 3;

LinkOptions options(Role role) {
  LinkOptions o;
  o.role = role;
  o.name = "listener";
  o.boot = {1, 2};
  return o;
}

void open(Links& links, Peer peer, Role role, Time now) {
  Hello m;
  m.role = static_cast<uint8_t>(role);
  m.name = "dialer";
  m.boot = {3, peer};
  m.connect_no = 1;
  Envelope e;
  e.kind = Kind::hello;
  links.on_packet({kPort, peer, encode(e, m)}, now);
}

// Quarters of a beat until this peer hears something when nothing else is said.
int quarters(Role own, Role peer) {
  Time now = at_ms(1000);
  Links links(options(own));
  links.listen(kPort);
  open(links, 7, peer, now);
  REQUIRE(links.size() == 1);
  links.packets.clear();
  for (int n = 1; n < 20; ++n) {
    now += 250ms;
    links.tick(now, false);
    if (!links.packets.empty()) return n;
  }
  return 0;
}
}  // namespace

TEST_CASE("a router speaks to its workers more often: so it learns soon that one is gone") {
  CHECK(quarters(Role::router, Role::worker) == 1);
  CHECK(quarters(Role::router, Role::client) == 4);
  CHECK(quarters(Role::broker, Role::worker) == 4);
}
