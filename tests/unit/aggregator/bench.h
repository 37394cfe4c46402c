// AggregatorBench: the aggregator core on an in-memory store, turn by turn as the host runs it.
#pragma once

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "services/aggregator/shell/store_durable.h"
#include "services/aggregator/store/memory_store.h"

namespace dray {

constexpr SessionId kBrokerId{1}, kRouterId{2}, kOtherRouter{3};

inline TaskId task(uint64_t n) { return {0x1000, n}; }

struct AggregatorBench {
  explicit AggregatorBench(AggregatorOptions o = {}) : options(o) { restart(); }

  // A new process on the same disk; peers connect again.
  void restart() {
    disk->crash();
    store = std::make_unique<MemoryResultStore>(disk);
    REQUIRE(store->acquire());
    core = std::make_unique<Aggregator>(*store, options);
    REQUIRE(core->start());
    durable = std::make_unique<StoreDurable>(*core, *store);
    out.clear();
    open(kBrokerId, Aggregator::kBroker, Role::broker, 1);
    open(kRouterId, Aggregator::kRouters, Role::router);
    turn();
  }
  void open(SessionId id, Port port, Role role, uint64_t epoch = 0) {
    SessionInfo info;
    info.id = id;
    info.port = port;
    info.role = role;
    info.epoch = epoch;
    core->on_open(info, now, out);
  }
  void close(SessionId id) { core->on_close(id, CloseReason::timeout, now, out); }
  void ask(uint64_t req, Message m, uint64_t route = 7, SessionId from = kRouterId) {
    Envelope e;
    e.route = route;
    e.req = req;
    core->on_message(from, e, std::move(m), now, out);
  }
  void finished(uint64_t prev, uint64_t record, std::vector<uint64_t> tasks,
                TaskState state = TaskState::succeeded, const std::string& bytes = "result") {
    Finished m;
    m.prev = prev;
    m.record = record;
    m.wall_ms = now.wall_ms;
    RowsBuilder<ResultRow> rows;
    std::string body;
    for (uint64_t n : tasks) {
      ResultRow row;
      row.id = task(n);
      row.token = {1, n};
      row.status = static_cast<uint8_t>(state);
      const std::string own = bytes.empty() ? "" : bytes + std::to_string(n);
      row.len = static_cast<uint32_t>(own.size());
      rows.add(row);
      body += own;
    }
    m.rows = rows.take();
    m.bytes = Bytes(std::move(body));
    core->on_message(kBrokerId, {}, std::move(m), now, out);
  }
  // What Turn::finish does. Returns what was sent; `sent_now` has the now lane.
  std::vector<Send> turn() {
    if (now.mono >= core->next_deadline()) core->tick(now, out);
    core->end_turn(now, out);
    for (const Send& s : out.now) {
      CHECK_FALSE(std::holds_alternative<Ready>(s.message));
      CHECK_FALSE(std::holds_alternative<Ok>(s.message));
      CHECK_FALSE(std::holds_alternative<FinishedAck>(s.message));
    }
    status = durable->persist(out);
    sent_now = std::move(out.now);
    std::vector<Send> sent = std::move(out.after_sync);
    out.clear();
    if (status) core->check();
    return sent;
  }
  std::vector<Send> turn_at(int64_t ms) {
    now = {at_ms(ms), 1'000'000 + ms};
    return turn();
  }

  AggregatorOptions options;
  std::shared_ptr<MemoryStoreDisk> disk = std::make_shared<MemoryStoreDisk>();
  std::unique_ptr<MemoryResultStore> store;
  std::unique_ptr<Aggregator> core;
  std::unique_ptr<StoreDurable> durable;
  AggregatorOut out;
  Now now{at_ms(1000), 1'001'000};
  std::vector<Send> sent_now;
  Status status;
};

template <class M>
std::vector<M> pick(const std::vector<Send>& sends, uint64_t req = 0) {
  std::vector<M> list;
  for (const Send& s : sends)
    if (const M* m = std::get_if<M>(&s.message); m && (req == 0 || s.req == req))
      list.push_back(*m);
  return list;
}

inline Rows<IdRow> id_rows(const std::vector<uint64_t>& tasks) {
  std::vector<TaskId> ids;
  for (uint64_t n : tasks) ids.push_back(task(n));
  return make_rows<IdRow>(ids);
}
inline Wait wait_for(const std::vector<uint64_t>& tasks, uint32_t n_ready = 0,
                     bool with_bytes = true) {
  Wait w;
  w.n_ready = n_ready;
  w.with_bytes = with_bytes;
  w.rows = id_rows(tasks);
  return w;
}
inline GroupPut group_put(uint64_t group, const std::vector<uint64_t>& tasks) {
  GroupPut m;
  m.id = task(group);
  m.rows = id_rows(tasks);
  return m;
}
inline GroupWatch group_watch(uint64_t group, bool push = false) { return {task(group), push}; }

}  // namespace dray
