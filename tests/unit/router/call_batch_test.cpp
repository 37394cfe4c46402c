// Batches of calls: what goes together, when it leaves, and which replica has the model.
#include "tests/unit/router/call_bench.h"

using namespace dray;

namespace {

HandlerOffer batching(uint32_t size, Duration wait = 0s) {
  HandlerOffer o = offer_of("h");
  o.max_batch_size = size;
  o.max_ongoing = 1;
  o.batch_wait_us = static_cast<uint32_t>(to_us(wait));
  return o;
}

// Runs batches until the cost line L(n) = a + b n is known for every size up to `most`.
void teach(CallBench& b, SessionId client, SessionId worker, uint32_t most, Duration a = 8ms,
           Duration per_item = 250us) {
  static uint64_t call = 1'000'000;
  for (uint32_t n = 1;; n = std::min(most, n + std::max<uint32_t>(1, n / 2))) {
    const size_t before = b.runs(worker);
    for (uint32_t i = 0; i < n; ++i) b.post(client, {.call = ++call, .deadline = 100s});
    b.end_turn();
    while (b.batches[worker] > 0 && b.router.lane().open_calls() > 0) {
      const uint64_t batch = b.batches[worker];
      size_t first = b.runs(worker);
      while (first > 0 && b.run(worker, first - 1).batch == batch) --first;
      const auto items = static_cast<uint32_t>(b.runs(worker) - first);
      const auto took = a + items * per_item;
      b.now.mono += took;
      for (size_t i = first; i < first + items; ++i)
        b.post_done(worker, b.run(worker, i).row.call,
                    {.flags = static_cast<uint16_t>(i + 1 == first + items),
                     .run_us = static_cast<uint32_t>(to_us(took))});
      b.end_turn();
      if (b.batches[worker] == batch) b.go(1ms);  // a gather window
    }
    if (n == most && b.runs(worker) - before >= most && ++call % 4 == 0) break;
  }
  b.answers[client].clear();
  b.started[worker].clear();
}
void finish_batch(CallBench& b, SessionId w, size_t first, size_t n, uint32_t run_us) {
  b.now.mono += std::chrono::microseconds(run_us);
  for (size_t i = first; i < first + n; ++i)
    b.post_done(w, b.run(w, i).row.call,
                {.flags = static_cast<uint16_t>(i + 1 == first + n), .run_us = run_us});
  b.end_turn();
}

}  // namespace

TEST_CASE("batches grow from one call by half at a time") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {batching(16)});
  for (uint64_t i = 1; i <= 60; ++i) b.post(ann, {.call = i, .deadline = 100s});
  b.end_turn();
  std::vector<size_t> sizes;
  for (size_t first = 0; first < b.runs(w);) {
    const size_t n = b.runs(w) - first;
    sizes.push_back(n);
    finish_batch(b, w, first, n, static_cast<uint32_t>(8000 + 250 * n));
    first += n;
  }
  CHECK(sizes == std::vector<size_t>{1, 2, 3, 4, 6, 9, 13, 16, 6});
}

TEST_CASE("a batch is as large as fits into half of the time the caller gives") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {batching(128)});
  teach(b, ann, w, 128);
  const Deployment& d = *b.router.lane().deployments()[0];
  CHECK(d.line.a_us() == Approx(8000).epsilon(0.01));
  CHECK(d.line.b_us() == Approx(250).epsilon(0.01));
  b.call(ann, {.call = 1});
  for (uint64_t i = 2; i <= 200; ++i) b.post(ann, {.call = i, .deadline = 50ms});
  b.end_turn();
  finish_batch(b, w, 0, 1, 8250);
  // L(n) * 1.06 <= 25 ms: n <= 62.
  CHECK(b.runs(w) - 1 == 62);
}

