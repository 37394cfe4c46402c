// Rig: an agent whose broker, executors and clock are played by the test.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>

#include "services/worker/core/agent.h"

namespace dray::worker {

inline std::string spec_blob(TaskSpec spec = {}) {
  if (spec.handler.empty()) spec.handler = "echo";
  return encode_spec(spec);
}

struct Rig {
  explicit Rig(AgentOptions options) : agent(std::move(options)) {}
  explicit Rig(uint32_t slots = 2, uint32_t prefetch = 4096)
      : agent(AgentOptions{slots,
                           prefetch,
                           {"echo", "gpu"},
                           {},
                           {"node:a"},
                           {{"cpu", slots * 10'000}, {"gpu", 10'000}},
                           1s,
                           30s}) {}

  Now now() const { return {at_ms(ms), ms}; }
  void open(uint64_t epoch = 1) {
    SessionInfo info;
    info.id = SessionId{++session};
    info.role = Role::broker;
    info.epoch = epoch;
    sent = 0;
    turn([&] { agent.on_open(info, now(), out); });
  }
  void close() {
    turn([&] { agent.on_close(SessionId{session}, CloseReason::timeout, now(), out); });
  }
  void say(Message m) {
    turn([&] { agent.on_message(SessionId{session}, {}, std::move(m), now(), out); });
  }
  // Runs `f` and files its effects away.
  template <class F>
  void turn(F&& f) {
    out.clear();
    f();
    for (const Start& s : out.start) {
      started.push_back(s);
      for (const Start& more : s.more) started.push_back(more);
    }
    for (const Send& s : out.now) {
      CHECK(s.to == SessionId{session});
      granted = s.granted;
    }
    exited = exited || out.exit;
    agent.check();
  }
  // Moves time and ticks at each deadline on the way.
  void pass(int64_t by) {
    const int64_t end = ms + by;
    std::vector<Send> all;
    std::vector<Token> cancelled;
    bool recall = false;
    for (int guard = 0; guard < 100'000; ++guard) {
      const Time next = agent.next_deadline();
      if (next > at_ms(end)) break;
      ms = std::max(ms, to_ms(next.time_since_epoch() + Duration(999'999)));
      turn([&] { agent.tick(now(), out); });
      std::move(out.now.begin(), out.now.end(), std::back_inserter(all));
      cancelled.insert(cancelled.end(), out.cancel.begin(), out.cancel.end());
      recall = recall || out.recall;
      REQUIRE(guard < 99'999);
    }
    ms = std::max(ms, end);
    out.clear();
    out.now = std::move(all);
    out.cancel = std::move(cancelled);
    out.recall = recall;
  }

  Dispatch make(uint64_t first_seq, size_t n, const TaskSpec& spec = {}, size_t bytes = 3,
                uint16_t attempt = 1) {
    Dispatch d;
    d.epoch = 1;
    d.first = sent;
    d.specs = {spec_blob(spec)};
    RowsBuilder<DispatchRow> rows;
    for (size_t i = 0; i < n; ++i)
      rows.add({TaskId{7, first_seq + i}, first_seq + i, static_cast<uint32_t>(bytes), attempt, 0});
    d.rows = rows.take();
    d.bytes = Bytes(std::string(n * bytes, 'x'));
    sent += n;
    return d;
  }
  void dispatch(uint64_t first_seq, size_t n, const TaskSpec& spec = {}, uint16_t attempt = 1) {
    say(make(first_seq, n, spec, 3, attempt));
  }
  static Outcome done(uint64_t seq, uint32_t us = 100'000) {
    return {TaskId{7, seq}, Token{1, seq}, Verdict::ok, Errc::ok, true, us, Bytes::copy("r"), us};
  }
  void finish(std::vector<uint64_t> seqs, uint32_t us = 100'000) {
    std::vector<Outcome> list;
    for (uint64_t seq : seqs) list.push_back(done(seq, us));
    outcomes(std::move(list));
  }
  void outcomes(std::vector<Outcome> list) {
    turn([&] { agent.on_outcomes(std::move(list), now(), out); });
  }
  void ack(uint64_t upto) {
    ResultsAck m;
    m.upto = upto;
    say(m);
  }
  void revoke(uint64_t seq) {
    say(Revoke{make_rows<TokenRow>(std::vector<TokenRow>{{TaskId{7, seq}, Token{1, seq}}})});
  }
  template <class M>
  std::vector<M> sends() const {
    std::vector<M> list;
    for (const Send& s : out.now)
      if (const M* m = std::get_if<M>(&s.message)) list.push_back(*m);
    return list;
  }
  template <class R>
  static std::vector<uint64_t> seqs(const Rows<R>& rows) {
    std::vector<uint64_t> list;
    for (size_t i = 0; i < rows.size(); ++i) list.push_back(rows[i].token.seq);
    std::sort(list.begin(), list.end());
    return list;
  }

  std::vector<uint64_t> have() {
    say(Sync{0});
    REQUIRE(sends<Have>().size() == 1);
    return seqs(sends<Have>()[0].rows);
  }

  Agent agent;
  WorkerOut out;
  std::vector<Start> started;
  uint64_t session = 0;
  uint64_t sent = 0;
  uint64_t granted = 0;
  int64_t ms = 10'000;
  bool exited = false;
};

using Seqs = std::vector<uint64_t>;

}  // namespace dray::worker
