// Aggregator core: the broker's stream, exactly once, the disk full, restarts.
#include <map>

#include "tests/unit/aggregator/bench.h"

using namespace dray;

namespace {

std::vector<uint64_t> attaches(const std::vector<Send>& sends) {
  std::vector<uint64_t> list;
  for (const AttachStream& m : pick<AttachStream>(sends)) list.push_back(m.after);
  return list;
}
std::vector<uint64_t> acks(const std::vector<Send>& sends) {
  std::vector<uint64_t> list;
  for (const FinishedAck& m : pick<FinishedAck>(sends)) list.push_back(m.upto);
  return list;
}
using List = std::vector<uint64_t>;

}  // namespace

TEST_CASE("a new session asks for the stream from the durable position") {
  AggregatorBench b;
  CHECK(attaches(b.sent_now) == List{0});
  b.finished(0, 5, {1, 2});
  CHECK(acks(b.turn()) == List{5});
  b.restart();
  CHECK(attaches(b.sent_now) == List{5});
  CHECK(b.disk->result_count() == 2);
}

TEST_CASE("records are taken in order, one acknowledgement a turn") {
  AggregatorBench b;
  b.finished(0, 5, {1});
  b.finished(5, 9, {2});
  b.finished(9, 10, {3});
  CHECK(acks(b.turn()) == List{10});
  CHECK(b.disk->result_count() == 3);
  CHECK(b.disk->stream_pos() == StreamPos{1, 10});
  CHECK(b.turn().empty());
}

TEST_CASE("a repeat is acknowledged again and changes nothing") {
  AggregatorBench b;
  b.finished(0, 5, {1});
  b.turn();
  b.finished(0, 5, {1}, TaskState::failed);
  CHECK(acks(b.turn()) == List{5});
  CHECK(b.core->counters().duplicates == 1);
  auto got = b.store->get(std::vector<TaskId>{task(1)}, 0);
  REQUIRE(got);
  CHECK((*got)[0]->state == static_cast<uint8_t>(TaskState::succeeded));
}

TEST_CASE("after a hole the stream is asked for again, at most every 100 ms") {
  AggregatorBench b;
  b.finished(0, 5, {1});
  b.turn_at(2000);
  b.finished(8, 9, {3});  // 8 is missing
  b.finished(9, 12, {4});
  CHECK(acks(b.turn()).empty());
  CHECK(attaches(b.sent_now) == List{5});
  CHECK(b.core->counters().holes == 2);
  b.finished(12, 13, {5});
  b.turn_at(2050);
  CHECK(attaches(b.sent_now).empty());
  CHECK(b.core->next_deadline() == at_ms(2100));
  b.turn_at(2100);  // without another message
  CHECK(attaches(b.sent_now) == List{5});
  b.finished(5, 8, {2});
  b.finished(8, 9, {3});
  b.finished(9, 12, {4});
  CHECK(acks(b.turn()) == List{12});
  CHECK(b.disk->result_count() == 4);
  b.turn_at(2500);
  CHECK(attaches(b.sent_now).empty());
}

TEST_CASE("after an attach the record before may be unknown, later it may not") {
  AggregatorBench b;
  b.finished(0, 5, {1});
  b.turn();
  b.restart();
  b.finished(0, 9, {2});  // the broker dropped what is acknowledged
  CHECK(acks(b.turn()) == List{9});
  b.finished(0, 12, {3});
  CHECK(acks(b.turn()).empty());
  CHECK(b.core->counters().holes == 1);
}

TEST_CASE("the attach in a turn with staged records names the durable position") {
  AggregatorBench b;
  b.finished(0, 5, {1});
  b.turn_at(2000);
  b.finished(5, 6, {2});
  b.finished(8, 9, {3});
  CHECK(acks(b.turn()) == List{6});
  CHECK(attaches(b.sent_now) == List{5});
  b.finished(5, 6, {2});
  b.finished(6, 8, {4});
  CHECK(acks(b.turn()) == List{8});
}

TEST_CASE("a broker with a new journal starts again at 0") {
  AggregatorBench b;
  b.close(kBrokerId);
  b.open(kBrokerId, Aggregator::kBroker, Role::broker, 3);
  b.finished(0, 100, {1});
  b.turn();
  b.close(kBrokerId);
  b.open(kBrokerId, Aggregator::kBroker, Role::broker, 1);
  b.turn();
  CHECK(attaches(b.sent_now) == List{0});
  b.finished(0, 2, {2});
  CHECK(acks(b.turn()) == List{2});
  CHECK(b.disk->stream_pos() == StreamPos{1, 2});
  CHECK(b.disk->result_count() == 2);
}