TEST_CASE("a free replica waits for company: until the batch is full or the window is over") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {batching(4, 20ms)});
  teach(b, ann, w, 4, 1ms, 1ms);
  SECTION("the window") {
    b.call(ann, {.call = 1});
    CHECK(b.runs(w) == 0);
    CHECK(b.router.next_deadline() == b.now.mono + 20ms);
    b.go(5ms);
    b.call(ann, {.call = 2});
    b.go(14ms);
    CHECK(b.runs(w) == 0);
    b.go(1ms);
    CHECK(b.runs(w) == 2);
    CHECK(b.batches[w] > 0);
    finish_batch(b, w, 0, 2, 3000);
    CHECK(b.answer(ann, 1).row.gather_us == 20'000);
    CHECK(b.answer(ann, 2).row.gather_us == 15'000);
  }
  SECTION("full") {
    for (uint64_t i = 1; i <= 4; ++i) b.call(ann, {.call = i});
    CHECK(b.runs(w) == 4);
  }
  SECTION("items, not calls, fill it") {
    b.call(ann, {.call = 1, .items = 3});
    b.call(ann, {.call = 2, .items = 1});
    CHECK(b.runs(w) == 2);
  }
  SECTION("a deadline closes it early") {
    b.call(ann, {.call = 1, .deadline = 20ms});
    // Its own time with one more in the batch, guarded: 3 ms * 1.06.
    CHECK(b.router.next_deadline() - b.now.mono <= 16'820us);
    CHECK(b.router.next_deadline() - b.now.mono >= 14ms);  // less what the way takes
    b.go(17ms);
    CHECK(b.runs(w) == 1);
  }
}

TEST_CASE("a batch has at most max_batch_size items and max_batch_bytes") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer o = batching(16);
  o.max_batch_bytes = 100;
  const SessionId w = b.worker(20, {o});
  teach(b, ann, w, 16);
  b.call(ann, {.call = 1});
  SECTION("items") {
    for (uint64_t i = 2; i <= 6; ++i) b.post(ann, {.call = i, .items = 5});
    b.end_turn();
    finish_batch(b, w, 0, 1, 8250);
    CHECK(b.runs(w) - 1 == 3);
    finish_batch(b, w, 1, 3, 12'000);
    CHECK(b.runs(w) - 4 == 2);
  }
  SECTION("bytes") {
    for (uint64_t i = 2; i <= 6; ++i) b.post(ann, {.call = i, .payload = std::string(40, 'x')});
    b.end_turn();
    finish_batch(b, w, 0, 1, 8250);
    CHECK(b.runs(w) - 1 == 2);
  }
}

TEST_CASE("a waiting call that outgrows the batches of a new replica is refused") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer large = batching(16);
  const SessionId w = b.worker(20, {large});
  b.call(ann, {.call = 1});
  b.call(ann, {.call = 2, .items = 5});
  b.call(ann, {.call = 3, .payload = std::string(50, 'x')});
  b.call(ann, {.call = 4});
  HandlerOffer small = batching(4);
  small.max_batch_bytes = 40;
  const SessionId v = b.worker(21, {small});
  CHECK(b.answer(ann, 2).row.limit == static_cast<uint8_t>(CallLimit::batch_items));
  CHECK(b.answer(ann, 3).row.limit == static_cast<uint8_t>(CallLimit::batch_bytes));
  CHECK(b.runs(v) == 1);
  b.done(w, b.run(w, 0).row.call);
  CHECK(b.end_of(ann, 1) == CallEnd::reply);
}

TEST_CASE("a batch never mixes model keys") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {batching(16)});
  teach(b, ann, w, 16);
  b.call(ann, {.call = 1});
  for (uint64_t i = 2; i <= 9; ++i) b.post(ann, {.call = i, .key = i % 2 == 0 ? "even" : "odd"});
  b.end_turn();
  finish_batch(b, w, 0, 1, 8250);
  REQUIRE(b.runs(w) == 5);
  for (size_t i = 1; i < 5; ++i) CHECK(b.run(w, i).key == "even");
  finish_batch(b, w, 1, 4, 9000);
  REQUIRE(b.runs(w) == 9);
  for (size_t i = 5; i < 9; ++i) CHECK(b.run(w, i).key == "odd");
}

TEST_CASE("a head that would be late makes room; the batch stays full") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {batching(128)});
  teach(b, ann, w, 128);
  b.call(ann, {.call = 1, .deadline = 10s});
  // Admission sees room for all of them, but the running batch takes longer than it should.
  for (uint64_t i = 2; i <= 11; ++i) b.post(ann, {.call = i, .deadline = 60ms});
  for (uint64_t i = 12; i <= 160; ++i) b.post(ann, {.call = i, .deadline = 150ms});
  b.end_turn();
  CHECK(b.refused_in_all() == 0);
  finish_batch(b, w, 0, 1, 50'000);
  CHECK(b.refused(CallRefusal::too_late) == 10);
  CHECK(b.answer(ann, 2).row.code == static_cast<uint8_t>(Errc::infeasible));
  CHECK(b.runs(w) - 1 >= 100);
}

