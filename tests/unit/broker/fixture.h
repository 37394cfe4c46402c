// A broker core with a recorded outbox, a memory journal and fake workers, routers and aggregator.
#pragma once

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "broker/core/broker.h"
#include "broker/shell/journal_durable.h"
#include "common/journal/memory_journal.h"

namespace dray::broker {

constexpr SessionId kRouter{1}, kAggregator{2}, kWorkerA{10}, kWorkerB{11};

inline TaskId id_at(int64_t wall_ms, uint64_t n) {
  return {static_cast<uint64_t>(wall_ms) << 16 | 0x7abc, 0x1234'5600'0000'0000 | n};
}

class Bench {
 public:
  explicit Bench(BrokerOptions o = {}) : options(o) { boot(); }

  void boot() {  // a new life on the same disk
    journal = std::make_unique<MemoryJournal>(disk);
    durable = std::make_unique<JournalDurable>(*journal);
    core = std::make_unique<Broker>(options);
    REQUIRE(durable->recover(*core, now).has_value());
    core->check();
    out.clear();
    sent.clear();
  }
  // Ends the turn: what was sent is in `sent`, records are durable.
  void turn() {
    if (now.mono >= core->next_deadline()) core->tick(now, out);
    core->end_turn(now, out);
    for (auto& s : out.now) sent.push_back(s);
    REQUIRE(durable->persist(out).has_value());
    for (auto& s : out.after_sync) {
      if (!s.gather.empty() || s.load) REQUIRE(durable->load(s).has_value());
      sent.push_back(s);
    }
    out.clear();
    core->check();
  }
  // In steps, as a host does: a longer gap means that the process was stopped.
  void pass(Duration d) {
    for (; d > Duration(1s); d -= 1s) step(1s);
    step(d);
  }
  void step(Duration d) {
    now.mono += d;
    now.wall_ms += to_ms(d);
    turn();
  }
  void open(SessionId id, Role role, const std::string& name, uint64_t boot = 1) {
    core->on_open({id, 0, role, name, {boot, static_cast<uint64_t>(id)}, 0, 0}, now, out);
  }
  template <class M>
  void say(SessionId from, M m, uint64_t granted = 0, uint64_t route = 77, uint64_t req = 0) {
    Envelope e;
    e.granted = granted;
    e.route = route;
    e.req = req ? req : ++last_req;
    core->on_message(from, e, Message(std::move(m)), now, out);
  }
  void attach(SessionId s, const std::string& name, uint64_t credit, uint64_t boot = 1,
              std::vector<std::string> handlers = {"echo"}) {
    open(s, Role::worker, name, boot);
    Attach a;
    a.slots = 2;
    a.handlers = std::move(handlers);
    a.resources = {{"cpu", 20000}, {"slot", 10000}};
    a.labels = {"node:x"};
    a.results_from = 1;
    say(s, a, credit);
    turn();
  }
  Submit make_submit(const std::vector<TaskId>& ids, TaskSpec spec = {}, bool watch = false) {
    if (spec.handler.empty()) spec.handler = "echo";
    Submit m;
    m.watch = watch;
    m.specs = {encode_spec(spec)};
    RowsBuilder<SubmitRow> rows;
    std::string bytes;
    for (TaskId id : ids) {
      std::string payload = "p" + to_hex(id).substr(26);
      rows.add({id, static_cast<uint32_t>(payload.size()), 0, 0});
      bytes += payload;
    }
    m.rows = rows.take();
    m.bytes = Bytes(bytes);
    return m;
  }
  std::vector<TaskId> ids(size_t n) {
    std::vector<TaskId> out_ids;
    for (size_t i = 0; i < n; ++i) out_ids.push_back(id_at(now.wall_ms, next_id++));
    return out_ids;
  }
  std::vector<TaskId> submit(size_t n, TaskSpec spec = {}, bool watch = false) {
    auto list = ids(n);
    say(kRouter, make_submit(list, std::move(spec), watch));
    turn();
    return list;
  }
  // All messages of type M sent so far (to `to` if given); clears nothing.
  template <class M>
  std::vector<M> got(SessionId to = SessionId::none) const {
    std::vector<M> all;
    for (const Send& s : sent)
      if (to == SessionId::none || s.to == to)
        if (auto* m = std::get_if<M>(&s.message)) all.push_back(*m);
    return all;
  }
  struct Lease {
    TaskId id;
    Token token;
    std::string payload;
    uint16_t attempt;
  };
  std::vector<Lease> leases(SessionId worker) const {
    std::vector<Lease> all;
    for (const auto& d : got<Dispatch>(worker)) {
      size_t at = 0;
      for (size_t i = 0; i < d.rows.size(); ++i) {
        auto r = d.rows[i];
        all.push_back({r.id,
                       {d.epoch, r.token_seq},
                       std::string(d.bytes.view().substr(at, r.len)),
                       r.attempt});
        at += r.len;
      }
    }
    return all;
  }
  void result(SessionId worker, const Lease& lease, uint64_t number, Verdict v = Verdict::ok,
              const std::string& bytes = "r", uint64_t granted = 0) {
    Results m;
    m.first = number;
    RowsBuilder<ResultRow> rows;
    rows.add({lease.id, lease.token, static_cast<uint32_t>(bytes.size()), 5, 0, lease.attempt,
              static_cast<uint8_t>(v), 0});
    m.rows = rows.take();
    m.bytes = Bytes(bytes);
    say(worker, m, granted);
    turn();
  }
  TaskState state(TaskId id) const {
    Handle h = core->ledger().find(id);
    if (h != kNil) return core->ledger().tasks()[h].state;
    auto end = core->ledger().known().find(id);
    return end ? end->state : TaskState::unknown;
  }

  BrokerOptions options;
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>();
  std::unique_ptr<MemoryJournal> journal;
  std::unique_ptr<JournalDurable> durable;
  std::unique_ptr<Broker> core;
  BrokerOut out;
  std::vector<Send> sent;
  Now now{at_ms(1'000'000), 1'800'000'000'000};
  uint64_t next_id = 1;
  uint64_t last_req = 100;
};

}  // namespace dray::broker
