// Calls of the client core: credit, coalescing, ends, deadlines, cancelling, streams, bounds.
#include "tests/unit/client/call_harness.h"

using namespace dray;
using test::CallHarness;

TEST_CASE("a call goes out with its turn and ends with the router's row") {
  CallHarness h;
  SessionId a = h.open();
  CallCmd cmd = h.cmd("echo", 2s, kCallIdempotent);
  cmd.key = "model";
  cmd.items = 3;
  cmd.tag = 77;
  uint64_t call = h.start(std::move(cmd));
  CHECK(h.out.now.empty());  // not before the end of the turn
  auto sent = h.sent();
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].to == a);
  CHECK(sent[0].handler == "echo");
  CHECK(sent[0].key == "model");
  CHECK(sent[0].payload == "payload");
  CHECK(sent[0].row.items == 3);
  CHECK(sent[0].row.flags == kCallIdempotent);
  ReplyRow r = CallHarness::row(sent[0], CallEnd::reply);
  r.queue_us = 7;
  h.answer(a, r, "result");
  h.turn();
  REQUIRE(h.end_of(call) == CallEnd::reply);
  CHECK(h.ends.at(call).bytes.view() == "result");
  CHECK(h.ends.at(call).row.queue_us == 7);
  CHECK(h.ends.at(call).tag == 77);
  CHECK(h.core.calls().open() == 0);
  CHECK(h.core.calls().bytes() == 0);
  CHECK(h.core.next_deadline() > h.now.mono + 1s);
}