TEST_CASE("the end of one batch with a hole is the end of the whole batch") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId w = b.worker(20, {batching(16)});
  teach(b, ann, w, 16);
  b.call(ann, {.call = 1});
  for (uint64_t i = 2; i <= 4; ++i) b.post(ann, {.call = i});
  b.end_turn();
  finish_batch(b, w, 0, 1, 8250);
  b.done(w, b.run(w, 3).row.call);  // the last of three; nothing was said of the others
  CHECK(b.end_of(ann, 4) == CallEnd::reply);
  CHECK(b.end_of(ann, 2) == CallEnd::unknown);
  CHECK(b.end_of(ann, 3) == CallEnd::unknown);
  b.call(ann, {.call = 5});
  CHECK(b.runs(w) == 5);
}

// --- models ----------------------------------------------------------------------------------
namespace {
HandlerOffer with_models(uint32_t models) {
  HandlerOffer o = offer_of("h");
  o.max_models = models;
  o.max_ongoing = 1;
  return o;
}
}  // namespace

TEST_CASE("calls of a key go where its model is") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {with_models(2)});
  const SessionId w = b.worker(21, {with_models(2)});
  b.call(ann, {.call = 1, .key = "a"});
  b.now.mono += 1ms;
  b.done(v, b.run(v, 0).row.call);
  b.call(ann, {.call = 2, .key = "b"});
  REQUIRE(b.runs(w) == 1);
  b.done(w, b.run(w, 0).row.call);
  for (uint64_t i = 3; i <= 6; ++i) {
    b.now.mono += 1ms;
    b.call(ann, {.call = i, .key = "b"});  // the other one is idle longer
    b.done(w, b.run(w, i - 2).row.call);
  }
  CHECK(b.runs(v) == 1);
}

TEST_CASE("a model is loaded once: others wait for that replica, but not too long") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {with_models(1)});
  const SessionId w = b.worker(21, {with_models(1)});
  b.call(ann, {.call = 1, .key = "a", .deadline = 10s});
  b.call(ann, {.call = 2, .key = "a", .deadline = 10s});
  CHECK(b.runs(v) == 1);
  CHECK(b.runs(w) == 0);
  SECTION("it is loaded in time") {
    b.go(90ms);
    b.done(v, b.run(v, 0).row.call);
    CHECK(b.runs(v) == 2);
  }
  SECTION("it is not") {
    b.go(99ms);
    CHECK(b.runs(w) == 0);
    b.go(1ms);
    CHECK(b.runs(w) == 1);
  }
  SECTION("a call with little time waits for half of it") {
    b.call(ann, {.call = 3, .key = "b", .deadline = 10s});
    CHECK(b.runs(w) == 1);
    b.done(w, b.run(w, 0).row.call);
    b.call(ann, {.call = 4, .key = "a", .deadline = 60ms});
    b.go(29ms);
    CHECK(b.runs(w) == 1);
    b.go(1ms);
    CHECK(b.runs(w) == 2);
  }
}

TEST_CASE("a model that falls out of a replica's cache is not looked for there") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {with_models(1)});
  b.call(ann, {.call = 1, .key = "a"});
  b.done(v, b.run(v, 0).row.call);
  b.call(ann, {.call = 2, .key = "b"});
  const SessionId w = b.worker(21, {with_models(1)});
  b.call(ann, {.call = 3, .key = "a"});  // v has b now
  CHECK(b.runs(w) == 1);
}

TEST_CASE("a free place for a model comes before a shorter line") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {with_models(1)});
  b.call(ann, {.call = 1, .key = "a"});
  b.done(v, b.run(v, 0).row.call);
  b.now.mono += 1ms;
  const SessionId w = b.worker(21, {with_models(1)});
  b.call(ann, {.call = 2, .key = "b"});
  CHECK(b.runs(w) == 1);
}

// --- hedges ----------------------------------------------------------------------------------
namespace {
struct HedgeBench : CallBench {
  HedgeBench() {
    ann = client();
    v = worker(20, {offer_of("h")});
    for (uint64_t i = 1; i <= 20; ++i) {
      call(ann, {.call = i});
      now.mono += 1ms;
      done(v, run(v, i - 1).row.call);
    }
    w = worker(21, {offer_of("h")});
    now.mono += 1ms;
    call(ann, {.call = 100, .flags = kCallIdempotent | kCallHedge});  // to v, idle longer
  }
  SessionId ann, v, w;
};
}  // namespace

