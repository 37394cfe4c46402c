// CallAgent: offer, credit, RUN, DONE, STOP, deadlines, sessions, parts and drain.
#include "tests/unit/worker/call_rig.h"

namespace dray::worker {
namespace {
uint8_t u8(CallEnd end) { return static_cast<uint8_t>(end); }
uint8_t u8(Errc code) { return static_cast<uint8_t>(code); }
std::vector<RunSpec> batch_of(uint64_t first, size_t n, uint16_t batch = 0) {
  std::vector<RunSpec> calls;
  for (uint64_t i = 0; i < n; ++i)
    calls.push_back({first + i, std::to_string(first + i), 1'000'000, 1, batch});
  return calls;
}
}  // namespace

TEST_CASE("calls: a session begins with the offer, whose index names handlers, and with credit") {
  CallRig rig(4);
  FakeRouter& r = rig.open();
  REQUIRE(rig.out.now.size() == 1);
  const auto& offer = std::get<Offer>(rig.out.now[0].message);
  CHECK(offer.slots == 4);
  CHECK_FALSE(offer.draining);
  REQUIRE(offer.handlers.size() == 3);
  CHECK(decode_offer(offer.handlers[1])->max_batch_size == 8);
  CHECK(r.granted == 4);
  SessionInfo broker;
  broker.id = SessionId{99};
  broker.role = Role::broker;
  rig.agent.on_open(broker, rig.now(), rig.out);
  CHECK(rig.agent.routers() == 1);
}

TEST_CASE("calls: one RUN, one batch, one DONE") {
  CallRig rig;
  FakeRouter& r = rig.open();
  rig.at += 5us;
  rig.run(r, {{77, "pay", 500'000, 0, 0, 1, 1000, "m"}});
  REQUIRE(rig.started.size() == 1);
  const BatchStart b = rig.started[0];
  CHECK(b.handler == 0);
  CHECK(b.key == "m");
  REQUIRE(b.calls.size() == 1);
  CHECK(b.calls[0].payload.view() == "pay");
  CHECK(b.calls[0].deadline == rig.now().mono + 500ms);
  CHECK(b.calls[0].window == 1000);
  CHECK(rig.agent.granted(r.session, rig.now()) == 2);  // received 1, k 2, held 1
  rig.at += 3ms;
  rig.finish(b.batch, CallEnd::reply, 2'500);
  REQUIRE(r.rows.size() == 1);
  CHECK(r.rows[0].call == 77);
  CHECK(r.rows[0].status == u8(CallEnd::reply));
  CHECK(r.rows[0].flags == kDoneFreesSlot);
  CHECK(r.rows[0].run_us == 2'500);
  CHECK(r.rows[0].wait_us == 0);
  CHECK(r.bytes[0] == "rpay");
  CHECK(r.granted == 3);
  CHECK(rig.agent.held() == 0);
}

TEST_CASE("calls: a batch is one start; only its last row frees the slot; a turn is one message") {
  CallRig rig(2);
  FakeRouter& r = rig.open();
  auto calls = batch_of(1, 3);
  calls.push_back({9, "nine"});
  calls[3].batch = 1;
  rig.run(r, calls);
  REQUIRE(rig.started.size() == 2);
  CHECK(rig.started[0].calls.size() == 3);
  CHECK(rig.agent.received(r.session) == 2);
  std::vector<BatchOutcome> both;
  both.push_back(rig.outcome(rig.started[1].batch));
  both.push_back(rig.outcome(rig.started[0].batch, CallEnd::failed));
  rig.turn([&] { rig.agent.on_batches(std::move(both), rig.now(), rig.out); });
  CHECK(r.dones == 1);
  REQUIRE(r.rows.size() == 4);
  CHECK(r.rows[0].call == 9);
  CHECK(r.bytes[0] == "rnine");
  CHECK(r.bytes[3] == "r3");
  CHECK(r.rows[1].status == u8(CallEnd::failed));
  CHECK(r.rows[0].flags == kDoneFreesSlot);
  CHECK(r.rows[1].flags == 0);
  CHECK(r.rows[2].flags == 0);
  CHECK(r.rows[3].flags == kDoneFreesSlot);
}

TEST_CASE("calls: never more than slots at once, never more than max_ongoing of a handler") {
  CallRig rig(3);
  FakeRouter& r = rig.open();
  auto calls = batch_of(1, 2, 0);
  for (auto c : batch_of(3, 2, 1)) calls.push_back(c);
  calls.push_back({5, "x", 1'000'000, 0, 2});
  rig.run(r, calls);  // the second batch of handler 1 waits, the call behind it does not
  REQUIRE(rig.started.size() == 2);
  CHECK(rig.started[1].calls[0].payload.view() == "x");
  CHECK(rig.agent.waiting() == 1);
  rig.finish(rig.started[0].batch);
  REQUIRE(rig.started.size() == 3);
  CHECK(rig.started[2].calls.size() == 2);
  CallRig small(1);
  FakeRouter& s = small.open();
  CHECK(s.granted == 1);
  small.run(s, {{1}});
  CHECK(small.agent.granted(s.session, small.now()) == 1);
  CHECK(small.running.size() == 1);
}

TEST_CASE("calls: short ones are prefetched and handed out ahead, long ones are not") {
  CallRig rig(1);
  FakeRouter& r = rig.open();
  rig.run(r, {{1}});
  rig.finish(rig.started[0].batch, CallEnd::reply, 20);
  CHECK(rig.agent.target(r.session, rig.now()) > 10);
  CHECK(r.granted > 11);
  std::vector<RunSpec> calls;
  for (uint16_t i = 0; i < 5; ++i) calls.push_back({10u + i, "x", 1'000'000, 0, i});
  rig.run(r, calls);
  CHECK(rig.agent.running() == 5);
  rig.at += 5ms;  // nothing moves: no more prefetching
  CHECK(rig.agent.target(r.session, rig.now()) == 1);
  CallRig slow(1);
  FakeRouter& s = slow.open();
  slow.run(s, {{1}});
  slow.finish(slow.started[0].batch, CallEnd::reply, 5'000);
  CHECK(slow.agent.target(s.session, slow.now()) == 1);
}

TEST_CASE("calls: what is late on arrival or before its start is answered and not executed") {
  CallRig rig(1);
  FakeRouter& r = rig.open();
  rig.run(r, {{1, "x", 0}});
  CHECK(rig.started.empty());
  REQUIRE(r.rows.size() == 1);
  CHECK(r.rows[0].status == u8(CallEnd::expired));
  CHECK(r.rows[0].flags == (kDoneNotStarted | kDoneFreesSlot));
  CallRig two(3);
  FakeRouter& s = two.open();
  auto calls = batch_of(1, 1, 0);
  for (auto c : batch_of(2, 3, 1)) calls.push_back(c);
  calls[1].deadline_us = 10'000;
  calls[3].deadline_us = 20'000;
  two.run(s, calls);
  two.pass(15ms);
  REQUIRE(s.rows.size() == 1);
  CHECK(s.rows[0].call == 2);
  CHECK(s.rows[0].wait_us == 10'000);
  CHECK(s.rows[0].flags == kDoneNotStarted);  // the batch is still there
  two.pass(10ms);
  CHECK(s.rows[1].call == 4);
  two.finish(two.started[0].batch);
  REQUIRE(two.started.size() == 2);
  REQUIRE(two.started[1].calls.size() == 1);
  CHECK(two.started[1].calls[0].payload.view() == "3");
  two.finish(two.started[1].batch);
  CHECK(s.rows.back().call == 3);
  CHECK(s.bytes.back() == "r3");
  CHECK(s.rows.back().flags == kDoneFreesSlot);
}

TEST_CASE("calls: STOP drops what waits and flags what runs; unknown numbers are ignored") {
  CallRig rig(1);
  FakeRouter& r = rig.open();
  rig.run(r, batch_of(1, 2));
  CHECK(rig.agent.granted(r.session, rig.now()) == r.granted);
  rig.stop(r, {2, 2, 12345});
  REQUIRE(rig.out.stop_calls.size() == 1);
  CHECK(rig.out.stop_calls[0] == rig.started[0].calls[1].call);
  CHECK(r.rows.empty());
  rig.finish(rig.started[0].batch);
  REQUIRE(r.rows.size() == 2);
  CHECK(r.rows[0].status == u8(CallEnd::reply));
  CHECK(r.rows[1].status == u8(CallEnd::cancelled));
  CHECK(r.bytes[1].empty());
  rig.stop(r, {1});
  CHECK(rig.out.stop_calls.empty());

  CallRig w(3);
  FakeRouter& s = w.open();
  auto calls = batch_of(1, 1, 0);
  for (auto c : batch_of(2, 2, 1)) calls.push_back(c);
  w.run(s, calls);
  w.stop(s, {3, 2});
  CHECK(w.out.stop_calls.empty());
  REQUIRE(s.rows.size() == 2);
  CHECK(s.rows[0].status == u8(CallEnd::cancelled));
  CHECK(s.rows[0].flags == kDoneNotStarted);
  CHECK(s.rows[1].flags == (kDoneNotStarted | kDoneFreesSlot));
  CHECK(w.agent.waiting() == 0);
}

TEST_CASE("calls: repeated, overlapping and garbled rows are harmless") {
  CallRig rig(4);
  FakeRouter& r = rig.open();
  Run first = CallRig::make(r, {{1}, {2, "x", 1'000'000, 0, 1}});
  rig.say(r, first);
  rig.say(r, first);
  CHECK(rig.started.size() == 2);
  CHECK(rig.agent.counters().repeated == 2);
  CHECK(r.rows.empty());
  const auto refused = [&](const std::vector<RunSpec>& calls, Errc code) {
    r.rows.clear();
    rig.run(r, calls);
    REQUIRE(r.rows.size() == calls.size());
    for (size_t i = 0; i < calls.size(); ++i) {
      CHECK(r.rows[i].call == calls[i].call);
      CHECK(r.rows[i].status == u8(CallEnd::rejected));
      CHECK(r.rows[i].code == u8(code));
      CHECK(r.rows[i].flags ==
            (i + 1 == calls.size() ? kDoneNotStarted | kDoneFreesSlot : kDoneNotStarted));
    }
  };
  refused({{5, "x", 1'000, 3}}, Errc::unknown_handler);
  refused({{5}, {6}}, Errc::too_large);  // handler 0 takes no batches
  refused({{5, "x", 1'000, 1, 0, 9}}, Errc::too_large);
  refused({{5, std::string(101, 'x'), 1'000, 1}}, Errc::too_large);
  refused({{5, "x", 1'000, 1}, {6, "x", 1'000, 2}}, Errc::bad_argument);
  refused({{5, "x", 1'000, 1, 0, 1, 0, "a"}, {6, "x", 1'000, 1, 0, 1, 0, "b"}}, Errc::bad_argument);
  refused({{5, "x", 1'000, 1}, {5, "x", 1'000, 1}}, Errc::conflict);
  refused({{1}}, Errc::conflict);  // runs already
  CHECK(rig.agent.held() == 2);
  CHECK(rig.started.size() == 2);
  Run bad_key = CallRig::make(r, {{5}});
  bad_key.keys.clear();
  r.rows.clear();
  rig.say(r, bad_key);
  CHECK(r.rows[0].code == u8(Errc::bad_argument));
}

TEST_CASE("calls: beyond the credit nothing is taken, and nonsense does not become credit") {
  CallRig rig(2);
  FakeRouter& r = rig.open();
  std::vector<RunSpec> calls;
  for (uint16_t i = 0; i < 5; ++i) calls.push_back({1u + i, "x", 1'000'000, 0, i});
  rig.run(r, calls);
  CHECK(rig.agent.held() == 2);
  REQUIRE(r.rows.size() == 3);
  CHECK(r.rows[0].code == u8(Errc::overloaded));
  CHECK(rig.agent.received(r.session) == 2);
  for (uint64_t first : {uint64_t{1'000'000}, UINT64_MAX, UINT64_MAX - 1}) {
    Run m = CallRig::make(r, {{50}});
    m.first = first;
    rig.say(r, m);
    CHECK(rig.agent.received(r.session) == 2);
    CHECK(rig.agent.held() == 2);
  }
  rig.finish(rig.started[0].batch);
  CHECK(r.granted == 3);
}

TEST_CASE("calls: batches lost on the way do not cost credit") {
  CallRig rig(2);
  FakeRouter& r = rig.open();
  CallRig::make(r, {{1}});  // lost
  rig.run(r, {{2}});
  CHECK(rig.agent.counters().missed == 1);
  CHECK(rig.agent.received(r.session) == 2);
  rig.finish(rig.started[0].batch);
  CHECK(r.granted == 4);
}

TEST_CASE("calls: the end of a session stops its calls and frees slots as they return") {
  CallRig rig(1);
  FakeRouter& a = rig.open();
  FakeRouter& b = rig.open();
  CHECK(b.granted == 1);  // a fair share, at least one
  rig.run(a, batch_of(1, 2));
  rig.run(b, {{1, "b"}});
  REQUIRE(rig.started.size() == 1);
  rig.close(a);
  CHECK(rig.out.stop_calls.size() == 2);
  CHECK(rig.agent.running() == 1);
  CHECK(rig.agent.waiting() == 1);  // of b: the slot is not free yet
  rig.finish(rig.started[0].batch);
  CHECK(rig.agent.counters().dropped == 2);
  REQUIRE(rig.started.size() == 2);
  CHECK(rig.started[1].calls[0].payload.view() == "b");
  rig.close(b);
  FakeRouter& c = rig.open();
  CHECK(c.granted == 1);
  rig.finish(rig.started[1].batch);
  rig.run(c, {{1, "c"}});
  CHECK(rig.started.size() == 3);
  CallRig w(3);
  FakeRouter& s = w.open();
  auto calls = batch_of(1, 1, 0);
  for (auto x : batch_of(2, 2, 1)) calls.push_back(x);
  w.run(s, calls);
  w.close(s);
  CHECK(w.agent.held() == 1);  // what waited is gone at once
}

TEST_CASE("calls: two routers, equal numbers, each gets its own; credit moves to the busy one") {
  CallRig rig(4);
  FakeRouter& a = rig.open();
  FakeRouter& b = rig.open();
  CHECK(rig.agent.target(a.session, rig.now()) == 4);
  rig.run(a, {{7, "a"}, {8, "a2", 1'000'000, 0, 1}, {9, "a3", 1'000'000, 0, 2}});
  CHECK(rig.agent.target(b.session, rig.now()) == 2);
  rig.run(b, {{7, "b"}});
  CHECK(rig.agent.target(a.session, rig.now()) == 3);
  rig.stop(b, {7});
  CHECK(rig.out.stop_calls == std::vector<uint64_t>{rig.started[3].calls[0].call});
  rig.finish(rig.started[0].batch);
  CHECK(a.bytes == std::vector<std::string>{"ra"});
  CHECK(b.rows.empty());
  rig.finish(rig.started[3].batch);
  CHECK(b.rows[0].status == u8(CallEnd::cancelled));
  for (size_t i : {1u, 2u}) rig.finish(rig.started[i].batch);
  CHECK(rig.agent.target(a.session, rig.now()) == 4);
}

TEST_CASE("calls: a router without credit hears of it when slots come free elsewhere") {
  CallRig rig(2);
  FakeRouter& a = rig.open();
  rig.run(a, {{1}, {2, "x", 1'000'000, 0, 1}});
  FakeRouter& b = rig.open();
  CHECK(b.granted == 1);
  rig.run(b, {{1}});
  CHECK(b.granted == 1);
  rig.finish(rig.started[0].batch);
  CHECK(rig.started.size() == 3);
  rig.finish(rig.started[2].batch);
  CHECK(b.granted == 2);
  rig.finish(rig.started[1].batch);
  CHECK(rig.agent.granted(b.session, rig.now()) == 3);
  CHECK(a.granted >= 3);
}

TEST_CASE("calls: parts go out in order before the end; grants reach running and waiting calls") {
  CallRig rig(1);
  FakeRouter& r = rig.open();
  rig.run(r, {{1, "s", 1'000'000, 0, 0, 1, 10}});
  const uint64_t call = rig.started[0].calls[0].call;
  std::vector<CallPart> parts{{call, Bytes::copy("one")},
                              {call, Bytes::copy("two")},
                              {call + 1, Bytes::copy("nobody's")},
                              {1, Bytes::copy("x")}};
  rig.turn([&] {
    rig.agent.on_parts(std::move(parts), rig.now(), rig.out);
    rig.agent.on_batches({rig.outcome(rig.started[0].batch)}, rig.now(), rig.out);
  });
  CHECK(r.bytes == std::vector<std::string>{"one", "two", "rs"});
  CHECK(r.rows[0].status == u8(CallEnd::part));
  CHECK(r.rows[1].flags == 0);
  CHECK(r.rows[2].flags == kDoneFreesSlot);
  CHECK(r.dones == 1);
  CHECK(rig.agent.counters().dropped == 2);

  rig.run(r, {{2, "s", 1'000'000, 2, 0, 1, 10}});
  const auto grant = [&](uint64_t number, uint64_t granted) {
    rig.say(r, CallCredit{make_rows<CallCreditRow>(
                   std::vector<CallCreditRow>{{number, granted}, {999, 1}})});
  };
  grant(2, 30);
  REQUIRE(rig.out.part_grants.size() == 1);
  CHECK(rig.out.part_grants[0].granted == 30);
  CHECK(rig.out.part_grants[0].call == rig.started[1].calls[0].call);
  grant(2, 20);  // late
  CHECK(rig.out.part_grants.empty());
  rig.stop(r, {2});
  r.rows.clear();
  rig.turn([&] {
    rig.agent.on_parts({{rig.started[1].calls[0].call, Bytes::copy("late")}}, rig.now(), rig.out);
  });
  CHECK(r.rows.empty());
}

TEST_CASE("calls: past its deadline a call is told to stop; one that ignores it is stuck") {
  CallRig rig(1);
  FakeRouter& r = rig.open();
  rig.run(r, {{1, "x", 100'000}});
  rig.pass(99ms);
  CHECK(rig.out.stop_calls.empty());
  rig.pass(2ms);
  CHECK(rig.out.stop_calls.size() == 1);
  rig.pass(5s);
  CHECK_FALSE(rig.agent.stuck());
  rig.pass(1s);
  CHECK(rig.agent.stuck());
  rig.turn([&] { rig.agent.begin_drain(rig.now(), rig.out); });
  rig.drain_answer(r);
  CHECK(rig.agent.drained());  // it is not waited for
  CHECK(rig.agent.running() == 1);
  CallRig ok(1);
  FakeRouter& s = ok.open();
  ok.run(s, {{1, "x", 100'000}});
  ok.pass(101ms);
  ok.finish(ok.started[0].batch);
  CHECK(s.rows[0].status == u8(CallEnd::cancelled));
  ok.pass(60s);
  CHECK_FALSE(ok.agent.stuck());
}

TEST_CASE("calls: drain: no RUN is lost between DRAIN and its answer") {
  CallRig rig(2);
  FakeRouter& r = rig.open();
  rig.run(r, {{1}});
  rig.turn([&] { rig.agent.begin_drain(rig.now(), rig.out); });
  CHECK(r.drains == std::vector<bool>{true});
  CHECK(rig.agent.granted(r.session, rig.now()) == 1);
  rig.run(r, {{2}});  // was on its way
  CHECK(rig.started.size() == 2);
  rig.finish(rig.started[0].batch);
  rig.finish(rig.started[1].batch);
  CHECK_FALSE(rig.agent.drained());
  rig.drain_answer(r);
  CHECK(rig.agent.drained());
  FakeRouter& late = rig.open();
  CHECK(late.granted == 0);
  r.rows.clear();
  r.granted = 99;
  rig.run(r, {{3}});  // breaks its word
  CHECK(rig.started.size() == 2);
  REQUIRE(r.rows.size() == 1);
  CHECK(r.rows[0].flags == (kDoneNotStarted | kDoneFreesSlot));
}

TEST_CASE("calls: drain and go on again; the answer to an old DRAIN is not taken for a new one") {
  CallRig rig(2);
  FakeRouter& r = rig.open();
  const auto set = [&](bool on) {
    rig.turn([&] { rig.agent.set_draining(on, rig.now(), rig.out); });
  };
  set(true);
  set(true);
  set(false);
  CHECK(r.drains == std::vector<bool>{true, false});
  CHECK(rig.agent.granted(r.session, rig.now()) == 2);
  rig.run(r, {{1}});
  CHECK(rig.started.size() == 1);
  rig.turn([&] { rig.agent.begin_drain(rig.now(), rig.out); });
  rig.finish(rig.started[0].batch);
  rig.drain_answer(r);
  rig.drain_answer(r, false);
  CHECK_FALSE(rig.agent.drained());
  rig.drain_answer(r);
  CHECK(rig.agent.drained());
}

TEST_CASE("calls: a drain ends: without routers at once, with a gone one, at last by its timeout") {
  CallRig none;
  none.turn([&] { none.agent.begin_drain(none.now(), none.out); });
  CHECK(none.agent.drained());
  CallRig gone;
  FakeRouter& r = gone.open();
  gone.turn([&] { gone.agent.begin_drain(gone.now(), gone.out); });
  CHECK_FALSE(gone.agent.drained());
  gone.close(r);
  CHECK(gone.agent.drained());
  CallRig slow;
  FakeRouter& s = slow.open();
  slow.run(s, {{1, "x", 3'000'000'000}});
  slow.turn([&] { slow.agent.begin_drain(slow.now(), slow.out); });
  slow.drain_answer(s);
  slow.pass(29s);
  CHECK(slow.out.stop_calls.empty());
  slow.pass(2s);
  CHECK(slow.out.stop_calls.size() == 1);
  CHECK_FALSE(slow.agent.drained());
  slow.pass(2s);
  CHECK(slow.agent.drained());
}

TEST_CASE("calls: an offer of many handlers is measured as it travels") {
  std::vector<HandlerOffer> offers(400);
  for (HandlerOffer& o : offers) o.name = std::string(120, 'n');
  const size_t bytes = offer_bytes(offers);
  Offer m;
  for (const HandlerOffer& o : offers) m.handlers.push_back(encode_offer(o));
  const Frames frames = encode({}, m);
  CHECK(frames.frame[0].size() < bytes + 64);
  CHECK(bytes < frames.frame[0].size() + 2 * offers.size());
}

}  // namespace dray::worker
