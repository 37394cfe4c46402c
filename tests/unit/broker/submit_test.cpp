#include "tests/unit/broker/fixture.h"

using namespace dray;
using namespace dray::broker;

TEST_CASE("an accepted task is answered only after its record is durable") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.ids(3);
  b.say(kRouter, b.make_submit(list));
  CHECK(b.out.now.empty());
  REQUIRE(b.out.after_sync.size() == 1);
  REQUIRE(b.out.journal.size() == 1);
  b.turn();
  REQUIRE(b.got<Submitted>().size() == 1);
  CHECK(b.got<Submitted>()[0].accepted == 3);
  b.boot();
  for (TaskId id : list) CHECK(b.state(id) == TaskState::queued);
}

TEST_CASE("the same submit again is answered with the state, another payload with conflict") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.ids(2);
  Submit first = b.make_submit(list);
  b.say(kRouter, first);
  b.say(kRouter, first);
  b.turn();
  auto answers = b.got<Submitted>();
  REQUIRE(answers.size() == 2);
  CHECK(answers[0].accepted == 2);
  CHECK(answers[1].accepted == 0);
  REQUIRE(answers[1].rows.size() == 2);
  CHECK(answers[1].rows[0].state == TaskState::queued);
  CHECK(answers[1].rows[0].code == 0);
  TaskSpec other;
  other.priority = 6;
  b.sent.clear();
  b.say(kRouter, b.make_submit(list, other));
  b.turn();
  CHECK(b.got<Submitted>()[0].rows[0].code == static_cast<uint8_t>(Errc::conflict));
  CHECK(b.core->ledger().live_tasks() == 2);
}

TEST_CASE("a finished id is known, also after a restart, and is not run again") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(1);
  b.attach(kWorkerA, "w", 1);
  auto leases = b.leases(kWorkerA);
  REQUIRE(leases.size() == 1);
  b.result(kWorkerA, leases[0], 1);
  CHECK(b.state(list[0]) == TaskState::succeeded);
  for (int life = 0; life < 2; ++life) {
    b.sent.clear();
    b.say(kRouter, b.make_submit(list));
    b.turn();
    auto answer = b.got<Submitted>().at(0);
    CHECK(answer.accepted == 0);
    CHECK(answer.rows[0].state == TaskState::succeeded);
    b.boot();
    b.open(kRouter, Role::router, "router");
  }
}

TEST_CASE("an id twice in one batch is accepted once") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.ids(1);
  b.say(kRouter, b.make_submit({list[0], list[0]}));
  b.turn();
  CHECK(b.got<Submitted>()[0].accepted == 1);
  CHECK(b.core->ledger().live_tasks() == 1);
}

TEST_CASE("ids from the future and forgotten ids are refused one by one") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  TaskId future = id_at(b.now.wall_ms + 3'600'000, 1);
  b.say(kRouter, b.make_submit({future}));
  b.turn();
  CHECK(b.got<Submitted>()[0].rows[0].code == static_cast<uint8_t>(Errc::bad_argument));
  CHECK(b.core->ledger().live_tasks() == 0);
}

TEST_CASE("budgets give a typed refusal that names the limit") {
  BrokerOptions o;
  o.tasks_max = 5;
  Bench b(o);
  b.open(kRouter, Role::router, "router");
  b.submit(5);
  b.sent.clear();
  auto list = b.submit(1);
  auto rejects = b.got<Reject>();
  REQUIRE(rejects.size() == 1);
  CHECK(rejects[0].code == static_cast<uint8_t>(Errc::overloaded));
  CHECK(rejects[0].limit == "broker.tasks_max");
  CHECK(rejects[0].value == 5);
  CHECK(rejects[0].retry_after_ms > 0);
  b.core->set_space_low(true);
  b.sent.clear();
  b.submit(0);
  CHECK(b.got<Reject>()[0].code == static_cast<uint8_t>(Errc::disk_low));
}

TEST_CASE("what no worker could ever run is refused once workers are known") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.submit(1, {.handler = "early"});  // nothing known yet: accepted
  CHECK(b.got<Submitted>()[0].accepted == 1);
  b.attach(kWorkerA, "w", 0);
  b.sent.clear();
  b.submit(1, {.handler = "nosuch"});
  REQUIRE(b.got<Reject>().size() == 1);
  CHECK(b.got<Reject>()[0].code == static_cast<uint8_t>(Errc::unknown_handler));
  CHECK(b.got<Reject>()[0].detail.find("echo") != std::string::npos);
  b.sent.clear();
  TaskSpec big;
  big.handler = "echo";
  big.resources = {{"slot", 20000}};
  b.submit(1, big);
  CHECK(b.got<Reject>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  b.boot();  // the catalogue is durable
  b.open(kRouter, Role::router, "router");
  b.submit(1, {.handler = "nosuch"});
  CHECK(b.got<Reject>().size() == 1);
}

TEST_CASE("bad options are refused with the field's name and leave nothing behind") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.submit(1, {.handler = "echo", .priority = 200});
  REQUIRE(b.got<Reject>().size() == 1);
  CHECK(b.got<Reject>()[0].detail.find("priority") != std::string::npos);
  CHECK(b.core->ledger().specs().size() == 0);
}

TEST_CASE("cancel ends a queued task, and a running one at once") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  auto list = b.submit(2);
  b.attach(kWorkerA, "w", 1);
  auto lease = b.leases(kWorkerA).at(0);
  b.sent.clear();
  b.say(kRouter, Cancel{make_rows<IdRow>(list)});
  CHECK(b.out.now.empty());
  b.turn();
  auto states = b.got<States>().at(0);
  CHECK(states.rows[0].state == TaskState::cancelled);
  CHECK(states.rows[1].state == TaskState::cancelled);
  REQUIRE(b.got<Revoke>(kWorkerA).size() == 1);
  CHECK(b.got<Revoke>(kWorkerA)[0].rows[0].token == lease.token);
  b.sent.clear();
  b.result(kWorkerA, lease, 1);
  CHECK(b.got<ResultsAck>()[0].rows.size() == 1);  // stale
  CHECK(b.state(list[0]) == TaskState::cancelled);
  b.boot();
  CHECK(b.state(list[0]) == TaskState::cancelled);
}

TEST_CASE("the balancer is told once a second what is queued and what runs") {
  Bench b;
  b.open(kRouter, Role::router, "router");
  b.attach(kWorkerA, "w", 2);
  b.submit(5);
  b.sent.clear();
  b.pass(3s);
  const auto told = [&] {
    std::vector<Backlog> list;
    for (const Send& s : b.sent)
      if (const auto* m = std::get_if<Backlog>(&s.message)) list.push_back(*m);
    return list;
  };
  CHECK(told().empty());  // there is nobody to tell
  b.open(SessionId{90}, Role::balancer, "balancer");
  b.sent.clear();
  b.pass(4s);
  REQUIRE(told().size() >= 3);
  using Counts = std::vector<std::pair<std::string, uint64_t>>;
  CHECK(told().back().waiting == Counts{{"echo", 3}});
  CHECK(told().back().leased == Counts{{"echo", 2}});
  // Its VIEW is nothing to complain about.
  b.sent.clear();
  b.say(SessionId{90}, View{});
  b.turn();
  for (const Send& s : b.sent) CHECK_FALSE(std::holds_alternative<Reject>(s.message));
}
