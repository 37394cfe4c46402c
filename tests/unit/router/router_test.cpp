// Router core: credit, budgets, routing of answers, loss of services and clients.
#include "services/router/core/router.h"

#include <catch2/catch.hpp>
#include <deque>

#include "common/base/ids.h"

using namespace dray;

namespace {

constexpr SessionId kBrokerId{1}, kAggregatorId{2}, kAnn{10}, kBob{11};

SessionInfo session(SessionId id, Port port, Role role) {
  SessionInfo info;
  info.id = id;
  info.port = port;
  info.role = role;
  info.name = "peer" + std::to_string(static_cast<uint64_t>(id));
  return info;
}

struct Bench {
  explicit Bench(RouterOptions options = {}) : router(options) {
    open(kBrokerId, Router::kBroker, Role::broker);
    open(kAggregatorId, Router::kAggregator, Role::aggregator);
    open(kAnn, Router::kClients, Role::client);
    open(kBob, Router::kClients, Role::client);
    out.clear();
  }
  void open(SessionId id, Port port, Role role) {
    router.on_open(session(id, port, role), now, out);
  }
  void close(SessionId id) { router.on_close(id, CloseReason::timeout, now, out); }
  // What `from` puts on the wire; the envelope's kind comes from the message.
  void send(SessionId from, uint64_t req, const Message& m, uint64_t route = 0) {
    Envelope e;
    e.req = req;
    e.route = route;
    Frames frames = encode(e, m);
    auto seen = decode_envelope(frames);
    REQUIRE(seen);
    router.on_frames(from, *seen, std::move(frames), now, out);
    router.check();
  }
  void answer(SessionId from, SessionId to, uint64_t req, const Message& m) {
    send(from, req, m, static_cast<uint64_t>(to));
  }
  std::vector<Message> said_to(SessionId id) const {
    std::vector<Message> list;
    for (const Send& s : out.now)
      if (s.to == id) list.push_back(s.message);
    return list;
  }
  uint64_t refused(Refusal r) const { return router.counters().refused[static_cast<size_t>(r)]; }
  Reject last_reject() const {
    REQUIRE(!out.now.empty());
    return std::get<Reject>(out.now.back().message);
  }
  Router router;
  RouterOut out;
  Now now{at_ms(1000), 1'000'000};
};

Submit submit(bool watch = false, size_t bytes = 10) {
  Submit s;
  s.watch = watch;
  s.specs = {"spec"};
  RowsBuilder<SubmitRow> rows;
  SubmitRow row;
  row.id = {1, 2};
  row.len = static_cast<uint32_t>(bytes);
  rows.add(row);
  s.rows = rows.take();
  s.bytes = Bytes(std::string(bytes, 'x'));
  return s;
}
Wait wait() {
  Wait w;
  w.rows = make_rows<IdRow>(std::vector<TaskId>{{1, 2}});
  return w;
}
Admin admin(Role target, std::string verb) {
  Admin a;
  a.target = static_cast<uint8_t>(target);
  a.verb = std::move(verb);
  return a;
}
struct Dice {
  uint64_t below(uint64_t n) { return mix64(state += 0x9e3779b97f4a7c15ULL) % n; }
  uint64_t state = 7;
};
RouterOptions small() {
  RouterOptions o;
  o.client_credit = 4;
  return o;
}

}  // namespace

TEST_CASE("a client gets its credit as the first message") {
  Bench b;
  b.open(SessionId{20}, Router::kClients, Role::client);
  REQUIRE(b.out.now.size() == 1);
  CHECK(b.out.now[0].granted == 256);
  CHECK(b.out.now[0].message == Message(Sync{0}));
}

