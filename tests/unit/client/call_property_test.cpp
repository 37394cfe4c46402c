// Property: whatever routers do, lose, repeat or invent, every call ends exactly once and by its
// deadline, credit is obeyed, and what is not idempotent is never sent again after it may have run.
#include <deque>

#include "tests/unit/client/call_harness.h"

using namespace dray;
using test::CallHarness;
using test::SentCall;

namespace {

constexpr uint64_t kClientCalls = 6;

struct FakeRouter {
  SessionId session = SessionId::none;
  uint64_t granted = kClientCalls;
  uint64_t received = 0;
  std::vector<SentCall> open;
};

struct Known {
  Time deadline{};
  uint16_t flags = 0;
  int taken = 0;  // sendings that may have run
};

struct Storm {
  explicit Storm(uint64_t seed) : rng(seed), h(options(seed)) {
    for (size_t i = 0; i < routers.size(); ++i) reopen(i);
  }
  static ClientCoreOptions options(uint64_t seed) {
    ClientCoreOptions o;
    o.seed = seed;
    o.calls.repeats_permille = 500;
    o.calls.bytes_max = 20'000;
    o.calls.leaving = 10ms;  // they refuse with `draining` all the time
    return o;
  }

  Rng rng;
  CallHarness h;
  std::array<FakeRouter, 3> routers;
  std::map<uint64_t, Known> calls;
  std::map<std::string, uint64_t> by_payload;
  std::deque<std::pair<SessionId, ReplyRow>> old_rows;
  int moved = 0;

  FakeRouter* find(SessionId id) {
    for (FakeRouter& r : routers)
      if (r.session == id) return &r;
    return nullptr;
  }
  void reopen(size_t i) {
    routers[i] = {};
    routers[i].session = h.open(static_cast<Port>(i), rng.chance(200'000) ? 0 : kClientCalls);
  }
  void start() {
    CallCmd c =
        h.cmd("h" + std::to_string(rng.below(3)), std::chrono::milliseconds(1 + rng.below(400)),
              rng.chance(500'000) ? kCallIdempotent : uint16_t{0});
    if (rng.chance(200'000)) c.window = 1 + rng.below(100);
    std::string payload = "p" + std::to_string(calls.size());
    c.payload = Bytes::copy(payload);
    Known k{c.deadline, c.flags, 0};
    uint64_t number = h.start(std::move(c));
    by_payload[payload] = number;
    calls[number] = k;
  }
  void receive() {
    for (SentCall& c : h.sent()) {
      FakeRouter* r = find(c.to);
      REQUIRE(r);
      if (++r->received > r->granted) FAIL("more than granted");
      Known& k = calls.at(by_payload.at(c.payload));
      if (++k.taken > 1 && !(k.flags & kCallIdempotent)) FAIL("sent again, may have run");
      CHECK(c.row.deadline_us > 0);
      const Time sent = h.sent_at.at(c.req);
      CHECK(sent + std::chrono::microseconds(c.row.deadline_us) <= k.deadline + 1us);
      r->open.push_back(std::move(c));
    }
  }
  void answer(FakeRouter& r) {
    if (r.open.empty()) return;
    size_t i = rng.below(r.open.size());
    SentCall c = r.open[i];
    constexpr CallEnd ends[] = {CallEnd::reply,     CallEnd::reply,   CallEnd::failed,
                                CallEnd::cancelled, CallEnd::expired, CallEnd::unknown};
    ReplyRow row = CallHarness::row(c, ends[rng.below(6)]);
    if (rng.chance(150'000)) {
      row = CallHarness::row(c, CallEnd::rejected, Errc::draining);
      --calls.at(by_payload.at(c.payload)).taken;
      ++moved;
    } else if (rng.chance(50'000)) {
      row.status = static_cast<uint8_t>(7 + rng.below(200));
    } else if (rng.chance(100'000)) {
      row.status = 0;
      return h.answer(r.session, row, "part");
    }
    r.open.erase(r.open.begin() + static_cast<std::ptrdiff_t>(i));
    h.answer(r.session, row, "x");
    old_rows.emplace_back(r.session, row);
    if (old_rows.size() > 50) old_rows.pop_front();
  }
  void disturb() {
    if (rng.chance(20'000)) {
      size_t i = rng.below(routers.size());
      h.close(routers[i].session);
      routers[i].session = SessionId::none;
    }
    for (size_t i = 0; i < routers.size(); ++i)
      if (routers[i].session == SessionId::none && rng.chance(50'000)) reopen(i);
    if (!old_rows.empty() && rng.chance(200'000)) {
      auto [from, row] = old_rows[rng.below(old_rows.size())];
      if (rng.chance(300'000)) row.call = rng.next();
      if (rng.chance(300'000)) row.call += uint64_t{1} << 24;  // same slot; no call of this session
      bool guess = find(from) && std::any_of(find(from)->open.begin(), find(from)->open.end(),
                                             [&](const auto& c) { return c.row.call == row.call; });
      if (!guess) h.answer(from, row, "again");
    }
    if (!calls.empty() && rng.chance(100'000)) {
      auto it = calls.begin();
      std::advance(it, static_cast<std::ptrdiff_t>(rng.below(calls.size())));
      h.cancel(it->first);
    }
  }
  void step() {
    for (uint64_t n = rng.below(4); n > 0; --n) start();
    disturb();
    receive();
    for (FakeRouter& r : routers) {
      if (r.session == SessionId::none) continue;
      for (uint64_t n = rng.below(3); n > 0; --n) answer(r);
      r.granted = std::max(
          r.granted, r.received + kClientCalls - std::min<uint64_t>(r.open.size(), kClientCalls));
      h.grant(r.session, r.granted);
    }
    receive();
    h.advance(std::chrono::milliseconds(rng.below(20)));
    receive();
    for (const auto& [number, k] : calls)
      if (k.deadline <= h.now.mono && !h.ends.count(number)) FAIL("open after its deadline");
  }
};

}  // namespace

TEST_CASE("every call ends exactly once, by its deadline, whatever routers do") {
  uint64_t repeated = 0, moved = 0, unknown = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    Storm storm(seed);
    for (int i = 0; i < 300; ++i) storm.step();
    storm.h.advance(1s);
    CHECK(storm.h.ends.size() == storm.calls.size());
    for (const auto& [number, end] : storm.h.ends) {
      CHECK(storm.calls.count(number) == 1);
      auto how = static_cast<CallEnd>(end.row.status);
      unknown += how == CallEnd::unknown;
    }
    CHECK(storm.h.core.calls().open() == 0);
    CHECK(storm.h.core.calls().bytes() == 0);
    CHECK(storm.h.core.calls().waiting() == 0);
    repeated += storm.h.core.calls().counters().repeated;
    moved += storm.h.core.calls().counters().moved;
  }
  CHECK(repeated > 50);
  CHECK(moved > 50);
  CHECK(unknown > 50);
}
