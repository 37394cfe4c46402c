// Requests of the client core: resending, credit, refusals, deadlines, reconnects.
#include "tests/unit/client/harness.h"

using namespace dray;
using test::Harness;

TEST_CASE("nothing leaves before the first grant") {
  Harness h;
  h.submit(h.make_ids(1));
  CHECK(h.sent().empty());
  h.open(0);
  CHECK(h.sent().empty());
  h.say(Sync{}, 0, 1);
  CHECK(h.sent_of<Submit>().size() == 1);
}

TEST_CASE("requests beyond the credit wait, in order") {
  Harness h;
  h.open(2);
  std::vector<uint64_t> reqs;
  for (int i = 0; i < 5; ++i) reqs.push_back(h.submit(h.make_ids(1)));
  auto first = h.sent();
  REQUIRE(first.size() == 2);
  CHECK(first[0].req == reqs[0]);
  CHECK(first[1].req == reqs[1]);
  h.say(Sync{}, 0, 2);  // a repeated grant is no new credit
  CHECK(h.sent().empty());
  h.say(Sync{}, 0, 4);
  auto next = h.sent();
  REQUIRE(next.size() == 2);
  CHECK(next[0].req == reqs[2]);
  CHECK(next[1].req == reqs[3]);
}

TEST_CASE("credit starts again with each session") {
  Harness h;
  h.open(100);
  uint64_t a = h.submit(h.make_ids(1));
  h.sent();
  h.close();
  h.open(0);
  CHECK(h.sent().empty());
  h.say(Sync{}, 0, 1);
  auto again = h.sent();
  REQUIRE(again.size() == 1);
  CHECK(again[0].req == a);
}

TEST_CASE("silence: the same request again after two seconds, then four") {
  Harness h;
  h.open();
  auto ids = h.make_ids(3);
  uint64_t req = h.submit(ids);
  auto first = h.sent();
  REQUIRE(first.size() == 1);
  h.advance(1999ms);
  CHECK(h.sent().empty());
  h.advance(1ms);
  auto second = h.sent();
  REQUIRE(second.size() == 1);
  CHECK(second[0].req == req);
  CHECK(second[0].message == first[0].message);
  h.advance(3999ms);
  CHECK(h.sent().empty());
  h.advance(1ms);
  CHECK(h.sent().size() == 1);
  h.accept(req, 3);
  CHECK(h.taken<SubmittedEvent>().size() == 1);
  h.accept(req, 3);  // the answer to the repeat
  CHECK(h.taken<SubmittedEvent>().empty());
  CHECK(h.core.requests() == 0);
  CHECK(h.core.request_bytes() == 0);
}

TEST_CASE("a new session: everything unanswered again, once, in order") {
  Harness h;
  h.open();
  uint64_t a = h.submit(h.make_ids(1));
  uint64_t b = h.submit(h.make_ids(1));
  uint64_t c = h.core.query({}, kNever, h.now, h.out);
  h.sent();
  h.accept(a, 1);
  h.close();
  h.open();
  auto again = h.sent_of<Submit>();
  REQUIRE(again.size() == 1);
  CHECK(again[0].req == b);
  h.close();
  h.open();
  auto all = h.sent();
  REQUIRE(all.size() >= 2);
  CHECK(all[0].req == b);
  CHECK(all[1].req == c);
}

TEST_CASE("messages of another session are not heard") {
  Harness h;
  h.open();
  uint64_t req = h.submit(h.make_ids(1));
  Envelope e;
  e.req = req;
  h.core.on_message(SessionId{99}, e, Submitted{1, 1, {}}, h.now, h.out);
  h.settle();
  CHECK(h.taken<SubmittedEvent>().empty());
}

