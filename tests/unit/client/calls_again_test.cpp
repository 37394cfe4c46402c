// CallCore: which calls are sent again, and where: routers that are lost, leave or know nobody.
#include "tests/unit/client/call_harness.h"

using namespace dray;
using test::CallHarness;

TEST_CASE("a cancelled call is not repeated when its router is lost or leaves") {
  CallHarness h;
  SessionId a = h.open(0);
  uint64_t lost = h.call("echo", 10s, kCallIdempotent);
  REQUIRE(h.sent().size() == 1);
  h.cancel(lost);
  h.turn();
  h.close(a);
  CHECK(h.end_of(lost) == CallEnd::unknown);
  h.open(0);
  uint64_t left = h.call();
  auto sent = h.sent();
  h.open(1);
  h.cancel(left);
  h.answer(sent[0], CallEnd::rejected, Errc::draining);
  CHECK(h.end_of(left) == CallEnd::cancelled);
}

// --- other routers -------------------------------------------------------------------------------

TEST_CASE("a lost router: what it had is unknown, what is idempotent goes to another one") {
  CallHarness h;
  SessionId a = h.open(0);
  uint64_t plain = h.call("x", 10s);
  uint64_t safe = h.call("y", 10s, kCallIdempotent);
  auto first = h.sent();
  REQUIRE(first.size() == 2);
  SessionId b = h.open(1);
  h.advance(1s);
  h.close(a);
  CHECK(h.end_of(plain) == CallEnd::unknown);
  CHECK(h.end_of(safe) == CallEnd::part);
  auto again = h.sent();
  REQUIRE(again.size() == 1);
  CHECK(again[0].to == b);
  CHECK(again[0].payload == "payload");
  CHECK(again[0].row.call != first[1].row.call);
  CHECK(again[0].row.deadline_us == 8'999'000);
  h.answer(again[0], CallEnd::reply);
  CHECK(h.end_of(safe) == CallEnd::reply);
}

TEST_CASE("repeats go before calls that were not sent so far, in their old order") {
  CallHarness h;
  SessionId a = h.open(0, 3);
  for (const char* name : {"1", "2", "3", "4"}) h.call(name, 10s, kCallIdempotent);
  REQUIRE(h.sent().size() == 3);
  h.close(a);
  h.open(1);
  std::string order;
  for (const auto& c : h.sent()) order += c.handler;
  CHECK(order == "1234");
}

TEST_CASE("without another router a repeat waits for one, and is unknown at the deadline") {
  CallHarness h;
  SessionId a = h.open();
  uint64_t call = h.call("x", 1s, kCallIdempotent);
  REQUIRE(h.sent().size() == 1);
  h.close(a);
  CHECK(h.core.calls().waiting() == 1);
  h.advance(1s);
  CHECK(h.end_of(call) == CallEnd::unknown);
}

TEST_CASE("a refused repeat does not speak for the first sending") {
  for (CallEnd refusal : {CallEnd::rejected, CallEnd::expired}) {
    CallHarness h;
    SessionId a = h.open(0);
    uint64_t call = h.call("x", 10s, kCallIdempotent);
    REQUIRE(h.sent().size() == 1);
    h.close(a);
    h.open(1);
    auto again = h.sent();
    REQUIRE(again.size() == 1);
    h.answer(again[0], refusal, Errc::no_replica);
    CHECK(h.end_of(call) == CallEnd::unknown);
    CHECK(h.code_of(call) == Errc::outcome_unknown);
  }
}

TEST_CASE("a call is sent three times at most") {
  CallHarness h;
  uint64_t call = h.call("x", 10s, kCallIdempotent);
  for (int i = 0; i < 3; ++i) {
    SessionId s = h.open();
    REQUIRE(h.sent().size() == 1);
    CHECK(h.end_of(call) == CallEnd::part);
    h.close(s);
  }
  CHECK(h.end_of(call) == CallEnd::unknown);
}

TEST_CASE("repeats are at most a tenth of all calls, and some that were saved up") {
  ClientCoreOptions o;
  o.calls.repeats_at_start = 2;
  CallHarness h(o);
  SessionId s = h.open();
  for (int i = 0; i < 100; ++i) h.call("x", 10s, kCallIdempotent);
  REQUIRE(h.sent().size() == 100);
  h.close(s);
  CHECK(h.ends.size() == 88);
  h.open();
  CHECK(h.sent().size() == 12);
  CHECK(h.core.calls().counters().unbudgeted == 88);
}

