// CallBench: a router with clients and workers whose moves a test makes by hand, on a virtual
// clock. It keeps what every peer was told and checks the lane after each turn.
#pragma once

#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

#include "common/wire/offer.h"
#include "services/router/core/router.h"

namespace dray {

struct Answer {
  ReplyRow row;
  std::string bytes;
};
struct Started {  // one call as a worker got it
  RunRow row;
  std::string key;
  std::string bytes;
  uint64_t batch = 0;  // number in the session
};

struct CallSpec {
  uint64_t call = 1;
  std::string handler = "h";
  std::string key{};
  uint64_t window = 0;
  Duration deadline = 1s;
  uint16_t items = 1;
  uint16_t flags = 0;
  std::string payload = "x";
};

inline HandlerOffer offer_of(std::string name) {
  HandlerOffer o;
  o.name = std::move(name);
  return o;
}

class CallBench {
 public:
  explicit CallBench(CallOptions options = {}) : router(with(options)) {}
  static RouterOptions with(CallOptions options) {
    RouterOptions o;
    o.calls = options;
    return o;
  }

  SessionId client(uint64_t id = 10) {
    open(SessionId{id}, Router::kClients, Role::client);
    end_turn();
    return SessionId{id};
  }
  SessionId worker(uint64_t id, std::vector<HandlerOffer> offers, uint32_t slots = 1,
                   uint64_t granted = 0) {
    open(SessionId{id}, Router::kWorkers, Role::worker);
    Offer m;
    m.slots = slots;
    for (const HandlerOffer& o : offers) m.handlers.push_back(encode_offer(o));
    send(SessionId{id}, m, granted == 0 ? slots : granted);
    granted_[SessionId{id}] = granted == 0 ? slots : granted;
    end_turn();
    return SessionId{id};
  }
  void open(SessionId id, Port port, Role role) {
    SessionInfo info;
    info.id = id;
    info.port = port;
    info.role = role;
    info.name = "peer" + std::to_string(static_cast<uint64_t>(id));
    router.on_open(info, now, out);
  }
  void close(SessionId id) {
    router.on_close(id, CloseReason::timeout, now, out);
    end_turn();
  }
  void send(SessionId from, const Message& m, uint64_t granted = 0) {
    Envelope e;
    e.granted = granted;
    Frames frames = encode(e, m);
    auto seen = decode_envelope(frames);
    router.on_frames(from, *seen, std::move(frames), now, out);
  }
  // Puts a call on the wire; end_turn() is up to the caller.
  void post(SessionId from, const CallSpec& s) {
    Call m;
    m.handler = s.handler;
    m.key = s.key;
    m.window = s.window;
    RowsBuilder<CallRow> rows;
    CallRow row;
    row.call = s.call;
    row.deadline_us = static_cast<uint64_t>(to_us(s.deadline));
    row.len = static_cast<uint32_t>(s.payload.size());
    row.items = s.items;
    row.flags = s.flags;
    rows.add(row);
    m.rows = rows.take();
    m.bytes = Bytes(s.payload);
    send(from, m);
  }
  void call(SessionId from, const CallSpec& s) {
    post(from, s);
    end_turn();
  }
  void cancel(SessionId from, uint64_t call) {
    RowsBuilder<CallIdRow> rows;
    rows.add({call});
    send(from, CallCancel{rows.take()});
    end_turn();
  }
  struct Outcome {
    CallEnd end = CallEnd::reply;
    std::string bytes = "y";
    uint16_t flags = kDoneFreesSlot;
    uint32_t run_us = 100;
    uint32_t wait_us = 0;
    bool grant = true;  // one more batch, if this frees a slot
  };
  // Ends the call with the router's number `number`.
  void done(SessionId from, uint64_t number) { done(from, number, Outcome()); }
  void done(SessionId from, uint64_t number, const Outcome& o) {
    post_done(from, number, o);
    end_turn();
  }
  void post_done(SessionId from, uint64_t number, const Outcome& o) {
    RowsBuilder<DoneRow> rows;
    DoneRow row;
    row.call = number;
    row.len = static_cast<uint32_t>(o.bytes.size());
    row.run_us = o.run_us;
    row.wait_us = o.wait_us;
    row.status = static_cast<uint8_t>(o.end);
    row.flags = o.flags;
    rows.add(row);
    if (o.grant && (o.flags & kDoneFreesSlot) != 0) ++granted_[from];
    send(from, Done{rows.take(), Bytes(o.bytes)}, granted_[from]);
  }
  void drain(SessionId from, bool on = true) {
    send(from, Drain{on});
    end_turn();
  }
  void end_turn() {
    router.end_turn(now, out);
    router.check();
    for (const Send& s : out.now) record(s);
    out.clear();
  }
  // Moves the clock there, with a turn at each deadline on the way.
  void go(Duration d) {
    const Time until = now.mono + d;
    while (router.next_deadline() <= until) {
      now.mono = std::max(now.mono, router.next_deadline());
      end_turn();
    }
    now.mono = until;
    end_turn();
  }