TEST_CASE("refusals that pass are retried after their hint, with jitter") {
  for (Errc code : {Errc::unavailable, Errc::overloaded, Errc::draining}) {
    Harness h;
    h.open();
    uint64_t req = h.submit(h.make_ids(1));
    h.sent();
    h.say(make_reject(code, "later", 300), req);
    h.advance(299ms);
    CHECK(h.sent().empty());
    h.advance(101ms + 1ms);
    CHECK(h.sent_of<Submit>().size() == 1);
    CHECK(h.taken<RejectedEvent>().empty());
    h.accept(req, 1);
    CHECK(h.taken<SubmittedEvent>().size() == 1);
  }
}

TEST_CASE("jitter comes from the seed") {
  std::set<int64_t> delays;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    ClientCoreOptions o;
    o.seed = seed;
    Harness h(o);
    h.open();
    uint64_t req = h.submit(h.make_ids(1));
    h.say(make_reject(Errc::overloaded, "", 1000), req);
    delays.insert(to_us(h.core.next_deadline() - h.now.mono));
  }
  CHECK(delays.size() > 15);
  CHECK(*delays.begin() >= 1'000'000);
}

TEST_CASE("other refusals end the request and its tasks") {
  Harness h;
  h.open();
  auto ids = h.make_ids(2);
  uint64_t req = h.submit(ids);
  h.say(make_reject(Errc::unknown_handler, "nobody", 0, "", 0), req);
  auto events = h.taken<RejectedEvent>();
  REQUIRE(events.size() == 1);
  CHECK(events[0].code == Errc::unknown_handler);
  CHECK(events[0].tasks.size() == 2);
  CHECK(h.core.open_tasks().blocks() == 0);
  h.say(Harness::ready(ids));
  CHECK(h.results.empty());
}

