// WorkerCore: the two lanes of a worker side by side, an Agent for the broker's tasks and a
// CallAgent for the routers' calls. It owns what they share (LaneShare), and their common end: both
// drain together, and the process leaves when both are done.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "services/worker/core/agent.h"
#include "services/worker/core/call_agent.h"
#include "services/worker/core/lane_share.h"

namespace dray::worker {

class WorkerCore {
 public:
  using Out = WorkerOut;
  static constexpr Port kBroker = 0;
  static constexpr Port kFirstRouter = 1;

  explicit WorkerCore(AgentOptions options);

  void on_open(const SessionInfo& info, Now now, Out& out);
  void on_close(SessionId id, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  void tick(Now now, Out& out);
  void end_turn(Now now, Out& out);
  Time next_deadline() const {
    return std::min({tasks_.next_deadline(), calls_.next_deadline(), share_.next_deadline()});
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
  void check() const;
  Doc to_doc(Now now) const;

 private:
  void open_router(const SessionInfo& info, Now now, Out& out);
  void share_out(Now now, Out& out);

  LaneShare share_;
  Agent tasks_;
  CallAgent calls_;
  std::vector<LaneShare::Grant> grants_;
  std::vector<uint32_t> changed_terms_;
  bool exit_told_ = false;
};

}  // namespace dray::worker
