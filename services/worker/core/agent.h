// Agent: the worker's half of the broker conversation: credit, the local queue, leases held here,
// results until they are acknowledged, time limits and drain. Pure: messages, outcomes and time in,
// messages and starts out.
//
// Rules
// - Every message carries `granted` = received + k - held (T1). held = queued + running, also what
//   is void but still runs. Why: a sum of increments leaks one credit with every lost message.
// - A task is *started* once it is handed to the executors. It then ends with an Outcome or stays.
// - HAVE and ATTACH list the tokens we still answer for: queued, running and not void, finished and
//   not acknowledged. What the broker sent, is not listed, and lies below `received`, is lost.
// - Task numbers below `received` are never taken. Why: HAVE has already called them lost, the
//   broker has given them to somebody else.
// - Results keep their number and are sent again, in order, until acknowledged.
// - A prefetched task never waits behind a long one: after 500 ms it goes back. So does one that
//   waits for GPUs, as infeasible and followed by CAPACITY, the true vector: the broker thought
//   they were free.
// - Tasks of a handler that shares its place with calls start when LaneShare says so, in pieces: as
//   many together as it says. A task that has failed or was lost before runs alone, so that one bad
//   task does not take others with it again and again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/ids.h"
#include "common/base/time.h"
#include "common/wire/credit.h"
#include "common/wire/doc.h"
#include "common/wire/link.h"
#include "common/wire/offer.h"
#include "services/worker/core/holdings.h"
#include "services/worker/core/lane_share.h"
#include "services/worker/core/node.h"
#include "services/worker/core/pace.h"
#include "services/worker/core/result_log.h"
#include "services/worker/core/work.h"

namespace dray::worker {

struct AgentOptions {
  uint32_t slots = 1;
  uint32_t prefetch_max = 4096;
  std::vector<std::string> handlers;
  std::vector<uint32_t> handler_limits;  // how many run at once, by handler; 0 or missing: any
  std::vector<std::string> labels;
  Amounts resources;
  Duration beat = std::chrono::seconds(1);
  Duration drain_timeout = std::chrono::seconds(30);
  // Of the call lane; the agent itself does not look at these.
  uint32_t call_slots = 1;
  std::vector<HandlerOffer> offers = {};  // parallel to handlers; empty: nothing can be called
  // Of handlers with a limit, which both lanes share (LaneShare).
  uint32_t task_floor_percent = 5;
  Duration gather_max = std::chrono::milliseconds(50);
  Duration quantum_max = std::chrono::milliseconds(100);
  std::vector<DeviceInfo> devices = {};  // GPUs
};
// The handlers with a limit, for LaneShare.
LaneShareOptions share_options(const AgentOptions& options);

struct AgentCounters {
  uint64_t received = 0;  // tasks taken into the queue
  uint64_t repeated = 0;  // dispatched tasks ignored: held already, or called lost before
  uint64_t missed = 0;  // tasks that never arrived (gap before a DISPATCH, or SYNC)
  uint64_t started = 0;
  uint64_t finished = 0;  // results made
  uint64_t failed = 0;  // of these, not ok
  uint64_t time_limits = 0;
  uint64_t given_back = 0;
  uint64_t revoked = 0;
  uint64_t dropped = 0;  // outcomes of void tasks
  uint64_t stale_results = 0;  // refused by the broker
  uint64_t resends = 0;
  uint64_t stuck = 0;  // handlers that ignored their time limit
  uint64_t device_lost = 0;  // running tasks whose GPU was lost
};

// A handler in the table that both lanes share; its place is its index.
struct HandlerNow {
  std::string name;
  bool offered = true;
  bool operator==(const HandlerNow&) const = default;
};

class Agent {
 public:
  using Out = WorkerOut;
  // `share`: common to both lanes; null: the agent has one for itself.
  explicit Agent(AgentOptions options, LaneShare* share = nullptr);

