// Refusals of calls: each has a reason and counts exactly once.
#include "tests/unit/router/call_bench.h"

using namespace dray;

namespace {
struct Want {
  CallRefusal why;
  Errc code;
  CallLimit limit = CallLimit::none;
  uint64_t value = 0;
};
void check_refused(CallBench& b, SessionId client, uint64_t call, const Want& want) {
  INFO(call_refusal_name(want.why));
  CHECK(b.end_of(client, call) == CallEnd::rejected);
  const ReplyRow row = b.answer(client, call).row;
  CHECK(row.code == static_cast<uint8_t>(want.code));
  CHECK(row.limit == static_cast<uint8_t>(want.limit));
  CHECK(row.value == want.value);
  CHECK(b.refused(want.why) == 1);
  CHECK(b.refused_in_all() == 1);
  CHECK(b.totals().ends[static_cast<size_t>(CallEnd::rejected)] == 1);
}
}  // namespace

TEST_CASE("refused: a handler nobody ever offered") {
  CallBench b;
  const SessionId ann = b.client();
  b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1, .handler = "x"});
  check_refused(b, ann, 1, {CallRefusal::unknown_handler, Errc::unknown_handler});
}

TEST_CASE("a router that has just started grants nothing until a worker has offered something") {
  CallBench b({.settle = 3s});
  const SessionId ann = b.client(), bob = b.client(11);
  CHECK(b.client_credit[ann] == 0);
  SECTION("a worker comes") {
    b.go(1s);
    b.worker(20, {offer_of("h")});
    CHECK(b.client_credit[ann] == 4096);
    CHECK(b.client_credit[bob] == 4096);
    b.call(ann, {.call = 1});
    CHECK(b.runs(SessionId{20}) == 1);
    CHECK(b.client_credit[b.client(12)] == 4096);
  }
  SECTION("none comes") {
    b.go(2999ms);
    CHECK(b.client_credit[ann] == 0);
    b.go(1ms);
    CHECK(b.client_credit[ann] == 4096);
    CHECK(b.router.next_deadline() == kNever);
    b.call(ann, {.call = 1});
    check_refused(b, ann, 1, {CallRefusal::unknown_handler, Errc::unknown_handler});
  }
}

TEST_CASE("a router that has just started does not say that nobody ever offered a handler") {
  CallBench b({.settle = 3s});
  const SessionId ann = b.client();
  b.worker(20, {offer_of("h")});
  SECTION("young") {
    b.go(2s);
    b.call(ann, {.call = 1, .handler = "x"});
    check_refused(b, ann, 1, {CallRefusal::no_replica, Errc::no_replica});
    CHECK(b.answer(ann, 1).row.retry_after_ms == 200);
  }
  SECTION("settled") {
    b.go(3s);
    b.call(ann, {.call = 1, .handler = "x"});
    check_refused(b, ann, 1, {CallRefusal::unknown_handler, Errc::unknown_handler});
  }
}

TEST_CASE("refused: a handler nobody offers now") {
  CallBench b;
  const SessionId ann = b.client();
  b.close(b.worker(20, {offer_of("h")}));
  b.call(ann, {.call = 1});
  check_refused(b, ann, 1, {CallRefusal::no_replica, Errc::no_replica});
  CHECK(b.answer(ann, 1).row.retry_after_ms == 200);
}

TEST_CASE("refused: more calls than were granted") {
  CallBench b({.client_calls = 2});
  const SessionId ann = b.client();
  b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 3; ++i) b.post(ann, {.call = i});
  b.end_turn();
  check_refused(b, ann, 3,
                {CallRefusal::client_calls, Errc::overloaded, CallLimit::client_calls, 2});
  CHECK(b.client_credit[ann] == 3);  // the refused one holds no credit
}

TEST_CASE("refused: more bytes than a client, or all of them, may have open") {
  SECTION("one client") {
    CallBench b({.client_bytes = 10});
    const SessionId ann = b.client();
    b.worker(20, {offer_of("h")});
    b.call(ann, {.call = 1, .payload = std::string(6, 'x')});
    b.call(ann, {.call = 2, .payload = std::string(5, 'x')});
    check_refused(b, ann, 2,
                  {CallRefusal::client_bytes, Errc::overloaded, CallLimit::client_bytes, 10});
  }
  SECTION("all clients") {
    CallBench b({.call_bytes = 10});
    const SessionId ann = b.client(), bob = b.client(11);
    b.worker(20, {offer_of("h")});
    b.call(ann, {.call = 1, .payload = std::string(6, 'x')});
    b.call(bob, {.call = 2, .payload = std::string(5, 'x')});
    check_refused(b, bob, 2,
                  {CallRefusal::call_bytes, Errc::overloaded, CallLimit::call_bytes, 10});
  }
}

TEST_CASE("refused: the queue of the handler is full") {
  CallBench b({.max_queued = 2});
  const SessionId ann = b.client();
  b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 4; ++i) b.call(ann, {.call = i});
  check_refused(b, ann, 4, {CallRefusal::max_queued, Errc::overloaded, CallLimit::max_queued, 2});
}

