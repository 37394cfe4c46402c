// Open tasks of the client core: one result event each, the WAIT fallback, lost watches.
#include "tests/unit/client/harness.h"

using namespace dray;
using test::Harness;
using test::ids_of;

namespace {
std::vector<TaskId> submit_accepted(Harness& h, size_t n) {
  auto ids = h.make_ids(n);
  uint64_t req = h.submit(ids);
  h.accept(req, static_cast<uint32_t>(n));
  h.sent();
  return ids;
}
std::vector<TaskId> sorted(std::vector<TaskId> list) {
  std::sort(list.begin(), list.end());
  return list;
}
}  // namespace

TEST_CASE("pushed results: one event per task, repeats are dropped") {
  Harness h;
  h.open();
  auto ids = submit_accepted(h, 300);
  std::vector<TaskId> half(ids.begin(), ids.begin() + 150);
  h.say(Harness::ready(half));
  CHECK(h.results.size() == 150);
  h.say(Harness::ready(ids));  // half of it is old
  CHECK(h.results.size() == 300);
  h.say(Harness::ready(ids));
  for (auto& [id, n] : h.results) CHECK(n == 1);
  CHECK(h.core.counters().repeated_results == 450);
  h.advance(2s);
  CHECK(h.core.open_tasks().blocks() == 0);
  CHECK(h.sent().empty());
}

TEST_CASE("rows that are no end are no result") {
  Harness h;
  h.open();
  auto ids = submit_accepted(h, 1);
  h.say(Harness::ready(ids, false, TaskState::leased));
  h.say(Harness::ready(ids, false, TaskState::unknown));
  CHECK(h.results.empty());
}

TEST_CASE("a result may come before SUBMITTED") {
  Harness h;
  h.open();
  auto ids = h.make_ids(2);
  uint64_t req = h.submit(ids);
  h.say(Harness::ready({ids[0]}));
  h.accept(req, 2);
  CHECK(h.results[ids[0]] == 1);
  h.sent();
  h.advance(2s);
  auto waits = h.sent_of<Wait>();
  REQUIRE(waits.size() == 1);
  CHECK(ids_of(waits[0]) == std::vector<TaskId>{ids[1]});
}

TEST_CASE("without a result a second after acceptance: WAIT, once per session") {
  Harness h;
  h.open();
  auto ids = submit_accepted(h, 10);
  h.say(Harness::ready({ids[0], ids[5]}));
  h.advance(999ms);
  CHECK(h.sent().empty());
  h.advance(251ms);
  auto waits = h.sent_of<Wait>();
  REQUIRE(waits.size() == 1);
  const Wait& w = std::get<Wait>(waits[0].message);
  CHECK(w.n_ready == 0);
  CHECK(w.with_bytes);
  CHECK(ids_of(waits[0]).size() == 8);
  h.advance(8s);
  CHECK(h.sent_of<Wait>().empty());
  h.say(Harness::ready(ids_of(waits[0])), waits[0].req);
  CHECK(h.results.size() == 10);
  CHECK(h.core.waits() == 0);
}

TEST_CASE("a WAIT without news is repeated for what is open, with the same number") {
  Harness h;
  h.open();
  auto ids = submit_accepted(h, 3);
  h.advance(1500ms);
  auto first = h.sent_of<Wait>();
  REQUIRE(first.size() == 1);
  h.say(Harness::ready({ids[1]}));
  h.advance(10s);
  auto second = h.sent_of<Wait>();
  REQUIRE(second.size() == 1);
  CHECK(second[0].req == first[0].req);
  CHECK(ids_of(second[0]) == std::vector<TaskId>{ids[0], ids[2]});
  h.say(Harness::ready({ids[0], ids[2]}));  // by push; the last READY of the WAIT is lost
  h.advance(60s);
  CHECK(h.sent().empty());
  CHECK(h.core.waits() == 0);
}

