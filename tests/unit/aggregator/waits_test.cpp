// Aggregator core: WAIT, FETCH, FORGET, admin.
#include "tests/unit/aggregator/bench.h"

using namespace dray;

namespace {

struct Seen {
  std::vector<uint64_t> tasks;
  std::string bytes;
  bool done = false;
  size_t messages = 0;
};
Seen ready(const std::vector<Send>& sends, uint64_t req) {
  Seen seen;
  for (const Ready& m : pick<Ready>(sends, req)) {
    CHECK_FALSE(seen.done);  // nothing comes after `done`
    for (size_t i = 0; i < m.rows.size(); ++i) seen.tasks.push_back(m.rows[i].id.lo);
    seen.bytes += m.bytes.view();
    seen.done = m.done;
    ++seen.messages;
  }
  return seen;
}
using List = std::vector<uint64_t>;
Errc reject_code(const std::vector<Send>& sends, uint64_t req) {
  auto list = pick<Reject>(sends, req);
  REQUIRE(list.size() == 1);
  return static_cast<Errc>(list[0].code);
}

}  // namespace

TEST_CASE("waiting before, after and in the turn of the result") {
  AggregatorBench b;
  b.ask(1, wait_for({1}));
  CHECK(b.turn().empty());
  b.finished(0, 1, {1, 2});
  b.ask(2, wait_for({2}));  // the result is not durable yet
  auto sent = b.turn();
  CHECK(ready(sent, 1).tasks == List{1});
  CHECK(ready(sent, 1).bytes == "result1");
  CHECK(ready(sent, 1).done);
  CHECK(ready(sent, 2).tasks == List{2});
  b.ask(3, wait_for({1, 2}));
  sent = b.turn();
  CHECK(ready(sent, 3).tasks == List{1, 2});
  CHECK(ready(sent, 3).done);
  CHECK(b.core->waits().ids() == 0);
  for (const Send& s : sent) CHECK((s.to == kRouterId && s.route == 7));
}

TEST_CASE("rows of one wait in one turn come together, done is on the last") {
  AggregatorBench b;
  b.ask(1, wait_for({1, 2, 3}));
  b.turn();
  b.finished(0, 1, {3});
  b.finished(1, 2, {9, 1});
  Seen seen = ready(b.turn(), 1);
  CHECK(seen.messages == 1);
  CHECK(seen.tasks == List{3, 1});
  CHECK(seen.bytes == "result3result1");
  CHECK_FALSE(seen.done);
  b.finished(2, 3, {2});
  seen = ready(b.turn(), 1);
  CHECK(seen.tasks == List{2});
  CHECK(seen.done);
}

TEST_CASE("n_ready: done after so many, the others are let go") {
  AggregatorBench b;
  b.ask(1, wait_for({1, 2, 3, 4}, 2));
  b.turn();
  b.finished(0, 1, {1});
  CHECK_FALSE(ready(b.turn(), 1).done);
  b.finished(1, 2, {2, 3});
  Seen seen = ready(b.turn(), 1);
  CHECK(seen.tasks == List{2});
  CHECK(seen.done);
  CHECK(b.core->waits().ids() == 0);
  b.finished(2, 3, {4});
  CHECK(ready(b.turn(), 1).messages == 0);
  b.ask(2, wait_for({1, 2, 3, 7}, 2));  // enough is there
  seen = ready(b.turn(), 2);
  CHECK(seen.tasks == List{1, 2});
  CHECK(seen.done);
  CHECK(b.core->waits().ids() == 0);
  b.ask(3, wait_for({1, 8, 7}, 2));  // part of it is there
  seen = ready(b.turn(), 3);
  CHECK(seen.tasks == List{1});
  CHECK_FALSE(seen.done);
  b.finished(3, 4, {8});
  CHECK(ready(b.turn(), 3).done);
}

TEST_CASE("odd waits") {
  AggregatorBench b;
  b.ask(1, wait_for({1, 2}, 3));
  CHECK(reject_code(b.turn(), 1) == Errc::bad_argument);
  b.ask(2, wait_for({1, 1, 1}, 2));  // one id only
  CHECK(reject_code(b.turn(), 2) == Errc::bad_argument);
  b.ask(3, wait_for({}));
  Seen seen = ready(b.turn(), 3);
  CHECK(seen.done);
  CHECK(seen.tasks.empty());
  b.ask(4, wait_for({5, 5}));
  b.turn();
  CHECK(b.core->waits().ids() == 1);
  b.finished(0, 1, {5});
  CHECK(ready(b.turn(), 4).tasks == List{5});
}