TEST_CASE("refused: one call larger than a whole batch") {
  HandlerOffer o = offer_of("h");
  o.max_batch_size = 8;
  o.max_batch_bytes = 100;
  SECTION("items") {
    CallBench b;
    const SessionId ann = b.client();
    b.worker(20, {o});
    b.call(ann, {.call = 1, .items = 9});
    check_refused(b, ann, 1,
                  {CallRefusal::batch_items, Errc::too_large, CallLimit::batch_items, 8});
  }
  SECTION("bytes") {
    CallBench b;
    const SessionId ann = b.client();
    b.worker(20, {o});
    b.call(ann, {.call = 1, .payload = std::string(101, 'x')});
    check_refused(b, ann, 1,
                  {CallRefusal::batch_bytes, Errc::too_large, CallLimit::batch_bytes, 100});
  }
}

TEST_CASE("refused: draining") {
  CallBench b;
  const SessionId ann = b.client();
  b.worker(20, {offer_of("h")});
  b.router.begin_drain(b.now, b.out);
  b.call(ann, {.call = 1});
  check_refused(b, ann, 1, {CallRefusal::draining, Errc::draining});
}

TEST_CASE("refused at the door: what can not be done by its deadline") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 6; ++i) {
    b.call(ann, {.call = i});
    b.now.mono += 10ms;
    b.done(w, b.run(w, i - 1).row.call, {.run_us = 10'000});
  }
  b.call(ann, {.call = 10, .deadline = 15ms});
  CHECK(b.runs(w) == 7);
  b.call(ann, {.call = 11, .deadline = 15ms});
  // Behind one of 10.6 ms, guarded, its own 10.6 ms: 21.2 ms.
  check_refused(b, ann, 11,
                {CallRefusal::infeasible, Errc::infeasible, CallLimit::deadline_us, 21'200});
  CHECK(b.answer(ann, 11).row.retry_after_ms == 7);
  b.call(ann, {.call = 12, .deadline = 25ms});
  CHECK(b.answered(ann) == 7);  // that one is in time
}

TEST_CASE("refused at the door: the batches of another router at the same replica count") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  uint64_t number = 0;
  auto one = [&](Duration wait) {
    b.call(ann, {.call = ++number});
    b.now.mono += wait + 10ms;
    b.done(w, b.run(w, number - 1).row.call,
           {.run_us = 10'000, .wait_us = static_cast<uint32_t>(to_us(wait))});
  };
  for (int i = 0; i < 60; ++i) one(30ms);
  b.call(ann, {.call = 1000, .deadline = 35ms});  // 30 ms there, then 10.6
  CHECK(b.end_of(ann, 1000) == CallEnd::rejected);
  CHECK(b.refused(CallRefusal::infeasible) == 1);
  for (int i = 0; i < 60; ++i) one(0ms);  // the other one went away
  b.call(ann, {.call = 1001, .deadline = 35ms});
  CHECK(b.runs(w) == number + 1);
  CHECK(b.refused_in_all() == 1);
}

TEST_CASE("refused at the door: others may take longer than usual; in the queue the usual counts") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  uint64_t number = 0;
  auto one = [&](Duration wait) {
    b.call(ann, {.call = ++number});
    b.now.mono += wait + 10ms;
    b.done(w, b.run(w, number - 1).row.call,
           {.run_us = 10'000, .wait_us = static_cast<uint32_t>(to_us(wait))});
  };
  for (int i = 0; i < 60; ++i) one(i % 2 == 0 ? 60ms : 0ms);  // 30 on average, and 30 off it
  b.call(ann, {.call = 1000, .deadline = 60ms});
  CHECK(b.refused(CallRefusal::infeasible) == 1);
  CHECK(b.refused_in_all() == 1);
  b.call(ann, {.call = 1001});
  b.call(ann, {.call = 1002, .deadline = 150ms});  // 71 ms for that one, 71 for its own
  CHECK(b.refused_in_all() == 1);
  b.now.mono += 95ms;
  b.done(w, b.run(w, number).row.call, {.run_us = 10'000, .wait_us = 30'000});
  CHECK(b.runs(w) == number + 2);  // 55 ms are left: enough for 41
}

TEST_CASE("a worker that claims more time than has passed changes nothing") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 20; ++i) {
    b.call(ann, {.call = i});
    b.now.mono += 10ms;
    b.done(w, b.run(w, i - 1).row.call, {.run_us = UINT32_MAX, .wait_us = UINT32_MAX});
    CHECK(b.answer(ann, i).row.run_us == 10'000);
    CHECK(b.answer(ann, i).row.wait_us == 0);
  }
  b.call(ann, {.call = 100, .deadline = 15ms});
  CHECK(b.runs(w) == 21);
  CHECK(b.refused_in_all() == 0);
}

TEST_CASE("waiting behind batches of one's own says nothing about other routers") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")}, 1, 2);  // one ahead
  for (uint64_t i = 1; i <= 6; ++i) {
    b.call(ann, {.call = i});
    b.now.mono += 10ms;
    b.done(w, b.run(w, i - 1).row.call, {.run_us = 10'000});
  }
  CHECK(b.runs(w) == 6);
  for (uint64_t i = 0; i < 40; ++i) {  // two at a time: the second one waits for the first
    b.call(ann, {.call = 100 + 2 * i});
    b.call(ann, {.call = 101 + 2 * i});
    REQUIRE(b.runs(w) == 8 + 2 * i);
    b.now.mono += 10ms;
    b.done(w, b.run(w, 6 + 2 * i).row.call, {.run_us = 10'000});
    b.now.mono += 10ms;
    b.done(w, b.run(w, 7 + 2 * i).row.call, {.run_us = 10'000, .wait_us = 10'000});
  }
  b.call(ann, {.call = 1000, .deadline = 15ms});
  CHECK(b.refused_in_all() == 0);
}

TEST_CASE("a call with a near deadline is not held up by those that can wait") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 6; ++i) {
    b.call(ann, {.call = i});
    b.now.mono += 10ms;
    b.done(w, b.run(w, i - 1).row.call, {.run_us = 10'000});
  }
  for (uint64_t i = 100; i < 200; ++i) b.call(ann, {.call = i, .deadline = 3600s});
  b.call(ann, {.call = 10, .deadline = 50ms});
  CHECK(b.answered(ann) == 6);
  b.now.mono += 10ms;
  b.done(w, b.run(w, 6).row.call, {.run_us = 10'000});
  CHECK(b.run(w, 7).row.deadline_us == 40'000);
}

TEST_CASE("after a second of refusals one call is let in, to see whether it is still so slow") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 6; ++i) {
    b.call(ann, {.call = i});
    b.now.mono += 500ms;
    b.done(w, b.run(w, i - 1).row.call, {.run_us = 500'000});
  }
  b.call(ann, {.call = 10, .deadline = 100ms});
  CHECK(b.end_of(ann, 10) == CallEnd::rejected);
  b.go(1s);
  b.call(ann, {.call = 11, .deadline = 100ms});
  CHECK(b.runs(w) == 7);
  b.done(w, b.run(w, 6).row.call, {.run_us = 1000});
  CHECK(b.end_of(ann, 11) == CallEnd::reply);
}

TEST_CASE("a number in use is refused without touching the call that has it") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")}, 2);
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 1});
  CHECK(b.runs(w) == 1);
  REQUIRE(b.rejects.size() == 1);
  CHECK(b.client_credit[ann] == 4097);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.end_of(ann, 1) == CallEnd::reply);
}

TEST_CASE("calls of a malformed message count as received") {
  CallBench b;
  const SessionId ann = b.client();
  b.worker(20, {offer_of("h")});
  Call m;
  m.handler = "h";
  RowsBuilder<CallRow> rows;
  rows.add({.call = 1, .len = 5});
  m.rows = rows.take();
  b.send(ann, m);  // no bytes
  b.end_turn();
  REQUIRE(b.rejects.size() == 1);
  CHECK(b.rejects[0].second.code == static_cast<uint8_t>(Errc::bad_message));
  CHECK(b.client_credit[ann] == 4097);
  CHECK(b.router.lane().open_calls() == 0);
}

TEST_CASE("a queued call that is larger than what is left to run it is refused in the queue") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer o = offer_of("h");
  o.max_batch_size = 8;
  const SessionId v = b.worker(20, {o});
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2, .items = 8});
  o.max_batch_size = 4;
  b.worker(21, {o});
  check_refused(b, ann, 2, {CallRefusal::batch_items, Errc::too_large, CallLimit::batch_items, 4});
  b.done(v, b.run(v, 0).row.call);
  CHECK(b.end_of(ann, 1) == CallEnd::reply);
}

TEST_CASE("handlers beyond the bound are not taken, known ones are") {
  CallBench b;
  const SessionId ann = b.client();
  constexpr size_t kEach = 256;
  uint64_t id = 100;
  for (size_t first = 0; first < kDeploymentsMax; first += kEach) {
    std::vector<HandlerOffer> offers;
    for (size_t i = first; i < first + kEach; ++i)
      offers.push_back(offer_of("h" + std::to_string(i)));
    b.worker(++id, std::move(offers));
  }
  const SessionId w = b.worker(20, {offer_of("one more"), offer_of("h7")}, 1, 5);
  b.call(ann, {.call = 1, .handler = "one more"});
  check_refused(b, ann, 1, {CallRefusal::unknown_handler, Errc::unknown_handler});
  b.call(ann, {.call = 2, .handler = "h7"});
  b.call(ann, {.call = 3, .handler = "h7"});
  CHECK(b.runs(w) == 1);
  CHECK(b.run(w, 0).row.handler == 1);
}