TEST_CASE("requests go by kind, with the client's own session as route") {
  Bench b;
  const uint64_t spoofed = static_cast<uint64_t>(kBob);
  b.send(kAnn, 1, submit(), spoofed);
  b.send(kAnn, 2, Cancel{}, spoofed);
  b.send(kAnn, 3, Query{}, spoofed);
  b.send(kAnn, 4, wait(), spoofed);
  b.send(kAnn, 5, Unwait{4}, spoofed);
  b.send(kAnn, 6, Fetch{}, spoofed);
  b.send(kAnn, 7, Forget{}, spoofed);
  b.send(kAnn, 8, GroupPut{}, spoofed);
  b.send(kAnn, 9, GroupWatch{}, spoofed);
  b.send(kAnn, 10, admin(Role::broker, "status"), spoofed);
  b.send(kAnn, 11, admin(Role::aggregator, "status"), spoofed);
  REQUIRE(b.out.forwards.size() == 11);
  for (size_t i = 0; i < 11; ++i) {
    const Forward& f = b.out.forwards[i];
    INFO(i);
    CHECK(f.envelope.route == static_cast<uint64_t>(kAnn));
    CHECK(f.envelope.req == i + 1);
    CHECK(f.to == (i < 3 || i == 9 ? kBrokerId : kAggregatorId));
  }
  CHECK(b.router.inflight() == 9);  // neither the wait nor the unwait
}

TEST_CASE("link verbs and worker verbs of a client are refused") {
  Bench b;
  b.send(kAnn, 1, Results{});
  CHECK(b.last_reject().code == static_cast<uint8_t>(Errc::bad_message));
  b.send(kAnn, 2, Finished{});
  b.send(kAnn, 3, WatchLost{});
  b.send(kAnn, 4, Ready{});
  CHECK(b.refused(Refusal::bad_message) == 4);
  CHECK(b.out.forwards.empty());
}

TEST_CASE("an answer reaches the client of its route, once") {
  Bench b;
  b.send(kAnn, 7, submit());
  b.out.clear();
  b.answer(kBrokerId, kBob, 7, Submitted{});  // Bob never asked
  CHECK(b.out.forwards.empty());
  b.answer(kBrokerId, kAnn, 7, Submitted{});
  REQUIRE(b.out.forwards.size() == 1);
  CHECK(b.out.forwards[0].to == kAnn);
  CHECK(b.out.forwards[0].envelope.granted == 257);
  b.answer(kBrokerId, kAnn, 7, Submitted{});
  CHECK(b.out.forwards.size() == 1);
  CHECK(b.router.counters().late == 2);
  b.answer(kBrokerId, SessionId{99}, 7, Submitted{});
  CHECK(b.router.counters().unknown_route == 1);
  CHECK(b.router.inflight_bytes() == 0);
}

TEST_CASE("the wrong service can not answer") {
  Bench b;
  b.send(kAnn, 7, submit());
  b.out.clear();
  b.answer(kAggregatorId, kAnn, 7, Submitted{});
  CHECK(b.out.forwards.empty());
  CHECK(b.router.inflight() == 1);
}

TEST_CASE("only kinds for clients are passed on") {
  Bench b;
  b.send(kAnn, 7, submit());
  b.out.clear();
  b.answer(kBrokerId, kAnn, 7, Finished{});
  b.answer(kBrokerId, kAnn, 7, Sync{5});
  CHECK(b.out.forwards.empty());
  CHECK(b.router.counters().not_for_clients == 2);
}

TEST_CASE("pushes of the broker pass without a request") {
  Bench b;
  Ready r;
  r.done = false;
  b.answer(kBrokerId, kAnn, 0, r);
  CHECK(b.out.forwards.size() == 1);
  b.answer(kAggregatorId, kAnn, 0, r);
  CHECK(b.out.forwards.size() == 1);
}

