// OFFER again in a session: handlers that come, change and go.
#include "tests/unit/router/call_bench.h"

using namespace dray;

namespace {

// What the worker offers from now on; an empty name is a hole.
void offer(CallBench& b, SessionId worker, const std::vector<HandlerOffer>& offers,
           bool draining = false) {
  Offer m;
  m.slots = 2;
  m.draining = draining;
  for (const HandlerOffer& o : offers)
    m.handlers.push_back(o.name.empty() ? std::string() : encode_offer(o));
  b.send(worker, m);
  b.end_turn();
}

}  // namespace

TEST_CASE("offer again: a new handler takes calls and the old one keeps its index and its runs") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("old")}, 2);
  b.call(ann, {.call = 1, .handler = "old"});
  b.call(ann, {.call = 2, .handler = "new"});
  CHECK(b.end_of(ann, 2) == CallEnd::rejected);
  offer(b, w, {offer_of("old"), offer_of("new")});
  CHECK(b.rejects.empty());
  b.call(ann, {.call = 3, .handler = "new"});
  REQUIRE(b.runs(w) == 2);
  CHECK(b.run(w, 0).row.handler == 0);
  CHECK(b.run(w, 1).row.handler == 1);
  b.done(w, b.run(w, 0).row.call);
  b.done(w, b.run(w, 1).row.call);
  CHECK(b.end_of(ann, 1) == CallEnd::reply);
  CHECK(b.end_of(ann, 3) == CallEnd::reply);
}

TEST_CASE("offer again: one that is gone takes no new calls and ends what it runs") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h"), offer_of("other")}, 2);
  b.call(ann, {.call = 1});
  SECTION("as a hole") { offer(b, w, {HandlerOffer{}, offer_of("other")}); }
  SECTION("by another name") { offer(b, w, {offer_of("else"), offer_of("other")}); }
  b.call(ann, {.call = 2});
  CHECK(b.runs(w) == 1);
  CHECK(b.end_of(ann, 2) == CallEnd::rejected);
  CHECK(b.refused(CallRefusal::no_replica) == 1);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.end_of(ann, 1) == CallEnd::reply);
  b.call(ann, {.call = 3, .handler = "other"});
  CHECK(b.run(w, 1).row.handler == 1);
  b.done(w, b.run(w, 1).row.call);
  offer(b, w, {offer_of("h"), offer_of("other")});  // it is back
  b.call(ann, {.call = 4});
  REQUIRE(b.runs(w) == 3);
  CHECK(b.run(w, 2).row.handler == 0);
}

TEST_CASE("offer again: what waits goes to another worker and a shorter list withdraws") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("other"), offer_of("h")}, 1);
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2});  // waits for credit
  offer(b, w, {offer_of("other")});
  const SessionId next = b.worker(21, {offer_of("h")}, 1);
  CHECK(b.runs(next) == 1);
  b.close(w);  // with a run of a withdrawn handler
  CHECK(b.end_of(ann, 1) == CallEnd::unknown);
}

TEST_CASE("offer again: one that is gone is neither chosen nor counted on beside another") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId stays = b.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 6; ++i) {
    b.call(ann, {.call = i});
    b.now.mono += 10ms;
    b.done(stays, b.run(stays, i - 1).row.call, {.run_us = 10'000});
  }
  const SessionId gone = b.worker(21, {offer_of("h"), offer_of("other")}, 4);
  offer(b, gone, {HandlerOffer{}, offer_of("other")});
  b.call(ann, {.call = 10});
  b.call(ann, {.call = 11, .deadline = 15ms});  // behind that one it can not be done
  CHECK(b.refused(CallRefusal::infeasible) == 1);
  b.call(ann, {.call = 12});
  CHECK(b.runs(stays) == 7);
  CHECK(b.runs(gone) == 0);
}

TEST_CASE("offer again: limits change while calls run") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer wide = offer_of("h");
  wide.max_ongoing = 3;
  wide.max_batch_size = 4;
  wide.max_models = 2;
  const SessionId w = b.worker(20, {wide}, 4);
  for (uint64_t i = 1; i <= 3; ++i) b.call(ann, {.call = i, .key = "m" + std::to_string(i % 2)});
  CHECK(b.runs(w) == 3);
  HandlerOffer narrow = offer_of("h");
  narrow.max_ongoing = 1;
  narrow.max_models = 1;
  offer(b, w, {narrow});
  b.call(ann, {.call = 4, .key = "m1"});
  b.done(w, b.run(w, 0).row.call);
  b.done(w, b.run(w, 1).row.call);
  CHECK(b.runs(w) == 3);
  b.done(w, b.run(w, 2).row.call);
  CHECK(b.runs(w) == 4);
  b.call(ann, {.call = 5, .items = 2});
  CHECK(b.end_of(ann, 5) == CallEnd::rejected);
}

TEST_CASE("offer again: draining counts as before") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")}, 2);
  offer(b, w, {offer_of("h"), offer_of("new")}, true);
  CHECK(b.drains[w] == std::vector<bool>{true});
  b.call(ann, {.call = 1});
  CHECK(b.runs(w) == 0);
  offer(b, w, {offer_of("h"), offer_of("new")}, false);
  b.call(ann, {.call = 2});
  CHECK(b.runs(w) == 1);
}

TEST_CASE("a worker that says unknown with its reason is believed") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {offer_of("h")}, 2);
  b.call(ann, {.call = 1});
  b.done(w, b.run(w, 0).row.call, {.end = CallEnd::unknown, .bytes = "executor crashed: SIGSEGV"});
  CHECK(b.end_of(ann, 1) == CallEnd::unknown);
  CHECK(b.answer(ann, 1).bytes == "executor crashed: SIGSEGV");
  b.call(ann, {.call = 2, .flags = kCallIdempotent});
  b.done(w, b.run(w, 1).row.call, {.end = CallEnd::unknown, .bytes = "executor crashed: SIGSEGV"});
  REQUIRE(b.runs(w) == 3);  // again
  b.done(w, b.run(w, 2).row.call);
  CHECK(b.end_of(ann, 2) == CallEnd::reply);
}
