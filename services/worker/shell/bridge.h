// Bridge: carries work from the core to the executors of both lanes, and what they made back.
#pragma once

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "services/worker/core/worker_core.h"
#include "services/worker/shell/call_executor.h"
#include "services/worker/shell/executor.h"
#include "services/worker/shell/processes.h"

namespace dray::worker {

// The core, plus a deadline of the shell's own.
class PacedCore : public WorkerCore {
 public:
  using WorkerCore::WorkerCore;
  Time next_deadline() const { return std::min(WorkerCore::next_deadline(), poll_at); }
  Time poll_at = kNever;
};

// Loop thread.
class Bridge {
 public:
  Bridge(PacedCore& core, Executors& executors, CallExecutors& callers,
         Processes* processes = nullptr)
      : core_(core), executors_(executors), callers_(callers), processes_(processes) {}

  void poll(Now now, WorkerOut& out) {
    if (processes_ != nullptr) {
      processes_->drain(events_);
      if (!events_.empty()) core_.on_processes(std::move(events_), now, out);
    }
    poll_calls(now, out);
    poll_tasks(now, out);
  }

  // `guest`: where short calls may be run without a hand-over, or null.
  void on_turn(WorkerOut& out, const std::function<void(std::function<void()>)>* guest = nullptr) {
    if (processes_ != nullptr && !out.orders.empty()) processes_->carry_out(std::move(out.orders));
    if (guest != nullptr && !out.batches.empty() && callers_.are_short(out.batches))
      (*guest)(callers_.as_guest(std::move(out.batches)));
    else
      callers_.push(std::move(out.batches));  // first: latency
    out.batches.clear();
    callers_.stop(out.stop_calls);
    callers_.grant(out.part_grants);
    if (out.recall) executors_.recall();
    executors_.push(std::move(out.start));
    executors_.cancel(out.cancel);
    out.start.clear();
  }

 private:
  // While executors have tasks, outcomes gather for so long before the loop looks at them again.
  // Those of calls never wait.
  static constexpr Duration kGather = 200us;

  void poll_calls(Now now, WorkerOut& out) {
    callers_.drain(batches_, parts_);
    if (!parts_.empty()) core_.calls().on_parts(std::move(parts_), now, out);
    if (!batches_.empty()) core_.calls().on_batches(std::move(batches_), now, out);
    parts_.clear();
    batches_.clear();
  }

  void poll_tasks(Now now, WorkerOut& out) {
    if (executors_.has_waiting() && now.mono < drained_at_ + kGather) {
      core_.poll_at = drained_at_ + kGather;
      return;
    }
    core_.poll_at = kNever;
    drained_at_ = now.mono;
    outcomes_.clear();
    progress_.clear();
    executors_.drain(outcomes_, progress_);
    if (!progress_.empty()) core_.tasks().on_progress(std::move(progress_), now, out);
    if (!outcomes_.empty()) core_.tasks().on_outcomes(std::move(outcomes_), now, out);
  }

  PacedCore& core_;
  Executors& executors_;
  CallExecutors& callers_;
  Processes* const processes_;
  std::vector<ProcessEvent> events_;
  Time drained_at_{};
  std::vector<Outcome> outcomes_;
  std::vector<ProgressItem> progress_;
  std::vector<BatchOutcome> batches_;
  std::vector<CallPart> parts_;
};

}  // namespace dray::worker
