// Cases that a hostile reading of the broker brought up.
#include "tests/unit/broker/fixture.h"

using namespace dray;
using namespace dray::broker;

TEST_CASE("the same options twice in one submit are one set, and stay in use") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  Submit m = b.make_submit(b.ids(1));
  m.specs.push_back(m.specs[0]);
  SubmitRow row = m.rows[0];
  row.spec = 1;
  m.rows = make_rows<SubmitRow>(std::vector<SubmitRow>{row});
  b.say(kRouter, m);
  b.turn();
  b.submit(1, {.handler = "other"});  // would take a freed slot
  CHECK(b.core->ledger().specs().size() == 2);
  b.attach(kWorkerA, "a", 10);
  REQUIRE(b.leases(kWorkerA).size() == 1);
  CHECK(b.leases(kWorkerA)[0].id == row.id);
}

TEST_CASE("many large option sets leave in several messages that can be decoded") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  for (int i = 0; i < 40; ++i)
    b.submit(1, {.handler = "echo", .header = std::string(4000, static_cast<char>('a' + i))});
  b.sent.clear();
  b.attach(kWorkerA, "a", 100);
  CHECK(b.leases(kWorkerA).size() == 40);
  for (const Send& s : b.sent) CHECK(decode(encode(Envelope{}, s.message)).has_value());
}

TEST_CASE("a task that expires while it runs and then comes back ends as expired") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 10);
  auto list = b.submit(1, {.handler = "echo", .expires_ms = 1000});
  REQUIRE(b.leases(kWorkerA).size() == 1);
  b.pass(2s);
  CHECK(b.state(list[0]) == TaskState::leased);
  b.core->on_close(kWorkerA, CloseReason::timeout, b.now, b.out);
  b.turn();
  b.pass(10ms);  // nobody is there to look at it
  CHECK(b.state(list[0]) == TaskState::expired);
}

TEST_CASE("timers of tasks that ended do not pile up") {
  BrokerOptions o;
  o.tasks_max = 1'000'000;
  Bench b(o);
  b.open(kRouter, Role::router, "router");
  for (int round = 0; round < 40; ++round) {
    auto list = b.submit(4000, {.handler = "echo", .delay_ms = 3'600'000'000});
    b.say(kRouter, Cancel{make_rows<IdRow>(list)});
    b.turn();
  }
  CHECK(b.core->timers() <= 140'000);
}

TEST_CASE("a clock that is ahead does not make everybody's ids look old") {
  BrokerOptions o;
  o.journal_keep = 2000;
  Bench b(o);
  b.open(kRouter, Role::router, "router");
  b.open(kAggregator, Role::aggregator, "agg");
  b.say(kAggregator, AttachStream{0});
  b.attach(kWorkerA, "a", 1'000'000);
  for (int round = 0; round < 30; ++round) {
    b.sent.clear();
    std::vector<TaskId> ahead{id_at(b.now.wall_ms + 50'000, b.next_id++)};
    b.say(kRouter, b.make_submit(ahead));
    b.turn();
    for (auto& l : b.leases(kWorkerA)) b.result(kWorkerA, l, b.core->counters().results + 1);
    b.pass(5ms);
    for (auto& f : b.got<Finished>(kAggregator)) b.say(kAggregator, FinishedAck{f.record});
    b.pass(300ms);
  }
  b.sent.clear();
  b.submit(1);
  CHECK(b.got<Submitted>().at(0).accepted == 1);
}

TEST_CASE("a token is voided only after the reason is durable") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 10);
  auto list = b.submit(1);
  auto lease = b.leases(kWorkerA).at(0);
  b.say(kRouter, Cancel{make_rows<IdRow>(list)});
  Have have;
  have.rows = make_rows<TokenRow>(std::vector<TokenRow>{{lease.id, lease.token}});
  b.say(kWorkerA, have);
  for (const Send& s : b.out.now) CHECK_FALSE(std::holds_alternative<Revoke>(s.message));
}

TEST_CASE("an admin request that is sent again is answered again, not done again") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 10);
  b.submit(1, {.handler = "echo", .max_failures = 1});
  b.result(kWorkerA, b.leases(kWorkerA).at(0), 1, Verdict::fail, "no");
  Doc args;
  args.set("all", true);
  b.say(kRouter, Admin{3, "dlq.replay", args}, 0, 77, 5);
  b.say(kRouter, Admin{3, "dlq.replay", args}, 0, 77, 5);
  b.turn();
  auto replies = b.got<AdminReply>();
  REQUIRE(replies.size() == 2);
  CHECK(replies[0] == replies[1]);
}

TEST_CASE("long lists come in pages that fit into a message") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  for (int i = 0; i < 50; ++i)
    b.submit(20, {.handler = "echo", .header = std::string(4000, static_cast<char>('a' + i % 26))});
  Doc args;
  args.set("limit", 1000);
  b.say(kRouter, Admin{3, "tasks", args});
  b.turn();
  auto reply = b.got<AdminReply>().at(0);
  CHECK(decode(encode(Envelope{}, reply)).has_value());
  CHECK_FALSE(reply.body["next"].is_null());
}