TEST_CASE("WATCH_LOST and a new session: WAIT at once for every accepted open task") {
  bool reopen = GENERATE(false, true);
  Harness h;
  h.open();
  auto ids = submit_accepted(h, 500);
  h.advance(2s);
  CHECK(h.sent_of<Wait>().size() == 1);
  h.say(Harness::ready(std::vector<TaskId>(ids.begin(), ids.begin() + 100)));
  auto pending = h.make_ids(5);
  h.submit(pending);  // not accepted: its own request asks again
  h.sent();
  if (reopen) {
    h.close();
    h.open();
  } else {
    h.say(WatchLost{});
  }
  h.advance(1ms);
  auto waits = h.sent_of<Wait>();
  REQUIRE(waits.size() == 1);
  CHECK(sorted(ids_of(waits[0])) == sorted(std::vector<TaskId>(ids.begin() + 100, ids.end())));
  CHECK(h.core.waits() == 1);
}

TEST_CASE("a new epoch of the broker counts as lost watches") {
  Harness h;
  h.open();
  auto ids = submit_accepted(h, 4);
  h.advance(2s);
  CHECK(h.sent_of<Wait>().size() == 1);
  auto more = h.make_ids(1);
  uint64_t req = h.submit(more);
  h.accept(req, 1, 2);
  h.sent();
  h.advance(1ms);
  auto waits = h.sent_of<Wait>();
  REQUIRE(waits.size() == 1);
  auto named = ids_of(waits[0]);
  CHECK(std::includes(named.begin(), named.end(), ids.begin(), ids.end()));
}

TEST_CASE("a refused WAIT is sent again") {
  Errc code = GENERATE(Errc::unavailable, Errc::overloaded, Errc::bad_argument);
  Harness h;
  h.open();
  submit_accepted(h, 3);
  h.advance(1500ms);
  auto first = h.sent_of<Wait>();
  REQUIRE(first.size() == 1);
  h.say(make_reject(code, "away", 200), first[0].req);
  h.advance(100ms);
  CHECK(h.sent_of<Wait>().empty());
  h.advance(6s);
  auto again = h.sent_of<Wait>();
  REQUIRE(again.size() == 1);
  CHECK(again[0].req == first[0].req);
}

