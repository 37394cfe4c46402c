// Random calls, ends, losses and departures: whatever happens, each call ends once and at rest all
// credit is back.
#include <set>

#include "common/base/rng.h"
#include "tests/unit/router/call_bench.h"

using namespace dray;

namespace {

class RandomCalls {
 public:
  explicit RandomCalls(uint64_t seed) : rng_(seed), b_(options()) {
    for (uint64_t i = 0; i < 3; ++i) clients_.push_back(b_.client(next_session_++));
  }

  void step() {
    switch (rng_.below(16)) {
      case 0:
        if (workers_.size() < 4) add_worker();
        break;
      case 1:
        if (!workers_.empty() && rng_.below(6) == 0) lose_worker(rng_.below(workers_.size()));
        break;
      case 2:
        if (!workers_.empty() && rng_.below(4) == 0) drain(rng_.below(workers_.size()));
        break;
      case 3:
        if (rng_.below(20) == 0) swap_client(rng_.below(clients_.size()));
        break;
      case 4:
        cancel();
        break;
      case 5:
        credit();
        break;
      case 6:
      case 7:
        b_.go(Duration(std::chrono::microseconds(rng_.below(rng_.below(8) == 0 ? 60'000 : 4000))));
        break;
      case 8:
      case 9:
      case 10:
      case 11:
        finish_some();
        break;
      default:
        if (!calm_ || rng_.below(3) == 0) call();
    }
    if (rng_.below(3) != 0) b_.end_turn();
  }

  void settle() {
    for (int i = 0; i < 40; ++i) {
      for (size_t w = 0; w < workers_.size(); ++w)
        while (finish_batch(w, true)) {
        }
      b_.go(300ms);
    }
    CHECK(b_.router.lane().open_calls() == 0);
    CHECK(b_.router.lane().bytes() == 0);
    CHECK(b_.router.lane().credit_used() == 0);
    CHECK(b_.router.next_deadline() == kNever);
    for (const SessionId client : clients_) {
      std::set<uint64_t> ended;
      for (const Answer& a : b_.answers[client])
        if (a.row.status != 0) CHECK(ended.insert(a.row.call).second);
      CHECK(ended.size() == sent_[client]);
      CHECK(b_.client_credit[client] == sent_[client] + options().client_calls);
    }
  }
  const CallBench& bench() const { return b_; }

 private:
  struct Batch {
    std::vector<uint64_t> calls;
    size_t told = 0;
  };
  struct Worker {
    SessionId id;
    uint64_t granted = 0;
    size_t seen = 0;  // of CallBench.started
    std::vector<Batch> held;
    bool draining = false;
    uint64_t batches_at_drain = 0;
  };

  static CallOptions options() {
    return {.client_calls = 12, .client_bytes = 400, .call_bytes = 700, .max_queued = 12};
  }
  static constexpr const char* kHandlers[] = {"plain", "batch", "model", "never"};

  void add_worker() {
    HandlerOffer plain = offer_of("plain");
    plain.max_ongoing = static_cast<uint32_t>(rng_.below(3));
    HandlerOffer batch = offer_of("batch");
    batch.max_batch_size = 4;
    batch.max_batch_bytes = 60;
    batch.batch_wait_us = static_cast<uint32_t>(rng_.below(2) * 2000);
    HandlerOffer model = offer_of("model");
    model.max_models = 2;
    model.max_batch_size = 3;
    const uint64_t granted = 1 + rng_.below(4);
    const auto id = b_.worker(next_session_++, {plain, batch, model},
                              static_cast<uint32_t>(1 + rng_.below(3)), granted);
    workers_.push_back({id, granted, 0, {}, false, 0});
  }
  void lose_worker(size_t i) {
    b_.close(workers_[i].id);
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void drain(size_t i) {
    Worker& w = workers_[i];
    w.draining = !w.draining;
    b_.drain(w.id, w.draining);
    w.batches_at_drain = b_.batches[w.id];
  }
  void swap_client(size_t i) {
    b_.close(clients_[i]);
    clients_[i] = b_.client(next_session_++);
  }
  SessionId any_client() { return clients_[rng_.below(clients_.size())]; }
  uint64_t any_call() { return 1 + rng_.below(std::max<uint64_t>(1, call_)); }
  void call() {
    const SessionId from = any_client();
    for (uint64_t n = 1 + rng_.below(3); n > 0; --n) {
      CallSpec s;
      s.call = ++call_;
      s.handler = kHandlers[rng_.below(20) == 0 ? 3 : rng_.below(3)];
      if (rng_.below(2) == 0) s.key = std::string(1, static_cast<char>('a' + rng_.below(4)));
      s.window = rng_.below(4) == 0 ? 10 : 0;
      s.deadline = std::chrono::microseconds(1 + rng_.below(rng_.below(2) == 0 ? 60'000 : 500'000));
      s.items = static_cast<uint16_t>(1 + rng_.below(5));
      s.flags = static_cast<uint16_t>(rng_.below(2) == 0 ? 3 : rng_.below(4));
      s.payload = std::string(rng_.below(70), 'x');
      b_.post(from, s);
      ++sent_[from];
    }
  }
  void cancel() {
    RowsBuilder<CallIdRow> rows;
    for (int i = 0; i < 3; ++i) rows.add({any_call()});
    b_.send(any_client(), CallCancel{rows.take()});
  }
  void credit() {
    RowsBuilder<CallCreditRow> rows;
    rows.add({any_call(), rng_.below(100)});
    b_.send(any_client(), CallCredit{rows.take()});
  }
  void look(Worker& w) {
    const auto& list = b_.started[w.id];
    for (; w.seen < list.size(); ++w.seen) {
      const Started& s = list[w.seen];
      const bool same = w.seen > 0 && list[w.seen - 1].batch == s.batch;
      if (!same) w.held.emplace_back();
      if (same) CHECK(list[w.seen - 1].key == s.key);
      if (same) CHECK(list[w.seen - 1].row.handler == s.row.handler);
      w.held.back().calls.push_back(s.row.call);
      CHECK(w.held.back().calls.size() <= 4);
    }
    CHECK(b_.batches[w.id] <= w.granted);
    if (w.draining) CHECK(b_.batches[w.id] == w.batches_at_drain);
  }
  void finish_some() {
    if (workers_.empty()) return;
    const size_t i = rng_.below(workers_.size());
    finish_batch(i, false);
  }
  // Tells one row, or all of one batch. False if it holds nothing.
  bool finish_batch(size_t i, bool whole) {
    Worker& w = workers_[i];
    look(w);
    if (w.held.empty()) return false;
    Batch& batch = w.held[rng_.below(w.held.size())];
    do {
      CallBench::Outcome o;
      constexpr CallEnd kEnds[] = {CallEnd::reply, CallEnd::reply,     CallEnd::failed,
                                   CallEnd::part,  CallEnd::cancelled, CallEnd::expired,
                                   CallEnd::reply, CallEnd::rejected};
      o.end = whole ? CallEnd::reply : kEnds[rng_.below(8)];
      o.run_us = static_cast<uint32_t>(rng_.below(3000));
      o.bytes = std::string(rng_.below(5), 'y');
      o.flags = o.end == CallEnd::rejected ? kDoneNotStarted : uint16_t{0};
      const uint64_t number = batch.calls[batch.told];
      const bool last = o.end != CallEnd::part && batch.told + 1 == batch.calls.size();
      if (o.end != CallEnd::part) ++batch.told;
      if (last) o.flags |= kDoneFreesSlot;
      if (last) ++w.granted;
      b_.post_done(w.id, number, o);
      if (!last) continue;
      w.held.erase(w.held.begin() + (&batch - w.held.data()));
      break;
    } while (whole);
    b_.end_turn();
    look(w);
    return true;
  }

  Rng rng_;
  bool calm_ = rng_.below(2) == 0;  // often a replica is idle
  CallBench b_;
  std::vector<SessionId> clients_;
  std::vector<Worker> workers_;
  std::map<SessionId, uint64_t> sent_;
  uint64_t next_session_ = 10;
  uint64_t call_ = 0;
};

}  // namespace

TEST_CASE("whatever happens, each call ends once and all credit comes back") {
  CallTotals seen;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    RandomCalls world(seed);
    for (int i = 0; i < 1000; ++i) world.step();
    world.settle();
    const CallTotals& t = world.bench().totals();
    for (size_t i = 0; i < kCallEnds; ++i) seen.ends[i] += t.ends[i];
    for (size_t i = 0; i < kCallRefusals; ++i) seen.refused[i] += t.refused[i];
    seen.retries += t.retries;
    seen.returns += t.returns;
    seen.hedges += t.hedges;
    seen.hedges_won += t.hedges_won;
    seen.stops += t.stops;
  }
  // A path that was not taken was not tested.
  for (size_t i = 0; i < kCallEnds; ++i) CHECK(seen.ends[i] > 0);
  for (size_t i = 1; i < kCallRefusals; ++i) {  // all but `draining`
    INFO(call_refusal_name(static_cast<CallRefusal>(i)));
    if (static_cast<CallRefusal>(i) != CallRefusal::sent_back) CHECK(seen.refused[i] > 0);
  }
  CHECK(seen.retries > 0);
  CHECK(seen.returns > 0);
  INFO("hedges " << seen.hedges);
  CHECK(seen.hedges > 0);
  CHECK(seen.hedges_won > 0);
  CHECK(seen.stops > 0);
}