TEST_CASE("the deadline: unknown outcome, unless surely nothing was done") {
  Harness h;
  SECTION("sent and not answered") {
    h.open();
    h.submit(h.make_ids(1), 10s);
    h.advance(9999ms);
    CHECK(h.taken<RejectedEvent>().empty());
    h.advance(1ms);
    auto e = h.taken<RejectedEvent>();
    REQUIRE(e.size() == 1);
    CHECK(e[0].code == Errc::timeout);
    CHECK(e[0].tasks.size() == 1);
  }
  SECTION("never sent") {
    h.submit(h.make_ids(1), 10s);
    h.advance(10s);
    auto e = h.taken<RejectedEvent>();
    REQUIRE(e.size() == 1);
    CHECK(e[0].code == Errc::unavailable);
  }
  SECTION("refused to the end") {
    h.open();
    uint64_t req = h.submit(h.make_ids(1), 10s);
    h.say(make_reject(Errc::overloaded, "full", 60'000), req);
    h.advance(10s);
    auto e = h.taken<RejectedEvent>();
    REQUIRE(e.size() == 1);
    CHECK(e[0].code == Errc::overloaded);
  }
  SECTION("the broker was lost with the request in flight") {
    h.open();
    uint64_t req = h.submit(h.make_ids(1), 10s);
    h.say(make_reject(Errc::unavailable, "lost the broker", 60'000), req);
    h.advance(10s);
    auto e = h.taken<RejectedEvent>();
    REQUIRE(e.size() == 1);
    CHECK(e[0].code == Errc::timeout);
  }
  SECTION("one sending lost, the next refused") {
    h.open();
    uint64_t req = h.submit(h.make_ids(1), 10s);
    h.close();
    h.open();
    h.say(make_reject(Errc::overloaded, "full", 60'000), req);
    h.advance(10s);
    auto e = h.taken<RejectedEvent>();
    REQUIRE(e.size() == 1);
    CHECK(e[0].code == Errc::timeout);
  }
  CHECK(h.core.requests() == 0);
  CHECK(h.core.open_tasks().blocks() == 0);
}

TEST_CASE("the queue is bounded by bytes") {
  ClientCoreOptions o;
  o.queue_bytes = 10'000;
  Harness h(o);
  size_t queued = 0;
  std::vector<RejectedEvent> refused;
  while (refused.empty() && queued < 100) {
    h.submit(h.make_ids(10));
    ++queued;
    refused = h.taken<RejectedEvent>();
  }
  REQUIRE(refused.size() == 1);
  CHECK(refused[0].code == Errc::overloaded);
  CHECK(refused[0].limit == "queue_bytes");
  CHECK(refused[0].tasks.size() == 10);
  CHECK(h.core.request_bytes() <= o.queue_bytes);
  CHECK(queued > 10);
}

TEST_CASE("each answer goes to its own kind of request") {
  Harness h;
  h.open();
  auto ids = make_rows<IdRow>(h.make_ids(2));
  uint64_t cancel = h.core.cancel(ids, kNever, h.now, h.out);
  uint64_t fetch = h.core.fetch(ids, kNever, h.now, h.out);
  uint64_t forget = h.core.forget(ids, kNever, h.now, h.out);
  uint64_t admin = h.core.admin(Admin{3, "status", {}}, kNever, h.now, h.out);
  h.say(Ok{}, cancel);
  h.say(States{}, fetch);
  CHECK(h.core.requests() == 4);
  h.say(States{}, cancel);
  h.say(Ready{}, fetch);
  h.say(Ok{}, forget);
  h.say(AdminReply{Doc("fine")}, admin);
  CHECK(h.taken<StatesEvent>().size() == 1);
  CHECK(h.taken<FetchedEvent>().size() == 1);
  CHECK(h.taken<DoneEvent>().size() == 1);
  CHECK(h.taken<AdminEvent>().at(0).body.as_text() == "fine");
  CHECK(h.core.requests() == 0);
}

TEST_CASE("a watched group is asked again after a reconnect, with the same request number") {
  Harness h;
  h.open();
  TaskId g = h.make_ids(1)[0];
  uint64_t req = h.core.group_watch(g, true, kNever, h.now, h.out);
  REQUIRE(h.sent_of<GroupWatch>().size() == 1);
  h.say(GroupState{g, 10, 1, 1, 0, 0, 0}, req);
  h.say(GroupState{g, 10, 2, 2, 0, 0, 0}, req);
  auto states = h.taken<GroupEvent>();
  REQUIRE(states.size() == 2);
  CHECK(states[0].req == req);
  CHECK(states[1].req == 0);
  h.close();
  h.open();
  h.advance(1ms);
  auto again = h.sent_of<GroupWatch>();
  REQUIRE(again.size() == 1);
  CHECK(again[0].req == req);
  h.advance(5s);
  CHECK(h.sent_of<GroupWatch>().size() == 1);  // a lost push heals
  h.say(GroupState{g, 10, 10, 10, 0, 0, 0}, req);
  h.advance(60s);
  CHECK(h.sent_of<GroupWatch>().empty());
  h.core.group_unwatch(g, h.out);
  auto un = h.sent_of<Unwait>();
  REQUIRE(un.size() == 1);
  CHECK(std::get<Unwait>(un[0].message).wait_req == req);
}

TEST_CASE("a FETCH answer in several messages is one event with every row once") {
  Harness h;
  h.open();
  const auto ids = make_rows<IdRow>(std::vector<IdRow>{{{1, 1}}, {{1, 2}}});
  uint64_t fetch = h.core.fetch(ids, kNever, h.now, h.out);
  auto part = [](uint64_t lo, bool done) {
    Ready m;
    m.done = done;
    ResultRow row;
    row.id = {1, lo};
    row.len = 1;
    row.status = static_cast<uint8_t>(TaskState::succeeded);
    m.rows = make_rows<ResultRow>(std::vector<ResultRow>{row});
    m.bytes = Bytes(std::string(1, static_cast<char>('0' + lo)));
    return m;
  };
  h.say(part(1, false), fetch);
  CHECK(h.taken<FetchedEvent>().empty());
  h.say(part(1, false), fetch);  // the request was repeated
  h.say(part(2, true), fetch);
  auto events = h.taken<FetchedEvent>();
  REQUIRE(events.size() == 1);
  CHECK(events[0].rows.size() == 2);
  CHECK(events[0].bytes.view() == "12");
}
