// Broker: decides what happens to every accepted task that is not finished. Deterministic, single
// threaded, no I/O: messages and time in, effects out (outbox.h).
//
// Rules, each with its reason:
//  * ACCEPTED, DISPATCH, RESULTS_ACK, READY and FINISHED go out after the record they rely on is
//    synced (P1, P2); so after a crash the set of tasks that may be running is exact.
//  * A task has one lease at most. A lease lives while its worker is heard from and lists the
//  token;
//    there is no visibility timeout (P3). It ends by result, cancel, give-back, proof that the
//    worker does not hold it, or the worker's silence for lease_ttl.
//  * A result is taken iff its token is the current lease's and it comes from the lease's holder
//  (P4).
//  * Every refusal is a typed answer; budgets bound memory and disk (P6).
#pragma once

#include <tsl/robin_map.h>
#include <tsl/robin_set.h>

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "broker/core/ledger.h"
#include "broker/core/ready_lanes.h"
#include "common/base/rng.h"
#include "common/base/time.h"
#include "common/resources/advertised.h"
#include "common/resources/class_mix.h"
#include "common/resources/node_ledger.h"
#include "common/wire/credit.h"
#include "common/wire/link.h"
#include "common/wire/outbox.h"

namespace dray::broker {

struct BrokerOptions {
  uint64_t tasks_max = 4'000'000;
  uint64_t journal_budget = uint64_t{4}
                            << 30;  // live payload bytes; half of it for unconfirmed results
  uint64_t journal_keep = uint64_t{512} << 20;  // history kept for duplicate detection
  uint64_t known_ids_max = 8'000'000;
  uint64_t dead_letters_max = 100'000;
  Duration lease_ttl = std::chrono::seconds(10);
  Duration resume_window = std::chrono::seconds(15);
  Duration beat = std::chrono::seconds(1);
  uint64_t seed = 1;  // of the back-off jitter
};

struct BrokerOut : Outbox {
  std::vector<JournalRecord> journal;
  RecordNo release_before = 0;  // after the records are durable, older ones may go; 0 = no change
  void clear() {
    Outbox::clear();
    journal.clear();
    release_before = 0;
  }
};

struct BrokerCounters {
  uint64_t submitted = 0, duplicates = 0, conflicts = 0, rejected = 0;
  uint64_t dispatched = 0, results = 0, stale = 0, returned = 0, lost_leases = 0, retries = 0;
  uint64_t succeeded = 0, failed = 0, dead = 0, cancelled = 0, expired = 0;
  uint64_t records = 0, carried = 0;
};

class Broker {
 public:
  using Out = BrokerOut;
  explicit Broker(BrokerOptions options);

  // Start-up: begin_replay(first record), replay each, then start once.
  void begin_replay(RecordNo first) { ledger_.start_at(first); }
  Status replay(const ReplayedRecord& record);
  void start(uint64_t epoch, Now now);

