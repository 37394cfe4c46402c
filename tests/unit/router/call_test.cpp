// Calls through the router core: the whole way, order, credit, refusals, ends.
#include "tests/unit/router/call_bench.h"

using namespace dray;

TEST_CASE("a call goes to a worker and its reply comes back") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("other"), offer_of("h")});
  b.call(ann, {.call = 7, .payload = "question"});
  REQUIRE(b.runs(w) == 1);
  CHECK(b.run(w, 0).bytes == "question");
  CHECK(b.run(w, 0).row.handler == 1);
  CHECK(b.run(w, 0).row.deadline_us == 1'000'000);
  b.now.mono += 3ms;
  b.done(w, b.run(w, 0).row.call, {.bytes = "reply", .run_us = 1000});
  CHECK(b.end_of(ann, 7) == CallEnd::reply);
  CHECK(b.answer(ann, 7).bytes == "reply");
  CHECK(b.answer(ann, 7).row.worker_us == 3000);
  CHECK(b.answer(ann, 7).row.run_us == 1000);
  CHECK(b.answer(ann, 7).row.batch_items == 1);
  CHECK(b.answer(ann, 7).row.attempts == 1);
  CHECK(b.router.lane().open_calls() == 0);
  CHECK(b.router.next_deadline() == kNever);
}

TEST_CASE("a client is granted its calls first of all, and again as they end") {
  CallBench b({.client_calls = 3});
  const SessionId ann = b.client();
  CHECK(b.client_credit[ann] == 3);
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1});
  CHECK(b.client_credit[ann] == 3);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.client_credit[ann] == 4);
}

TEST_CASE("what waits leaves in the order of deadlines, then of arrival") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2, .deadline = 900ms});
  b.call(ann, {.call = 3, .deadline = 500ms});
  b.call(ann, {.call = 4, .deadline = 700ms});
  b.call(ann, {.call = 5, .deadline = 500ms});
  REQUIRE(b.runs(w) == 1);
  for (size_t i = 0; i < 4; ++i) b.done(w, b.run(w, i).row.call);
  b.done(w, b.run(w, 4).row.call);
  REQUIRE(b.answered(ann) == 5);
  std::vector<uint64_t> order;
  for (const Answer& a : b.answers[ann]) order.push_back(a.row.call);
  CHECK(order == std::vector<uint64_t>{1, 3, 5, 4, 2});
}

TEST_CASE("no batch goes out beyond the credit of a worker") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")}, 8, 2);
  for (uint64_t i = 1; i <= 5; ++i) b.call(ann, {.call = i});
  CHECK(b.runs(w) == 2);
  b.done(w, b.run(w, 0).row.call, {.grant = false});
  CHECK(b.runs(w) == 2);  // done, but nothing granted
  b.send(w, Done{}, 4);
  b.end_turn();
  CHECK(b.runs(w) == 4);
}

TEST_CASE("max_ongoing bounds what runs at once, whatever the credit") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer o = offer_of("h");
  o.max_ongoing = 2;
  const SessionId w = b.worker(20, {o}, 8, 8);
  for (uint64_t i = 1; i <= 5; ++i) b.call(ann, {.call = i});
  CHECK(b.runs(w) == 2);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.runs(w) == 3);
}

TEST_CASE("a call goes to the replica with the least to do, the one idle longest first") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {offer_of("h")}, 2, 4);
  b.now.mono += 1ms;
  const SessionId w = b.worker(21, {offer_of("h")}, 2, 4);
  b.call(ann, {.call = 1});
  CHECK(b.runs(v) == 1);
  b.call(ann, {.call = 2});
  CHECK(b.runs(w) == 1);
  b.now.mono += 1ms;
  b.done(w, b.run(w, 0).row.call);
  b.now.mono += 1ms;
  b.done(v, b.run(v, 0).row.call);
  b.call(ann, {.call = 3});
  CHECK(b.runs(w) == 2);  // idle since before the other
  b.call(ann, {.call = 4});
  CHECK(b.runs(v) == 2);
}

