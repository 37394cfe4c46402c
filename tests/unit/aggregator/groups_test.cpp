// Aggregator core: groups and those who watch them.
#include "tests/unit/aggregator/bench.h"

using namespace dray;

namespace {

GroupState state_of(AggregatorBench& b, uint64_t group) {
  b.ask(999, group_watch(group));
  auto list = pick<GroupState>(b.turn(), 999);
  REQUIRE(list.size() == 1);
  return list[0];
}

}  // namespace

TEST_CASE("a group counts its members' ends by kind") {
  AggregatorBench b;
  b.ask(1, group_put(50, {1, 2, 3, 4, 5, 300}));
  CHECK(pick<Ok>(b.turn(), 1).size() == 1);
  b.finished(0, 1, {1, 77});
  b.finished(1, 2, {2}, TaskState::failed);
  b.finished(2, 3, {3}, TaskState::dead);
  b.finished(3, 4, {4}, TaskState::cancelled);
  b.finished(4, 5, {300}, TaskState::expired);
  b.turn();
  CHECK(state_of(b, 50) == GroupState{task(50), 6, 5, 1, 2, 1, 1});
  b.restart();
  CHECK(state_of(b, 50) == GroupState{task(50), 6, 5, 1, 2, 1, 1});
  b.finished(5, 6, {5});
  b.turn();
  CHECK(state_of(b, 50).done == 6);
}

TEST_CASE("putting members twice changes nothing, in the same turn or later") {
  AggregatorBench b;
  b.ask(1, group_put(50, {1, 2, 2}));
  b.ask(2, group_put(50, {2, 3}));
  b.turn();
  b.finished(0, 1, {2});
  b.turn();
  b.ask(3, group_put(50, {1, 2, 3}));
  b.turn();
  CHECK(state_of(b, 50) == GroupState{task(50), 3, 1, 1, 0, 0, 0});
}

TEST_CASE("members that ended before, in the turn of, and after the put") {
  AggregatorBench b;
  b.finished(0, 1, {1});
  b.turn();
  b.finished(1, 2, {2});
  b.ask(1, group_put(50, {1, 2, 3, 4}));
  b.ask(2, group_watch(50));  // the group is in this very turn
  b.finished(2, 3, {3});
  auto sent = b.turn();
  auto states = pick<GroupState>(sent, 2);
  REQUIRE(states.size() == 1);
  CHECK(states[0].done == 3);
  b.finished(3, 4, {4});
  b.turn();
  CHECK(state_of(b, 50).done == 4);
}

TEST_CASE("a result that comes twice counts once") {
  AggregatorBench b;
  b.ask(1, group_put(50, {1, 2}));
  b.turn();
  b.finished(0, 1, {1, 1});
  b.turn();
  b.finished(1, 2, {1}, TaskState::failed);  // can not happen, must not count
  b.turn();
  CHECK(state_of(b, 50) == GroupState{task(50), 2, 1, 1, 0, 0, 0});
}

TEST_CASE("the bits outlive the results") {
  AggregatorBench b;
  b.ask(1, group_put(50, {1, 2}));
  b.finished(0, 1, {1});
  b.turn();
  b.ask(2, Forget{id_rows({1})});
  b.turn();
  b.restart();
  CHECK(state_of(b, 50).done == 1);
}

TEST_CASE("one task in two groups") {
  AggregatorBench b;
  b.ask(1, group_put(50, {1, 2}));
  b.ask(2, group_put(51, {2, 3}));
  b.turn();
  b.finished(0, 1, {2});
  b.turn();
  CHECK(state_of(b, 50).done == 1);
  CHECK(state_of(b, 51).done == 1);
}

TEST_CASE("an unknown group, an empty one, a null id") {
  AggregatorBench b;
  b.ask(1, group_watch(50));
  b.ask(2, GroupPut{});
  auto sent = b.turn();
  REQUIRE(pick<Reject>(sent, 1).size() == 1);
  CHECK(pick<Reject>(sent, 1)[0].code == static_cast<uint8_t>(Errc::not_found));
  CHECK(pick<Reject>(sent, 2)[0].code == static_cast<uint8_t>(Errc::bad_argument));
  b.ask(3, group_put(50, {}));
  b.turn();
  CHECK(state_of(b, 50).total == 0);
  b.restart();
  CHECK(state_of(b, 50).total == 0);
}

TEST_CASE("limits: all or nothing") {
  AggregatorOptions o;
  o.groups.members_max = 3;
  o.groups.pages_max = 2;
  o.groups.groups_max = 2;
  AggregatorBench b(o);
  b.ask(1, group_put(50, {1, 2, 3}));
  b.ask(2, group_put(50, {3, 2, 1}));
  b.ask(3, group_put(50, {1, 4}));
  b.ask(4, group_put(51, {300, 600}));
  b.ask(5, group_put(51, {300}));
  b.ask(6, group_put(52, {}));
  auto sent = b.turn();
  CHECK(pick<Ok>(sent).size() == 3);
  CHECK(pick<Reject>(sent, 3)[0].limit == "aggregator.group_members_max");
  CHECK(pick<Reject>(sent, 4)[0].limit == "aggregator.group_pages_max");
  CHECK(pick<Reject>(sent, 6)[0].limit == "aggregator.groups_max");
  CHECK(state_of(b, 50).total == 3);
  CHECK(state_of(b, 51).total == 1);
}

