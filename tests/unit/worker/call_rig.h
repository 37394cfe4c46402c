// CallRig: a call agent whose routers, executors and clock are played by the test.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>

#include "services/worker/core/call_agent.h"

namespace dray::worker {

// A router's view of one session.
struct FakeRouter {
  SessionId session = SessionId::none;
  uint64_t sent = 0;  // batches
  uint64_t granted = 0;  // as it saw it
  std::vector<DoneRow> rows;
  std::vector<std::string> bytes;  // of the rows
  std::vector<bool> drains;
  size_t dones = 0;  // messages with rows
  size_t grants = 0;  // without
};

struct RunSpec {
  uint64_t call = 0;
  std::string payload = "x";
  uint64_t deadline_us = 1'000'000;
  uint16_t handler = 0;
  uint16_t batch = 0;
  uint16_t items = 1;
  uint64_t window = 0;
  std::string key = {};
};

struct CallRig {
  // Handler 0: calls alone, any number; 1: one batch at a time, up to 8; 2: alone, one at a time.
  static CallAgentOptions options(uint32_t slots) {
    CallAgentOptions o;
    o.slots = slots;
    o.offers.resize(3);
    o.offers[0].name = "echo";
    o.offers[1].name = "batch";
    o.offers[1].max_ongoing = 1;
    o.offers[1].max_batch_size = 8;
    o.offers[1].max_batch_bytes = 100;
    o.offers[2].name = "one";
    o.offers[2].max_ongoing = 1;
    return o;
  }
  explicit CallRig(uint32_t slots = 2) : agent(options(slots)) {}

  Now now() const { return {Time(at), 0}; }
  FakeRouter& open() {
    FakeRouter& r = routers[++sessions];
    r.session = SessionId{sessions};
    SessionInfo info;
    info.id = r.session;
    info.role = Role::router;
    info.name = "r" + std::to_string(sessions);
    turn([&] { agent.on_open(info, now(), out); });
    return r;
  }
  void close(FakeRouter& r) {
    const SessionId id = r.session;
    r.session = SessionId::none;
    turn([&] { agent.on_close(id, CloseReason::timeout, now(), out); });
  }
  void say(FakeRouter& r, Message m) {
    turn([&] { agent.on_message(r.session, {}, std::move(m), now(), out); });
  }
  template <class F>
  void turn(F&& f) {
    out.clear();
    f();
    agent.end_turn(now(), out);
    agent.check();
    for (const BatchStart& b : out.batches) {
      CHECK(running.emplace(b.batch, b).second);
      started.push_back(b);
    }
    for (const Send& s : out.now) file(s);
    for (auto& [id, r] : routers)
      if (r.session != SessionId::none) {
        const uint64_t k = agent.target(r.session, now());
        const uint64_t held = agent.held(r.session);
        CHECK(agent.granted(r.session, now()) ==
              agent.received(r.session) + (k > held ? k - held : 0));
      }
  }
  void file(const Send& s) {
    auto& r = routers.at(static_cast<uint64_t>(s.to));
    REQUIRE(r.session == s.to);
    r.granted = std::max(r.granted, s.granted);
    if (const auto* drain = std::get_if<Drain>(&s.message)) r.drains.push_back(drain->on);
    const auto* done = std::get_if<Done>(&s.message);
    if (done == nullptr) return;
    ++(done->rows.empty() ? r.grants : r.dones);
    size_t offset = 0;
    for (size_t i = 0; i < done->rows.size(); ++i) {
      r.rows.push_back(done->rows[i]);
      r.bytes.emplace_back(done->bytes.slice(offset, done->rows[i].len).view());
      offset += done->rows[i].len;
    }
    CHECK(offset == done->bytes.size());
  }

  static Run make(FakeRouter& r, const std::vector<RunSpec>& calls) {
    Run m;
    m.first = r.sent;
    RowsBuilder<RunRow> rows;
    std::string body;
    int last = -1;
    for (const RunSpec& c : calls) {
      auto key = std::find(m.keys.begin(), m.keys.end(), c.key);
      if (key == m.keys.end()) key = m.keys.insert(key, c.key);
      rows.add({c.call, c.deadline_us, c.window, static_cast<uint32_t>(c.payload.size()), c.handler,
                static_cast<uint16_t>(key - m.keys.begin()), c.batch, c.items, 0});
      body += c.payload;
      r.sent += c.batch != last;
      last = c.batch;
    }
    m.rows = rows.take();
    m.bytes = Bytes(std::move(body));
    return m;
  }
  void run(FakeRouter& r, const std::vector<RunSpec>& calls) { say(r, make(r, calls)); }
  void stop(FakeRouter& r, std::vector<uint64_t> calls) {
    say(r, Stop{make_rows<CallIdRow>(std::move(calls))});
  }
  void drain_answer(FakeRouter& r, bool on = true) { say(r, Drain{on}); }

  // The executors end a batch: every call with `end` and its number as text.
  void finish(uint64_t batch, CallEnd end = CallEnd::reply, uint32_t run_us = 10'000) {
    std::vector<BatchOutcome> list;
    list.push_back(outcome(batch, end, run_us));
    turn([&] { agent.on_batches(std::move(list), now(), out); });
  }
  BatchOutcome outcome(uint64_t batch, CallEnd end = CallEnd::reply, uint32_t run_us = 10'000) {
    BatchOutcome o;
    o.batch = batch;
    o.run_us = run_us;
    for (const BatchCall& c : running.at(batch).calls)
      o.calls.push_back({c.call, end, end == CallEnd::reply ? Errc::ok : Errc::app_error,
                         Bytes::copy("r" + std::string(c.payload.view()))});
    running.erase(batch);
    return o;
  }
  void pass(Duration by) {
    const Duration end = at + by;
    std::vector<uint64_t> stopped;
    for (int guard = 0; agent.next_deadline() <= Time(end); ++guard) {
      REQUIRE(guard < 10'000);
      at = std::max(at, agent.next_deadline().time_since_epoch());
      turn([&] { agent.tick(now(), out); });
      stopped.insert(stopped.end(), out.stop_calls.begin(), out.stop_calls.end());
    }
    at = end;
    out.clear();
    out.stop_calls = stopped;
  }

  CallAgent agent;
  WorkerOut out;
  Duration at = 10s;
  uint64_t sessions = 0;
  std::map<uint64_t, FakeRouter> routers;
  std::map<uint64_t, BatchStart> running;
  std::vector<BatchStart> started;
};

}  // namespace dray::worker