TEST_CASE("a free slot elsewhere comes before credit beyond the slots") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {offer_of("h")}, 1, 4);
  const SessionId w = b.worker(21, {offer_of("h")}, 4, 4);
  for (uint64_t i = 1; i <= 5; ++i) b.call(ann, {.call = i});
  CHECK(b.runs(v) == 1);
  CHECK(b.runs(w) == 4);
}

TEST_CASE("what one turn says to a peer is one message") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")}, 4, 8);
  b.messages = 0;
  for (uint64_t i = 1; i <= 8; ++i) b.post(ann, {.call = i, .payload = std::to_string(i)});
  b.end_turn();
  CHECK(b.messages == 1);
  CHECK(b.runs(w) == 8);
  CHECK(b.batches[w] == 8);
  CHECK(b.run(w, 7).bytes == "8");
  for (size_t i = 0; i < 8; ++i) b.post_done(w, b.run(w, i).row.call, {.bytes = std::to_string(i)});
  b.end_turn();
  CHECK(b.messages == 2);
  CHECK(b.answer(ann, 8).bytes == "7");
}

TEST_CASE("a queued call expires at its deadline; a running one is unknown and stopped") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1, .deadline = 50ms});
  b.call(ann, {.call = 2, .deadline = 60ms});
  CHECK(b.router.next_deadline() == b.now.mono + 50ms);
  b.go(49ms);
  CHECK(b.answered(ann) == 0);
  b.go(1ms);
  CHECK(b.end_of(ann, 1) == CallEnd::unknown);
  CHECK(b.answer(ann, 1).row.code == static_cast<uint8_t>(Errc::outcome_unknown));
  CHECK(b.stopped[w] == std::vector<uint64_t>{b.run(w, 0).row.call});
  b.go(10ms);
  CHECK(b.end_of(ann, 2) == CallEnd::expired);
  CHECK(b.runs(w) == 1);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.answered(ann) == 2);  // the late reply is dropped
  CHECK(b.router.lane().late() == 1);
  CHECK(b.router.next_deadline() == kNever);
}

TEST_CASE("a call without a deadline gets the router's") {
  CallBench b({.default_deadline = 30ms});
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1, .deadline = 0s});
  CHECK(b.run(w, 0).row.deadline_us == 30'000);
  b.go(30ms);
  CHECK(b.end_of(ann, 1) == CallEnd::unknown);
}

TEST_CASE("cancelled: at once if queued, and with a STOP if running") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 3; ++i) b.call(ann, {.call = i});
  b.cancel(ann, 2);
  CHECK(b.end_of(ann, 2) == CallEnd::cancelled);
  CHECK(b.stopped[w].empty());
  b.cancel(ann, 1);
  CHECK(b.end_of(ann, 1) == CallEnd::cancelled);
  CHECK(b.stopped[w].size() == 1);
  CHECK(b.runs(w) == 1);  // its slot is not free before the worker says so
  b.cancel(ann, 1);
  CHECK(b.answered(ann) == 2);
  b.done(w, b.run(w, 0).row.call, {.end = CallEnd::cancelled, .bytes = ""});
  CHECK(b.answered(ann) == 2);
  CHECK(b.runs(w) == 2);
  CHECK(b.run(w, 1).row.call != b.run(w, 0).row.call);
}

TEST_CASE("when a client leaves, its calls go with it") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2});
  b.close(ann);
  CHECK(b.router.lane().open_calls() == 0);
  CHECK(b.router.lane().bytes() == 0);
  CHECK(b.stopped[w].size() == 1);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.answered(ann) == 0);
  const SessionId bob = b.client(11);
  b.call(bob, {.call = 1});
  CHECK(b.runs(w) == 2);
}