TEST_CASE("WAIT obeys credit and its rows their limit") {
  Harness h;
  h.open();
  auto ids = h.make_ids(10'000);
  for (size_t i = 0; i < ids.size(); i += 2'500) {
    std::vector<TaskId> part(ids.begin() + static_cast<long>(i),
                             ids.begin() + static_cast<long>(i) + 2'500);
    h.accept(h.submit(part), 2'500);
  }
  h.close();
  h.open(1);
  h.sent();
  h.advance(1ms);
  h.say(Sync{}, 0, 2);
  h.say(Sync{}, 0, 100);
  h.advance(1s);
  std::set<TaskId> covered;
  for (const Send& s : h.sent_of<Wait>()) {
    auto part = ids_of(s);
    CHECK(part.size() <= kItemsMax);
    for (TaskId id : part) CHECK(covered.insert(id).second);
  }
  CHECK(covered.size() == ids.size());
}

TEST_CASE("requests do not starve WAIT when credit is short") {
  Harness h;
  h.open(1);
  auto ids = submit_accepted(h, 1);
  for (int i = 0; i < 50; ++i) h.submit(h.make_ids(1));
  h.sent();
  h.advance(1500ms);
  h.say(Sync{}, 0, 2);
  CHECK(h.sent_of<Wait>().size() == 1);
}

TEST_CASE("the oldest WAIT gives way when there are too many") {
  ClientCoreOptions o;
  o.waits_max = 2;
  Harness h(o);
  h.open();
  for (int i = 0; i < 3; ++i) {
    submit_accepted(h, 10);
    h.advance(1500ms);
  }
  CHECK(h.core.waits() == 2);
  h.sent();
  h.advance(30s);
  auto sent = h.sent();
  size_t unwaits = 0;
  std::set<TaskId> covered;
  for (const Send& s : sent) {
    unwaits += std::holds_alternative<Unwait>(s.message);
    if (std::holds_alternative<Wait>(s.message))
      for (TaskId id : ids_of(s)) covered.insert(id);
  }
  CHECK(unwaits >= 1);
  CHECK(covered.size() >= 20);
  CHECK(h.core.waits() == 2);
}

TEST_CASE("SUBMITTED names tasks that were not fresh") {
  Harness h;
  h.open();
  auto ids = h.make_ids(5);
  uint64_t req = h.submit(ids);
  RowsBuilder<StateRow> rows;
  auto put = [&](TaskId id, TaskState s, Errc c) {
    StateRow r;
    r.id = id;
    r.state = s;
    r.code = static_cast<uint8_t>(c);
    rows.add(r);
  };
  put(ids[0], TaskState::succeeded, Errc::ok);
  put(ids[1], TaskState::queued, Errc::conflict);
  put(ids[2], TaskState::unknown, Errc::id_expired);
  put(ids[3], TaskState::leased, Errc::ok);
  h.sent();
  h.say(Submitted{1, 1, rows.take()}, req);
  CHECK(h.results.size() == 2);
  CHECK(h.last_row[ids[1]].code == static_cast<uint8_t>(Errc::conflict));
  CHECK(h.last_row[ids[2]].code == static_cast<uint8_t>(Errc::id_expired));
  h.advance(1ms);
  auto waits = h.sent_of<Wait>();  // the one that is over: its result is at the aggregator, now
  REQUIRE(waits.size() == 1);
  CHECK(ids_of(waits[0]).front() == ids[0]);
  h.say(Harness::ready(ids));
  CHECK(h.results.size() == 5);
  for (auto& [id, n] : h.results) CHECK(n == 1);
}

TEST_CASE("without watch only refusals are reported") {
  Harness h;
  h.open();
  auto ids = h.make_ids(2);
  uint64_t req = h.submit(ids, 30s, false);
  StateRow r;
  r.id = ids[0];
  r.code = static_cast<uint8_t>(Errc::conflict);
  RowsBuilder<StateRow> rows;
  rows.add(r);
  h.say(Submitted{1, 1, rows.take()}, req);
  CHECK(h.results.size() == 1);
  CHECK(h.core.open_tasks().blocks() == 0);
}

TEST_CASE("wait for tasks of others, and give up") {
  Harness h;
  h.open();
  auto ids = h.make_ids(2);
  h.core.wait(make_rows<IdRow>(ids), h.now);
  h.advance(1ms);
  auto waits = h.sent_of<Wait>();
  REQUIRE(waits.size() == 1);
  CHECK(ids_of(waits[0]) == ids);
  h.core.unwait(make_rows<IdRow>(std::vector<TaskId>{ids[1]}));
  h.say(Harness::ready(ids), waits[0].req);
  CHECK(h.results.size() == 1);
  CHECK(h.results[ids[0]] == 1);
}

TEST_CASE("a timed-out submit names only tasks without a result; late results are dropped") {
  Harness h;
  h.open();
  auto ids = h.make_ids(3);
  h.submit(ids, 5s);
  h.say(Harness::ready({ids[0]}));
  h.advance(5s);
  auto e = h.taken<RejectedEvent>();
  REQUIRE(e.size() == 1);
  REQUIRE(e[0].tasks.size() == 2);
  CHECK(e[0].tasks[0].id == ids[1]);
  h.say(Harness::ready(ids));
  CHECK(h.results.size() == 1);
}

TEST_CASE("ids: pages fill up in order, an old page is left") {
  IdMaker m(3);
  TaskId first = m.next(1'700'000'000'000);
  CHECK(first.slot() == 0);
  CHECK(first.wall_ms() == 1'700'000'000'000);
  TaskId last = first;
  for (int i = 1; i < 256; ++i) {
    TaskId id = m.next(1'700'000'000'500);
    CHECK(id.page() == first.page());
    CHECK(id.slot() == last.slot() + 1);
    last = id;
  }
  TaskId other = m.next(1'700'000'000'500);
  CHECK(other.page() != first.page());
  CHECK(other.slot() == 0);
  CHECK(m.next(1'700'000'100'000).slot() == 0);
}

TEST_CASE("the table of open tasks is small") {
  OpenTable t;
  IdMaker m(1);
  for (int i = 0; i < 1'000'000; ++i) {
    TaskId id = m.next(1'700'000'000'000);
    t.at(t.find_or_add(id)).open |= OpenTable::bit(id);
  }
  CHECK(t.memory_bytes() < 2'000'000);
  CHECK(t.check());
  OpenTable foreign;  // one id to a block: the worst case
  Rng rng(9);
  for (int i = 0; i < 98'000; ++i) {
    TaskId id{rng.next(), rng.next()};
    foreign.at(foreign.find_or_add(id)).open |= OpenTable::bit(id);
  }
  CHECK(foreign.blocks() * sizeof(OpenTable::Block) < 98'000 * 64);
  CHECK(foreign.check());
}