TEST_CASE("the router is told a little less time than there is") {
  CallHarness h;
  h.open();
  h.call("echo", 2s);
  h.call("echo", 1600us);
  auto sent = h.sent();
  REQUIRE(sent.size() == 2);
  CHECK(sent[0].row.deadline_us == 1'999'000);
  CHECK(sent[1].row.deadline_us == 1'500);
}

TEST_CASE("calls of one turn for one handler, model and window share a message") {
  CallHarness h;
  h.open();
  for (int i = 0; i < 3; ++i) h.call("a");
  h.call("b");
  h.call("a");
  CallCmd other = h.cmd("a");
  other.key = "m";
  h.start(std::move(other));
  CallCmd stream = h.cmd("a");
  stream.window = 100;
  h.start(std::move(stream));
  auto messages = h.sent_of<Call>();
  REQUIRE(messages.size() == 4);
  CHECK(std::get<Call>(messages[0].message).rows.size() == 4);
  CHECK(std::get<Call>(messages[1].message).handler == "b");
  CHECK(std::get<Call>(messages[2].message).key == "m");
  CHECK(std::get<Call>(messages[3].message).window == 100);
  h.call("a");
  CHECK(h.sent_of<Call>().size() == 1);
}

TEST_CASE("a message of calls stays within its limits") {
  CallHarness h;
  h.open(0, 10'000);
  for (int i = 0; i < 5'000; ++i) {
    CallCmd c = h.cmd();
    c.payload = {};
    h.start(std::move(c));
  }
  auto many = h.sent_of<Call>();
  REQUIRE(many.size() == 2);
  CHECK(std::get<Call>(many[0].message).rows.size() == kItemsMax);
  for (int i = 0; i < 3; ++i) {
    CallCmd c = h.cmd();
    c.payload = Bytes(std::string(300'000, 'x'));
    h.start(std::move(c));
  }
  CHECK(h.sent_of<Call>().size() == 3);
}

TEST_CASE("credit is obeyed, and back when all is over") {
  CallHarness h;
  SessionId a = h.open(0, 0);
  std::vector<uint64_t> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(h.call());
  CHECK(h.sent().empty());
  h.grant(a, 2);
  auto first = h.sent();
  REQUIRE(first.size() == 2);
  h.grant(a, 2);
  h.grant(a, 1);  // a late grant
  CHECK(h.sent().empty());
  h.answer(first[0], CallEnd::reply);
  CHECK(h.sent().empty());
  h.grant(a, 3);
  auto second = h.sent();
  REQUIRE(second.size() == 1);
  h.answer(first[1], CallEnd::failed, Errc::app_error);
  h.answer(second[0], CallEnd::reply);
  h.grant(a, 5);  // received 3, k 2, none held
  CHECK(h.sent().size() == 2);
  for (int i = 0; i < 3; ++i) CHECK(h.end_of(calls[static_cast<size_t>(i)]) != CallEnd::part);
}

TEST_CASE("at its deadline a call that was not sent is expired, one that was sent is unknown") {
  CallHarness h;
  uint64_t early = h.call("echo", 50ms);
  h.advance(50ms);
  CHECK(h.end_of(early) == CallEnd::expired);
  CHECK(h.code_of(early) == Errc::expired);
  SessionId a = h.open(0, 1);
  uint64_t sent = h.call("echo", 100ms);
  uint64_t unsent = h.call("echo", 100ms);
  auto list = h.sent();
  REQUIRE(list.size() == 1);
  h.advance(99ms);
  CHECK(h.ends.size() == 1);
  h.advance(1ms);
  CHECK(h.end_of(sent) == CallEnd::unknown);
  CHECK(h.code_of(sent) == Errc::outcome_unknown);
  CHECK(h.end_of(unsent) == CallEnd::expired);
  h.answer(a, CallHarness::row(list[0], CallEnd::reply));  // too late
  h.grant(a, 10);
  CHECK(h.sent().empty());
  CHECK(h.core.calls().counters().stray_rows == 1);
}

TEST_CASE("a call waits for the first router, within its deadline") {
  CallHarness h;
  uint64_t call = h.call("echo", 10s);
  h.advance(5s);
  h.open();
  auto sent = h.sent();
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].row.deadline_us == 4'999'000);
  h.answer(sent[0], CallEnd::reply);
  CHECK(h.end_of(call) == CallEnd::reply);
}

TEST_CASE("rows for nobody change nothing: repeated, foreign, of another session, after the end") {
  CallHarness h;
  SessionId a = h.open(0);
  SessionId b = h.open(1);
  uint64_t call = h.call();
  auto sent = h.sent();
  REQUIRE(sent.size() == 1);
  SessionId other = sent[0].to == a ? b : a;
  h.answer(other, CallHarness::row(sent[0], CallEnd::reply));
  ReplyRow wild = CallHarness::row(sent[0], CallEnd::reply);
  wild.call = ~uint64_t{0};
  h.answer(sent[0].to, wild);
  wild.call = sent[0].row.call + (uint64_t{1} << 24);  // the same slot, later
  h.answer(sent[0].to, wild);
  h.turn();
  CHECK(h.ends.empty());
  h.answer(sent[0], CallEnd::reply, Errc::ok, "first");
  h.answer(sent[0], CallEnd::failed, Errc::app_error, "second");
  CHECK(h.end_of(call) == CallEnd::reply);
  CHECK(h.core.calls().counters().stray_rows == 4);
}

TEST_CASE("an answer nobody can read ends the call as unknown") {
  CallHarness h;
  h.open();
  uint64_t call = h.call();
  auto sent = h.sent();
  h.answer(sent[0], static_cast<CallEnd>(9));
  CHECK(h.end_of(call) == CallEnd::unknown);
  CHECK(h.core.calls().counters().bad_rows == 1);
}

TEST_CASE("a part of a reply that was to come whole is dropped") {
  CallHarness h;
  h.open();
  uint64_t call = h.call();
  auto sent = h.sent();
  h.answer(sent[0], CallEnd::part, Errc::ok, "part");
  CHECK(h.parts.empty());
  h.answer(sent[0], CallEnd::reply);
  CHECK(h.end_of(call) == CallEnd::reply);
}

TEST_CASE("a CALL that the router can not read: all its calls are rejected, others are not") {
  CallHarness h;
  SessionId a = h.open();
  uint64_t x = h.call("bad");
  uint64_t y = h.call("bad");
  uint64_t z = h.call("good");
  auto sent = h.sent();
  REQUIRE(sent.size() == 3);
  Reject reject{static_cast<uint8_t>(Errc::denied), "no calls here", 0, {}, 0};
  h.say(a, reject, sent[0].req);
  h.turn();
  CHECK(h.end_of(x) == CallEnd::rejected);
  CHECK(h.code_of(y) == Errc::denied);
  CHECK(h.end_of(z) == CallEnd::part);
}

TEST_CASE("a repeat that the router can not read does not speak for the first sending") {
  CallHarness h;
  SessionId a = h.open(0);
  uint64_t call = h.call("x", 10s, kCallIdempotent);
  REQUIRE(h.sent().size() == 1);
  h.close(a);
  SessionId b = h.open(1);
  auto again = h.sent();
  REQUIRE(again.size() == 1);
  h.say(b, Reject{static_cast<uint8_t>(Errc::denied), "no calls here", 0, {}, 0}, again[0].req);
  h.turn();
  CHECK(h.end_of(call) == CallEnd::unknown);
}

// --- cancelling ----------------------------------------------------------------------------------

TEST_CASE("cancelled before it was sent: it ends at once and never leaves") {
  CallHarness h;
  uint64_t waits = h.call();
  h.cancel(waits);
  h.turn();
  CHECK(h.end_of(waits) == CallEnd::cancelled);
  h.open();
  uint64_t same_turn = h.call();
  h.cancel(same_turn);
  CHECK(h.sent().empty());
  CHECK(h.end_of(same_turn) == CallEnd::cancelled);
  h.cancel(same_turn);
  h.cancel(12345);
  h.turn();
  CHECK(h.sent_of<CallCancel>().empty());
}

TEST_CASE("cancelled in flight: the router is told once, and has the word") {
  CallHarness h;
  h.open();
  uint64_t a = h.call();
  uint64_t b = h.call();
  auto sent = h.sent();
  h.cancel(a);
  h.cancel(b);
  h.cancel(a);
  auto cancels = h.sent_of<CallCancel>();
  REQUIRE(cancels.size() == 1);
  const auto& rows = std::get<CallCancel>(cancels[0].message).rows;
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].call == sent[0].row.call);
  h.answer(sent[0], CallEnd::cancelled, Errc::cancelled);
  h.answer(sent[1], CallEnd::reply);  // it was on its way
  CHECK(h.end_of(a) == CallEnd::cancelled);
  CHECK(h.end_of(b) == CallEnd::reply);
}