TEST_CASE("refused by a router that leaves: to the other one, whatever the call is") {
  CallHarness h;
  SessionId a = h.open(0);
  uint64_t call = h.call();
  auto first = h.sent();
  SessionId b = h.open(1);
  h.answer(first[0], CallEnd::rejected, Errc::draining);
  auto again = h.sent();
  REQUIRE(again.size() == 1);
  CHECK(again[0].to == b);
  for (int i = 0; i < 4; ++i) h.call();  // `a` is avoided for a while
  for (const auto& c : h.sent()) CHECK(c.to == b);
  h.answer(again[0], CallEnd::rejected, Errc::no_replica);
  CHECK(h.end_of(call) == CallEnd::rejected);  // surely not executed by either
  h.advance(5s);
  h.call("late");
  auto late = h.sent();
  REQUIRE(late.size() == 1);
  CHECK(late[0].to == a);
}

TEST_CASE("what a leaving router did not take goes to another one, in order") {
  CallHarness h;
  SessionId a = h.open(0);
  uint64_t first = h.call("first");
  h.call("second");
  uint64_t gone = h.call("gone");
  auto sent = h.sent();
  REQUIRE(sent.size() == 3);
  h.cancel(gone);
  h.turn();
  SECTION("another router is there") {
    SessionId b = h.open(1);
    h.say(a, Drain{true});
    auto again = h.sent();
    REQUIRE(again.size() == 2);
    CHECK(again[0].handler == "first");
    CHECK(again[1].handler == "second");
    CHECK(again[0].to == b);
    h.close(a);
    CHECK(h.end_of(first) == CallEnd::part);
    h.answer(again[0], CallEnd::reply);
    CHECK(h.end_of(first) == CallEnd::reply);
  }
  SECTION("no other router") {
    h.say(a, Drain{true});
    h.call("third");  // would be lost with the session
    CHECK(h.sent().empty());
    h.advance(1s);
    CHECK(h.sent().empty());
    h.close(a);
    h.open(0);  // its successor
    auto again = h.sent();
    REQUIRE(again.size() == 3);
    CHECK(again[0].handler == "first");
    CHECK(again[1].handler == "second");
    CHECK(again[2].handler == "third");
    h.answer(again[0], CallEnd::reply);
    CHECK(h.end_of(first) == CallEnd::reply);
  }
  CHECK(h.end_of(gone) == CallEnd::cancelled);
}

TEST_CASE("a router that knows no replica is not the last word while there is another one") {
  CallHarness h;
  h.open(0);
  uint64_t call = h.call();
  auto first = h.sent();
  SessionId b = h.open(1);
  const Errc code = GENERATE(Errc::unknown_handler, Errc::no_replica);
  h.answer(first[0], CallEnd::rejected, code);
  auto again = h.sent();
  REQUIRE(again.size() == 1);
  CHECK(again[0].to == b);
  h.answer(again[0], CallEnd::rejected, code);
  CHECK(h.end_of(call) == CallEnd::rejected);
  CHECK(h.code_of(call) == code);
}

TEST_CASE("refused because all routers leave: it waits for one that does not") {
  CallHarness h;
  SessionId a = h.open(0);
  uint64_t call = h.call("x", 20s);
  h.answer(h.sent()[0], CallEnd::rejected, Errc::draining);
  uint64_t next = h.call("y", 20s);
  CHECK(h.sent().empty());
  SECTION("another one comes") {
    SessionId b = h.open(1);
    auto again = h.sent();
    REQUIRE(again.size() == 2);
    for (size_t i = 0; i < 2; ++i) {
      CHECK(again[i].to == b);
      h.answer(again[i], CallEnd::reply);
    }
    CHECK(h.end_of(call) == CallEnd::reply);
    CHECK(h.end_of(next) == CallEnd::reply);
  }
  SECTION("none comes: it is asked again, three times in all") {
    for (int i = 0; i < 2; ++i) {
      h.advance(5s);
      auto again = h.sent();
      REQUIRE(again.size() >= 1);
      for (const auto& c : again) {
        CHECK(c.to == a);
        h.answer(c, CallEnd::rejected, Errc::draining);
      }
    }
    CHECK(h.end_of(call) == CallEnd::rejected);
    CHECK(h.code_of(call) == Errc::draining);
  }
  SECTION("none comes by the deadline") {
    h.say(a, Drain{true});
    h.advance(20s);
    CHECK(h.end_of(call) == CallEnd::expired);
  }
}
