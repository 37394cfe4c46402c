// Agent: what time does: tasks that wait too long, time limits, drain, beats.
#include "tests/unit/worker/core_rig.h"

namespace dray::worker {

TEST_CASE("tasks prefetched behind a long one go back after 500 ms, newest first") {
  Rig rig(2);
  rig.open();
  rig.dispatch(1, 6);
  rig.pass(400);
  CHECK(rig.sends<GiveBack>().empty());
  rig.pass(250);
  REQUIRE(rig.sends<GiveBack>().size() == 1);
  const GiveBack g = rig.sends<GiveBack>()[0];
  CHECK(g.code == static_cast<uint8_t>(Errc::overloaded));
  REQUIRE(g.rows.size() == 4);
  CHECK(g.rows[0].token.seq == 6);
  CHECK(rig.granted == 6);  // k = slots while nothing moves
  CHECK(rig.agent.queued() == 0);
  rig.pass(5'000);
  CHECK(rig.sends<GiveBack>().empty());
}

TEST_CASE("what waits for resources goes back too, beyond the slots") {
  Rig rig(4);
  rig.open();
  TaskSpec gpu;
  gpu.handler = "gpu";
  gpu.resources = {{"gpu", 10'000}};
  rig.dispatch(1, 8, gpu);
  rig.pass(700);
  REQUIRE(rig.sends<GiveBack>().size() == 1);
  CHECK(Rig::seqs(rig.sends<GiveBack>()[0].rows) == Seqs{5, 6, 7, 8});
  rig.pass(5'000);
  CHECK(rig.sends<GiveBack>().empty());
}

TEST_CASE("starts handed out ahead are recalled when they can not have begun") {
  Rig rig(2);
  rig.open();
  rig.dispatch(1, 2);
  rig.finish({1, 2}, 1);
  rig.dispatch(3, 10);
  CHECK(rig.agent.running() == 10);
  rig.pass(400);
  CHECK_FALSE(rig.out.recall);
  rig.pass(250);
  CHECK(rig.out.recall);
  std::vector<Outcome> back;
  for (uint64_t seq = 5; seq < 13; ++seq) {
    back.push_back(Rig::done(seq));
    back.back().started = false;
  }
  rig.outcomes(back);
  CHECK(rig.sends<Results>().empty());
  REQUIRE(rig.sends<GiveBack>().size() == 1);
  CHECK(Rig::seqs(rig.sends<GiveBack>()[0].rows) == Seqs{5, 6, 7, 8, 9, 10, 11, 12});
  CHECK(rig.agent.running() == 2);
  CHECK(rig.granted == 12);
}

TEST_CASE("recalled without a session: kept at the head of the queue") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 1);
  rig.finish({1}, 1);
  rig.dispatch(2, 2);
  rig.close();
  rig.pass(1'000);
  Outcome o = Rig::done(3);
  o.started = false;
  rig.outcomes({o});
  CHECK(rig.agent.queued() == 1);
  rig.finish({2}, 1);
  CHECK(rig.agent.queued() == 0);
  CHECK(rig.started.back().token.seq == 3);
}

TEST_CASE("time limit: cancel, report after a second, late outcome dropped") {
  Rig rig(2);
  rig.open();
  TaskSpec spec;
  spec.time_limit_ms = 2'000;
  rig.dispatch(1, 1, spec);
  rig.pass(1'999);
  CHECK(rig.out.cancel.empty());
  rig.pass(1);
  CHECK(rig.out.cancel == std::vector<Token>{{1, 1}});
  rig.pass(999);
  CHECK(rig.sends<Results>().empty());
  rig.pass(1);
  REQUIRE(rig.sends<Results>().size() == 1);
  const ResultRow row = rig.sends<Results>()[0].rows[0];
  CHECK(row.status == static_cast<uint8_t>(Verdict::time_limit));
  CHECK(row.code == static_cast<uint8_t>(Errc::time_limit));
  CHECK(row.exec_us == 3'000'000);
  CHECK(rig.have() == Seqs{1});  // as a result only
  rig.ack(2);
  CHECK(rig.have().empty());
  CHECK(rig.agent.running() == 1);
  rig.pass(4'000);
  CHECK_FALSE(rig.agent.draining());
  rig.finish({1});
  CHECK(rig.sends<Results>().empty());
  CHECK(rig.agent.running() == 0);
  rig.pass(60'000);
  CHECK_FALSE(rig.exited);
}

TEST_CASE("time limit: a handler that stops in the grace period reports for itself") {
  Rig rig(1);
  rig.open();
  TaskSpec spec;
  spec.time_limit_ms = 1'000;
  rig.dispatch(1, 1, spec);
  rig.pass(1'500);
  rig.finish({1});
  REQUIRE(rig.sends<Results>().size() == 1);
  CHECK(rig.sends<Results>()[0].rows[0].status == static_cast<uint8_t>(Verdict::ok));
  rig.ack(2);
  rig.pass(60'000);
  CHECK(rig.sends<Results>().empty());
}

TEST_CASE("time limit: a stuck thread makes the worker finish the rest and leave with 70") {
  Rig rig(2);
  rig.open();
  TaskSpec spec;
  spec.time_limit_ms = 100;
  rig.dispatch(1, 1, spec);
  rig.dispatch(2, 1);
  rig.pass(6'050);
  CHECK_FALSE(rig.agent.draining());
  rig.pass(100);
  CHECK(rig.agent.draining());
  CHECK(rig.sends<Drain>().size() == 1);
  CHECK_FALSE(rig.exited);
  rig.finish({2});
  CHECK_FALSE(rig.exited);
  rig.ack(3);
  CHECK(rig.exited);
  CHECK(rig.agent.drained());
  CHECK(rig.agent.exit_code() == 70);
}

TEST_CASE("time limit of a void task: nothing is reported") {
  Rig rig(1);
  rig.open();
  TaskSpec spec;
  spec.time_limit_ms = 100;
  rig.dispatch(1, 1, spec);
  rig.revoke(1);
  rig.pass(2'000);
  CHECK(rig.sends<Results>().empty());
  rig.finish({1});
  CHECK(rig.agent.running() == 0);
}

TEST_CASE("a short limit is not handed out ahead; a long one gets the wait on top") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 1);
  rig.finish({1}, 1);
  TaskSpec spec;
  spec.time_limit_ms = 1'000;
  rig.dispatch(2, 2, spec);
  CHECK(rig.agent.running() == 1);
  rig.finish({2, 3}, 1);
  rig.finish({3}, 1);
  spec.time_limit_ms = 10'000;
  rig.dispatch(4, 2, spec);
  CHECK(rig.agent.running() == 2);
  rig.pass(10'100);
  CHECK(rig.out.cancel == std::vector<Token>{{1, 4}});
  rig.pass(600);
  CHECK(rig.out.cancel == std::vector<Token>{{1, 5}});
}

TEST_CASE("drain by the broker: queued tasks go back, running ones finish, off resumes") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 3);
  rig.say(Drain{true});
  REQUIRE(rig.sends<Drain>().size() == 1);
  CHECK(rig.sends<Drain>()[0].on);
  REQUIRE(rig.sends<GiveBack>().size() == 1);
  CHECK(rig.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::draining));
  CHECK(rig.granted == 3);
  rig.dispatch(4, 1);
  CHECK(Rig::seqs(rig.sends<GiveBack>()[0].rows) == Seqs{4});
  rig.finish({1});
  CHECK(rig.granted == 4);
  rig.ack(2);
  rig.pass(5'000);
  CHECK_FALSE(rig.exited);
  rig.close();
  rig.open();
  CHECK(rig.sends<Attach>()[0].draining);
  rig.say(Drain{false});
  REQUIRE(rig.sends<Drain>().size() == 1);
  CHECK_FALSE(rig.sends<Drain>()[0].on);
  CHECK(rig.granted == 1);
  rig.dispatch(5, 1);
  CHECK(rig.agent.running() == 1);
}

TEST_CASE("leaving: finish what runs, wait for the acknowledgement, then 0") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 2);
  rig.turn([&] { rig.agent.begin_drain(rig.now(), rig.out); });
  CHECK(rig.sends<Drain>().size() == 1);
  CHECK(Rig::seqs(rig.sends<GiveBack>()[0].rows) == Seqs{2});
  rig.say(Drain{false});
  CHECK(rig.agent.draining());
  CHECK(rig.sends<Drain>()[0].on);
  rig.pass(1'000);
  rig.finish({1});
  CHECK_FALSE(rig.exited);
  rig.ack(2);
  CHECK(rig.exited);
  CHECK(rig.agent.exit_code() == 0);
}

TEST_CASE("leaving: at the timeout cancel, two seconds later go") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 1);
  rig.turn([&] { rig.agent.begin_drain(rig.now(), rig.out); });
  rig.pass(29'999);
  CHECK(rig.out.cancel.empty());
  rig.pass(1);
  CHECK(rig.out.cancel == std::vector<Token>{{1, 1}});
  rig.pass(1'999);
  CHECK_FALSE(rig.exited);
  rig.pass(1);
  CHECK(rig.exited);
  CHECK(rig.agent.exit_code() == 70);
}

TEST_CASE("leaving without a broker: wait two seconds for it, not longer") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 3);
  rig.finish({1});
  rig.close();
  rig.turn([&] { rig.agent.begin_drain(rig.now(), rig.out); });
  rig.pass(10'000);
  CHECK_FALSE(rig.exited);
  rig.finish({2});
  CHECK(rig.exited);
  Rig idle(1);
  idle.turn([&] { idle.agent.begin_drain(idle.now(), idle.out); });
  CHECK(idle.exited);
  Rig back(1);
  back.open();
  back.dispatch(1, 2);
  back.close();
  back.turn([&] { back.agent.begin_drain(back.now(), back.out); });
  back.open();
  CHECK(back.sends<Attach>()[0].draining);
  CHECK(Rig::seqs(back.sends<GiveBack>()[0].rows) == Seqs{2});
}

TEST_CASE("progress goes out for tasks that still count") {
  Rig rig(2);
  rig.open();
  rig.dispatch(1, 2);
  rig.revoke(2);
  rig.turn([&] {
    rig.agent.on_progress({{TaskId{7, 1}, Token{1, 1}, 500, "half"},
                           {TaskId{7, 2}, Token{1, 2}, 500, "half"},
                           {TaskId{7, 9}, Token{1, 9}, 500, "half"}},
                          rig.now(), rig.out);
  });
  REQUIRE(rig.sends<Progress>().size() == 1);
  CHECK(rig.sends<Progress>()[0].rows.size() == 1);
  CHECK(rig.sends<Progress>()[0].bytes.view() == "half");
}

TEST_CASE("have goes out each beat with everything") {
  Rig rig(2);
  rig.open();
  rig.dispatch(1, 3);
  rig.finish({1});
  rig.pass(450);
  CHECK(rig.sends<Have>().empty());
  rig.finish({2});
  rig.finish({3});
  rig.pass(5'000);
  REQUIRE(rig.sends<Have>().size() == 5);
  CHECK(Rig::seqs(rig.sends<Have>()[0].rows) == Seqs{1, 2, 3});
  const std::string json = to_json(rig.agent.to_doc(rig.now()));
  CHECK(json.find("\"unacked\":3") != std::string::npos);
}

}  // namespace dray::worker
