#include "tests/unit/broker/fixture.h"

using namespace dray;
using namespace dray::broker;

namespace {
void finish_n(Bench& b, size_t n) {
  uint64_t first = b.core->counters().results + 1;
  b.sent.clear();
  b.submit(n);
  auto leases = b.leases(kWorkerA);
  REQUIRE(leases.size() == n);
  for (size_t i = 0; i < n; ++i) b.result(kWorkerA, leases[i], first + i, Verdict::ok, "x");
}
}  // namespace

TEST_CASE("finished records stream in order, each naming the one before") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 1000);
  finish_n(b, 2);
  CHECK(b.got<Finished>().empty());
  b.open(kAggregator, Role::aggregator, "agg");
  b.say(kAggregator, AttachStream{0});
  b.turn();
  auto stream = b.got<Finished>(kAggregator);
  REQUIRE(stream.size() == 2);
  CHECK(stream[0].prev == 0);
  CHECK(stream[1].prev == stream[0].record);
  CHECK(stream[0].rows[0].status == static_cast<uint8_t>(TaskState::succeeded));
  CHECK(stream[0].bytes.view() == "x");
  finish_n(b, 1);
  b.pass(5ms);  // records leave in bursts
  CHECK(b.got<Finished>(kAggregator).size() == 1);
  CHECK(b.core->ledger().unacked().size() == 3);
  b.say(kAggregator, FinishedAck{stream[1].record});
  b.pass(2s);
  CHECK(b.core->ledger().unacked().size() == 1);
  b.boot();  // what was not confirmed is sent again
  b.open(kAggregator, Role::aggregator, "agg");
  b.say(kAggregator, AttachStream{stream[1].record});
  b.turn();
  CHECK(b.got<Finished>(kAggregator).size() == 1);
}

TEST_CASE("an aggregator that is ahead of the journal is refused") {
  Bench b;
  b.open(kAggregator, Role::aggregator, "agg");
  b.say(kAggregator, AttachStream{1000});
  b.turn();
  CHECK(b.got<Reject>(kAggregator).size() == 1);
  CHECK_FALSE(b.core->has_aggregator());
}

TEST_CASE("history is reclaimed, live tasks are carried forward, and the floor guards old ids") {
  BrokerOptions o;
  o.journal_keep = 2000;
  Bench b(o);
  b.open(kRouter, Role::router, "router");
  b.open(kAggregator, Role::aggregator, "agg");
  b.say(kAggregator, AttachStream{0});
  auto pinned = b.submit(1, {.handler = "other", .header = "keep me"});
  b.attach(kWorkerA, "a", 1'000'000);
  std::vector<TaskId> old;
  for (int round = 0; round < 60; ++round) {
    b.sent.clear();
    auto ids = b.submit(2);
    auto leases = b.leases(kWorkerA);
    for (auto& l : leases) b.result(kWorkerA, l, b.core->counters().results + 1);
    if (round == 0) old = ids;
    b.pass(5ms);
    for (auto& f : b.got<Finished>(kAggregator)) b.say(kAggregator, FinishedAck{f.record});
    b.pass(300ms);
  }
  CHECK(b.core->counters().carried > 0);
  CHECK(b.core->ledger().first_record() > 1);
  CHECK(b.core->ledger().log_bytes() < 20'000);
  uint64_t digest = b.core->ledger().digest();
  b.boot();
  CHECK(b.core->ledger().digest() == digest);
  CHECK(b.state(pinned[0]) == TaskState::queued);
  b.open(kRouter, Role::router, "router");
  // The oldest ids are forgotten by now; they are refused, not run again.
  b.say(kRouter, b.make_submit(old));
  b.turn();
  auto answer = b.got<Submitted>().at(0);
  CHECK(answer.accepted == 0);
  CHECK(answer.rows[0].code == static_cast<uint8_t>(Errc::id_expired));
  b.attach(kWorkerA, "a", 10, 1, {"other"});
  REQUIRE(b.leases(kWorkerA).size() == 1);
  CHECK(b.leases(kWorkerA)[0].payload == "p" + to_hex(pinned[0]).substr(26));
}

TEST_CASE("pause holds a queue, also over a restart") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 10);
  Doc args;
  args.set("queue", "default");
  b.say(kRouter, Admin{3, "pause", args});
  b.submit(1);
  CHECK(b.leases(kWorkerA).empty());
  b.boot();
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 10);
  CHECK(b.leases(kWorkerA).empty());
  b.say(kRouter, Admin{3, "resume", args});
  b.turn();
  CHECK(b.leases(kWorkerA).size() == 1);
}

TEST_CASE("explain says why") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1);
  auto why = [&] {
    b.sent.clear();
    Doc args;
    args.set("id", to_hex(list[0]));
    b.say(kRouter, Admin{3, "explain", args});
    b.turn();
    auto replies = b.got<AdminReply>();
    REQUIRE(replies.size() == 1);
    return to_json(replies[0].body["why"]);
  };
  CHECK(why().find("no worker is connected") != std::string::npos);
  b.attach(kWorkerA, "a", 0);
  CHECK(why().find("no credit") != std::string::npos);
  b.attach(kWorkerB, "b", 0, 1, {"other"});
  CHECK(why().find("do not have handler echo") != std::string::npos);
}