TEST_CASE("a lost worker: what may have run is unknown, what is idempotent runs elsewhere") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {offer_of("h")}, 2);
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2, .flags = kCallIdempotent});
  b.close(v);
  CHECK(b.end_of(ann, 1) == CallEnd::unknown);
  CHECK(b.answered(ann) == 1);
  const SessionId w = b.worker(21, {offer_of("h")});
  REQUIRE(b.runs(w) == 1);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.end_of(ann, 2) == CallEnd::reply);
  CHECK(b.answer(ann, 2).row.attempts == 2);
  CHECK(b.totals().retries == 1);
}

TEST_CASE("after a lost run nothing but an answer tells what became of a call") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {offer_of("h")}, 2);
  b.call(ann, {.call = 1, .flags = kCallIdempotent});
  b.close(v);
  CHECK(b.answered(ann) == 0);
  SECTION("it expires in the queue") {
    b.go(2s);
    CHECK(b.end_of(ann, 1) == CallEnd::unknown);
  }
  SECTION("workers send it back until it is given up") {
    const SessionId w = b.worker(21, {offer_of("h")});
    const CallBench::Outcome back{
        .end = CallEnd::rejected, .bytes = "", .flags = kDoneFreesSlot | kDoneNotStarted};
    for (size_t i = 0; i <= kCallReturnsMax; ++i) b.done(w, b.run(w, i).row.call, back);
    CHECK(b.end_of(ann, 1) == CallEnd::unknown);
    CHECK(b.refused_in_all() == 0);
  }
  CHECK(b.answered(ann) == 1);
}

TEST_CASE("a handler may declare all its calls idempotent") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer o = offer_of("h");
  o.flags = kOfferIdempotent;
  const SessionId v = b.worker(20, {o});
  const SessionId w = b.worker(21, {o});
  b.call(ann, {.call = 1});
  REQUIRE(b.runs(v) == 1);
  b.close(v);
  CHECK(b.runs(w) == 1);
}

TEST_CASE("a call is sent to three replicas at most") {
  CallBench b;
  const SessionId ann = b.client();
  for (uint64_t i = 0; i < 3; ++i) {
    const SessionId w = b.worker(20 + i, {offer_of("h")});
    if (i == 0) b.call(ann, {.call = 1, .flags = kCallIdempotent});
    REQUIRE(b.runs(w) == 1);
    b.close(w);
    if (i < 2) CHECK(b.answered(ann) == 0);
  }
  CHECK(b.end_of(ann, 1) == CallEnd::unknown);
}

TEST_CASE("retries are a tenth of all calls at most, after a small reserve") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {offer_of("h")}, 100);
  for (uint64_t i = 1; i <= 100; ++i) b.call(ann, {.call = i, .flags = kCallIdempotent});
  REQUIRE(b.runs(v) == 100);
  b.close(v);
  CHECK(b.totals().retries == 10);
  CHECK(b.totals().ends[static_cast<size_t>(CallEnd::unknown)] == 90);
}

TEST_CASE("what a worker did not start goes elsewhere at no cost, but not for ever") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1});
  const CallBench::Outcome back{
      .end = CallEnd::rejected, .bytes = "", .flags = kDoneFreesSlot | kDoneNotStarted};
  for (size_t i = 0; i < kCallReturnsMax; ++i) {
    REQUIRE(b.runs(w) == i + 1);
    b.done(w, b.run(w, i).row.call, back);
    CHECK(b.answered(ann) == 0);
  }
  CHECK(b.totals().retries == 0);
  b.done(w, b.run(w, kCallReturnsMax).row.call, back);
  CHECK(b.end_of(ann, 1) == CallEnd::rejected);
  CHECK(b.refused(CallRefusal::sent_back) == 1);
}

TEST_CASE("a failed call carries its error and frees its slot") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2});
  b.done(w, b.run(w, 0).row.call, {.end = CallEnd::failed, .bytes = "no such file"});
  CHECK(b.end_of(ann, 1) == CallEnd::failed);
  CHECK(b.answer(ann, 1).bytes == "no such file");
  CHECK(b.runs(w) == 2);
  CHECK(b.router.lane().credit_used() == 1);
}