TEST_CASE("a broker that refuses our position has another journal") {
  AggregatorBench b;
  b.finished(0, 100, {1});
  b.turn();
  b.close(kBrokerId);
  b.open(kBrokerId, Aggregator::kBroker, Role::broker, 2);
  b.turn();
  CHECK(attaches(b.sent_now) == List{100});
  b.core->on_message(kBrokerId, {}, make_reject(Errc::conflict, "ahead"), b.now, b.out);
  b.turn();
  CHECK(attaches(b.sent_now) == List{0});
  CHECK_FALSE(b.core->refused());
  b.finished(0, 2, {2});
  CHECK(acks(b.turn()) == List{2});
  b.core->on_message(kBrokerId, {}, make_reject(Errc::conflict, "again"), b.now, b.out);
  b.turn();  // the same epoch: not ours to decide
  CHECK(b.core->refused());
  CHECK(b.core->position().pos == 2);
}

TEST_CASE("a hole that nothing closes is skipped at last") {
  AggregatorBench b;
  int64_t ms = 2000;
  for (int i = 0; i < 50; ++i) {
    b.finished(100, 120, {2});  // an empty store meets a broker that dropped what was acknowledged
    b.finished(120, 130, {3});
    CHECK(acks(b.turn_at(ms += 100)).empty());
    CHECK(attaches(b.sent_now) == List{0});
  }
  b.finished(120, 130, {3});
  CHECK(acks(b.turn_at(ms += 50)).empty());
  b.finished(100, 120, {2});
  b.finished(120, 130, {3});
  CHECK(acks(b.turn_at(ms += 50)) == List{130});
  CHECK(b.core->counters().gaps == 1);
  CHECK(b.disk->result_count() == 2);
}

TEST_CASE("a record only the broker's session may bring") {
  AggregatorBench b;
  Finished m;
  m.record = 5;
  b.ask(1, m);
  CHECK(pick<Reject>(b.turn()).size() == 1);
  b.open(SessionId{9}, Aggregator::kRouters, Role::client);
  b.ask(2, Fetch{}, 7, SessionId{9});
  auto rejects = pick<Reject>(b.turn(), 2);
  REQUIRE(rejects.size() == 1);
  CHECK(rejects[0].code == static_cast<uint8_t>(Errc::denied));
  CHECK(b.disk->stream_pos().pos == 0);
}

TEST_CASE("rows that are no outcome are left out") {
  AggregatorBench b;
  b.finished(0, 5, {1}, TaskState::queued);
  b.ask(1, wait_for({1}));
  CHECK(acks(b.turn()) == List{5});
  CHECK(b.disk->result_count() == 0);
  CHECK(b.core->counters().bad_rows == 1);
  CHECK(b.core->waits().ids() == 1);
}

