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
