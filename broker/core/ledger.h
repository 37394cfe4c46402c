// Ledger: the broker's durable state. It changes only in apply(record), which the live path and the
// replay share, so what a restart rebuilds is what was there. Runtime indexes (ready lanes, lease
// lists, timers, sessions) belong to Broker and are derived from this.
#pragma once

#include <tsl/robin_map.h>

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/core/known_ids.h"
#include "broker/core/records.h"
#include "broker/core/spec_table.h"
#include "broker/core/task.h"

namespace dray::broker {

// One life of a worker that has held leases.
struct Holder {
  BootId boot;
  std::string name;
};

struct Unacked {  // a FINISH record the aggregator has not confirmed
  RecordNo record = 0;
  RecordNo prev = 0;
  int64_t wall_ms = 0;
  uint64_t bytes = 0;
};

class Ledger {
 public:
  explicit Ledger(size_t known_ids_max) : known_(known_ids_max) {}

  // Applies a durable change. `other_bytes` is the size of the record's head and blob.
  // Records come in order without gaps; rows about tasks that are not here any more are skipped.
  Status apply(const Record& record, RecordNo no, uint64_t other_bytes);

  Handle find(TaskId id) const {
    auto it = by_id_.find(id);
    return it == by_id_.end() ? kNil : it->second;
  }
  TaskPool& tasks() { return tasks_; }
  const TaskPool& tasks() const { return tasks_; }
  SpecTable& specs() { return specs_; }
  const SpecTable& specs() const { return specs_; }
  const KnownIds& known() const { return known_; }
  const TaskSpec& options(const Task& t) const { return specs_[t.spec].options; }

  // Handles made by the last ACCEPT or touched by the last CARRY, in row order.
  const std::vector<Handle>& last_handles() const { return last_handles_; }

  size_t live_tasks() const { return by_id_.size() - dead_.size(); }
  const std::set<std::pair<uint64_t, TaskId>>& dead_letters() const { return dead_; }
  const std::vector<std::string>* errors(TaskId id) const;  // last error texts, oldest first
  uint64_t next_order() const { return next_order_; }
  uint64_t floor_ms() const { return floor_ms_; }
  bool is_paused(const std::string& queue) const { return paused_.count(queue) != 0; }
  const std::set<std::string>& paused_queues() const { return paused_; }
  static constexpr size_t kCatalogMax = 50'000;  // names of handlers
  const std::set<std::string>& catalog_handlers() const { return catalog_handlers_; }
  const ResourceVec& catalog_resources() const { return catalog_resources_; }

  uint32_t holder_index(BootId boot, const std::string& name);
  const Holder& holder(uint32_t i) const { return holders_[i]; }
  size_t holders() const { return holders_.size(); }

  // Journal space.
  RecordNo next_record() const { return first_record_ + records_.size(); }
  RecordNo first_record() const { return first_record_; }
  uint64_t log_bytes() const { return log_bytes_; }
  uint64_t live_bytes() const { return live_bytes_; }
  uint64_t dead_bytes() const { return dead_bytes_; }
  const std::deque<Unacked>& unacked() const { return unacked_; }
  uint64_t unacked_bytes() const { return unacked_bytes_; }
  RecordNo last_finish() const { return last_finish_; }
  // Forgets records at the front that nothing needs while more than `keep_bytes` are kept. Returns
  // the first record still needed. Raises `floor` to the newest id time whose history went.
  RecordNo release(uint64_t keep_bytes, int64_t wall_ms, uint64_t& floor);
  void start_at(RecordNo first) { first_record_ = first; }
  uint64_t trim_known() { return known_.trim(); }
  // True when the oldest kept record is pinned by a live task.
  bool front_is_pinned() const { return !records_.empty() && records_.front().refs > 0; }

  uint64_t digest() const;  // of everything durable; equal after replay
  void check() const;  // recomputes the counters from the tasks

 private:
  struct RecordInfo {
    uint64_t bytes = 0;
    uint64_t id_ms = 0;  // newest id whose end this record tells
    uint32_t refs = 0;  // tasks whose payload is here, or 1 for an unconfirmed FINISH
  };
  Status apply_one(const AcceptRec& r, RecordNo no);
  Status apply_one(const LeaseRec& r, RecordNo no);
  Status apply_one(const FinishRec& r, RecordNo no);
  Status apply_one(const RequeueRec& r, RecordNo no);
  Status apply_one(const CarryRec& r, RecordNo no);
  Status apply_one(const DropDeadRec& r, RecordNo no);
  Status apply_one(const StreamAckRec& r, RecordNo no);
  Status apply_one(const PauseRec& r, RecordNo no);
  Status apply_one(const FloorRec& r, RecordNo no);
  Status apply_one(const CatalogRec& r, RecordNo no);
  Result<std::vector<uint32_t>> intern_all(const std::vector<std::string>& blobs);
  void unref(RecordNo no);
  void remove(Handle h, TaskState state);
  void add_error(TaskId id, const std::string& text);

  TaskPool tasks_;
  tsl::robin_map<TaskId, Handle, std::hash<TaskId>> by_id_;
  SpecTable specs_;
  KnownIds known_;
  std::set<std::pair<uint64_t, TaskId>> dead_;  // by order
  std::unordered_map<TaskId, std::vector<std::string>> errors_;
  std::vector<Holder> holders_;
  std::unordered_map<BootId, uint32_t> holder_by_boot_;
  std::set<std::string> paused_;
  std::set<std::string> catalog_handlers_;
  ResourceVec catalog_resources_;
  std::vector<Handle> last_handles_;
  uint64_t next_order_ = 1;
  uint64_t floor_ms_ = 0;

  std::deque<RecordInfo> records_;
  RecordNo first_record_ = 1;
  uint64_t log_bytes_ = 0;
  uint64_t live_bytes_ = 0;  // payload bytes of live tasks and dead letters
  uint64_t dead_bytes_ = 0;  // of dead letters
  std::deque<Unacked> unacked_;
  uint64_t unacked_bytes_ = 0;
  RecordNo last_finish_ = 0;
};

}  // namespace dray::broker
