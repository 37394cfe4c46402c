// Oracle: what must hold, judged from outside the cores. It keeps its own model of every task,
// built from nothing but the records that became durable, and compares with it what the broker
// keeps in memory, what it says on the wire, what workers start and what clients are told.
//
// I1 accepted tasks stay        I2 one end per task, ever       I3 the end is of the current lease
// I4 tokens rise, one start     I6 accounting                   I8 bounds
// I9 nothing is promised before it is durable                   I10 replay gives the same state
#pragma once

#include <deque>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "broker/core/broker.h"
#include "broker/core/records.h"
#include "common/wire/message.h"
#include "tests/sim/world.h"

namespace dray::sim {

std::string payload_of(TaskId id);
// Also that of a conflicting submit, which may have come first: it has one byte more.
bool is_payload_of(TaskId id, std::string_view payload);
std::string result_of(TaskId id, Token token);  // what a good attempt answers

struct TaskTruth {
  TaskState state = TaskState::queued;
  Token token;
  BootId holder;
  uint64_t fingerprint = 0;
  int64_t due_ms = 0;
  int64_t expires_ms = 0;
  uint32_t len = 0;
  uint16_t attempt = 0;
  uint16_t failures = 0;
  uint16_t lost = 0;
  TaskSpec spec;
  bool dropped = false;  // dead letter that was purged
  uint64_t result_hash = 0;
  bool copied = false;  // made by dlq.replay: its payload belongs to another id
};

class Oracle {
 public:
  Oracle(World& world, const Knobs& knobs) : world_(world), knobs_(knobs) {}

  void see_wall(int64_t wall_ms) { latest_wall_ms_ = std::max(latest_wall_ms_, wall_ms); }

  // --- the journal
  void appended(const JournalRecord& record, int64_t wall_ms);
  void committed();
  void begin_replay() { replay_next_ = 0; }
  void replayed(const ReplayedRecord& record);
  void recovered();
  void check_ledger(const broker::Broker& core);  // right after a commit

  // --- the wire
  void broker_hears(Peer peer, const Frames& frames);
  void broker_says(Peer peer, const Frames& frames);
  void broker_died() {
    submits_.clear();
    boot_of_peer_.clear();
    newest_hello_.clear();
    old_hellos_.clear();
  }

  // --- workers
  void check_start(TaskId id, Token token, uint16_t attempt, const Bytes& payload);

  // --- clients
  void client_made(TaskId id) { made_.insert(id); }
  void client_submits(TaskId id) { never_.erase(id); }
  void client_refused(TaskId id) { never_.insert(id); }  // it was told: surely nothing was done
  void check_result(TaskId id, TaskState state, uint8_t code, const Bytes& bytes);

  const std::unordered_map<TaskId, TaskTruth>& tasks() const { return tasks_; }
  const TaskTruth* find(TaskId id) const {
    auto it = tasks_.find(id);
    return it == tasks_.end() ? nullptr : &it->second;
  }
  size_t live() const { return live_; }
  RecordNo next_record() const { return next_; }
  bool is_finish(RecordNo no) const { return finish_records_.count(no) != 0; }

 private:
  struct Appended {
    RecordNo no;
    int64_t wall_ms;
    broker::Record record;
    std::string blob;
    bool has_blob;
  };
  struct Heard {  // a worker's results by number
    uint64_t first = 1;
    std::deque<TokenRow> rows;
  };
  void apply(const Appended& a);
  void on(const broker::AcceptRec& r, const Appended& a);
  void on(const broker::LeaseRec& r, const Appended& a);
  void on(const broker::FinishRec& r, const Appended& a);
  void on(const broker::RequeueRec& r, const Appended& a);
  void on(const broker::CarryRec& r, const Appended& a);
  void on(const broker::DropDeadRec& r, const Appended& a);
  void on(const broker::PauseRec& r, const Appended& a);
  void on(const broker::StreamAckRec&, const Appended&) {}
  void on(const broker::FloorRec&, const Appended&) {}
  void on(const broker::CatalogRec&, const Appended&) {}
  void end_task(TaskId id, TaskTruth& t, const ResultRow& row, const Appended& a,
                std::string_view bytes);
  void check_submitted(Peer peer, const Envelope& e, const Submitted& m);
  void check_dispatch(const Dispatch& m);
  void check_ready(const Rows<ResultRow>& rows, const Bytes& bytes, const char* what);
  void check_states(const States& m);
  void check_results_ack(Peer peer, const ResultsAck& m);
  void check_task(const broker::Ledger& ledger, TaskId id, const TaskTruth& t);

  World& world_;
  const Knobs& knobs_;
  std::unordered_map<TaskId, TaskTruth> tasks_;
  size_t live_ = 0;
  int64_t latest_wall_ms_ = 0;  // of any turn: what was due once stays due when the clock goes back
  RecordNo next_ = 1;
  RecordNo replay_next_ = 0;
  RecordNo last_finish_ = 0;
  std::set<RecordNo> finish_records_;
  std::deque<Appended> appended_;
  std::set<std::string> paused_;
  std::unordered_set<TaskId> never_;
  std::unordered_set<TaskId> made_;
  std::map<std::tuple<Peer, uint64_t, uint64_t>, std::vector<TaskId>> submits_;
  std::map<Peer, BootId> boot_of_peer_;
  std::map<BootId, std::pair<uint64_t, Peer>> newest_hello_;
  std::set<std::pair<Peer, uint64_t>> old_hellos_;
  std::map<BootId, Heard> heard_;
};

}  // namespace dray::sim
