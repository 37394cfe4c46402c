// CallAgent against small routers, executors and pipes that lose messages with their session, and
// now and then rows that make no sense: every call in an unbroken session ends exactly once, its
// slot is freed once, no more runs than may, nothing late is started, and no credit leaks.
#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <set>

#include "common/base/rng.h"
#include "services/worker/core/call_agent.h"

namespace dray::worker {
namespace {

struct Router {
  SessionId session = SessionId::none;
  CreditTaker taker;
  std::deque<Message> to_worker;
  std::deque<Send> to_router;
  std::map<uint64_t, uint64_t> open;  // call -> batch
  std::map<uint64_t, size_t> batches;  // rows left
  std::set<uint64_t> streams;
  bool told_to_drain = false;
};

struct Model {
  explicit Model(uint64_t seed) : rng(seed), slots(static_cast<uint32_t>(1 + seed % 4)) {
    CallAgentOptions o;
    o.slots = slots;
    o.offers.resize(3);
    o.offers[0].name = "free";
    o.offers[1].name = "batch";
    o.offers[1].max_ongoing = 2;
    o.offers[1].max_batch_size = 6;
    o.offers[2].name = "one";
    o.offers[2].max_ongoing = 1;
    agent = std::make_unique<CallAgent>(o);
    routers.resize(1 + seed % 3);
    for (Router& r : routers) open(r);
  }
  Now now() const { return {Time(at), 0}; }

  void open(Router& r) {
    r = Router{};
    r.session = SessionId{++sessions};
    SessionInfo info;
    info.id = r.session;
    info.role = Role::router;
    info.name = "r";
    agent->on_open(info, now(), out);
    turn();
  }
  void close(Router& r) {
    const SessionId id = r.session;
    r.session = SessionId::none;
    agent->on_close(id, CloseReason::timeout, now(), out);
    turn();
    open(r);
  }

  void turn() {
    agent->end_turn(now(), out);
    agent->check();
    for (BatchStart& b : out.batches) {
      REQUIRE_FALSE(b.calls.empty());
      for (const BatchCall& c : b.calls) {
        REQUIRE(c.deadline > now().mono);
        REQUIRE(executing.insert(c.call).second);
      }
      const uint64_t number = b.batch;
      REQUIRE(running.emplace(number, std::move(b)).second);
    }
    for (uint64_t call : out.stop_calls) REQUIRE(executing.count(call) == 1);
    for (const CallGrant& g : out.part_grants) REQUIRE(executing.count(g.call) == 1);
    std::map<uint32_t, size_t> ongoing;
    for (const auto& [number, b] : running) ++ongoing[b.handler];
    REQUIRE(ongoing[1] <= 2);
    REQUIRE(ongoing[2] <= 1);
    for (Send& s : out.now)
      for (Router& r : routers)
        if (r.session == s.to) r.to_router.push_back(std::move(s));
    for (const Router& r : routers) {
      if (r.session == SessionId::none) continue;
      const uint64_t k = agent->target(r.session, now());
      const uint64_t held = agent->held(r.session);
      REQUIRE(agent->granted(r.session, now()) ==
              agent->received(r.session) + (k > held ? k - held : 0));
    }
    out.clear();
  }

  void hear(Router& r) {
    if (r.to_router.empty()) return;
    Send s = std::move(r.to_router.front());
    r.to_router.pop_front();
    r.taker.on_granted(s.granted);
    if (const auto* d = std::get_if<Drain>(&s.message)) {
      r.told_to_drain = d->on;
      r.to_worker.push_back(Drain{d->on});
    }
    const auto* done = std::get_if<Done>(&s.message);
    if (done == nullptr) return;
    for (size_t i = 0; i < done->rows.size(); ++i) {
      const DoneRow row = done->rows[i];
      if (row.call >= kNonsense) continue;
      REQUIRE(r.open.count(row.call) == 1);
      if (row.status == static_cast<uint8_t>(CallEnd::part)) {
        REQUIRE(r.streams.count(row.call) == 1);
        continue;
      }
      const uint64_t batch = r.open[row.call];
      r.open.erase(row.call);
      ++ends;
      REQUIRE(((row.flags & kDoneFreesSlot) != 0) == (--r.batches[batch] == 0));
      if (r.batches[batch] == 0) r.batches.erase(batch);
    }
  }