TEST_CASE("beyond the grant a request is refused and still counts as received") {
  Bench b(small());
  for (uint64_t i = 1; i <= 5; ++i) b.send(kAnn, i, submit());
  CHECK(b.out.forwards.size() == 4);
  Reject r = b.last_reject();
  CHECK(r.code == static_cast<uint8_t>(Errc::overloaded));
  CHECK(r.limit == "router.client_credit");
  CHECK(r.value == 4);
  CHECK(r.retry_after_ms == 200);
  CHECK(b.refused(Refusal::client_credit) == 1);
  CHECK(b.out.now.back().granted == 5);  // 5 received, 4 in flight: one more than before
  b.send(kBob, 1, submit());  // another client has its own
  CHECK(b.out.forwards.size() == 5);
}

TEST_CASE("a resend is forwarded again and counted once") {
  Bench b(small());
  b.send(kAnn, 1, submit());
  b.send(kAnn, 1, submit());
  CHECK(b.out.forwards.size() == 2);
  CHECK(b.router.inflight() == 1);
  b.answer(kBrokerId, kAnn, 1, Submitted{});
  CHECK(b.router.inflight() == 0);
  CHECK(b.router.inflight_bytes() == 0);
}

TEST_CASE("a resend needs no bytes of its own") {
  RouterOptions o;
  o.client_bytes = 1000;
  Bench b(o);
  b.send(kAnn, 1, submit(false, 800));
  b.send(kAnn, 1, submit(false, 800));
  CHECK(b.out.forwards.size() == 2);
  CHECK(b.out.now.empty());
}

TEST_CASE("waits cost no credit but have a bound") {
  RouterOptions o = small();
  o.client_waits = 6;
  Bench b(o);
  uint64_t granted = 4, sent = 0;
  for (uint64_t i = 1; i <= 6; ++i) {
    REQUIRE(sent < granted);
    b.send(kAnn, i, wait());
    ++sent;
    for (const Send& s : b.out.now) granted = std::max(granted, s.granted);
  }
  CHECK(b.out.forwards.size() == 6);
  b.send(kAnn, 7, wait());
  CHECK(b.last_reject().limit == "router.client_waits");
  b.send(kAnn, 3, wait());  // a resend
  CHECK(b.out.forwards.size() == 7);
  Ready part;
  part.done = false;
  b.answer(kAggregatorId, kAnn, 3, part);
  b.send(kAnn, 8, wait());
  CHECK(b.refused(Refusal::client_waits) == 2);
  b.answer(kAggregatorId, kAnn, 3, Ready{});  // done
  b.send(kAnn, 9, wait());
  CHECK(b.refused(Refusal::client_waits) == 2);
}

TEST_CASE("bytes in flight are bounded per client and in total") {
  RouterOptions o;
  o.client_bytes = 1000;
  o.inflight_bytes = 1500;
  Bench b(o);
  b.send(kAnn, 1, submit(false, 800));
  b.send(kAnn, 2, submit(false, 800));
  CHECK(b.last_reject().limit == "router.client_bytes");
  CHECK(b.last_reject().value == 1000);
  b.send(kBob, 1, submit(false, 800));
  CHECK(b.last_reject().limit == "router.inflight_bytes");
  b.answer(kBrokerId, kAnn, 1, Submitted{});
  b.send(kBob, 2, submit(false, 800));
  CHECK(b.out.forwards.size() == 3);
  CHECK(b.refused(Refusal::client_bytes) == 1);
  CHECK(b.refused(Refusal::inflight_bytes) == 1);
}

TEST_CASE("a fetch is in flight until READY with done") {
  Bench b;
  b.send(kAnn, 5, Fetch{});
  Ready part;
  part.done = false;
  b.answer(kAggregatorId, kAnn, 5, part);
  CHECK(b.router.inflight() == 1);
  b.answer(kAggregatorId, kAnn, 5, Ready{});
  CHECK(b.router.inflight() == 0);
  CHECK(b.out.forwards.size() == 3);
}

