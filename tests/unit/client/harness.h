// Harness: a client core with virtual time and a recorded outbox.
#pragma once

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "client/core/client_core.h"
#include "client/core/id_maker.h"

namespace dray::test {

struct Harness {
  explicit Harness(ClientCoreOptions options = {}) : core(options) {}

  ClientCore core;
  ClientOut out;
  Now now{at_ms(1'000), 1'700'000'000'000};
  uint64_t session = 0;
  uint64_t settled = 0;
  IdMaker ids{7};
  std::map<TaskId, int> results;  // result events per task
  std::map<TaskId, ResultRow> last_row;
  std::vector<Event> events;  // all but results

  void open(uint64_t granted = 1'000) {
    SessionInfo info;
    info.id = SessionId{++session};
    core.on_open(info, now, out);
    if (granted > 0) say(Sync{}, 0, granted);
    settle();
  }
  void close() {
    core.on_close(SessionId{session}, CloseReason::timeout, now, out);
    settle();
  }
  void say(Message m, uint64_t req = 0, uint64_t granted = 0) {
    Envelope e;
    e.req = req;
    e.granted = granted;
    core.on_message(SessionId{session}, e, std::move(m), now, out);
    settle();
  }
  // Moves time to `to`, ticking whenever the core asks for it.
  void advance(Duration d) {
    Time to = now.mono + d;
    while (core.next_deadline() <= to) {
      now.mono = std::max(now.mono, core.next_deadline());
      core.tick(now, out);
      settle();
      if (core.next_deadline() <= now.mono) FAIL("a tick did not move the deadline");
    }
    now.mono = to;
  }
  void settle() {
    if (++settled % 16 == 0) core.check();
    bool answered = false;
    for (Event& event : out.events) {
      answered |= std::holds_alternative<SubmittedEvent>(event);
      if (auto* r = std::get_if<ResultsEvent>(&event)) {
        CHECK(!answered);  // who waits for the answer may then look at each task
        take_results(*r);
      } else
        events.push_back(std::move(event));
    }
    out.events.clear();
  }
  void take_results(const ResultsEvent& r) {
    std::set<uint32_t> fresh(r.fresh.begin(), r.fresh.end());
    for (uint32_t i = 0; i < r.rows.size(); ++i) {
      if (!fresh.empty() && !fresh.count(i)) continue;
      ++results[r.rows[i].id];
      last_row[r.rows[i].id] = r.rows[i];
    }
  }
  // Takes what was sent since the last call.
  std::vector<Send> sent() {
    settle();
    std::vector<Send> list = std::move(out.now);
    out.clear();
    return list;
  }
  template <class M>
  std::vector<Send> sent_of() {
    std::vector<Send> list;
    for (Send& s : sent())
      if (std::holds_alternative<M>(s.message)) list.push_back(std::move(s));
    return list;
  }
  template <class E>
  std::vector<E> taken() {
    std::vector<E> list;
    std::vector<Event> rest;
    for (Event& e : events) {
      if (auto* x = std::get_if<E>(&e))
        list.push_back(std::move(*x));
      else
        rest.push_back(std::move(e));
    }
    events = std::move(rest);
    return list;
  }

  std::vector<TaskId> make_ids(size_t n) {
    std::vector<TaskId> list;
    for (size_t i = 0; i < n; ++i) list.push_back(ids.next(now.wall_ms));
    return list;
  }
  uint64_t submit(const std::vector<TaskId>& list, Duration limit = 30s, bool watch = true) {
    SubmitCmd cmd;
    cmd.specs = {"spec"};
    RowsBuilder<SubmitRow> rows;
    for (TaskId id : list) rows.add({id, 1, 0, 0});
    cmd.rows = rows.take();
    cmd.bytes = Bytes(std::string(list.size(), 'x'));
    cmd.deadline = now.mono + limit;
    cmd.watch = watch;
    uint64_t req = core.submit(std::move(cmd), now, out);
    settle();
    return req;
  }
  void accept(uint64_t req, uint32_t n, uint64_t epoch = 1) { say(Submitted{n, epoch, {}}, req); }
  static Ready ready(const std::vector<TaskId>& list, bool done = true,
                     TaskState state = TaskState::succeeded) {
    RowsBuilder<ResultRow> rows;
    for (TaskId id : list) {
      ResultRow row;
      row.id = id;
      row.len = 1;
      row.status = static_cast<uint8_t>(state);
      rows.add(row);
    }
    return Ready{done, rows.take(), Bytes(std::string(list.size(), 'r'))};
  }
};

inline std::vector<TaskId> ids_of(const Send& wait) {
  std::vector<TaskId> list;
  const auto& rows = std::get<Wait>(wait.message).rows;
  for (size_t i = 0; i < rows.size(); ++i) list.push_back(rows[i].id);
  return list;
}

}  // namespace dray::test