TEST_CASE("watchers are told at once, then at most every 100 ms") {
  AggregatorBench b;
  b.ask(1, group_put(50, {1, 2, 3, 4}));
  b.turn_at(2000);
  b.ask(2, group_watch(50, true));
  CHECK(pick<GroupState>(b.turn_at(2000), 2).size() == 1);
  b.finished(0, 1, {1});
  CHECK(pick<GroupState>(b.turn_at(2010)).empty());
  b.finished(1, 2, {2});
  CHECK(pick<GroupState>(b.turn_at(2020)).empty());
  CHECK(b.core->next_deadline() == at_ms(2100));
  auto states = pick<GroupState>(b.turn_at(2100), 2);
  REQUIRE(states.size() == 1);
  CHECK(states[0].done == 2);
  CHECK(pick<GroupState>(b.turn_at(2400)).empty());
  b.finished(2, 3, {3});
  states = pick<GroupState>(b.turn_at(2400), 2);
  REQUIRE(states.size() == 1);
  CHECK(states[0].done == 3);
  b.finished(3, 4, {99});  // nothing of this group
  CHECK(pick<GroupState>(b.turn_at(2700)).empty());
  b.ask(3, Unwait{2});
  b.finished(4, 5, {4});
  CHECK(pick<GroupState>(b.turn_at(3000)).empty());
}

TEST_CASE("watchers count as waiters and go with their router") {
  AggregatorOptions o;
  o.waiters_max = 1;
  AggregatorBench b(o);
  b.ask(1, group_put(50, {1}));
  b.ask(2, group_watch(50, true));
  b.ask(3, group_watch(50, true));
  auto sent = b.turn();
  CHECK(pick<GroupState>(sent, 2).size() == 1);
  CHECK(pick<Reject>(sent, 3)[0].limit == "aggregator.waiters_max");
  b.close(kRouterId);
  b.finished(0, 1, {1});
  CHECK(pick<GroupState>(b.turn_at(5000)).empty());
}

TEST_CASE("groups are dropped some time after they are done") {
  AggregatorOptions o;
  o.groups.done_ttl_ms = 10'000;
  o.groups.idle_ttl_ms = 100'000;
  AggregatorBench b(o);
  b.ask(1, group_put(50, {1, 300}));
  b.ask(2, group_put(51, {2, 300}));
  b.turn_at(2000);
  b.finished(0, 1, {1, 300});
  b.turn_at(5000);
  b.turn_at(14'000);
  CHECK(b.core->groups().size() == 2);
  b.disk->set_full(true);
  b.turn_at(16'000);
  CHECK(b.core->groups().size() == 1);
  b.disk->set_full(false);
  b.turn_at(18'000);  // the rows go now
  CHECK(state_of(b, 51).done == 1);
  b.restart();
  CHECK(b.core->groups().size() == 1);
  CHECK(b.core->groups().pages() == 2);
  b.turn_at(200'000);
  CHECK(b.core->groups().size() == 0);
  b.turn_at(202'000);
  CHECK(b.store->scan("g", 10, {})->empty());
  b.ask(3, group_put(50, {1}));  // and may come again
  CHECK(pick<Ok>(b.turn_at(203'000), 3).size() == 1);
}

TEST_CASE("random groups against a model, with a full disk and restarts") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    uint64_t state = seed;
    auto below = [&](uint64_t n) { return mix64(state += 0x9e3779b97f4a7c15ULL) % n; };
    AggregatorBench b;
    std::map<uint64_t, std::set<uint64_t>> groups;
    std::set<uint64_t> ended;
    uint64_t record = 0;
    int64_t ms = 2000;
    for (int step = 0; step < 150; ++step) {
      const bool full = below(6) == 0;
      b.disk->set_full(full);
      const uint64_t group = 5000 + below(3);
      std::vector<uint64_t> ids;
      for (uint64_t n = below(5); n > 0; --n) ids.push_back(1 + below(700));
      const bool put = below(2) == 0;
      if (put) b.ask(1, group_put(group, ids));
      const uint64_t done = 1 + below(700);
      b.finished(record, record + 1, {done});
      b.turn_at(ms += 2000);
      if (full) {
        b.disk->set_full(false);
        b.turn_at(ms += 2000);
      } else {
        ++record;
        ended.insert(done);
        if (put) groups[group].insert(ids.begin(), ids.end());
      }
      if (below(20) == 0) b.restart();
    }
    for (const auto& [group, ids] : groups) {
      uint64_t done = 0;
      for (uint64_t id : ids) done += ended.count(id);
      CHECK(state_of(b, group) == GroupState{task(group), ids.size(), done, done, 0, 0, 0});
    }
  }
}
