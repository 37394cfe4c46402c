// Agent against a small broker, executors and a pipe that loses messages in both directions: every
// task ends once, no task runs twice while its worker answers for it, and no credit leaks.
#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <set>

#include "common/base/rng.h"
#include "services/worker/core/agent.h"

namespace dray::worker {
namespace {

struct Model {
  struct Lease {
    uint64_t number = 0;  // in its session
    uint64_t task = 0;
  };

  explicit Model(uint64_t seed, uint64_t loss)
      : rng(seed),
        loss_per_million(loss),
        agent(AgentOptions{static_cast<uint32_t>(1 + seed % 3),
                           64,
                           {"echo"},
                           {},
                           {},
                           {{"cpu", 30'000}},
                           1s,
                           30s}) {
    for (uint64_t t = 0; t < 60; ++t) queue.push_back(t);
    total = queue.size();
  }
  Now now() const { return {at_ms(ms), ms}; }

  void open() {
    session = SessionId{++sessions};
    to_worker.clear();
    to_broker.clear();
    taker = CreditTaker{};
    for (auto& [seq, lease] : leases) lease.number = 0;  // resumed: judged by ATTACH and HAVE
    union_have.clear();
    SessionInfo info;
    info.id = session;
    info.role = Role::broker;
    info.epoch = 1;
    agent.on_open(info, now(), out);
    flush();
  }

  void flush() {
    for (Send& s : out.now)
      if (s.to == session && !rng.chance(loss_per_million)) to_broker.push_back(std::move(s));
    for (const Start& s : out.start) {
      REQUIRE(executing.insert(s.token.seq).second);
      order.push_back(s.token);
      ++runs;
    }
    for (Token t : out.cancel) REQUIRE(executing.count(t.seq) == 1);
    if (out.recall) recall = true;
    REQUIRE_FALSE(out.exit);
    out.clear();
    agent.check();
  }

  void requeue(uint64_t seq) {
    queue.push_front(leases.at(seq).task);
    leases.erase(seq);
  }

  void on_have(const Rows<TokenRow>& rows, uint64_t received, bool complete) {
    for (size_t i = 0; i < rows.size(); ++i) union_have.insert(rows[i].token.seq);
    if (!complete) return;
    std::vector<uint64_t> lost;
    for (const auto& [seq, lease] : leases)
      if (lease.number <= received && !union_have.count(seq)) lost.push_back(seq);
    for (uint64_t seq : lost) {
      CHECK_FALSE(live(seq));
      requeue(seq);
    }
    union_have.clear();
  }
  // Still to be answered for by the agent: it would be wrong to call it lost.
  bool live(uint64_t seq) const { return executing.count(seq) != 0 && !voided.count(seq); }

  void on_results(const Results& m) {
    if (m.first > expected) return;  // a gap: wait for the resend
    for (size_t i = 0; i < m.rows.size(); ++i) {
      if (m.first + i < expected) continue;
      ++expected;
      const auto it = leases.find(m.rows[i].token.seq);
      if (it == leases.end()) continue;
      REQUIRE(done.insert(it->second.task).second);
      leases.erase(it);
    }
    ResultsAck ack;
    ack.upto = expected;
    tell(ack);
  }

  void tell(Message m) {
    if (!rng.chance(loss_per_million)) to_worker.push_back(std::move(m));
  }

  void broker_step() {
    if (to_broker.empty()) return;
    Send s = std::move(to_broker.front());
    to_broker.pop_front();
    taker.on_granted(s.granted);
    if (const auto* a = std::get_if<Attach>(&s.message)) on_have(a->rows, 0, true);
    if (const auto* h = std::get_if<Have>(&s.message)) on_have(h->rows, h->received, h->complete);
    if (const auto* r = std::get_if<Results>(&s.message)) on_results(*r);
    if (const auto* g = std::get_if<GiveBack>(&s.message))
      for (size_t i = 0; i < g->rows.size(); ++i)
        if (leases.count(g->rows[i].token.seq)) requeue(g->rows[i].token.seq);
  }

  void dispatch() {
    uint64_t n = std::min<uint64_t>({taker.available(), queue.size(), 1 + rng.below(6)});
    if (n == 0) return;
    Dispatch d;
    d.epoch = 1;
    d.first = taker.sent();
    TaskSpec spec;
    spec.handler = "echo";
    if (rng.below(3) == 0) spec.resources = {{"cpu", 20'000}};
    if (rng.below(3) == 0) spec.time_limit_ms = 60'000;
    d.specs = {encode_spec(spec)};
    RowsBuilder<DispatchRow> rows;
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t seq = next_seq++;
      leases[seq] = {taker.sent() + i + 1, queue.front()};
      rows.add({TaskId{1, queue.front()}, seq, 0, 1, 0});
      queue.pop_front();
    }
    d.rows = rows.take();
    taker.on_sent(n);
    tell(std::move(d));
  }

  void revoke() {
    if (leases.empty()) return;
    auto it = leases.begin();
    std::advance(it, static_cast<long>(rng.below(leases.size())));
    const uint64_t seq = it->first;
    voided.insert(seq);
    requeue(seq);
    tell(Revoke{make_rows<TokenRow>(std::vector<TokenRow>{{TaskId{}, Token{1, seq}}})});
  }

  void worker_step() {
    if (to_worker.empty()) return;
    Message m = std::move(to_worker.front());
    to_worker.pop_front();
    agent.on_message(session, {}, std::move(m), now(), out);
    flush();
  }

  void executor_step() {
    std::vector<Outcome> list;
    if (recall) {  // everything but the oldest `slots` has not begun
      while (order.size() > agent.target(now()) && order.size() > 3)
        take(list, order.size() - 1, false);
      recall = false;
    }
    for (uint64_t n = rng.below(4); n > 0 && !order.empty(); --n)
      take(list, rng.below(std::min<uint64_t>(order.size(), 3)), true);
    agent.on_outcomes(std::move(list), now(), out);
    flush();
  }
  void take(std::vector<Outcome>& list, uint64_t i, bool started) {
    const Token t = order[i];
    order.erase(order.begin() + static_cast<long>(i));
    executing.erase(t.seq);
    list.push_back({TaskId{}, t, Verdict::ok, Errc::ok, started,
                    static_cast<uint32_t>(rng.below(30'000)), Bytes::copy("r")});
  }

  void tick(int64_t by) {
    ms += by;
    if (now().mono >= agent.next_deadline()) {
      agent.tick(now(), out);
      flush();
    }
    if (ms >= sync_at && session != SessionId::none) {
      tell(Sync{taker.sent()});
      sync_at = ms + 1'000;
    }
  }

  void chaos_step() {
    switch (rng.below(8)) {
      case 0:
      case 1:
        return broker_step();
      case 2:
        return dispatch();
      case 3:
      case 4:
        return worker_step();
      case 5:
        return executor_step();
      case 6:
        return tick(static_cast<int64_t>(rng.below(300)));
      default:
        if (rng.below(20) == 0) revoke();
        if (rng.below(40) != 0) return;
        agent.on_close(session, CloseReason::timeout, now(), out);
        flush();
        open();
    }
  }
  void settle() {
    loss_per_million = 0;
    for (int i = 0; i < 3'000; ++i) {
      while (!to_broker.empty()) broker_step();
      dispatch();
      while (!to_worker.empty()) worker_step();
      executor_step();
      tick(20);
    }
    while (!to_worker.empty() || !to_broker.empty()) {
      worker_step();
      broker_step();
    }
  }

  Rng rng;
  uint64_t loss_per_million;
  Agent agent;
  WorkerOut out;
  int64_t ms = 1'000;
  int64_t sync_at = 0;
  SessionId session = SessionId::none;
  uint64_t sessions = 0;
  std::deque<Send> to_broker;
  std::deque<Message> to_worker;
  // broker
  CreditTaker taker;
  std::deque<uint64_t> queue;
  std::map<uint64_t, Lease> leases;  // by token seq
  std::set<uint64_t> union_have;
  std::set<uint64_t> voided;
  std::set<uint64_t> done;
  uint64_t expected = 1;  // result number
  uint64_t next_seq = 1;
  size_t total = 0;
  // executors
  std::set<uint64_t> executing;
  std::vector<Token> order;
  bool recall = false;
  size_t runs = 0;
};

}  // namespace

TEST_CASE("any loss: all tasks end once and the idle worker has exactly k credits again") {
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    CAPTURE(seed);
    Model m(seed, seed % 4 * 50'000);
    m.open();
    for (int i = 0; i < 1'500; ++i) m.chaos_step();
    m.settle();
    REQUIRE(m.done.size() == m.total);
    REQUIRE(m.leases.empty());
    REQUIRE(m.agent.queued() + m.agent.running() + m.agent.unacked() == 0);
    REQUIRE(m.taker.sent() == m.agent.received());
    REQUIRE(m.agent.granted(m.now()) == m.agent.received() + m.agent.target(m.now()));
    REQUIRE(m.taker.available() >= m.agent.target(m.now()));
  }
}

TEST_CASE("without loss or revokes every task runs once") {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    Model m(seed, 0);
    m.open();
    m.settle();
    REQUIRE(m.done.size() == m.total);
    REQUIRE(m.runs <= m.total + m.agent.counters().given_back);
  }
}

}  // namespace dray::worker