TEST_CASE("cancelled and answered in one turn: the router is not told") {
  CallHarness h;
  h.open();
  uint64_t call = h.call();
  auto sent = h.sent();
  h.cancel(call);
  h.answer(sent[0], CallEnd::reply);
  CHECK(h.end_of(call) == CallEnd::reply);
  CHECK(h.sent_of<CallCancel>().empty());
}

TEST_CASE("calls go to the router with the fewest of them in flight") {
  CallHarness h;
  SessionId a = h.open(0);
  SessionId b = h.open(1);
  std::map<SessionId, int> count;
  for (int i = 0; i < 10; ++i) {
    h.call();
    for (const auto& c : h.sent()) ++count[c.to];
  }
  CHECK(count[a] == 5);
  CHECK(count[b] == 5);
  for (int i = 0; i < 64 + 10; ++i) h.call();  // a long run is shared out
  std::map<SessionId, int> run;
  for (const auto& c : h.sent()) ++run[c.to];
  CHECK(run[a] == 64);
  CHECK(run[b] == 10);
}

TEST_CASE("a router without credit does not hold up calls that another one takes") {
  CallHarness h;
  h.open(0, 1);
  SessionId b = h.open(1, 100);
  for (int i = 0; i < 10; ++i) h.call();
  auto sent = h.sent();
  CHECK(sent.size() == 10);
  CHECK(std::count_if(sent.begin(), sent.end(), [b](const auto& c) { return c.to == b; }) == 9);
}

// --- bounds, shutdown ----------------------------------------------------------------------------

TEST_CASE("calls beyond the client's own bound are refused here") {
  ClientCoreOptions o;
  o.calls.bytes_max = 1'000;
  CallHarness h(o);
  for (int i = 0; i < 8; ++i) h.call();
  h.turn();
  CHECK(h.core.calls().open() == 5);
  REQUIRE(h.ends.size() == 3);
  const CallEvent& e = h.ends.begin()->second;
  CHECK(static_cast<Errc>(e.row.code) == Errc::overloaded);
  CHECK(std::string(e.own_limit) == "queue_bytes");
  h.advance(10s);
  CHECK(h.core.calls().bytes() == 0);
}

TEST_CASE("shutdown ends every call once: unknown if it was sent, else rejected") {
  CallHarness h;
  h.open(0, 1);
  uint64_t sent = h.call();
  uint64_t unsent = h.call();
  h.turn();
  h.core.calls().end_all(h.out);
  h.settle();
  CHECK(h.end_of(sent) == CallEnd::unknown);
  CHECK(h.end_of(unsent) == CallEnd::rejected);
  CHECK(h.code_of(sent) == Errc::closed);
  CHECK(h.code_of(unsent) == Errc::closed);
}

