#include "tests/unit/broker/fixture.h"

using namespace dray;
using namespace dray::broker;

TEST_CASE("tasks go out first in first out, higher priority first, never beyond credit") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto normal = b.submit(3);
  auto urgent = b.submit(1, {.handler = "echo", .priority = 9});
  b.attach(kWorkerA, "w", 2);
  auto leases = b.leases(kWorkerA);
  REQUIRE(leases.size() == 2);
  CHECK(leases[0].id == urgent[0]);
  CHECK(leases[1].id == normal[0]);
  CHECK(leases[1].payload == "p" + to_hex(normal[0]).substr(26));
  CHECK(leases[0].token < leases[1].token);
}

TEST_CASE("a submit that meets credit is accepted and leased in one turn, dispatched after sync") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "w", 10);
  b.sent.clear();
  b.say(kRouter, b.make_submit(b.ids(2)));
  b.core->end_turn(b.now, b.out);
  CHECK(b.out.journal.size() == 2);  // ACCEPT and LEASE, one sync
  for (const Send& s : b.out.now) CHECK_FALSE(std::holds_alternative<Dispatch>(s.message));
  b.turn();
  CHECK(b.leases(kWorkerA).size() == 2);
}

TEST_CASE("a result counts only with the current token and from the lease's holder") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1);
  b.attach(kWorkerA, "a", 1);
  auto lease = b.leases(kWorkerA).at(0);
  b.attach(kWorkerB, "b", 0);
  b.result(kWorkerB, lease, 1);  // right token, wrong worker
  CHECK(b.state(list[0]) == TaskState::leased);
  auto wrong = lease;
  ++wrong.token.seq;
  b.result(kWorkerA, wrong, 1);
  CHECK(b.state(list[0]) == TaskState::leased);
  b.result(kWorkerA, lease, 2);
  CHECK(b.state(list[0]) == TaskState::succeeded);
  CHECK(b.core->counters().stale == 2);
}

TEST_CASE("a silent worker loses its leases, and its late result is stale") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1, {.handler = "echo", .max_lost = 2});
  b.attach(kWorkerA, "a", 1);
  auto old = b.leases(kWorkerA).at(0);
  b.core->on_close(kWorkerA, CloseReason::timeout, b.now, b.out);
  b.turn();
  CHECK(b.state(list[0]) == TaskState::queued);
  b.attach(kWorkerB, "b", 1);
  auto fresh = b.leases(kWorkerB).at(0);
  CHECK(fresh.token > old.token);
  CHECK(fresh.attempt == 2);
  b.attach(SessionId{20}, "a", 0, 1);  // the zombie, same boot? another session of it
  b.result(SessionId{20}, old, 1);
  CHECK(b.state(list[0]) == TaskState::leased);
  b.core->on_close(kWorkerB, CloseReason::timeout, b.now, b.out);
  b.turn();
  CHECK(b.state(list[0]) == TaskState::dead);  // lost twice
}

TEST_CASE("a broken connection is not a lost worker") {
  BrokerOptions o;
  o.lease_ttl = 10s;
  Bench b(o);
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1);
  b.attach(kWorkerA, "a", 1);
  auto lease = b.leases(kWorkerA).at(0);
  b.core->on_close(kWorkerA, CloseReason::unreachable, b.now, b.out);
  b.pass(9s);
  CHECK(b.state(list[0]) == TaskState::leased);
  SECTION("it comes back and goes on") {
    b.core->on_open({SessionId{30}, 0, Role::worker, "a", {1, 10}, 0, 0}, b.now, b.out);
    Attach a;
    a.handlers = {"echo"};
    a.results_from = 1;
    b.say(SessionId{30}, a, 0);
    b.pass(20s);
    CHECK(b.state(list[0]) == TaskState::leased);
    b.result(SessionId{30}, lease, 1);
    CHECK(b.state(list[0]) == TaskState::succeeded);
  }
  SECTION("it stays away") {
    b.pass(2s);
    CHECK(b.state(list[0]) == TaskState::queued);
  }
}

