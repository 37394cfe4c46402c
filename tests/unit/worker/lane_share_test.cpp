// LaneShare: who is next at a shared place, how long pieces are, the floor of the queued lane, and
// how the window and the quantum follow the calls.
#include "services/worker/core/lane_share.h"

#include <catch2/catch.hpp>

#include "common/base/rng.h"

namespace dray::worker {
namespace {

constexpr SessionId kA{1}, kB{2};

struct Bench {
  explicit Bench(uint32_t floor = 5, uint32_t limit = 1, uint32_t batch = 128)
      : share({{{"free", 0, 1}, {"h", limit, batch}}, floor}) {}
  Now now() const { return {at, 0}; }
  void pass(Duration d) {
    at += d;
    decide();
  }
  void decide() {
    grants.clear();
    changed.clear();
    share.decide(now(), grants, changed);
    share.check();
  }
  void learn() {  // L(n) = 8 + 0.25 n ms
    share.set_queued(1, 1000, now());
    for (const uint32_t n : {1, 4, 16, 64, 128, 100, 128, 128}) piece(n);
    share.set_queued(1, 0, now());
  }
  void piece(uint32_t n) {
    share.start_piece(1, n, now());
    const uint32_t us = 8000 + 250 * n;
    at += std::chrono::microseconds(us);
    share.end_piece(1, n, us, now());
    share.check();
  }
  void call(uint32_t items, Duration deadline = 150ms) {
    for (uint32_t i = 0; i < items; ++i) share.call_came(1, deadline, now());
    share.call_waits(1, 1);
    REQUIRE(share.call_may_start(1));
    share.call_waits(1, -1);
    share.start_call(1, now());
    const uint32_t us = 8000 + 250 * items;
    at += std::chrono::microseconds(us);
    share.end_call(1, items, us, now());
    share.check();
  }
  void want(SessionId router, Duration age = {}, uint64_t sent = 0, uint32_t items = 1) {
    share.want(1, {router, sent, items, age}, now());
  }