TEST_CASE("states only") {
  AggregatorBench b;
  b.finished(0, 1, {1});
  b.turn();
  b.ask(1, wait_for({1, 2}, 0, false));
  auto first = b.turn();
  b.finished(1, 2, {2}, TaskState::dead);
  auto second = b.turn();
  CHECK(ready(first, 1).bytes.empty());
  CHECK(ready(second, 1).bytes.empty());
  CHECK(pick<Ready>(first, 1)[0].rows[0].len == 0);
  CHECK(pick<Ready>(second, 1)[0].rows[0].status == static_cast<uint8_t>(TaskState::dead));
}

TEST_CASE("two waiters of one id, one of them leaves") {
  AggregatorBench b;
  b.ask(1, wait_for({1, 2}));
  b.ask(2, wait_for({2, 1}));
  b.ask(1, wait_for({1}), 8);  // another client
  b.turn();
  CHECK(b.core->waits().ids() == 5);
  b.ask(9, Unwait{2});
  b.ask(9, Unwait{77});
  b.turn();
  b.core->check();
  CHECK(b.core->waits().ids() == 3);
  b.finished(0, 1, {1, 2});
  auto sent = b.turn();
  CHECK(sent.size() == 3);  // two READY and the acknowledgement
  CHECK(ready(sent, 2).messages == 0);
}

TEST_CASE("the same wait again replaces itself") {
  AggregatorBench b;
  b.ask(1, wait_for({1, 2}));
  b.ask(1, wait_for({1, 2}));
  b.turn();
  CHECK(b.core->waits().ids() == 2);
  b.finished(0, 1, {1, 2});
  CHECK(ready(b.turn(), 1).tasks == List{1, 2});
}

TEST_CASE("a router that leaves takes its waits along") {
  AggregatorBench b;
  b.open(kOtherRouter, Aggregator::kRouters, Role::router);
  b.ask(1, wait_for({1, 2}));
  b.ask(1, wait_for({1}), 7, kOtherRouter);
  b.turn();
  b.close(kRouterId);
  b.finished(0, 1, {1, 2});
  auto sent = b.turn();
  REQUIRE(pick<Ready>(sent).size() == 1);
  CHECK(sent[0].to == kOtherRouter);
}

TEST_CASE("the number of waiters is bounded, finished ids are free") {
  AggregatorOptions o;
  o.waiters_max = 3;
  AggregatorBench b(o);
  b.finished(0, 1, {1, 2, 3, 4});
  b.turn();
  b.ask(1, wait_for({1, 2, 3, 4, 10, 11}));
  CHECK(ready(b.turn(), 1).tasks.size() == 4);
  b.ask(2, wait_for({12, 13}));
  auto sent = b.turn();
  REQUIRE(pick<Reject>(sent, 2).size() == 1);
  Reject r = pick<Reject>(sent, 2)[0];
  CHECK(r.code == static_cast<uint8_t>(Errc::overloaded));
  CHECK(r.limit == "aggregator.waiters_max");
  CHECK(r.value == 3);
  b.ask(3, wait_for({12}));
  CHECK(pick<Reject>(b.turn()).empty());
}

TEST_CASE("READY messages stay within the limits of a message") {
  AggregatorBench b;
  std::vector<uint64_t> tasks;
  for (uint64_t i = 1; i <= 12; ++i) tasks.push_back(i);
  b.ask(1, wait_for(tasks));
  b.turn();
  const std::string big(1'500'000, 'x');
  for (uint64_t i = 0; i < 3; ++i)
    b.finished(i, i + 1, {4 * i + 1, 4 * i + 2, 4 * i + 3, 4 * i + 4}, TaskState::succeeded, big);
  auto sent = b.turn();
  auto messages = pick<Ready>(sent, 1);
  CHECK(messages.size() == 3);
  for (const Ready& m : messages) {
    CHECK(m.bytes.size() <= kBodyBytesMax);
    CHECK(decode(encode({}, m)));
  }
  CHECK(ready(sent, 1).tasks == tasks);
  CHECK(ready(sent, 1).done);
}

TEST_CASE("a wait with many results fits, too") {
  AggregatorBench b;
  std::vector<uint64_t> tasks;
  for (uint64_t i = 1; i <= kItemsMax; ++i) tasks.push_back(i);
  b.finished(0, 1, tasks, TaskState::succeeded, "");
  b.turn();
  b.ask(1, wait_for(tasks));
  Seen seen = ready(b.turn(), 1);
  CHECK(seen.messages == 1);
  CHECK(seen.tasks == tasks);
  CHECK(seen.done);
}

TEST_CASE("fetch answers every id in order, unknown ones too") {
  AggregatorBench b;
  b.finished(0, 1, {1, 2});
  b.turn();
  Fetch f;
  f.rows = id_rows({9, 2, 1, 8, 2});
  b.ask(1, f);
  auto sent = b.turn();
  Seen seen = ready(sent, 1);
  CHECK(seen.tasks == List{9, 2, 1, 8, 2});
  CHECK(seen.bytes == "result2result1result2");
  CHECK(seen.done);
  CHECK(pick<Ready>(sent, 1)[0].rows[0].status == 0);
  CHECK(pick<Ready>(sent, 1)[0].rows[1].token == Token{1, 2});
  b.ask(2, Fetch{});
  CHECK(ready(b.turn(), 2).done);
}

