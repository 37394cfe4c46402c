// Agent: session, credit, dispatch, results, resume and revoke in every state of a task.
#include "tests/unit/worker/core_rig.h"

namespace dray::worker {

TEST_CASE("attach says what the worker is and grants the first credit") {
  Rig rig(2);
  rig.open();
  REQUIRE(rig.out.now.size() == 1);
  const Attach a = rig.sends<Attach>()[0];
  CHECK(a.slots == 2);
  CHECK(a.handlers == std::vector<std::string>{"echo", "gpu"});
  CHECK(a.results_from == 1);
  CHECK(a.rows.empty());
  CHECK_FALSE(a.draining);
  CHECK(rig.granted == 18);
}

TEST_CASE("a session of another role is none of ours") {
  Rig rig;
  SessionInfo info;
  info.id = SessionId{9};
  info.role = Role::router;
  rig.agent.on_open(info, rig.now(), rig.out);
  CHECK(rig.out.now.empty());
  CHECK_FALSE(rig.agent.attached());
}

TEST_CASE("tasks start in order as slots free, results go out numbered and in one message") {
  Rig rig(2);
  rig.open();
  rig.dispatch(1, 4);
  REQUIRE(rig.started.size() == 2);
  CHECK(rig.started[0].token.seq == 1);
  CHECK(rig.started[0].payload.view() == "xxx");
  CHECK(rig.started[0].spec->spec.handler == "echo");
  CHECK(rig.agent.queued() == 2);
  rig.finish({2, 1});
  REQUIRE(rig.sends<Results>().size() == 1);
  const Results r = rig.sends<Results>()[0];
  CHECK(r.first == 1);
  CHECK(r.received == 4);
  REQUIRE(r.rows.size() == 2);
  CHECK(r.rows[0].token == Token{1, 2});
  CHECK(r.rows[0].exec_us == 100'000);
  CHECK(r.bytes.view() == "rr");
  REQUIRE(rig.started.size() == 4);
  CHECK(rig.started[3].token.seq == 4);
  rig.finish({3});
  CHECK(rig.sends<Results>()[0].first == 3);
}

TEST_CASE("long tasks: k is slots; short ones: prefetch_max soon") {
  Rig rig(4);
  rig.open();
  rig.dispatch(1, 4);
  rig.finish({1, 2, 3, 4}, 100'000);
  CHECK(rig.granted == 4 + 4);
  for (uint64_t seq = 5; seq < 205; seq += 4) {
    rig.dispatch(seq, 4);
    rig.finish({seq, seq + 1, seq + 2, seq + 3}, 0);
  }
  CHECK(rig.agent.target(rig.now()) == 4 + 4096);
  CHECK(rig.granted == rig.sent + 4096);  // one ATTACH names no more
}

TEST_CASE("how long something took until it crashed says nothing about how long tasks take") {
  Rig rig(4);
  rig.open();
  const uint64_t before = rig.agent.target(rig.now());
  for (uint64_t seq = 1; seq < 201; seq += 4) {
    rig.dispatch(seq, 4);
    std::vector<Outcome> list;
    for (uint64_t i = seq; i < seq + 4; ++i) {
      list.push_back(Rig::done(i, 0));
      list.back().verdict = Verdict::crashed;
      list.back().code = Errc::worker_lost;
    }
    rig.outcomes(std::move(list));
  }
  CHECK(rig.agent.target(rig.now()) == before);
}

TEST_CASE("short tasks are handed out ahead of a free slot, long ones are not") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 1);
  rig.finish({1}, 1);
  rig.dispatch(2, 300);
  CHECK(rig.agent.running() == 256);
  Rig slow(1);
  slow.open();
  slow.dispatch(1, 1);
  slow.finish({1}, 50'000);
  slow.dispatch(2, 100);
  CHECK(slow.agent.running() == 1);
}

TEST_CASE("dispatch: duplicates and numbers below received are ignored") {
  Rig rig(1);
  rig.open();
  Dispatch d = rig.make(1, 3);
  rig.say(d);
  rig.say(d);  // same numbers again
  CHECK(rig.agent.queued() + rig.agent.running() == 3);
  CHECK(rig.agent.counters().repeated == 3);
  Dispatch same_token = rig.make(2, 1);  // new number, token held
  rig.say(same_token);
  CHECK(rig.agent.queued() + rig.agent.running() == 3);
  CHECK(rig.agent.received() == 4);
  rig.finish({1});
  Dispatch finished = rig.make(1, 1);  // finished and not acknowledged
  rig.say(finished);
  CHECK(rig.agent.queued() + rig.agent.running() == 2);
}

TEST_CASE("dispatch: a lost message is seen and HAVE proves it soon") {
  Rig rig(4);
  rig.open();
  rig.make(1, 2);  // lost
  rig.dispatch(3, 1);
  CHECK(rig.agent.received() == 3);
  CHECK(rig.agent.counters().missed == 2);
  rig.pass(50);
  REQUIRE(rig.sends<Have>().size() == 1);
  CHECK(rig.sends<Have>()[0].received == 3);
  CHECK(Rig::seqs(rig.sends<Have>()[0].rows) == Seqs{3});
  CHECK(rig.granted == 3 + 20 - 1);
}

TEST_CASE("sync: what was not received is lost; it is not taken if it shows up late") {
  Rig rig(4);
  rig.open();
  Dispatch late = rig.make(1, 2);
  rig.say(Sync{2});
  REQUIRE(rig.sends<Have>().size() == 1);
  CHECK(rig.sends<Have>()[0].received == 2);
  CHECK(rig.sends<Have>()[0].rows.empty());
  CHECK(rig.sends<Have>()[0].complete);
  CHECK(rig.granted == 2 + 20);
  rig.say(late);
  CHECK(rig.started.empty());
}

TEST_CASE("dispatch of an older epoch is counted and not taken") {
  Rig rig;
  rig.open(5);
  Dispatch d = rig.make(1, 1);
  d.epoch = 4;
  rig.say(d);
  CHECK(rig.started.empty());
  CHECK(rig.agent.received() == 1);
  d.first = 1;
  d.epoch = 5;
  rig.say(d);
  CHECK(rig.started.size() == 1);
}

TEST_CASE("dispatch: what can not run here goes back with the reason") {
  Rig rig;
  rig.open();
  TaskSpec spec;
  spec.handler = "nobody";
  rig.dispatch(1, 2, spec);
  REQUIRE(rig.sends<GiveBack>().size() == 1);
  CHECK(rig.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::unknown_handler));
  CHECK(rig.sends<GiveBack>()[0].received == 2);
  CHECK(Rig::seqs(rig.sends<GiveBack>()[0].rows) == Seqs{1, 2});
  CHECK(rig.granted == 2 + 18);
  spec.handler = "gpu";
  spec.resources = {{"gpu", 10'001}};
  rig.dispatch(3, 1, spec);
  CHECK(rig.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  spec.resources = {{"tpu", 1}};
  rig.dispatch(4, 1, spec);
  CHECK(rig.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  spec.resources = {};
  spec.labels = {"node:b"};
  rig.dispatch(5, 1, spec);
  CHECK(rig.sends<GiveBack>()[0].code == static_cast<uint8_t>(Errc::infeasible));
  spec.labels = {"node:a"};
  rig.dispatch(6, 1, spec);
  CHECK(rig.started.size() == 1);
}

TEST_CASE("dispatch: unreadable options end the task, once") {
  Rig rig;
  rig.open();
  Dispatch d = rig.make(1, 1);
  d.specs = {"garbage"};
  rig.say(d);
  REQUIRE(rig.sends<Results>().size() == 1);
  const ResultRow row = rig.sends<Results>()[0].rows[0];
  CHECK(row.status == static_cast<uint8_t>(Verdict::fail_final));
  CHECK(row.code == static_cast<uint8_t>(Errc::bad_message));
  Dispatch none = rig.make(2, 1);
  none.specs.clear();
  rig.say(none);
  CHECK(rig.sends<Results>()[0].first == 2);
}

TEST_CASE("tasks pass those that wait for resources, but not at what these wait for") {
  Rig rig(4);
  rig.open();
  TaskSpec gpu;
  gpu.handler = "gpu";
  gpu.resources = {{"gpu", 6'000}};
  rig.dispatch(1, 2, gpu);
  gpu.resources = {{"gpu", 1'000}};
  rig.dispatch(3, 1, gpu);  // would fit, but 2 waits for the same
  rig.dispatch(4, 1);
  CHECK(rig.started.size() == 2);
  CHECK(rig.started[1].token.seq == 4);
  rig.finish({1});
  CHECK(rig.started.size() == 4);
}

TEST_CASE("a handler's own limit holds, others run meanwhile") {
  AgentOptions options;
  options.slots = 4;
  options.handlers = {"echo", "gpu"};
  options.handler_limits = {0, 1};
  Rig rig(options);
  rig.open();
  TaskSpec gpu;
  gpu.handler = "gpu";
  rig.dispatch(1, 2, gpu);
  rig.dispatch(3, 1);
  REQUIRE(rig.started.size() == 2);
  CHECK(rig.started[1].token.seq == 3);
  rig.finish({1});
  CHECK(rig.started.back().token.seq == 2);
}

TEST_CASE("after the whole process was stopped nothing is given back for waiting") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 3);
  rig.ms += 60'000;
  rig.pass(0);
  CHECK(rig.sends<GiveBack>().empty());
  rig.pass(200);
  CHECK(rig.sends<GiveBack>().size() == 1);
}

TEST_CASE("the ledger judges: a task waits for its resources, in order") {
  Rig rig(4);
  rig.open();
  TaskSpec gpu;
  gpu.handler = "gpu";
  gpu.resources = {{"gpu", 6'000}};
  rig.dispatch(1, 2, gpu);
  CHECK(rig.started.size() == 1);
  rig.finish({1});
  CHECK(rig.started.size() == 2);
  CHECK(rig.started[1].token.seq == 2);
  rig.revoke(2);
  rig.dispatch(4, 1, gpu);
  CHECK(rig.started.size() == 2);  // void, but its share is still used
  rig.finish({2});
  CHECK(rig.started.size() == 3);
}

TEST_CASE("results are kept and sent again until acknowledged") {
  Rig rig(4);
  rig.open();
  rig.dispatch(1, 3);
  rig.finish({1, 2, 3});
  rig.ack(2);
  CHECK(rig.agent.unacked() == 2);
  CHECK(rig.have() == Seqs{2, 3});
  rig.pass(2'100);
  REQUIRE(rig.sends<Results>().size() == 1);
  CHECK(rig.sends<Results>()[0].first == 2);
  CHECK(Rig::seqs(rig.sends<Results>()[0].rows) == Seqs{2, 3});
  rig.pass(3'000);
  CHECK(rig.sends<Results>().empty());  // it waits longer each time
  rig.pass(1'100);
  CHECK(rig.sends<Results>().size() == 1);
  rig.ack(100);  // more than there is
  CHECK(rig.agent.unacked() == 0);
  rig.ack(1);
  rig.pass(30'000);
  CHECK(rig.sends<Results>().empty());
}

TEST_CASE("stale results are counted and noted") {
  Rig rig;
  rig.open();
  rig.dispatch(1, 1);
  rig.finish({1});
  ResultsAck ack;
  ack.upto = 2;
  ack.rows = make_rows<TokenRow>(std::vector<TokenRow>{{TaskId{7, 1}, Token{1, 1}}});
  rig.say(ack);
  CHECK(rig.agent.counters().stale_results == 1);
  REQUIRE(rig.out.notes.size() == 1);
  CHECK(rig.out.notes[0].event == std::string("stale_result"));
}

TEST_CASE("results are cut at the row and the byte limit") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 1);
  rig.finish({1}, 1);
  rig.ack(2);
  for (uint64_t i = 0; i < 3; ++i) rig.dispatch(2 + i * 1'700, 1'700);
  rig.close();
  for (uint64_t seq = 2; seq < 5'102;) {
    Seqs seqs;
    for (size_t n = rig.agent.running(); n > 0; --n) seqs.push_back(seq++);
    rig.finish(seqs, 1);
    CHECK(rig.out.now.empty());
  }
  rig.open();
  const auto list = rig.sends<Results>();
  REQUIRE(list.size() == 2);
  CHECK(list[0].rows.size() == kItemsMax);
  CHECK(list[1].first == 2 + kItemsMax);
  CHECK(list[1].rows.size() == 5'100 - kItemsMax);
  CHECK(rig.sends<Attach>()[0].rows.size() == kItemsMax);
  const auto have = rig.sends<Have>();
  REQUIRE(have.size() == 2);
  CHECK_FALSE(have[0].complete);
  CHECK(have[1].complete);
  CHECK(have[0].rows.size() + have[1].rows.size() == 5'100);

  Rig big(3);
  big.open();
  big.dispatch(1, 4);
  std::vector<Outcome> outcomes;
  for (uint64_t seq = 1; seq <= 3; ++seq) {
    outcomes.push_back(Rig::done(seq));
    outcomes.back().result = Bytes(std::string(kPayloadBytesMax, 'y'));
  }
  big.outcomes(std::move(outcomes));
  REQUIRE(big.sends<Results>().size() == 2);
  CHECK(big.sends<Results>()[0].rows.size() == 2);
  Outcome huge = Rig::done(4);
  huge.result = Bytes(std::string(kPayloadBytesMax + 1, 'y'));
  big.outcomes({huge});
  CHECK(big.sends<Results>()[0].rows[0].code == static_cast<uint8_t>(Errc::too_large));
}

TEST_CASE("too many bytes of unacknowledged results stop the credit") {
  Rig rig(1);
  rig.open();
  for (uint64_t seq = 1; seq <= 17; ++seq) {
    rig.dispatch(seq, 1);
    Outcome o = Rig::done(seq);
    o.result = Bytes(std::string(kPayloadBytesMax, 'y'));
    rig.outcomes({o});
    CHECK(rig.granted == seq + (seq <= 16 ? 1 : 0));
  }
  rig.ack(18);
  rig.pass(1'000);
  CHECK(rig.granted == 18);
}

TEST_CASE("resume: a new session names everything and gets the results again") {
  Rig rig(2);
  rig.open();
  rig.dispatch(1, 5);
  rig.finish({1});
  rig.ack(2);
  rig.finish({2});
  rig.close();
  CHECK_FALSE(rig.agent.attached());
  rig.finish({3});  // meanwhile
  CHECK(rig.out.now.empty());
  rig.pass(60'000);
  CHECK(rig.agent.queued() == 0);
  CHECK(rig.agent.running() == 2);
  rig.open(2);
  REQUIRE(rig.out.now.size() == 2);
  const Attach a = rig.sends<Attach>()[0];
  CHECK(a.results_from == 2);
  CHECK(Rig::seqs(a.rows) == Seqs{2, 3, 4, 5});
  CHECK(rig.sends<Results>()[0].first == 2);
  CHECK(rig.sends<Results>()[0].received == 0);
  CHECK(Rig::seqs(rig.sends<Results>()[0].rows) == Seqs{2, 3});
  CHECK(rig.granted == 0);  // k = slots, both in use
  rig.finish({4, 5});
  CHECK(rig.granted == 2);
}

TEST_CASE("messages of an old session are ignored") {
  Rig rig;
  rig.open();
  Dispatch d = rig.make(1, 1);
  rig.open();
  rig.turn([&] { rig.agent.on_message(SessionId{1}, {}, d, rig.now(), rig.out); });
  CHECK(rig.started.empty());
  rig.turn([&] { rig.agent.on_close(SessionId{1}, CloseReason::bye, rig.now(), rig.out); });
  CHECK(rig.agent.attached());
}

TEST_CASE("what makes no sense to a worker is noted, a request is refused") {
  Rig rig;
  rig.open();
  rig.say(Submit{});
  CHECK(rig.out.now.empty());
  CHECK(rig.out.notes.size() == 1);
  Envelope e;
  e.req = 4;
  rig.turn([&] { rig.agent.on_message(SessionId{1}, e, Query{}, rig.now(), rig.out); });
  REQUIRE(rig.sends<Reject>().size() == 1);
  CHECK(rig.out.now[0].req == 4);
  rig.say(make_reject(Errc::bad_message, "x"));
  CHECK(rig.out.now.empty());
}

TEST_CASE("revoke: queued here, running, finished, unknown") {
  Rig rig(1);
  rig.open();
  rig.dispatch(1, 3);
  rig.revoke(3);  // queued
  CHECK(rig.agent.queued() == 1);
  CHECK(rig.out.cancel.empty());
  rig.pass(20);
  CHECK(rig.sends<Have>().size() == 1);  // the credit is published
  rig.revoke(1);  // running
  CHECK(rig.out.cancel == std::vector<Token>{{1, 1}});
  CHECK(rig.agent.running() == 1);
  CHECK(rig.have() == Seqs{2});
  CHECK(rig.granted == 3 + 17 - 2);  // the slot is still used
  rig.revoke(1);
  CHECK(rig.out.cancel.empty());
  rig.finish({1});
  CHECK(rig.sends<Results>().empty());
  CHECK(rig.agent.counters().dropped == 1);
  CHECK(rig.started.back().token.seq == 2);
  rig.pass(20);
  CHECK(rig.sends<Have>().size() == 1);  // the credit is published
  rig.finish({2});
  rig.revoke(2);  // finished: the broker answers stale
  CHECK(rig.agent.unacked() == 1);
  rig.revoke(99);
  CHECK(rig.agent.counters().revoked == 2);
}

}  // namespace dray::worker