  void on_open(const SessionInfo& session, Now now, Out& out);
  void on_close(SessionId id, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  void tick(Now now, Out& out);
  void end_turn(Now now, Out& out);
  Time next_deadline() const { return next_deadline_; }
  void begin_drain(Now, Out&) { draining_ = true; }
  bool drained() const { return draining_; }
  // From the shell, once a turn: the disk has no room for new work (results still go on).
  void set_space_low(bool low) { space_low_ = low; }

  const Ledger& ledger() const { return ledger_; }
  const BrokerCounters& counters() const { return counters_; }
  uint64_t epoch() const { return epoch_; }
  size_t timers() const { return timers_.size(); }
  Doc status(Now now) const;
  bool has_aggregator() const { return stream_session_ != SessionId::none; }
  void check() const;  // recomputes every index; tests only

 private:
  struct Worker {
    SessionId session = SessionId::none;
    bool draining = false;
    CreditTaker credit;
    std::set<std::string> handlers;
    std::vector<DeviceInfo> devices;  // as it told them last
    NodeState node;  // what it has, and what `others` and `grants` take of it
    NodeState others;  // taken by what is not a lease of ours: its replicas, what still ends there
    std::unordered_map<Handle, Grant> grants;  // of its leases that need something
    uint32_t slots = 0;
    Handle head = kNil;  // lease list
    uint32_t leases = 0;  // its length, checked by check()
    uint64_t leased_bytes = 0;  // payload of its leases
    Time expire_at = kNever;  // without a session: when its leases are lost
    uint64_t next_result = 0;  // 0 = not known yet
    tsl::robin_set<Token, std::hash<Token>> have;  // being collected over several HAVE messages
    bool ack_due = false;
    std::vector<TokenRow> stale;
    uint64_t done = 0;
  };
  struct Watch {
    SessionId session = SessionId::none;
    uint64_t route = 0;
    uint64_t users = 0;
  };
  struct Timer {
    int64_t wall_ms;
    Handle handle;
    uint64_t order;
    bool expiry;
    bool operator>(const Timer& o) const {
      return std::tie(wall_ms, order) > std::tie(o.wall_ms, o.order);
    }
  };
  // A task's end, on its way into a FINISH record.
  struct Ending {
    Handle handle = kNil;
    TaskState state = TaskState::succeeded;
    Errc code = Errc::ok;
    uint32_t exec_us = 0;
    Bytes bytes;
  };
  struct Requeue {
    Handle handle = kNil;
    Cause cause = Cause::returned;
    int64_t due_ms = 0;
    std::string text;
  };
  struct Batch {  // tasks on their way to one worker
    std::vector<Handle> handles;
    uint64_t bytes = 0;
    std::set<uint32_t> specs;
    size_t spec_bytes = 0;  // they travel in the head
    bool full = false;
  };

  // verbs
  void on_submit(SessionId from, const Envelope& e, Submit&& m, Now now, Out& out);
  Status check_submit(const Submit& m, std::vector<uint32_t>& specs, Now now);
  Status check_catalog(const TaskSpec& o) const;
  struct Fresh {
    std::string rows;
    std::vector<BlobPart> blob;
    RowsBuilder<StateRow> known;
    uint32_t count = 0;
  };
  Fresh sort_out(const Submit& m, const std::vector<uint32_t>& specs, Now now);
  StateRow known_state(TaskId id, uint64_t fingerprint, Now now) const;
  Status check_budgets(const Submit& m, Now now, uint32_t& retry_ms, std::string& limit,
                       uint64_t& value) const;
  void enlist_new(Handle h, Now now);
  void enlist(Handle h, Now now);
  void on_cancel(SessionId from, const Envelope& e, const Cancel& m, Now now, Out& out);
  void on_query(SessionId from, const Envelope& e, const Query& m, Out& out);
  void on_handlers(uint32_t index, const Handlers& m, Now now, Out& out);
  void on_attach(SessionId from, const Envelope& e, const Attach& m, Now now, Out& out);
  void on_results(uint32_t w, const Results& m, Now now, Out& out);
  void on_give_back(uint32_t w, const GiveBack& m, Now now, Out& out);
  void on_have(uint32_t w, const Have& m, Now now, Out& out);
  void on_progress(uint32_t w, const Progress& m);
  void on_capacity(uint32_t w, const CapacityNews& m, Out& out);
  void on_attach_stream(SessionId from, const AttachStream& m, Out& out);
  void on_worker_message(uint32_t w, const Envelope& e, Message&& m, Now now, Out& out);

  // decide, commit, then update the runtime indexes
  void commit(const Record& record, std::vector<BlobPart> blob, Out& out);
  void finish(std::vector<Ending>& endings, Now now, Out& out);
  void finish_some(const Ending* endings, size_t n, Now now, Out& out);
  void tell_watchers(const std::vector<std::pair<uint32_t, size_t>>& rows, const Bytes& table,
                     const std::vector<Bytes>& parts, Out& out);
  void requeue(std::vector<Requeue>& list, Now now, Out& out);
  void fail_attempt(Handle h, Errc code, Bytes text, uint32_t exec_us, Now now,
                    std::vector<Ending>& ends, std::vector<Requeue>& back);
  void lose_lease(Handle h, const std::string& why, Now now, std::vector<Ending>& ends,
                  std::vector<Requeue>& back);
  void lose_worker(uint32_t w, const char* why, Now now, Out& out);
  int64_t backoff_ms(const Task& t);

  // leases
  void link(uint32_t w, Handle h);
  void unlink(Handle h);
  const TaskClass& class_of(const Task& t) const;
  Worker& worker(uint32_t w);
  uint32_t watch_index(SessionId session, uint64_t route);
  void drop_watch(uint32_t watch);

  // what leases take (broker_node.cpp)
  void take_node(Worker& w, const CapacityNews& m, Out& out);
  void settle(Worker& w, NodeState told, uint64_t received);
  std::vector<Handle> leases_with_needs(const Worker& w) const;
  bool take_needs(Worker& w, Handle h, const Request& request);
  void give_needs(Worker& w, Handle h);
  void check_grants(const Worker& w) const;
  void note_largest(const Worker& w, CatalogRec& news) const;
  void note_handlers(const std::vector<std::string>& handlers, CatalogRec& news) const;
  Doc list_gpus(const Doc& args) const;
  void explain_workers(const TaskClass& c, Doc& why) const;

  // dispatch
  void dispatch(Now now, Out& out);
  bool place(uint32_t lane, std::vector<Ending>& expired, Now now);
  bool has_room(const Worker& w, uint32_t index) const;
  uint32_t best_worker(uint32_t task_class);
  uint32_t best_node(uint32_t task_class);
  bool can_run(const Worker& w, const TaskClass& c) const;
  size_t fill(uint32_t w, uint32_t lane, size_t want, std::vector<Ending>& expired, Now now);
  void send_batches(Out& out);
  void send_batch(uint32_t w, const std::vector<Handle>& handles, Out& out);
  Message make_dispatch(const std::vector<Handle>& handles, uint64_t first,
                        std::vector<BlobRef>& gather) const;
  const std::vector<uint32_t>& eligible(uint32_t task_class);

  // time and space
  void push_timer(Timer timer);
  Timer pop_timer();
  bool is_stale(const Timer& timer) const;
  void run_timers(Now now, Out& out);
  void give_back_stop(Now now);
  void expire_leases(Now now, Out& out);
  void beat_workers(Now now, Out& out);
  void tell_backlog(Out& out);
  void keep_house(Now now, Out& out);
  void carry_some(Out& out);
  void write_settings(Out& out);
  void trim_dead(Out& out);
  void pump_stream(Now now, Out& out);
  void set_deadline(Now now);

  // admin (broker_admin.cpp)
  void on_admin(SessionId from, const Envelope& e, const Admin& m, Now now, Out& out);
  const Message* answered(SessionId from, const Envelope& e) const;
  Result<Doc> admin(const std::string& verb, const Doc& args, Now now, Out& out);
  Doc list_workers(Now now) const;
  Doc list_queues(Now now) const;
  Doc list_tasks(const Doc& args, Now now) const;
  Doc describe(Handle h, Now now) const;
  Result<Doc> explain(const Doc& args, Now now) const;
  Result<Doc> dead_letter_verb(const std::string& verb, const Doc& args, Now now, Out& out);
  Result<Doc> replay_dead(const std::vector<Handle>& list, Now now, Out& out);
  std::vector<Handle> select_dead(const Doc& args) const;
  Result<Handle> task_arg(const Doc& args) const;
  Result<Doc> drain_worker(const Doc& args, Out& out);

  BrokerOptions options_;
  Ledger ledger_;
  ReadyLanes lanes_;
  Rng rng_;
  uint64_t epoch_ = 0;
  uint64_t lease_seq_ = 0;
  bool draining_ = false;
  bool space_low_ = false;
  BrokerCounters counters_;

  std::vector<Worker> workers_;  // by holder index
  std::map<SessionId, uint32_t> worker_sessions_;
  std::map<SessionId, SessionInfo> sessions_;
  uint64_t placement_gen_ = 0;  // bumped when a worker comes, goes or changes what it offers
  struct Eligible {
    uint64_t gen = UINT64_MAX;
    std::vector<uint32_t> workers;
  };
  std::vector<Eligible> eligible_;  // by class
  ClassMix mix_;  // of the requests for GPUs that were placed
  std::map<uint32_t, Batch> batches_;
  ReadyLanes::Head cursor_{0, 0, 0};
  bool round_unfinished_ = false;

  std::vector<Watch> watches_;
  std::vector<uint32_t> free_watches_;
  std::map<std::pair<SessionId, uint64_t>, uint32_t> watch_by_route_;
  struct Shown {
    uint32_t permille;
    std::string text;
  };
  std::unordered_map<TaskId, Shown> progress_;

  std::vector<Timer> timers_;  // heap, soonest first; may hold some of tasks that ended
  size_t timers_max_ = 0;  // size at which those are thrown out
  Time next_deadline_{};
  Time last_tick_{};
  Time next_beat_{};
  Time next_house_{};

  SessionId stream_session_ = SessionId::none;
  RecordNo stream_sent_ = 0;
  RecordNo stream_acked_ = 0;  // confirmed, maybe not yet recorded
  RecordNo stream_recorded_ = 0;
  Time next_ack_record_{};
  Time next_burst_{};
  bool stream_full_ = false;  // the window is; a confirmation opens it

  RecordNo gc_cut_ = 0;  // tasks with older records are being carried forward; 0 = not running
  Handle gc_cursor_ = 0;
  // Answers to the last admin requests: a client sends a request again when the answer is late, and
  // a replay of dead letters must not happen twice.
  struct Answered {
    SessionId from;
    uint64_t route;
    uint64_t req;
    Message message;
  };
  std::deque<Answered> answered_;
  RecordNo settings_record_ = 0;  // where the settings were last written in full
};

}  // namespace dray::broker