TEST_CASE("only the worker that runs a call can end it") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {offer_of("h")});
  const SessionId w = b.worker(21, {offer_of("g")});
  b.call(ann, {.call = 1});
  b.done(w, b.run(v, 0).row.call);
  CHECK(b.answered(ann) == 0);
  CHECK(b.router.lane().late() == 1);
}

TEST_CASE("parts are passed on in order, and credit for them finds the worker") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 5, .window = 100});
  const uint64_t number = b.run(w, 0).row.call;
  CHECK(b.run(w, 0).row.window == 100);
  b.done(w, number, {.end = CallEnd::part, .bytes = "a", .flags = 0});
  b.done(w, number, {.end = CallEnd::part, .bytes = "b", .flags = 0});
  RowsBuilder<CallCreditRow> rows;
  rows.add({5, 200});
  b.send(ann, CallCredit{rows.take()});
  b.end_turn();
  REQUIRE(b.credits[w].size() == 1);
  CHECK(b.credits[w][0].call == number);
  CHECK(b.credits[w][0].granted == 200);
  b.done(w, number, {.bytes = "end"});
  REQUIRE(b.answered(ann) == 3);
  CHECK(b.answers[ann][0].bytes == "a");
  CHECK(b.answers[ann][1].bytes == "b");
  CHECK(b.answers[ann][2].bytes == "end");
  CHECK(b.end_of(ann, 5) == CallEnd::reply);
}

TEST_CASE("credit for parts of a queued call is its first window") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2, .window = 10});
  RowsBuilder<CallCreditRow> rows;
  rows.add({2, 30});
  b.send(ann, CallCredit{rows.take()});
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.credits[w].empty());
  CHECK(b.run(w, 1).row.window == 30);
}

TEST_CASE("a call that was answered in part is never executed again") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {offer_of("h")});
  b.worker(21, {offer_of("h")});
  b.call(ann, {.call = 1, .window = 100, .flags = kCallIdempotent});
  b.done(v, b.run(v, 0).row.call, {.end = CallEnd::part, .flags = 0});
  b.close(v);
  CHECK(b.end_of(ann, 1) == CallEnd::unknown);
}

TEST_CASE("a worker that drains gets nothing more, and is told so") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")}, 2);
  b.call(ann, {.call = 1});
  b.drain(w);
  CHECK(b.drains[w] == std::vector<bool>{true});
  b.call(ann, {.call = 2});
  CHECK(b.runs(w) == 1);
  CHECK(b.answer(ann, 2).row.code == static_cast<uint8_t>(Errc::no_replica));
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.end_of(ann, 1) == CallEnd::reply);
  b.drain(w, false);
  b.call(ann, {.call = 3});
  CHECK(b.runs(w) == 2);
}

TEST_CASE("a router that drains refuses new calls and ends the others") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2});
  b.router.begin_drain(b.now, b.out);
  b.call(ann, {.call = 3});
  CHECK(b.answer(ann, 3).row.code == static_cast<uint8_t>(Errc::draining));
  CHECK(b.answer(ann, 3).row.retry_after_ms == 0);
  CHECK_FALSE(b.router.drained());
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.drains[ann].empty());
  b.done(w, b.run(w, 1).row.call);
  CHECK(b.router.drained());
  CHECK(b.drains[ann] == std::vector<bool>{true});  // what has no end now was not taken
  const SessionId bob = b.client(11);
  CHECK(b.drains[bob] == std::vector<bool>{true});
  b.end_turn();
  CHECK(b.drains[ann].size() == 1);
}

TEST_CASE("a worker and a client use different doors") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")});
  b.send(ann, Done{});
  Call call;
  call.handler = "h";
  b.send(w, call);
  b.end_turn();
  REQUIRE(b.rejects.size() == 2);
  CHECK(b.rejects[0].second.detail == "a client may not send done");
  CHECK(b.rejects[1].second.detail == "a worker may not send call");
  b.open(SessionId{30}, Router::kWorkers, Role::client);
  CHECK(b.out.close == std::vector<SessionId>{SessionId{30}});
}
