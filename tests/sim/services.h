// The service processes of a simulation: broker, aggregator, router, each with its disk.
#pragma once

#include <memory>
#include <optional>

#include "broker/core/broker.h"
#include "broker/shell/journal_durable.h"
#include "common/journal/memory_journal.h"
#include "services/aggregator/core/aggregator.h"
#include "services/aggregator/shell/store_durable.h"
#include "services/aggregator/store/memory_store.h"
#include "services/router/core/router.h"
#include "tests/sim/node.h"
#include "tests/sim/oracle.h"

namespace dray::sim {

// Passes everything on to the memory journal and tells the oracle what became durable.
class SpyJournal final : public Journal {
 public:
  SpyJournal(std::shared_ptr<MemoryDisk> disk, Oracle& oracle)
      : inner_(std::move(disk)), oracle_(oracle) {}
  void set_wall(int64_t wall_ms) { wall_ms_ = wall_ms; }
  Result<uint64_t> acquire() override { return inner_.acquire(); }
  Status replay(const std::function<Status(const ReplayedRecord&)>& each) override;
  RecordNo next_record() const override { return inner_.next_record(); }
  RecordNo first_record() const override { return inner_.first_record(); }
  Status append(const JournalRecord& record) override;
  Status commit() override;
  Result<Bytes> read(RecordNo no, uint64_t offset, uint64_t size) override {
    return inner_.read(no, offset, size);
  }
  Result<Bytes> read_rows(RecordNo no) override { return inner_.read_rows(no); }
  Status release_before(RecordNo no) override { return inner_.release_before(no); }
  JournalHealth health() const override { return inner_.health(); }

 private:
  MemoryJournal inner_;
  Oracle& oracle_;
  int64_t wall_ms_ = 0;
};

class BrokerNode final : public CoreNode<broker::Broker, broker::JournalDurable> {
 public:
  BrokerNode(World& world, Net& net, const Knobs& knobs, Oracle& oracle);
  void fill_disk(bool full);
  void check_now();  // compares memory, journal and a replayed copy

 protected:
  void boot() override;
  void clear() override;
  void on_died() override;
  void before_turn(Now now, Out& out) override;
  void on_feed(const Packet& packet) override { oracle_.broker_hears(packet.peer, packet.frames); }
  void on_effects(Now now, Out& out) override;
  void on_send(const Packet& packet) override { oracle_.broker_says(packet.peer, packet.frames); }
  void after_turn(Now now) override;
  void on_note(const Note& note) override;
  bool has_records(const Out& out) const override { return !out.journal.empty(); }
  void arm_commit_fault(CrashPoint point) override;
  void disarm_commit_fault() override;
  bool expected_error(const Error& e) const override { return full_ && e.code == Errc::no_space; }

 private:
  broker::BrokerOptions options() const;
  void check_replay();

  const Knobs& knobs_;
  Oracle& oracle_;
  std::shared_ptr<MemoryDisk> disk_ = std::make_shared<MemoryDisk>();
  std::unique_ptr<SpyJournal> journal_;
  bool full_ = false;
  bool crash_again_ = false;
  bool committed_ = false;
  broker::BrokerCounters seen_;
};

class AggregatorNode final : public CoreNode<Aggregator, StoreDurable> {
 public:
  AggregatorNode(World& world, Net& net, Oracle& oracle, Node& broker)
      : CoreNode(world, net, "aggregator"), oracle_(oracle), broker_(broker) {}
  void fail_next_commit(CommitFault fault);
  void check_complete();  // holds the end of every task
  MemoryStoreDisk& disk() { return *disk_; }

 protected:
  void boot() override;
  void clear() override;
  void on_died() override;
  void on_send(const Packet& packet) override;
  void after_turn(Now now) override;
  bool has_records(const Out& out) const override { return !out.batch.results.empty(); }
  void arm_commit_fault(CrashPoint point) override;
  void disarm_commit_fault() override { disk_->fail_next_commit(CommitFault::none); }
  bool expected_error(const Error& e) const override { return e.code == Errc::io && faulty_; }

 private:
  Oracle& oracle_;
  Node& broker_;
  std::shared_ptr<MemoryStoreDisk> disk_ = std::make_shared<MemoryStoreDisk>();
  std::unique_ptr<MemoryResultStore> store_;
  bool faulty_ = false;
  AggregatorCounters seen_;
};

class RouterNode final : public CoreNode<Router, NoDurable> {
 public:
  RouterNode(World& world, Net& net, const Knobs& knobs, Node& broker, Node& aggregator, int index)
      : CoreNode(world, net, index == 0 ? "router" : "router" + std::to_string(index)),
        knobs_(knobs),
        broker_(broker),
        aggregator_(aggregator) {}
  bool idle() const;

 protected:
  void boot() override;
  void on_died() override;
  void begin_drain() override;
  void after_turn(Now now) override;

 private:
  void check_bounds();
  void check_budgets(const Deployment& d);
  void look_at_models(const Deployment& d);
  void count_calls();
  const Knobs& knobs_;
  Node& broker_;
  Node& aggregator_;
  uint64_t watch_lost_seen_ = 0;
  CallTotals calls_seen_;
  size_t open_when_leaving_ = 0;
  std::vector<uint64_t> queued_max_;  // by deployment: what may wait there now
};

}  // namespace dray::sim