TEST_CASE("a late call is sent to an idle replica, too; the first end counts") {
  HedgeBench b;
  REQUIRE(b.runs(b.v) == 21);
  b.go(900us);
  CHECK(b.runs(b.w) == 0);
  b.go(300us);
  REQUIRE(b.runs(b.w) == 1);
  CHECK(b.totals().hedges == 1);
  SECTION("the copy") {
    b.done(b.w, b.run(b.w, 0).row.call, {.bytes = "copy"});
    CHECK(b.answer(b.ann, 100).bytes == "copy");
    CHECK(b.answer(b.ann, 100).row.attempts == 2);
    CHECK(b.stopped[b.v] == std::vector<uint64_t>{b.run(b.v, 20).row.call});
    b.done(b.v, b.run(b.v, 20).row.call, {.end = CallEnd::cancelled});
    CHECK(b.totals().hedges_won == 1);
  }
  SECTION("the original") {
    b.done(b.v, b.run(b.v, 20).row.call, {.bytes = "first"});
    CHECK(b.answer(b.ann, 100).bytes == "first");
    CHECK(b.stopped[b.w] == std::vector<uint64_t>{b.run(b.w, 0).row.call});
    b.done(b.w, b.run(b.w, 0).row.call);
  }
  SECTION("one replica is lost, the other goes on") {
    const bool first = GENERATE(true, false);
    b.close(first ? b.v : b.w);
    CHECK(b.answered(b.ann) == 20);
    if (first)
      b.done(b.w, b.run(b.w, 0).row.call);
    else
      b.done(b.v, b.run(b.v, 20).row.call);
    CHECK(b.end_of(b.ann, 100) == CallEnd::reply);
    CHECK(b.totals().retries == 0);
  }
  SECTION("both are lost") {
    b.close(b.v);
    b.close(b.w);
    const SessionId x = b.worker(22, {offer_of("h")});
    CHECK(b.runs(x) == 1);
    b.done(x, b.run(x, 0).row.call);
    CHECK(b.end_of(b.ann, 100) == CallEnd::reply);
  }
  SECTION("the deadline stops both") {
    b.go(1s);
    CHECK(b.end_of(b.ann, 100) == CallEnd::unknown);
    CHECK(b.stopped[b.v].size() + b.stopped[b.w].size() == 2);
  }
  CHECK(b.answered(b.ann) == 21);
  CHECK(b.router.lane().open_calls() == 0);
}

TEST_CASE("hedges are two of a hundred calls at most, after a small reserve") {
  HedgeBench b;
  uint64_t call = 1000;
  for (int i = 0; i < 20; ++i) {
    b.go(50ms);
    for (const SessionId s : {b.v, b.w})
      for (size_t k = 0; k < b.runs(s); ++k) b.post_done(s, b.run(s, k).row.call, {.grant = false});
    b.send(b.v, Done{}, 10'000);
    b.send(b.w, Done{}, 10'000);
    b.end_turn();
    b.call(b.ann, {.call = ++call, .flags = kCallIdempotent | kCallHedge});
  }
  CHECK(b.totals().hedges == 2);
}

TEST_CASE("calls without a model key go to any replica, however many models it may have") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer o = offer_of("h");
  o.max_models = 1;
  const SessionId v = b.worker(20, {o}), w = b.worker(21, {o});
  for (uint64_t i = 1; i <= 2; ++i) b.call(ann, {.call = i});
  CHECK(b.runs(v) == 1);
  CHECK(b.runs(w) == 1);
}

TEST_CASE("a call without a key goes to who has least to do, not to a free place for a model") {
  CallBench b;
  const SessionId ann = b.client();
  HandlerOffer o = offer_of("h");
  o.max_models = 1;
  const SessionId v = b.worker(20, {o});
  b.call(ann, {.call = 1, .key = "a"});
  b.done(v, b.run(v, 0).row.call);  // v is idle, and its place is taken
  const SessionId w = b.worker(21, {o}, 1, 2);
  b.call(ann, {.call = 2, .key = "b"});
  REQUIRE(b.runs(w) == 1);
  b.done(w, b.run(w, 0).row.call);
  b.worker(22, {o});
  b.now.mono += 1ms;
  b.call(ann, {.call = 3});
  CHECK(b.runs(v) == 2);  // idle for longest
}

TEST_CASE("a call without a key takes no model's place") {
  CallBench b;
  const SessionId ann = b.client();
  const SessionId v = b.worker(20, {with_models(1)});
  b.call(ann, {.call = 1, .key = "a"});
  b.done(v, b.run(v, 0).row.call);
  b.call(ann, {.call = 2});
  b.done(v, b.run(v, 1).row.call);
  const SessionId w = b.worker(21, {with_models(1)});
  b.call(ann, {.call = 3, .key = "a"});
  CHECK(b.runs(v) == 3);
  CHECK(b.runs(w) == 0);
}