  LaneShare share;
  Time at{std::chrono::seconds(100)};
  std::vector<LaneShare::Grant> grants;
  std::vector<uint32_t> changed;
};

}  // namespace

TEST_CASE("share: only handlers with a limit share") {
  Bench b;
  CHECK_FALSE(b.share.shares(0));
  CHECK(b.share.shares(1));
  CHECK(b.share.piece(1, b.now()) == 0);  // nothing is queued
}

TEST_CASE("share: without calls pieces are as large as a batch may be") {
  Bench b;
  b.share.set_queued(1, 1000, b.now());
  CHECK(b.share.piece(1, b.now()) == 1);  // a step at a time, while nothing is known
  b.learn();
  b.share.set_queued(1, 1000, b.now());
  CHECK(b.share.piece(1, b.now()) == 128);
  b.share.set_queued(1, 7, b.now());
  CHECK(b.share.piece(1, b.now()) == 7);
  b.decide();
  CHECK(b.share.terms(1) == LaneShare::Terms{});
}

TEST_CASE("share: with calls a piece takes no longer than the quantum") {
  Bench b;
  b.learn();
  b.call(1, 75ms);
  b.share.set_queued(1, 1000, b.now());
  b.decide();
  CHECK(b.share.terms(1) == LaneShare::Terms{12'500us, 20ms});
  const size_t n = b.share.piece(1, b.now());
  CHECK(n > 35);
  CHECK(8.0 + 0.25 * static_cast<double>(n) <= 20);
  b.pass(11s);  // no call any more
  b.share.set_queued(1, 1000, b.now());
  CHECK(b.share.piece(1, b.now()) == 128);
  CHECK(b.share.next_deadline() >= b.at);
}

TEST_CASE("share: window and quantum have bounds whatever the deadline") {
  Bench b;
  b.call(1, std::chrono::hours(1));
  b.share.set_queued(1, 1, b.now());
  CHECK(b.share.terms(1) == LaneShare::Terms{50ms, 100ms});
  Bench one(5, 1, 1);  // batches of one: gathering would gain nothing
  one.call(1);
  one.share.set_queued(1, 1, one.now());
  CHECK(one.share.terms(1).gather == Duration{});
  CHECK(one.share.terms(1).quantum == 40ms);
  Bench tiny;
  tiny.share.call_came(1, Duration{}, tiny.now());
  tiny.share.set_queued(1, 1, tiny.now());
  CHECK(tiny.share.terms(1).quantum >= 1us);  // 0 would say: nothing is shared
}

TEST_CASE("share: a piece or a batch has the place alone") {
  Bench b;
  b.learn();
  b.share.set_queued(1, 10, b.now());
  b.share.start_piece(1, 10, b.now());
  CHECK(b.share.piece(1, b.now()) == 0);
  CHECK_FALSE(b.share.call_may_start(1));
  b.share.end_piece(1, 10, 1000, b.now());
  b.share.start_call(1, b.now());
  CHECK(b.share.piece(1, b.now()) == 0);
  CHECK_FALSE(b.share.call_may_start(1));
  Bench two(5, 2);
  two.share.set_queued(1, 10, two.now());
  two.share.start_piece(1, 1, two.now());
  CHECK(two.share.piece(1, two.now()) == 1);
  CHECK(two.share.call_may_start(1));
}

TEST_CASE("share: calls that are here go before tasks") {
  Bench b;
  b.learn();
  b.share.set_queued(1, 10, b.now());
  b.share.call_waits(1, 1);
  CHECK(b.share.piece(1, b.now()) == 0);
  b.share.call_waits(1, -1);
  CHECK(b.share.take_moved());
  CHECK(b.share.piece(1, b.now()) == 10);
}

TEST_CASE("share: a router that asked goes before tasks; the oldest first; one place one grant") {
  Bench b;
  b.learn();
  b.call(1);
  b.share.set_queued(1, 10, b.now());
  b.share.start_piece(1, 10, b.now());
  b.want(kA, 5ms, 7);
  b.want(kB, 9ms, 3);
  b.decide();
  CHECK(b.grants.empty());  // the piece runs
  b.share.end_piece(1, 10, 10'500, b.now());
  CHECK(b.share.piece(1, b.now()) == 0);
  b.decide();
  REQUIRE(b.grants.size() == 1);
  CHECK(b.grants[0].router == kB);
  CHECK(b.grants[0].handler == 1);
  CHECK(b.grants[0].batches == 4);
  CHECK(b.share.piece(1, b.now()) == 0);  // held for it
  b.share.came(1, kB);
  b.share.call_waits(1, 1);
  b.decide();
  CHECK(b.grants.empty());  // the place is that batch's
}

TEST_CASE("share: a place is not held for long, and not at all for a router that declines") {
  Bench b;
  b.learn();
  b.call(1);
  b.share.set_queued(1, 10, b.now());
  b.want(kA);
  b.decide();
  REQUIRE(b.grants.size() == 1);
  b.share.take_moved();
  b.want(kA, {}, 0, 0);
  CHECK(b.share.take_moved());
  CHECK(b.share.piece(1, b.now()) == 10);
  b.want(kA);
  b.decide();
  REQUIRE(b.grants.size() == 1);
  CHECK(b.share.next_deadline() <= b.at + 5ms);
  b.share.take_moved();
  b.pass(5ms);
  CHECK(b.share.take_moved());
  CHECK(b.share.piece(1, b.now()) == 10);
  CHECK(b.share.counters().idle_grants == 1);
}

TEST_CASE("share: a router that asks again and again and sends nothing does not starve tasks") {
  Bench b;
  b.learn();
  b.call(1);
  int pieces = 0;
  for (int ms = 0; ms < 1000; ++ms) {
    b.share.set_queued(1, 1000, b.now());
    b.want(kA);
    b.pass(1ms);
    if (!b.share.take_moved()) continue;
    if (const size_t n = b.share.piece(1, b.now())) {
      ++pieces;
      b.piece(static_cast<uint32_t>(n));
    }
  }
  CHECK(pieces > 100);
}

TEST_CASE("share: a router that is gone holds and wants nothing") {
  Bench b;
  b.learn();
  b.call(1);
  b.share.set_queued(1, 10, b.now());
  b.want(kA);
  b.decide();
  b.want(kA);
  b.share.forget(kA);
  CHECK(b.share.take_moved());
  CHECK(b.share.piece(1, b.now()) == 10);
  b.decide();
  CHECK(b.grants.empty());
}

TEST_CASE("share: routers hear when sharing begins and when it ends, not for every gap") {
  Bench b;
  b.learn();
  b.call(1);
  b.decide();
  CHECK(b.changed.empty());
  b.share.set_queued(1, 10, b.now());
  b.decide();
  CHECK(b.changed == std::vector<uint32_t>{1});
  b.share.set_queued(1, 0, b.now());
  b.pass(10ms);
  CHECK(b.changed.empty());
  b.share.set_queued(1, 10, b.now());
  b.pass(100ms);
  CHECK(b.changed.empty());
  b.share.set_queued(1, 0, b.now());
  CHECK(b.share.next_deadline() > b.at);
  b.decide();
  CHECK(b.share.next_deadline() <= b.at + 20ms);
  b.want(kA);
  b.pass(20ms);
  CHECK(b.changed == std::vector<uint32_t>{1});
  CHECK(b.share.terms(1) == LaneShare::Terms{});
  b.want(kA);  // it has not heard yet
  b.decide();
  CHECK(b.grants.empty());
}

TEST_CASE("share: tasks get their floor of the time while calls never leave a gap") {
  for (const uint32_t floor : {0u, 5u, 20u}) {
    Bench b(floor);
    b.learn();
    Duration calls{}, tasks{};
    for (int i = 0; i < 400; ++i) {
      b.share.set_queued(1, 1000, b.now());
      b.share.call_waits(1, 1);
      if (const size_t n = b.share.piece(1, b.now())) {
        const Time from = b.at;
        CHECK_FALSE(b.share.call_may_start(1));
        b.piece(static_cast<uint32_t>(n));
        tasks += b.at - from;
      }
      b.share.call_waits(1, -1);
      const Time from = b.at;
      b.call(128);
      calls += b.at - from;
    }
    const double share =
        static_cast<double>(tasks.count()) / static_cast<double>((calls + tasks).count());
    CHECK(share == Approx(floor / 100.0).margin(0.01));
  }
}

TEST_CASE("share: a floor that tasks can not use does not keep calls out") {
  Bench b(50);
  b.learn();
  b.share.set_queued(1, 1000, b.now());
  b.call(128);
  b.share.call_waits(1, 1);
  REQUIRE(b.share.piece(1, b.now()) > 0);
  REQUIRE_FALSE(b.share.call_may_start(1));
  b.share.take_calls_moved();
  b.decide();  // tasks have not had their turn yet
  CHECK_FALSE(b.share.call_may_start(1));
  b.share.take_moved();
  b.decide();  // nothing was started: slots or resources are taken by others
  CHECK(b.share.take_calls_moved());
  CHECK(b.share.call_may_start(1));
}

TEST_CASE(
    "share: calls that are late shrink the quantum and then the window; early ones let it grow") {
  Bench b;
  b.learn();
  b.call(1);
  b.share.set_queued(1, 1000, b.now());
  const auto window = [&](Duration took, Duration pass) {
    b.share.set_queued(1, 1000, b.now());
    b.share.call_came(1, 150ms, b.now());
    b.piece(static_cast<uint32_t>(b.share.piece(1, b.now())));
    for (int i = 0; i < 100; ++i) b.share.note_latency(1, took, 150ms, b.now());
    b.pass(pass);
  };
  const auto first = b.share.terms(1);
  window(140ms, 2s);
  CHECK(b.share.terms(1).quantum == first.quantum * 3 / 4);
  CHECK(b.share.terms(1).gather == first.gather);
  window(100ms, 2s);  // in between: it stays
  window(100ms, 9s);
  const auto second = b.share.terms(1);
  CHECK(second.quantum == first.quantum * 3 / 4);
  window(50ms, 2s);  // growing is not hasty
  CHECK(b.share.terms(1) == second);
  window(50ms, 9s);
  CHECK(b.share.terms(1).quantum == second.quantum * 11 / 10);
  for (int i = 0; i < 40; ++i) window(149ms, 2s);
  CHECK(b.share.terms(1).quantum < 9ms);  // one task
  CHECK(b.share.terms(1).gather < 1ms);
  for (int i = 0; i < 60; ++i) window(10ms, 11s);
  CHECK(b.share.terms(1).quantum == 100ms);
  CHECK(b.share.terms(1).gather == first.gather);
}

TEST_CASE("share: calls that are late by themselves do not shrink what tasks get") {
  Bench b;
  b.learn();
  b.call(1);
  b.share.set_queued(1, 1000, b.now());
  const auto before = b.share.terms(1);
  for (int k = 0; k < 5; ++k) {
    b.share.call_came(1, 150ms, b.now());
    for (int i = 0; i < 100; ++i) b.share.note_latency(1, 149ms, 150ms, b.now());
    b.pass(2s);
  }
  CHECK(b.share.terms(1) == before);
}

TEST_CASE("share: a few calls with short deadlines do not rule; many do") {
  Bench b;
  for (int i = 0; i < 200; ++i) b.share.call_came(1, i % 100 == 99 ? 1ms : 150ms, b.now());
  b.share.set_queued(1, 1, b.now());
  CHECK(b.share.terms(1).quantum > 25ms);
  for (int i = 0; i < 200; ++i) b.share.call_came(1, 30ms, b.now());
  CHECK(b.share.terms(1).quantum < 10ms);
}

TEST_CASE("share: handlers come and their limits change") {
  Bench b;
  b.share.set_handlers(1, {{}, {"h", 1, 128}, {"new", 2, 4}, {"any", 0, 1}});
  b.share.check();
  CHECK(b.share.shares(2));
  CHECK_FALSE(b.share.shares(3));
  for (const uint32_t h : {1u, 2u}) b.share.set_queued(h, 100, b.now());
  for (int i = 0; i < 2; ++i) {
    CHECK(b.share.piece(2, b.now()) > 0);
    b.share.start_piece(2, 1, b.now());
  }
  CHECK(b.share.piece(2, b.now()) == 0);
  b.share.take_moved();
  b.share.set_handlers(1, {{}, {"h", 1, 128}, {"new", 3, 4}, {"any", 5, 1}});
  CHECK(b.share.take_moved());
  CHECK(b.share.piece(2, b.now()) > 0);
  CHECK_FALSE(b.share.shares(3));  // as it was when it was new
  b.share.set_handlers(1, {{}, {"h", 1, 128}, {"new", 1, 8}, {"any", 0, 1}});
  b.share.check();  // two run, above the limit of now
  CHECK(b.share.piece(2, b.now()) == 0);
  for (int i = 0; i < 2; ++i) b.share.end_piece(2, 1, 0, b.now());
  CHECK(b.share.piece(2, b.now()) > 0);
  b.share.set_handlers(1, {{}, {"h", 1, 128}, {"new", 0, 8}, {"any", 0, 1}});
  CHECK(b.share.shares(2));
}

TEST_CASE("share: random moves keep the place with one holder") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Rng rng(seed);
    Bench b(static_cast<uint32_t>(rng.below(30)), 1 + static_cast<uint32_t>(rng.below(3)));
    std::vector<uint32_t> pieces, calls;
    uint32_t waiting = 0;
    for (int step = 0; step < 5000; ++step) {
      switch (rng.below(9)) {
        case 0:
          b.share.set_queued(1, rng.below(300), b.now());
          break;
        case 1:
          if (const size_t n = b.share.piece(1, b.now())) {
            pieces.push_back(static_cast<uint32_t>(n));
            b.share.start_piece(1, n, b.now());
          }
          break;
        case 2:
          if (pieces.empty()) break;
          b.share.end_piece(1, pieces.back(), static_cast<uint32_t>(rng.below(50'000)), b.now());
          pieces.pop_back();
          break;
        case 3:
          b.share.call_came(1, std::chrono::microseconds(rng.below(300'000)), b.now());
          b.share.came(1, rng.below(2) ? kA : kB);
          b.share.call_waits(1, 1);
          ++waiting;
          break;
        case 4:
          if (waiting == 0 || !b.share.call_may_start(1)) break;
          --waiting;
          b.share.call_waits(1, -1);
          b.share.start_call(1, b.now());
          calls.push_back(1 + static_cast<uint32_t>(rng.below(128)));
          break;
        case 5:
          if (calls.empty()) break;
          b.share.end_call(1, calls.back(), static_cast<uint32_t>(rng.below(50'000)), b.now());
          b.share.note_latency(1, std::chrono::microseconds(rng.below(200'000)), 150ms, b.now());
          calls.pop_back();
          break;
        case 6:
          b.want(rng.below(2) ? kA : kB, std::chrono::microseconds(rng.below(50'000)), rng.below(9),
                 static_cast<uint32_t>(rng.below(3)));
          break;
        case 7:
          if (rng.below(20) == 0) b.share.forget(kA);
          break;
        default:
          b.pass(std::chrono::microseconds(rng.below(30'000)));
      }
      b.share.check();
    }
  }
}

}  // namespace dray::worker