TEST_CASE("a group watch stays open after its first answer") {
  Bench b;
  GroupWatch w;
  w.push = true;
  b.send(kAnn, 5, w);
  CHECK(b.router.inflight() == 1);
  b.answer(kAggregatorId, kAnn, 5, GroupState{});
  CHECK(b.router.inflight() == 0);
  b.answer(kAggregatorId, kAnn, 5, GroupState{});
  CHECK(b.out.forwards.size() == 3);
  b.out.clear();
  b.close(kAnn);
  REQUIRE(b.out.forwards.size() == 1);
  CHECK(decode(b.out.forwards[0].frames)->message == Message(Unwait{5}));
}

TEST_CASE("a refused group watch leaves nothing") {
  Bench b;
  GroupWatch w;
  w.push = true;
  b.send(kAnn, 5, w);
  b.answer(kAggregatorId, kAnn, 5, make_reject(Errc::not_found, "no such group"));
  b.out.clear();
  b.close(kAnn);
  CHECK(b.out.forwards.empty());
  b.router.check();
}

TEST_CASE("a service that is away") {
  Bench b;
  b.close(kBrokerId);
  b.out.clear();
  b.send(kAnn, 1, submit());
  Reject r = b.last_reject();
  CHECK(r.code == static_cast<uint8_t>(Errc::unavailable));
  CHECK(r.retry_after_ms == 200);
  CHECK(r.detail == "broker is away");
  b.send(kAnn, 2, Fetch{});
  CHECK(b.out.forwards.size() == 1);
  b.close(kAggregatorId);
  b.out.clear();
  b.send(kAnn, 3, Fetch{});
  CHECK(b.last_reject().detail == "aggregator is away");
  b.send(kAnn, 4, admin(Role::broker, "status"));
  CHECK(b.last_reject().detail == "broker is away");
}

TEST_CASE("losing the broker refuses what it owed and tells the watchers") {
  Bench b;
  b.send(kAnn, 1, submit(true));
  b.answer(kBrokerId, kAnn, 1, Submitted{});
  b.send(kAnn, 2, Cancel{});
  b.send(kAnn, 3, Fetch{});
  b.send(kBob, 4, submit(false));
  b.out.clear();
  b.close(kBrokerId);
  b.router.check();
  auto ann = b.said_to(kAnn), bob = b.said_to(kBob);
  REQUIRE(ann.size() == 2);
  CHECK(std::get<Reject>(ann[0]).code == static_cast<uint8_t>(Errc::unavailable));
  CHECK(b.out.now[0].req == 2);
  CHECK(ann[1] == Message(WatchLost{}));
  REQUIRE(bob.size() == 1);
  CHECK(std::holds_alternative<Reject>(bob[0]));
  CHECK(b.router.inflight() == 1);  // the fetch
  CHECK(b.refused(Refusal::unavailable) == 2);
  b.out.clear();
  b.open(SessionId{3}, Router::kBroker, Role::broker);
  b.answer(SessionId{3}, kAnn, 2, States{});  // late: it was refused
  CHECK(b.out.forwards.empty());
  CHECK(b.router.counters().late == 1);
}

TEST_CASE("losing the aggregator refuses waits too, each once") {
  Bench b;
  GroupWatch w;
  w.push = true;
  b.send(kAnn, 1, wait());
  b.send(kAnn, 2, w);
  b.send(kAnn, 3, submit());
  b.out.clear();
  b.close(kAggregatorId);
  b.router.check();
  REQUIRE(b.out.now.size() == 2);
  CHECK(b.out.now[0].req == 1);
  CHECK(b.out.now[1].req == 2);
  CHECK(b.router.inflight() == 1);
}

TEST_CASE("a client that leaves: its waits go, also one of this very turn") {
  Bench b;
  b.send(kAnn, 1, wait());
  b.send(kAnn, 2, wait());
  b.send(kAnn, 3, submit());
  b.send(kAnn, 4, Unwait{1});
  b.close(kAnn);
  b.router.check();
  CHECK(b.router.inflight() == 0);
  REQUIRE(b.out.forwards.size() == 5);
  const Forward& last = b.out.forwards.back();  // behind the WAIT it takes back
  CHECK(last.to == kAggregatorId);
  CHECK(last.envelope.route == static_cast<uint64_t>(kAnn));
  CHECK(decode(last.frames)->message == Message(Unwait{2}));
  b.answer(kBrokerId, kAnn, 3, Submitted{});
  CHECK(b.router.counters().unknown_route == 1);
}

