// Property: whatever is lost, repeated or refused on the way, every accepted task of a client gets
// exactly one result event, and every submit one closing event.
#include <bit>
#include <deque>

#include "tests/unit/client/harness.h"

using namespace dray;
using test::Harness;

namespace {

// Router, broker and aggregator in one: knows tasks, finishes them after a while, loses things.
struct World {
  World(Harness& harness, uint64_t seed) : h(harness), rng(seed) {}
  Harness& h;
  Rng rng;
  uint64_t loss_ppm = 150'000;
  std::map<TaskId, Time> accepted;  // when it is over
  std::map<TaskId, bool> watched;
  std::vector<TaskId> running;  // not pushed so far
  std::map<uint64_t, std::vector<TaskId>> waits;
  std::deque<std::pair<uint64_t, Message>> to_client;
  uint64_t granted = 20;
  uint64_t received = 0;
  uint64_t epoch = 1;

  bool lose() { return rng.chance(loss_ppm); }
  bool is_over(TaskId id) const {
    auto it = accepted.find(id);
    return it != accepted.end() && it->second <= h.now.mono;
  }
  void answer(uint64_t req, Message m) {
    if (lose()) return;
    to_client.emplace_back(req, m);
    if (rng.chance(50'000)) to_client.emplace_back(req, std::move(m));
  }
  void on_submit(uint64_t req, const Submit& m) {
    Submitted s;
    s.epoch = epoch;
    RowsBuilder<StateRow> known;
    for (size_t i = 0; i < m.rows.size(); ++i) {
      TaskId id = m.rows[i].id;
      auto [it, fresh] =
          accepted.try_emplace(id, h.now.mono + std::chrono::milliseconds(rng.below(20'000)));
      watched[id] = true;
      if (fresh) {
        running.push_back(id);
        ++s.accepted;
        continue;
      }
      StateRow row;
      row.id = id;
      row.state = is_over(id) ? TaskState::succeeded : TaskState::queued;
      known.add(row);
    }
    s.rows = known.take();
    answer(req, std::move(s));
  }
  void on_wait(uint64_t req, const Wait& m) {
    auto& ids = waits[req];
    ids.clear();
    for (size_t i = 0; i < m.rows.size(); ++i) ids.push_back(m.rows[i].id);
  }
  void receive() {
    for (Send& s : h.sent()) {
      ++received;
      if (received > granted) FAIL("more than granted");
      if (lose()) continue;
      if (rng.chance(50'000)) {
        Errc codes[] = {Errc::unavailable, Errc::overloaded, Errc::draining};
        answer(s.req, make_reject(codes[rng.below(3)], "busy", 100));
        continue;
      }
      if (auto* m = std::get_if<Submit>(&s.message)) on_submit(s.req, *m);
      if (auto* m = std::get_if<Wait>(&s.message)) on_wait(s.req, *m);
      if (auto* m = std::get_if<Unwait>(&s.message)) waits.erase(m->wait_req);
    }
  }
  void push() {
    std::vector<TaskId> over;
    std::erase_if(running, [&](TaskId id) {
      if (!is_over(id)) return false;
      if (watched[id]) over.push_back(id);
      return true;
    });
    if (!over.empty()) answer(0, Harness::ready(over));
    for (auto it = waits.begin(); it != waits.end();) {
      std::vector<TaskId> ready, rest;
      for (TaskId id : it->second) (is_over(id) ? ready : rest).push_back(id);
      bool done = rest.empty();
      if (!ready.empty() || done) answer(it->first, Harness::ready(ready, done));
      it->second = rest;
      it = done ? waits.erase(it) : std::next(it);
    }
  }
  void deliver() {
    granted = received + 20;
    while (!to_client.empty()) {
      auto [req, m] = std::move(to_client.front());
      to_client.pop_front();
      h.say(std::move(m), req, granted);
    }
    h.say(Sync{}, 0, granted);
  }
  void reopen() {
    h.close();
    to_client.clear();
    waits.clear();
    h.sent();
    received = 0;
    granted = 20;
    h.open(granted);
  }
  void broker_restart() {
    ++epoch;
    for (auto& [id, w] : watched) w = false;
    if (!lose()) h.say(WatchLost{});
  }
  void step() {
    h.advance(std::chrono::milliseconds(20 + rng.below(200)));
    receive();
    push();
    deliver();
    receive();
  }
};

void run(uint64_t seed) {
  ClientCoreOptions o;
  o.seed = seed;
  o.waits_max = 4;
  Harness h(o);
  World w(h, seed * 7919);
  h.open(w.granted);
  std::set<uint64_t> submits;
  std::set<TaskId> all;
  for (int i = 0; i < 300; ++i) {
    if (w.rng.chance(500'000)) {
      auto ids = h.make_ids(1 + w.rng.below(100));
      all.insert(ids.begin(), ids.end());
      submits.insert(h.submit(ids, 20s));
    }
    if (w.rng.chance(20'000)) w.reopen();
    if (w.rng.chance(10'000)) w.broker_restart();
    w.step();
  }
  w.loss_ppm = 0;
  for (int i = 0; i < 3'000 && h.core.open_tasks().blocks() > 0; ++i) w.step();
  INFO("seed " << seed);
  CHECK(h.core.open_tasks().blocks() == 0);
  CHECK(h.core.requests() == 0);
  std::set<TaskId> given_up;
  for (const auto& e : h.taken<RejectedEvent>()) {
    CHECK(submits.erase(e.req) == 1);
    for (size_t i = 0; i < e.tasks.size(); ++i)
      if (!given_up.insert(e.tasks[i].id).second) FAIL("given up twice");
  }
  for (const auto& e : h.taken<SubmittedEvent>()) CHECK(submits.erase(e.req) == 1);
  CHECK(submits.empty());
  for (TaskId id : all) {
    auto it = h.results.find(id);
    int n = it == h.results.end() ? 0 : it->second;
    if (n + static_cast<int>(given_up.count(id)) != 1) FAIL("task ended " << n << " times");
  }
}

}  // namespace

TEST_CASE("exactly one result event per accepted task under random loss") {
  for (uint64_t seed = 1; seed <= 20; ++seed) run(seed);
}

TEST_CASE("the open table agrees with a plain set under random use") {
  Rng rng(5);
  OpenTable t;
  std::set<TaskId> model;
  std::vector<TaskId> ids;
  for (int i = 0; i < 3'000; ++i) ids.push_back({rng.below(50), rng.below(2'000)});
  for (int i = 0; i < 100'000; ++i) {
    TaskId id = ids[rng.below(ids.size())];
    if (id.hi == 0 && id.lo < 64) continue;  // the null block
    if (rng.chance(500'000)) {
      t.at(t.find_or_add(id)).open |= OpenTable::bit(id);
      model.insert(id);
    } else {
      CHECK(t.close(id) == (model.erase(id) == 1));
    }
    if (i % 1'000 == 0) REQUIRE(t.check());
  }
  size_t open = 0;
  t.for_each([&](OpenTable::Index, OpenTable::Block& b) {
    open += static_cast<size_t>(std::popcount(b.open));
  });
  CHECK(open == model.size());
}
