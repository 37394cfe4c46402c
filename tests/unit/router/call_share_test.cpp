// Replicas that share their device with queued tasks: calls gather, ask, and leave when the worker
// agrees.
#include "tests/unit/router/call_bench.h"

namespace dray {
namespace {

HandlerOffer batched(std::string name = "h") {
  HandlerOffer o = offer_of(std::move(name));
  o.max_ongoing = 1;
  o.max_batch_size = 4;
  return o;
}
void share(CallBench& b, SessionId worker, uint64_t batches, uint32_t gather_us = 20'000,
           uint32_t quantum_us = 40'000, uint32_t handler = 0) {
  RowsBuilder<ShareRow> rows;
  rows.add({batches, handler, gather_us, quantum_us, 0});
  b.send(worker, Share{rows.take()});
  b.end_turn();
}
CallSpec numbered(uint64_t call) {
  CallSpec s;
  s.call = call;
  return s;
}

// Without a known cost there is no batch to aim for: calls would go one by one.
void teach(CallBench& b, SessionId c, SessionId w) {
  uint64_t call = 1000;
  for (const int items : {1, 2, 3, 4, 4, 4}) {
    CallSpec s = numbered(++call);
    s.items = static_cast<uint16_t>(items);
    b.call(c, s);
    REQUIRE(b.runs(w) == 1);
    CallBench::Outcome o;
    o.run_us = static_cast<uint32_t>(1000 + 100 * items);
    b.go(2ms);
    b.done(w, b.run(w, 0).row.call, o);
    b.started[w].clear();
  }
}
constexpr uint64_t kTaught = 6;  // batches sent

}  // namespace

TEST_CASE("share: a call waits for the window, asks, and leaves when the worker agrees") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, 0);
  b.call(c, numbered(1));
  b.go(15ms);
  CHECK(b.wants[w].empty());
  b.go(5ms);
  REQUIRE(b.wants[w].size() == 1);
  CHECK(b.wants[w][0].handler == 0);
  CHECK(b.wants[w][0].sent == kTaught);
  CHECK(b.wants[w][0].items == 1);
  CHECK(b.wants[w][0].head_us == 20'000);
  b.call(c, numbered(2));
  b.go(10ms);
  CHECK(b.wants[w].size() == 1);  // once
  CHECK(b.runs(w) == 0);
  share(b, w, kTaught + 1);
  CHECK(b.runs(w) == 2);  // who came meanwhile goes along
  CHECK(b.run(w, 0).row.waited_us == 30'000);
  CHECK(b.run(w, 1).row.waited_us == 10'000);
  CHECK(b.wants[w].size() == 1);
  b.call(c, numbered(3));
  b.go(20ms);
  REQUIRE(b.wants[w].size() == 2);  // also while its batch runs
  CHECK(b.wants[w][1].sent == kTaught + 1);
}

TEST_CASE("share: a full batch is due at once") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, 0);
  for (uint64_t i = 1; i <= 4; ++i) b.call(c, numbered(i));
  REQUIRE(b.wants[w].size() == 1);
  CHECK(b.wants[w][0].items == 4);
}

TEST_CASE("share: with leave in hand a batch still gathers, then goes unasked") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, kTaught + 1);
  b.call(c, numbered(1));
  b.go(19ms);
  CHECK(b.runs(w) == 0);
  b.go(1ms);
  CHECK(b.runs(w) == 1);
  CHECK(b.wants[w].empty());
}

TEST_CASE("share: when nothing is queued any more calls go as before") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, 0);
  b.call(c, numbered(1));
  share(b, w, 0, 0, 0);
  CHECK(b.runs(w) == 1);
  b.done(w, b.run(w, 0).row.call);
  b.call(c, numbered(2));
  CHECK(b.runs(w) == 2);
  CHECK(b.wants[w].empty());
}

TEST_CASE("share: leave that is not needed is declined") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, 0);
  b.call(c, numbered(1));
  b.go(20ms);
  REQUIRE(b.wants[w].size() == 1);
  b.cancel(c, 1);
  share(b, w, kTaught + 1);
  REQUIRE(b.wants[w].size() == 2);
  CHECK(b.wants[w][1].items == 0);
  share(b, w, kTaught + 1);  // said again: not an answer
  CHECK(b.wants[w].size() == 2);
}

TEST_CASE("share: a want without an answer is said again") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, 0);
  CallSpec s = numbered(1);
  s.deadline = 10s;
  b.call(c, s);
  b.go(20ms);
  CHECK(b.wants[w].size() == 1);
  b.go(499ms);
  CHECK(b.wants[w].size() == 1);
  b.go(2ms);
  CHECK(b.wants[w].size() == 2);
}

TEST_CASE("share: all that share are asked; one that does not share takes the call at once") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4),
                  v = b.worker(101, {batched()}, 1, 4);
  b.drain(v);
  teach(b, c, w);
  b.drain(v, false);
  share(b, w, 0);
  share(b, v, 0);
  b.call(c, numbered(1));
  b.go(20ms);
  CHECK(b.wants[w].size() == 1);
  CHECK(b.wants[v].size() == 1);
  share(b, v, 1);
  CHECK(b.runs(v) == 1);
  share(b, w, kTaught + 1);
  CHECK(b.wants[w].size() == 2);  // declined
  const SessionId u = b.worker(102, {batched()}, 1, 4);
  b.call(c, numbered(2));
  CHECK(b.runs(u) == 1);
}

TEST_CASE("share: calls of other handlers of the worker are not held") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched(), batched("g")}, 2, 4);
  share(b, w, 0);
  CallSpec other = numbered(2);
  other.handler = "g";
  b.call(c, numbered(1));
  b.call(c, other);
  REQUIRE(b.runs(w) == 1);
  CHECK(b.run(w, 0).row.handler == 1);
}

TEST_CASE("share: a call that is not let in by its deadline has not run") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, 0);
  b.call(c, numbered(1));
  b.go(2s);
  CHECK(b.end_of(c, 1) == CallEnd::expired);
  CHECK(b.runs(w) == 0);
}

TEST_CASE("share: nonsense of a worker is bounded or ignored") {
  CallBench b;
  const SessionId c = b.client(), w = b.worker(100, {batched()}, 1, 4);
  teach(b, c, w);
  share(b, w, 0, UINT32_MAX, UINT32_MAX);
  share(b, w, UINT64_MAX, 1, 1, 7);  // no such handler
  CallSpec s = numbered(1);
  s.deadline = 10s;
  b.call(c, s);
  b.go(1s);
  CHECK(b.wants[w].size() == 1);  // a window of a second at most
}

}  // namespace dray