TEST_CASE("draining refuses new submits only") {
  Bench b;
  b.send(kAnn, 1, submit());
  b.router.begin_drain(b.now, b.out);
  b.send(kAnn, 2, submit());
  CHECK(b.last_reject().code == static_cast<uint8_t>(Errc::draining));
  b.send(kAnn, 1, submit());  // a resend of one that is in
  b.send(kAnn, 3, Cancel{});
  CHECK(b.out.forwards.size() == 3);
  CHECK_FALSE(b.router.drained());
  b.answer(kBrokerId, kAnn, 1, Submitted{});
  b.answer(kBrokerId, kAnn, 3, States{});
  b.router.end_turn(b.now, b.out);  // clients are told
  CHECK(b.router.drained());
}

TEST_CASE("admin requests for the router") {
  Bench b;
  b.send(kAnn, 1, admin(Role::router, "status"));
  const auto& reply = std::get<AdminReply>(b.out.now.back().message);
  CHECK(reply.body["clients"].as_int() == 2);
  CHECK(reply.body["broker"].as_bool());
  b.send(kAnn, 2, admin(Role::router, "explode"));
  CHECK(b.last_reject().detail == "router knows: status, deployments");
  b.send(kAnn, 3, admin(Role::worker, "status"));
  CHECK(b.last_reject().code == static_cast<uint8_t>(Errc::bad_argument));
  CHECK(b.refused(Refusal::bad_argument) == 2);
}

TEST_CASE("every refusal counts exactly once, and credit is never lost") {
  RouterOptions o = small();
  o.client_waits = 3;
  o.client_bytes = 3000;
  Bench b(o);
  Dice rng;
  uint64_t sent = 0, granted = 4, rejects = 0, req = 0;
  std::deque<std::pair<uint64_t, SessionId>> owed;
  auto look = [&] {
    for (const Send& s : b.out.now) {
      if (s.to != kAnn) continue;
      granted = std::max(granted, s.granted);
      if (std::holds_alternative<Reject>(s.message)) ++rejects;
    }
    for (const Forward& f : b.out.forwards) {
      if (f.to == kAnn) granted = std::max(granted, f.envelope.granted);
      if (f.to == kBrokerId) owed.emplace_back(f.envelope.req, kBrokerId);
    }
    b.out.clear();
  };
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t dice = rng.below(100);
    if (dice < 50 && sent < granted) {
      ++sent;
      if (dice < 10)
        b.send(kAnn, ++req, wait());
      else if (dice < 15)
        b.send(kAnn, ++req, Unwait{rng.below(req + 1)});
      else
        b.send(kAnn, ++req, submit(rng.below(2) == 0, rng.below(2000)));
    } else if (dice < 90 && !owed.empty()) {
      b.answer(kBrokerId, kAnn, owed.front().first, Submitted{});
      owed.pop_front();
    } else if (dice == 99) {
      b.close(kBrokerId);
      owed.clear();
      b.open(kBrokerId, Router::kBroker, Role::broker);
    }
    look();
  }
  while (!owed.empty()) {
    b.answer(kBrokerId, kAnn, owed.front().first, Submitted{});
    owed.pop_front();
    look();
  }
  CHECK(granted - sent >= 3);  // all but what the next quarter-step would tell
  uint64_t counted = 0;
  for (uint64_t n : b.router.counters().refused) counted += n;
  CHECK(counted == rejects);
  CHECK(b.refused(Refusal::client_credit) == 0);
  CHECK(b.router.inflight_bytes() == 0);
}