  const Answer& answer(SessionId client, uint64_t call) const {
    for (const Answer& a : answers.at(client))
      if (a.row.call == call && a.row.status != 0) return a;
    FAIL("no answer for call " << call);
    throw 0;
  }
  CallEnd end_of(SessionId client, uint64_t call) const {
    return static_cast<CallEnd>(answer(client, call).row.status);
  }
  size_t answered(SessionId client) const {
    auto it = answers.find(client);
    return it == answers.end() ? 0 : it->second.size();
  }
  size_t runs(SessionId worker) const {
    auto it = started.find(worker);
    return it == started.end() ? 0 : it->second.size();
  }
  const Started& run(SessionId worker, size_t i) const { return started.at(worker).at(i); }
  uint64_t refused(CallRefusal why) const {
    return router.lane().totals().refused[static_cast<size_t>(why)];
  }
  uint64_t refused_in_all() const {
    uint64_t n = 0;
    for (uint64_t r : router.lane().totals().refused) n += r;
    return n;
  }
  const CallTotals& totals() const { return router.lane().totals(); }

  Router router;
  RouterOut out;
  Now now{at_ms(1000), 1'000'000};
  std::map<SessionId, std::vector<Answer>> answers;
  std::map<SessionId, uint64_t> client_credit;
  std::map<SessionId, std::vector<Started>> started;
  std::map<SessionId, std::vector<uint64_t>> stopped;
  std::map<SessionId, std::vector<CallCreditRow>> credits;
  std::map<SessionId, std::vector<bool>> drains;
  std::map<SessionId, std::vector<WantRow>> wants;
  std::map<SessionId, uint64_t> batches;  // sent to each worker
  std::vector<std::pair<SessionId, Reject>> rejects;
  std::vector<std::pair<Time, Load>> loads;  // what the balancer was told
  size_t messages = 0;

 private:
  void record(const Send& s) {
    ++messages;
    // As a peer would get it.
    auto in = decode(encode(Envelope{}, s.message));
    REQUIRE(in);
    const Message& m = in->message;
    if (const auto* r = std::get_if<Reply>(&m)) record_reply(s.to, *r);
    if (const auto* r = std::get_if<Run>(&m)) record_run(s.to, *r);
    if (const auto* r = std::get_if<Reject>(&m)) rejects.emplace_back(s.to, *r);
    if (const auto* r = std::get_if<Load>(&m)) loads.emplace_back(now.mono, *r);
    if (const auto* r = std::get_if<Drain>(&m)) drains[s.to].push_back(r->on);
    if (const auto* r = std::get_if<Want>(&m))
      for (size_t i = 0; i < r->rows.size(); ++i) wants[s.to].push_back(r->rows[i]);
    if (const auto* r = std::get_if<Stop>(&m))
      for (size_t i = 0; i < r->rows.size(); ++i) stopped[s.to].push_back(r->rows[i].call);
    if (const auto* r = std::get_if<CallCredit>(&m))
      for (size_t i = 0; i < r->rows.size(); ++i) credits[s.to].push_back(r->rows[i]);
  }
  void record_reply(SessionId to, const Reply& r) {
    client_credit[to] = std::max(client_credit[to], r.granted);
    size_t offset = 0;
    for (size_t i = 0; i < r.rows.size(); ++i) {
      const ReplyRow row = r.rows[i];
      answers[to].push_back({row, std::string(r.bytes.slice(offset, row.len).view())});
      offset += row.len;
    }
  }
  void record_run(SessionId to, const Run& r) {
    CHECK(r.first == batches[to]);
    size_t offset = 0;
    int last = -1;
    for (size_t i = 0; i < r.rows.size(); ++i) {
      const RunRow row = r.rows[i];
      if (row.batch != last) ++batches[to];
      last = row.batch;
      std::string bytes(r.bytes.slice(offset, row.len).view());
      offset += row.len;
      started[to].push_back({row, r.keys.at(row.key), std::move(bytes), batches[to]});
    }
  }
  std::map<SessionId, uint64_t> granted_;
};

}  // namespace dray