  void on_open(const SessionInfo& info, Now now, Out& out);
  void on_close(SessionId id, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  // Everything the executors finished since the last turn, in any order.
  void on_outcomes(std::vector<Outcome>&& outcomes, Now now, Out& out);
  void on_progress(std::vector<ProgressItem>&& items, Now now, Out& out);
  void tick(Now now, Out& out);
  Time next_deadline() const;
  void start_ready(Now now, Out& out);  // also when LaneShare may let more start
  void tell_share(Now now);  // what is queued

  // The handlers are these from now on. Those known before keep their places; `offered` may change.
  // Tells the broker, and gives back what can not be run any more.
  void set_handlers(const std::vector<HandlerNow>& handlers, Now now, Out& out);

  // SIGTERM: no new work, finish what runs, leave after drain_timeout at the latest.
  void begin_drain(Now now, Out& out);
  // The GPUs as they are now: told to the broker; what ran on a lost one is reported as lost.
  void set_devices(std::vector<DeviceInfo> devices, Now now, Out& out);
  // If something was taken or given back, by whomever, the broker is told soon.
  void note_takings(Now now);
  Node& node() { return node_; }
  const Node& node() const { return node_; }
  bool draining() const { return leaving_ || told_to_drain_; }
  bool leaving() const { return leaving_; }  // not to be undone
  bool drained() const { return drained_; }  // out.exit was set
  int exit_code() const { return held_.running() == 0 ? 0 : 70; }  // 70: a thread does not return

  bool attached() const { return session_ != SessionId::none; }
  size_t queued() const { return held_.queued(); }
  size_t running() const { return held_.running(); }
  size_t unacked() const { return results_.size(); }
  uint64_t target(Now now) const { return pace_.target(stalled(now)); }  // k
  uint64_t granted(Now now) const;
  uint64_t received() const { return credit_.received(); }
  const AgentCounters& counters() const { return counters_; }
  void check() const;
  Doc to_doc(Now now) const;

 private:
  using Index = Holdings::Index;
  struct Refused {
    Errc code;
    std::vector<TokenRow> rows;
  };
  struct Piece {  // tasks that run together
    uint32_t handler = 0;
    uint32_t tasks = 0;
    uint32_t left = 0;
    uint32_t run_us = 0;
  };

  void send(Message message, Now now, Out& out);
  void send_results(uint64_t from, Now now, Out& out);
  void send_have(Now now, Out& out);
  void have_soon(Now now);
  void give_back(Errc code, const std::vector<TokenRow>& rows, Now now, Out& out);
  void give_back_queue(Errc code, size_t keep, Now now, Out& out);
  std::vector<TokenRow> tokens() const;

  void on_dispatch(const Dispatch& m, Now now, Out& out);
  void on_results_ack(const ResultsAck& m, Now now, Out& out);
  void on_revoke(const Revoke& m, Now now, Out& out);
  void on_drain(const Drain& m, Now now, Out& out);
  void on_sync(const Sync& m, Now now, Out& out);
  void take(const DispatchRow& row, uint64_t epoch, std::shared_ptr<const LocalSpec> spec,
            Bytes payload, Now now, std::vector<Refused>& refused);
  std::shared_ptr<const LocalSpec> local_spec(const std::string& blob);
  LocalSpec judge(const std::string& blob) const;
  bool is_offered(size_t handler) const {
    return handler < options_.handlers.size() &&
           (handler >= withdrawn_.size() || !withdrawn_[handler]);
  }
  std::vector<std::string> offered_handlers() const;
  void give_back_withdrawn(Now now, Out& out);

  // agent_node.cpp: what tasks take of the node
  void set_needs(LocalSpec& local) const;
  uint32_t wait_row(const std::string& pool) const;
  bool take_needs(HeldTask& task);
  void give_needs(HeldTask& task);
  bool waits_for_devices(const HeldTask& task) const;
  void tell_capacity(Now now, Out& out);
  Doc resources_doc() const;
  void lose_device_task(Index i, Now now);
  void give_back_impossible(Now now, Out& out);

  bool stalled(Now now) const;
  size_t busy() const { return held_.running() - in_pieces_ + pieces_.size(); }  // executors
  uint64_t share_ahead(Now now) const;
  bool has_slot(const HeldTask& task, Now now) const;
  bool is_shared(const HeldTask& t) const { return share_->shares(t.spec->handler); }
  Start begin(Index i, Now now);
  void start_piece(Index first, size_t most, Now now, Out& out);
  void leave_piece(const HeldTask& task, Now now);
  bool on_outcome(Outcome&& o, Now now, std::vector<TokenRow>& unstarted);
  void finish(Index i, Verdict verdict, Errc code, uint32_t exec_us, Bytes result);
  void release(Index i, Now now);
  void cancel(Index i, Out& out);
  void check_limits(Now now, Out& out);
  void limit_step(Index i, Now now, Out& out);
  void check_waiting(Now now, Out& out);
  void arm_check(Now now);
  void check_drain(Now now, Out& out);

  AgentOptions options_;
  std::vector<bool> withdrawn_;  // by handler
  Node node_;
  std::unique_ptr<LaneShare> own_share_;
  LaneShare* share_;
  Pace pace_;
  Holdings held_;
  std::unordered_map<uint32_t, Piece> pieces_;  // for lookups only
  size_t in_pieces_ = 0;  // running tasks of pieces
  uint32_t last_piece_ = 0;
  ResultLog results_;
  AgentCounters counters_;
  std::unordered_map<std::string, std::shared_ptr<const LocalSpec>> specs_;  // by blob

  SessionId session_ = SessionId::none;
  CreditGiver credit_;  // of this session
  uint64_t epoch_ = 0;  // highest broker epoch seen
  Time have_at_ = kNever;
  Time resend_at_ = kNever;
  Duration resend_wait_{0};
  Time closed_at_{};  // end of the last session
  Time moved_at_{};  // last start or outcome
  Time check_at_ = kNever;  // next look at what waits
  Time limit_at_ = kNever;  // not after the first step of any time limit
  Time tell_at_ = kNever;  // when the broker is told what is taken
  uint64_t told_takings_ = 0;

  bool told_to_drain_ = false;  // by the broker
  bool leaving_ = false;  // by SIGTERM or a stuck thread
  bool drain_cancelled_ = false;
  bool drained_ = false;
  Time drain_at_ = kNever;
};

}  // namespace dray::worker
