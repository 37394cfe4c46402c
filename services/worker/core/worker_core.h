// WorkerCore: the two lanes of a worker side by side, an Agent for the broker's tasks and a
// CallAgent for the routers' calls, and the replicas whose handlers both offer. It owns what they
// share (LaneShare), their common end (both drain together, and the process leaves when both are
// done) and the table of handlers: an index names the same handler for the worker's life.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "services/worker/core/agent.h"
#include "services/worker/core/call_agent.h"
#include "services/worker/core/lane_share.h"
#include "services/worker/core/replicas.h"

namespace dray::worker {

class WorkerCore {
 public:
  using Out = WorkerOut;
  static constexpr Port kBroker = 0;
  static constexpr Port kFirstRouter = 1;

  explicit WorkerCore(AgentOptions options, ReplicaOptions replicas = {});
  WorkerCore(const WorkerCore&) = delete;
  WorkerCore& operator=(const WorkerCore&) = delete;

  // Before anything is connected: the processes of this worker's own plugins.
  void start_replicas(Now now, Out& out) { replicas_.begin(now, out); }
  void on_processes(std::vector<ProcessEvent>&& events, Now now, Out& out);

  void on_open(const SessionInfo& info, Now now, Out& out);
  void on_close(SessionId id, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  void tick(Now now, Out& out);
  void end_turn(Now now, Out& out);
  Time next_deadline() const {
    return std::min({tasks_.next_deadline(), calls_.next_deadline(), share_.next_deadline(),
                     replicas_.next_deadline(), report_at_});
  }
  void begin_drain(Now now, Out& out);
  // The GPUs as they are now. `is_news`: routers are told, too.
  void set_devices(std::vector<DeviceInfo> devices, bool is_news, Now now, Out& out);
  bool drained() const { return tasks_.drained() && calls_.drained(); }
  // 70: a thread does not return.
  int exit_code() const { return tasks_.running() + calls_.running() == 0 ? 0 : 70; }

  Agent& tasks() { return tasks_; }
  const Agent& tasks() const { return tasks_; }
  CallAgent& calls() { return calls_; }
  const CallAgent& calls() const { return calls_; }
  const LaneShare& share() const { return share_; }
  size_t handlers() const {
    return static_cast<size_t>(std::count_if(
        table_.begin(), table_.end(), [](const Entry& entry) { return entry.handler.offered; }));
  }
  Replicas& replicas() { return replicas_; }
  const Replicas& replicas() const { return replicas_; }
  void check() const;
  Doc to_doc(Now now) const;

 private:
  struct Entry {
    HandlerNow handler;
    OfferedHandler offered;
    ShareHandler share = {};  // as it was offered last
  };
  void open_router(const SessionInfo& info, Now now, Out& out);
  void apply_replicas(Now now, Out& out);
  size_t entry_of(const std::string& name, Out& out);
  void report(bool all, Out& out);
  void share_out(Now now, Out& out);

  LaneShare share_;
  Agent tasks_;
  NodeResources resources_;  // replicas take of the same ledger as tasks
  CallAgent calls_;
  std::vector<LaneShare::Grant> grants_;
  std::vector<uint32_t> changed_terms_;
  Replicas replicas_;
  std::vector<Entry> table_;  // first the handlers of this process itself
  size_t own_ = 0;  // so many of them
  bool table_full_ = false;
  SessionId balancer_ = SessionId::none;
  bool draining_told_ = false;  // to the balancer
  uint64_t takings_told_ = 0;  // likewise; Node::takings
  Time report_at_ = kNever;  // of the next NODE_REPORT, if nothing else brings it
  bool exit_told_ = false;
};

}  // namespace dray::worker