TEST_CASE("an answer that would be too large ends early, and says so") {
  AggregatorOptions o;
  o.answer_bytes_max = 1000;
  AggregatorBench b(o);
  b.finished(0, 1, {1, 2, 3}, TaskState::succeeded, std::string(600, 'x'));
  b.turn();
  Fetch f;
  f.rows = id_rows({1, 2, 3});
  b.ask(1, f);
  b.ask(2, wait_for({1, 2, 3}));
  auto sent = b.turn();
  for (uint64_t req : {1, 2}) {
    CHECK(ready(sent, req).tasks == List{1, 2});
    CHECK_FALSE(ready(sent, req).done);
    CHECK(reject_code(sent, req) == Errc::overloaded);
  }
  CHECK(b.core->waits().ids() == 0);
}

TEST_CASE("forget is durable before it is confirmed") {
  AggregatorBench b;
  b.finished(0, 1, {1, 2});
  b.turn();
  b.ask(1, Forget{id_rows({1, 99})});
  auto sent = b.turn();
  CHECK(pick<Ok>(sent, 1).size() == 1);
  CHECK(b.disk->result_count() == 1);
  Fetch f;
  f.rows = id_rows({1});
  b.ask(2, f);
  CHECK(pick<Ready>(b.turn(), 2)[0].rows[0].status == 0);
}

TEST_CASE("admin") {
  AggregatorBench b;
  Admin a;
  a.target = static_cast<uint8_t>(Role::aggregator);
  a.verb = "status";
  b.ask(1, wait_for({1}));
  b.ask(2, a);
  auto replies = pick<AdminReply>(b.turn(), 2);
  REQUIRE(replies.size() == 1);
  CHECK(replies[0].body["waiters"].as_int() == 1);
  a.verb = "dance";
  b.ask(3, a);
  auto rejects = pick<Reject>(b.turn(), 3);
  REQUIRE(rejects.size() == 1);
  CHECK(rejects[0].detail == "aggregator knows: status");
}

TEST_CASE("random waits: each id at most once, done exactly when it should be") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    uint64_t state = seed;
    auto below = [&](uint64_t n) { return mix64(state += 0x9e3779b97f4a7c15ULL) % n; };
    AggregatorBench b;
    struct Model {
      std::vector<uint64_t> ids, got;
      size_t want = 0;
      bool done = false, left = false;
    };
    std::vector<Model> waits;
    uint64_t record = 0;
    for (int step = 0; step < 200; ++step) {
      for (uint64_t n = below(3); n > 0; --n) {
        Model m;
        for (uint64_t i = 0; i < 1 + below(6); ++i) m.ids.push_back(1 + below(80));
        std::sort(m.ids.begin(), m.ids.end());
        m.ids.erase(std::unique(m.ids.begin(), m.ids.end()), m.ids.end());
        const auto n_ready = static_cast<uint32_t>(below(m.ids.size() + 1));
        m.want = n_ready ? n_ready : m.ids.size();
        waits.push_back(m);
        b.ask(waits.size(), wait_for(m.ids, n_ready));
      }
      if (!waits.empty() && below(5) == 0) {
        const uint64_t i = below(waits.size());
        b.ask(1'000'000, Unwait{i + 1});
        waits[i].left = true;
      }
      if (below(2) == 0) {
        b.finished(record, record + 1, {1 + below(80)});
        ++record;
      }
      if (below(2) != 0) continue;
      for (const Send& s : b.turn()) {
        const Ready* m = std::get_if<Ready>(&s.message);
        if (!m) continue;
        Model& w = waits.at(s.req - 1);
        CHECK_FALSE(w.done);
        for (size_t i = 0; i < m->rows.size(); ++i) {
          const uint64_t id = m->rows[i].id.lo;
          CHECK(std::count(w.got.begin(), w.got.end(), id) == 0);
          CHECK(std::binary_search(w.ids.begin(), w.ids.end(), id));
          w.got.push_back(id);
        }
        w.done = m->done;
        CHECK(w.done == (w.got.size() == w.want));
      }
    }
    for (uint64_t id = 1; id <= 80; ++id) {
      b.finished(record, record + 1, {id});
      ++record;
    }
    for (const Send& s : b.turn())
      if (const Ready* m = std::get_if<Ready>(&s.message)) waits.at(s.req - 1).done |= m->done;
    for (const Model& w : waits) CHECK((w.done || w.left));
    CHECK(b.core->waits().ids() == 0);
  }
}