TEST_CASE("after a restart a lease waits for its worker, then it is lost") {
  BrokerOptions o;
  o.resume_window = 15s;
  Bench b(o);
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1);
  b.attach(kWorkerA, "a", 1);
  auto lease = b.leases(kWorkerA).at(0);
  b.boot();
  CHECK(b.state(list[0]) == TaskState::leased);
  SECTION("the worker resumes") {
    b.attach(kWorkerA, "a", 5);
    CHECK(b.leases(kWorkerA).empty());  // not started again
    Have have;
    have.rows = make_rows<TokenRow>(std::vector<TokenRow>{{lease.id, lease.token}});
    b.say(kWorkerA, have, 5);
    b.pass(60s);
    CHECK(b.leases(kWorkerA).empty());
    b.result(kWorkerA, lease, 1);
    CHECK(b.state(list[0]) == TaskState::succeeded);
  }
  SECTION("the worker never got it") {
    b.attach(kWorkerA, "a", 5);
    b.say(kWorkerA, Have{}, 5);
    b.turn();
    auto again = b.leases(kWorkerA);
    REQUIRE(again.size() == 1);
    CHECK(again[0].token > lease.token);
  }
  SECTION("another life of the worker comes") {
    b.attach(kWorkerB, "a", 5);
    CHECK(b.leases(kWorkerB).size() == 1);
  }
  SECTION("nobody comes") {
    b.pass(14s);
    CHECK(b.state(list[0]) == TaskState::leased);
    b.pass(2s);
    CHECK(b.state(list[0]) == TaskState::queued);
  }
}

TEST_CASE("failures back off, then the task is dead with its reasons, and can be replayed") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1, {.handler = "echo", .max_failures = 2, .backoff_base_ms = 1000});
  b.attach(kWorkerA, "a", 100);
  b.result(kWorkerA, b.leases(kWorkerA).at(0), 1, Verdict::fail, "boom one");
  CHECK(b.state(list[0]) == TaskState::queued);
  b.pass(2100ms);
  REQUIRE(b.leases(kWorkerA).size() == 2);
  b.result(kWorkerA, b.leases(kWorkerA).at(1), 2, Verdict::fail, "boom two");
  CHECK(b.state(list[0]) == TaskState::dead);
  b.boot();
  REQUIRE(b.core->ledger().errors(list[0]));
  CHECK(b.core->ledger().errors(list[0])->size() == 2);
  b.open(kRouter, Role::router, "router");
  Doc args;
  args.set("all", true);
  b.say(kRouter, Admin{3, "dlq.replay", args});
  b.turn();
  CHECK(b.core->ledger().dead_letters().empty());
  CHECK(b.core->ledger().live_tasks() == 1);
  b.attach(kWorkerA, "a", 100);
  REQUIRE(b.leases(kWorkerA).size() == 1);
  CHECK(b.leases(kWorkerA)[0].id != list[0]);
  CHECK(b.leases(kWorkerA)[0].payload == "p" + to_hex(list[0]).substr(26));
}

TEST_CASE("a crash of the executor is a lost lease, with its reason kept") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1, {.handler = "echo", .max_failures = 1, .max_lost = 2});
  b.attach(kWorkerA, "a", 100);
  b.result(kWorkerA, b.leases(kWorkerA).at(0), 1, Verdict::crashed, "executor crashed: SIGSEGV");
  REQUIRE(b.leases(kWorkerA).size() == 2);  // at once, and not a failure
  CHECK(b.core->counters().lost_leases == 1);
  CHECK(b.leases(kWorkerA)[1].attempt == 2);
  b.result(kWorkerA, b.leases(kWorkerA).at(1), 2, Verdict::crashed,
           std::string(5000, 'x') + "executor crashed");
  CHECK(b.state(list[0]) == TaskState::dead);
  REQUIRE(b.core->ledger().errors(list[0]));
  const auto& errors = *b.core->ledger().errors(list[0]);
  REQUIRE(errors.size() == 2);
  CHECK(errors[0].find("executor crashed: SIGSEGV (a, attempt 1)") != std::string::npos);
  CHECK(errors[1].size() < 300);
}