TEST_CASE("lanes of calls that are over are given back") {
  CallHarness h;
  h.open(0, 10'000);
  for (int i = 0; i < 2'000; ++i) {
    CallCmd c = h.cmd();
    c.key = "model" + std::to_string(i);
    uint64_t call = h.start(std::move(c));
    auto sent = h.sent();
    REQUIRE(sent.size() == 1);
    CHECK(sent[0].key == "model" + std::to_string(i));
    h.answer(sent[0], CallEnd::reply);
    CHECK(h.end_of(call) == CallEnd::reply);
  }
}

// --- streams -------------------------------------------------------------------------------------

namespace {
std::vector<CallCreditRow> credits(CallHarness& h) {
  std::vector<CallCreditRow> list;
  for (const Send& s : h.sent_of<CallCredit>()) {
    const auto& rows = std::get<CallCredit>(s.message).rows;
    for (size_t i = 0; i < rows.size(); ++i) list.push_back(rows[i]);
  }
  return list;
}
}  // namespace

TEST_CASE("parts come in order; credit grows only with what the reader took, and is absolute") {
  CallHarness h;
  h.open();
  CallCmd c = h.cmd("stream");
  c.window = 1'000;
  uint64_t call = h.start(std::move(c));
  auto sent = h.sent();
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].window == 1'000);
  h.answer(sent[0], CallEnd::part, Errc::ok, std::string(600, 'a'));
  h.answer(sent[0], CallEnd::part, Errc::ok, std::string(300, 'b'));
  h.advance(1s);
  CHECK(credits(h).empty());  // nothing was taken
  h.core.calls().taken(call, 600, h.now);
  auto first = credits(h);
  REQUIRE(first.size() == 1);
  CHECK(first[0].call == sent[0].row.call);
  CHECK(first[0].granted == 1'600);
  h.core.calls().taken(call, 300, h.now);
  CHECK(credits(h).empty());  // less than half a window waits a little
  h.advance(20ms);
  auto second = credits(h);
  REQUIRE(second.size() == 1);
  CHECK(second[0].granted == 1'900);
  h.answer(sent[0], CallEnd::reply, Errc::ok, "end");
  CHECK(h.parts[call] == std::string(600, 'a') + std::string(300, 'b'));
  CHECK(h.end_of(call) == CallEnd::reply);
  h.core.calls().taken(call, 5, h.now);  // the reader was slower than the end
  h.advance(1s);
  CHECK(credits(h).empty());
}

TEST_CASE("a stream whose parts were given out is not repeated") {
  CallHarness h;
  SessionId a = h.open(0);
  CallCmd c = h.cmd("stream", 10s, kCallIdempotent);
  c.window = 100;
  uint64_t begun = h.start(c);
  uint64_t fresh = h.start(c);
  auto sent = h.sent();
  REQUIRE(sent.size() == 2);
  h.answer(sent[0], CallEnd::part, Errc::ok, "x");
  h.open(1);
  h.close(a);
  CHECK(h.end_of(begun) == CallEnd::unknown);
  auto again = h.sent();
  REQUIRE(again.size() == 1);
  CHECK(h.end_of(fresh) == CallEnd::part);
  h.core.calls().taken(fresh, 60, h.now);  // counts from zero in the new session
  auto grants = credits(h);
  REQUIRE(grants.size() == 1);
  CHECK(grants[0].granted == 160);
  CHECK(grants[0].call == again[0].row.call);
}

// --- requests of the queued lane with several routers --------------------------------------------

TEST_CASE("requests use the first router, and the next one when it is lost") {
  CallHarness h;
  SessionId a = h.open(0, 0);
  SessionId b = h.open(1, 0);
  auto grant = [&h](SessionId from) {
    Envelope e;
    e.granted = 10;
    h.core.on_message(from, e, Sync{}, h.now, h.out);
  };
  grant(b);  // kept until b is needed
  uint64_t req = h.core.query({}, h.now.mono + 30s, h.now, h.out);
  CHECK(h.sent_of<Query>().empty());
  grant(a);
  auto first = h.sent_of<Query>();
  REQUIRE(first.size() == 1);
  CHECK(first[0].to == a);
  h.close(a);
  auto again = h.sent_of<Query>();
  REQUIRE(again.size() == 1);
  CHECK(again[0].to == b);
  CHECK(again[0].req == req);
  h.say(a, States{}, req);  // of a session that is over
  CHECK(h.core.requests() == 1);
  h.say(b, States{}, req);
  CHECK(h.core.requests() == 0);
  CHECK(h.core.connected());
  h.close(b);
  CHECK(!h.core.connected());
}