  void send(Router& r) {
    uint64_t n = std::min<uint64_t>(r.taker.available(), 1 + rng.below(3));
    if (n == 0 || r.told_to_drain) return;
    Run m;
    m.first = r.taker.sent();
    m.keys = {"", "k"};
    RowsBuilder<RunRow> rows;
    for (uint16_t b = 0; b < n; ++b) {
      const uint16_t handler = static_cast<uint16_t>(rng.below(3));
      const uint64_t size = handler == 1 ? 1 + rng.below(6) : 1;
      const uint16_t key = static_cast<uint16_t>(rng.below(2));
      r.batches[++batch_number] = size;
      for (uint64_t i = 0; i < size; ++i) {
        const uint64_t window = rng.below(4) == 0 ? 1000 : 0;
        if (window != 0) r.streams.insert(next_call);
        r.open[next_call] = batch_number;
        rows.add({next_call++, rng.below(40'000), window, 0, handler, key, b, 1, 0});
      }
    }
    m.rows = rows.take();
    r.taker.on_sent(n);
    const bool again = rng.below(10) == 0;
    if (again) r.to_worker.push_back(m);
    r.to_worker.push_back(std::move(m));
  }
  void nonsense(Router& r) {
    Run m;
    m.first = rng.below(2) == 0 ? rng.below(1'000'000) + 1'000'000 : UINT64_MAX - rng.below(3);
    m.keys = {""};
    RowsBuilder<RunRow> rows;
    for (uint64_t i = rng.below(5); i > 0; --i)
      rows.add({kNonsense + rng.below(3), rng.below(9), 0, 0, static_cast<uint16_t>(rng.below(9)),
                static_cast<uint16_t>(rng.below(3)), static_cast<uint16_t>(rng.below(2)), 1, 0});
    m.rows = rows.take();
    r.to_worker.push_back(std::move(m));
  }
  template <class Row, class M>
  void about_some_call(Router& r) {
    uint64_t call = next_call + 5;  // unknown
    if (!r.open.empty() && rng.below(5) != 0) {
      auto it = r.open.begin();
      std::advance(it, static_cast<long>(rng.below(r.open.size())));
      call = it->first;
    }
    Row row;
    row.call = call;
    if constexpr (requires { row.granted; }) row.granted = rng.below(5000);
    r.to_worker.push_back(M{make_rows<Row>(std::vector<Row>{row})});
  }

  void deliver(Router& r) {
    if (r.to_worker.empty()) return;
    Message m = std::move(r.to_worker.front());
    r.to_worker.pop_front();
    agent->on_message(r.session, {}, std::move(m), now(), out);
    turn();
  }
  void execute(uint64_t most) {
    std::vector<BatchOutcome> list;
    std::vector<CallPart> parts;
    for (uint64_t n = rng.below(most + 1); n > 0 && !running.empty(); --n) {
      auto it = running.begin();
      std::advance(it, static_cast<long>(rng.below(running.size())));
      BatchOutcome o;
      o.batch = it->first;
      o.started = rng.below(8) != 0;
      o.run_us = static_cast<uint32_t>(rng.below(3000));
      for (const BatchCall& c : it->second.calls) {
        executing.erase(c.call);
        if (c.window != 0 && o.started) parts.push_back({c.call, Bytes::copy("p")});
        const CallEnd end = !o.started          ? CallEnd::expired
                            : rng.below(2) == 0 ? CallEnd::reply
                                                : CallEnd::failed;
        o.calls.push_back({c.call, end, Errc::ok, Bytes::copy("r")});
      }
      list.push_back(std::move(o));
      running.erase(it);
    }
    agent->on_parts(std::move(parts), now(), out);
    agent->on_batches(std::move(list), now(), out);
    turn();
  }
  void tick(Duration by) {
    at += by;
    if (agent->next_deadline() > now().mono) return;
    agent->tick(now(), out);
    turn();
  }

  void step() {
    Router& r = routers[rng.below(routers.size())];
    switch (rng.below(12)) {
      case 0:
      case 1:
      case 2:
        return hear(r);
      case 3:
      case 4:
        return send(r);
      case 5:
      case 6:
      case 7:
        return deliver(r);
      case 8:
        return execute(3);
      case 9:
        return tick(std::chrono::microseconds(rng.below(8'000)));
      case 10:
        if (rng.below(2) == 0) return about_some_call<CallIdRow, Stop>(r);
        return about_some_call<CallCreditRow, CallCredit>(r);
      default:
        if (rng.below(6) == 0) nonsense(r);
        if (rng.below(60) == 0) {
          agent->set_draining(rng.below(2) == 0, now(), out);
          turn();
        }
        if (rng.below(30) == 0) close(r);
    }
  }
  bool busy() const {
    for (const Router& r : routers)
      if (!r.to_router.empty() || !r.to_worker.empty()) return true;
    return !running.empty();
  }
  void settle() {
    while (busy()) {
      for (Router& r : routers) {
        while (!r.to_worker.empty()) deliver(r);
        while (!r.to_router.empty()) hear(r);
      }
      execute(5);
    }
    tick(100ms);
    for (Router& r : routers)
      while (!r.to_router.empty()) hear(r);
  }

  static constexpr uint64_t kNonsense = uint64_t{1} << 40;
  Rng rng;
  uint32_t slots;
  std::unique_ptr<CallAgent> agent;
  WorkerOut out;
  std::vector<Router> routers;
  std::map<uint64_t, BatchStart> running;
  std::set<uint64_t> executing;
  Duration at = 10s;
  uint64_t sessions = 0;
  uint64_t next_call = 1;
  uint64_t batch_number = 0;
  uint64_t ends = 0;
};

}  // namespace

TEST_CASE("calls: whatever happens, every call ends once and all credit comes back") {
  uint64_t ends = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Model m(seed);
    for (int i = 0; i < 2'000; ++i) m.step();
    m.settle();
    m.agent->set_draining(false, m.now(), m.out);
    m.turn();
    m.settle();
    REQUIRE(m.agent->held() == 0);
    for (Router& r : m.routers) {
      REQUIRE(r.open.empty());
      REQUIRE(r.batches.empty());
      REQUIRE(m.agent->granted(r.session, m.now()) ==
              m.agent->received(r.session) + m.agent->target(r.session, m.now()));
      REQUIRE(r.taker.available() >= 1);
    }
    m.agent->begin_drain(m.now(), m.out);
    m.turn();
    m.settle();
    REQUIRE(m.agent->drained());
    ends += m.ends;
  }
  CHECK(ends > 20'000);
}

}  // namespace dray::worker
