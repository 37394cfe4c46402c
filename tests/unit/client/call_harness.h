// CallHarness: a client core with virtual time and several scripted routers that answer calls.
#pragma once

#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

#include "client/core/client_core.h"

namespace dray::test {

struct SentCall {
  SessionId to = SessionId::none;
  uint64_t req = 0;
  std::string handler, key, payload;
  uint64_t window = 0;
  CallRow row;
};

struct CallHarness {
  explicit CallHarness(ClientCoreOptions options = {}) : core(options) {}

  ClientCore core;
  ClientOut out;
  Now now{at_ms(1'000), 1'700'000'000'000};
  uint64_t last_session = 0;
  std::map<uint64_t, CallEvent> ends;  // by number of the call
  std::map<uint64_t, std::string> parts;
  std::vector<Send> sends;
  std::map<uint64_t, Time> sent_at;  // CALLs, by req

  SessionId open(Port port = 0, uint64_t granted = 1'000) {
    SessionInfo info;
    info.id = SessionId{++last_session};
    info.port = port;
    core.on_open(info, now, out);
    if (granted > 0) grant(info.id, granted);
    turn();
    return info.id;
  }
  void close(SessionId id) {
    core.on_close(id, CloseReason::timeout, now, out);
    turn();
  }
  void say(SessionId from, Message m, uint64_t req = 0) {
    Envelope e;
    e.req = req;
    core.on_message(from, e, std::move(m), now, out);
  }
  void grant(SessionId from, uint64_t granted) { say(from, Reply{granted, {}, {}}); }

  CallCmd cmd(std::string handler = "echo", Duration limit = 10s, uint16_t flags = 0) {
    CallCmd c;
    c.handler = std::move(handler);
    c.payload = Bytes::copy("payload");
    c.deadline = now.mono + limit;
    c.flags = flags;
    return c;
  }
  uint64_t start(CallCmd c) { return core.calls().start(std::move(c), now, out); }
  uint64_t call(std::string handler = "echo", Duration limit = 10s, uint16_t flags = 0) {
    return start(cmd(std::move(handler), limit, flags));
  }
  void cancel(uint64_t number) { core.calls().cancel(number, out); }

  // One row of an answer; status 0 is a part.
  static ReplyRow row(const SentCall& c, CallEnd end, Errc code = Errc::ok) {
    ReplyRow r;
    r.call = c.row.call;
    r.status = static_cast<uint8_t>(end);
    r.code = static_cast<uint8_t>(code);
    return r;
  }
  void answer(SessionId from, ReplyRow r, const std::string& bytes = {}) {
    r.len = static_cast<uint32_t>(bytes.size());
    RowsBuilder<ReplyRow> rows;
    rows.add(r);
    say(from, Reply{0, rows.take(), Bytes(bytes)});
  }
  void answer(const SentCall& c, CallEnd end, Errc code = Errc::ok, const std::string& bytes = {}) {
    answer(c.to, row(c, end, code), bytes);
    turn();
  }

  void turn() {
    if (core.next_deadline() <= now.mono) core.tick(now, out);
    core.end_turn(now, out);
    settle();
  }
  void settle() {
    for (CallEvent& e : out.calls) {
      uint64_t number = e.row.call;
      if (ends.count(number)) FAIL("an event after the end of call " << number);
      if (e.row.status == 0)
        parts[number] += std::string(e.bytes.view());
      else
        ends.emplace(number, std::move(e));
    }
    for (Send& s : out.now) {
      if (std::holds_alternative<Call>(s.message)) sent_at[s.req] = now.mono;
      sends.push_back(std::move(s));
    }
    out.clear();
    core.check();
  }
  void advance(Duration d) {
    Time to = now.mono + d;
    while (core.next_deadline() <= to) {
      Time at = core.next_deadline();
      now.mono = std::max(now.mono, at);
      turn();
      if (core.next_deadline() <= at) FAIL("a tick did not move the deadline");
    }
    now.mono = to;
  }

  // What was sent since the last call of either.
  std::vector<SentCall> sent() {
    turn();
    std::vector<SentCall> list;
    std::vector<Send> rest;
    for (Send& s : sends) {
      auto* m = std::get_if<Call>(&s.message);
      if (!m) {
        rest.push_back(std::move(s));
        continue;
      }
      size_t at = 0;
      for (size_t i = 0; i < m->rows.size(); ++i) {
        CallRow r = m->rows[i];
        list.push_back({s.to, s.req, m->handler, m->key, std::string(m->bytes.view(), at, r.len),
                        m->window, r});
        at += r.len;
      }
      CHECK(at == m->bytes.size());
    }
    sends = std::move(rest);
    return list;
  }
  template <class M>
  std::vector<Send> sent_of() {
    turn();
    std::vector<Send> list, rest;
    for (Send& s : sends) (std::holds_alternative<M>(s.message) ? list : rest).push_back(s);
    sends = std::move(rest);
    return list;
  }
  CallEnd end_of(uint64_t number) {
    auto it = ends.find(number);
    return it == ends.end() ? CallEnd::part : static_cast<CallEnd>(it->second.row.status);
  }
  Errc code_of(uint64_t number) { return static_cast<Errc>(ends.at(number).row.code); }
};

}  // namespace dray::test