TEST_CASE("handlers of a worker come and go in a session") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 100, 1, {"echo"});
  b.submit(1, {.handler = "new"});
  CHECK(b.got<Reject>(kRouter).size() == 1);  // nobody ever announced it
  b.say(kWorkerA, Handlers{4, {"echo", "new"}});
  b.turn();
  auto list = b.submit(1, {.handler = "new"});
  CHECK(b.leases(kWorkerA).size() == 1);
  b.say(kWorkerA, Handlers{4, {"new"}});
  b.turn();
  auto waits = b.submit(1, {.handler = "echo"});
  CHECK(b.state(waits[0]) == TaskState::queued);
  CHECK(b.leases(kWorkerA).size() == 1);
  b.result(kWorkerA, b.leases(kWorkerA)[0], 1, Verdict::ok, "done");
  CHECK(b.state(list[0]) == TaskState::succeeded);
  b.say(kWorkerA, Handlers{4, {"echo"}});
  b.turn();
  REQUIRE(b.leases(kWorkerA).size() == 2);
  CHECK(b.leases(kWorkerA)[1].id == waits[0]);
  b.boot();  // the name survives, as those of ATTACH do
  b.open(kRouter, Role::router, "router");
  auto known = b.submit(1, {.handler = "new"});
  CHECK(b.state(known[0]) == TaskState::queued);
}

TEST_CASE("a worker that announces ever new names fills neither memory nor journal") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 100, 1, {"echo"});
  uint64_t next = 0;
  const auto announce = [&] {
    std::vector<std::string> names;
    for (size_t i = 0; i < kHandlersMax; ++i) names.push_back("n" + std::to_string(++next));
    b.say(kWorkerA, Handlers{4, std::move(names)});
    b.turn();
  };
  const size_t most = broker::Ledger::kCatalogMax;
  while (next < most) announce();
  CHECK(b.core->ledger().catalog_handlers().size() == most);
  const RecordNo records = b.core->ledger().next_record();
  for (int i = 0; i < 3; ++i) announce();
  CHECK(b.core->ledger().catalog_handlers().size() == most);
  CHECK(b.core->ledger().next_record() == records);
  b.say(kWorkerA, Handlers{4, {"echo"}});  // names that are known go on
  b.turn();
  auto list = b.submit(1, {.handler = "echo"});
  CHECK(b.state(list[0]) == TaskState::leased);
}

TEST_CASE("delay and expiry") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 100);
  auto later = b.submit(1, {.handler = "echo", .delay_ms = 5000});
  b.pass(4900ms);
  CHECK(b.leases(kWorkerA).empty());
  b.pass(200ms);
  CHECK(b.leases(kWorkerA).size() == 1);
  b.core->on_close(kWorkerA, CloseReason::unreachable, b.now, b.out);
  auto dated = b.submit(1, {.handler = "echo", .expires_ms = 1000});
  b.pass(1100ms);
  CHECK(b.state(dated[0]) == TaskState::expired);
}

TEST_CASE("labels and resources decide where a task may go") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "a", 100);
  TaskSpec slot;
  slot.handler = "echo";
  slot.resources = {{"slot", 10000}};
  b.submit(2, slot);
  CHECK(b.leases(kWorkerA).size() == 1);  // one slot: one at a time
  TaskSpec elsewhere;
  elsewhere.handler = "echo";
  elsewhere.labels = {"node:y"};
  b.submit(1, elsewhere);
  b.submit(1);
  CHECK(b.leases(kWorkerA).size() == 2);  // the blocked classes delay nobody
  b.result(kWorkerA, b.leases(kWorkerA)[0], 1);
  CHECK(b.leases(kWorkerA).size() == 3);
}

TEST_CASE("a hole in the results is not acknowledged") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(2);
  b.attach(kWorkerA, "a", 2);
  auto leases = b.leases(kWorkerA);
  b.result(kWorkerA, leases[1], 2);  // number 1 was lost
  CHECK(b.state(list[1]) == TaskState::leased);
  b.result(kWorkerA, leases[0], 1);
  b.result(kWorkerA, leases[1], 2);
  CHECK(b.got<ResultsAck>().back().upto == 3);
  CHECK(b.state(list[1]) == TaskState::succeeded);
}

TEST_CASE("a watched task is told to its client, after the sync") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(2, {}, true);
  b.attach(kWorkerA, "a", 2);
  b.result(kWorkerA, b.leases(kWorkerA)[0], 1, Verdict::ok, "answer");
  auto ready = b.got<Ready>(kRouter);
  REQUIRE(ready.size() == 1);
  CHECK(ready[0].rows[0].id == list[0]);
  CHECK(ready[0].bytes.view() == "answer");
}