TEST_CASE("expiry: the row's time to live, else the default") {
  AggregatorOptions o;
  o.result_ttl_ms = 5000;
  AggregatorBench b(o);
  Finished m;
  m.record = 1;
  RowsBuilder<ResultRow> rows;
  ResultRow row;
  row.status = static_cast<uint8_t>(TaskState::succeeded);
  row.id = task(1);
  rows.add(row);
  row.id = task(2);
  row.ttl_s = 60;
  rows.add(row);
  m.rows = rows.take();
  b.core->on_message(kBrokerId, {}, m, b.now, b.out);
  b.turn();
  auto got = b.store->get(std::vector<TaskId>{task(1), task(2)}, b.now.wall_ms);
  REQUIRE(got);
  CHECK((*got)[0]->expires_wall_ms == b.now.wall_ms + 5000);
  CHECK((*got)[1]->expires_wall_ms == b.now.wall_ms + 60'000);
}

TEST_CASE("a full disk: nothing moves, nobody is told, and all comes again") {
  AggregatorBench b;
  b.ask(1, wait_for({1, 2}));
  b.ask(2, group_put(50, {1}));
  b.turn_at(2000);
  b.disk->set_full(true);
  b.finished(0, 5, {1});
  b.ask(3, group_put(51, {1, 2}));
  b.ask(4, group_put(50, {2, 3}));
  b.ask(5, Forget{id_rows({9})});
  b.ask(6, group_watch(51));
  auto sent = b.turn();
  REQUIRE(b.status);
  CHECK(acks(sent).empty());
  CHECK(pick<Ready>(sent).empty());
  for (uint64_t req : {3, 4, 5}) {
    auto rejects = pick<Reject>(sent, req);
    REQUIRE(rejects.size() == 1);
    CHECK(rejects[0].code == static_cast<uint8_t>(Errc::disk_low));
  }
  CHECK(pick<Reject>(sent, 6).size() == 1);  // there is no such group
  CHECK(b.core->stalled());
  CHECK(b.core->position().pos == 0);
  CHECK(b.core->groups().size() == 1);
  b.finished(5, 6, {2});  // was on its way
  b.turn();
  b.turn_at(2999);
  CHECK(attaches(b.sent_now).empty());
  b.turn_at(3000);
  CHECK(attaches(b.sent_now) == List{0});
  b.finished(0, 5, {1});
  b.turn();
  CHECK(b.core->stalled());
  b.disk->set_full(false);
  b.turn_at(4000);
  CHECK(attaches(b.sent_now) == List{0});
  b.finished(0, 5, {1});
  b.finished(5, 6, {2});
  sent = b.turn();
  CHECK(acks(sent) == List{6});
  CHECK(pick<Ready>(sent, 1).size() == 1);
  b.ask(7, group_watch(50));
  auto state = pick<GroupState>(b.turn(), 7);
  REQUIRE(state.size() == 1);
  CHECK(state[0].total == 1);
  CHECK(state[0].done == 1);
}

TEST_CASE("any other error of the store ends the process, without a word") {
  AggregatorBench b;
  b.ask(1, wait_for({1}));
  b.turn();
  b.disk->fail_next_commit(CommitFault::io_applied);
  b.finished(0, 5, {1});
  CHECK(b.turn().empty());
  CHECK_FALSE(b.status);
  b.restart();
  CHECK(attaches(b.sent_now) == List{5});  // it was written after all
  b.disk->fence();
  b.finished(5, 6, {2});
  b.turn();
  REQUIRE_FALSE(b.status);
  CHECK(b.status.error().code == Errc::fenced);
}

TEST_CASE("sweeps come every second, sooner while there is something to drop") {
  AggregatorOptions o;
  o.result_ttl_ms = 1;
  o.sweep_pages = 1;
  AggregatorBench b(o);
  b.finished(0, 5, {1, 300, 600});
  b.turn_at(2000);
  CHECK(b.disk->result_count() == 3);
  b.turn_at(400'000);
  CHECK(b.disk->result_count() == 2);
  CHECK(b.core->next_deadline() == at_ms(400'020));
  b.turn_at(400'020);
  b.turn_at(400'040);
  CHECK(b.disk->result_count() == 0);
  b.turn_at(400'060);
  CHECK(b.core->next_deadline() == at_ms(401'060));
  CHECK(b.core->counters().swept == 3);
}

TEST_CASE("crashes, losses and a full disk at random: every record once, in order") {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    uint64_t state = seed;
    auto below = [&](uint64_t n) { return mix64(state += 0x9e3779b97f4a7c15ULL) % n; };
    AggregatorBench b;
    std::map<uint64_t, uint64_t> journal;  // record -> prev; the task has the record's number
    uint64_t newest = 0;
    for (int i = 0; i < 60; ++i) {
      const uint64_t record = newest + 1 + below(3);
      journal[record] = newest;
      newest = record;
    }
    uint64_t sent_upto = 0, acked = 0;
    int64_t ms = 2000;
    for (int step = 0; step < 3000 && acked != newest; ++step) {
      auto next = journal.upper_bound(sent_upto);
      if (next != journal.end()) {
        sent_upto = next->first;
        if (below(10) != 0) b.finished(next->second, next->first, {next->first});  // or lost
      }
      if (below(40) == 0) b.disk->set_full(true);
      if (below(10) == 0) b.disk->set_full(false);
      if (below(60) == 0)
        b.restart();
      else if (below(2) == 0) {
        for (uint64_t upto : acks(b.turn_at(ms += 40))) acked = upto;
      }
      CHECK(acked <= b.disk->stream_pos().pos);
      for (uint64_t after : attaches(b.sent_now)) sent_upto = after;
      b.sent_now.clear();
      if (sent_upto == newest && below(20) == 0) sent_upto = acked;  // the broker's own resend
    }
    INFO(seed);
    CHECK(acked == newest);
    CHECK(b.disk->result_count() == journal.size());
  }
}
