// CallExecutors: the threads that run calls, apart from those of tasks, so that a call never waits
// behind a task. Batches in, outcomes and parts out; they never speak the protocol.
//
// - An idle thread is handed its batch directly and woken alone: one futex call for a batch, none
//   if it still spins. The thread that was idle last is taken first, its caches are warm.
// - Batches that find no idle thread wait in one queue, in order.
// - A call that was stopped, or whose deadline is over, when its turn comes is not executed.
// - Outcomes and parts can be drained the moment they exist; `wake` is called for the first one
//   after a drain(). Parts of a call come in order, and before its end.
// - A writer of parts is held back while the reader is behind, not longer than its deadline.
// - A handler that does not return keeps its thread: the process must then leave by _Exit.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/base/time.h"
#include "services/worker/core/call_work.h"
#include "services/worker/shell/plugin_host.h"

namespace dray::worker {

struct CallExecutorOptions {
  uint32_t threads = 1;
  std::vector<std::string> handlers;  // as AgentOptions.handlers: BatchStart.handler is an index
  Duration spin{};  // the thread that is idle last looks for work so long before it sleeps
  std::function<void()> wake;  // any thread; something can be drained
};

class CallExecutors {
 public:
  CallExecutors(const PluginHost& host, CallExecutorOptions options);
  ~CallExecutors();  // waits for what runs
  CallExecutors(const CallExecutors&) = delete;
  CallExecutors& operator=(const CallExecutors&) = delete;

  // --- loop thread ---
  void add_handler(const Handler* handler);  // the next index
  void push(std::vector<BatchStart>&& batches);
  // Whether these may run in the loop's thread as its guest, one after the other: each handler has
  // been quick so far, none has to wait for anything.
  bool are_short(const std::vector<BatchStart>& batches) const;
  // Instead of push(): call the result at the end of the turn. Its outcomes are drained as always.
  std::function<void()> as_guest(std::vector<BatchStart>&& batches);
  void stop(const std::vector<uint64_t>& calls);  // unknown ones have ended
  void grant(const std::vector<CallGrant>& grants);
  void drain(std::vector<BatchOutcome>& outcomes, std::vector<CallPart>& parts);

 private:
  struct Call;
  struct Job;
  struct Thread;
  void loop(Thread& me);
  Job* wait(Thread& me);
  Job* next(Thread& me, Job* done);
  void run(Thread& me, Job& job);
  void run_calls(Thread& me, Job& job);
  bool dead(Job& job, size_t i) const;
  void announce();
  void add_part(uint64_t call, std::string_view bytes);
  Job* make_job(BatchStart&& start);
  void run_here(const std::vector<Job*>& jobs);
  void note_cost(const Job& job);
  Call* find(uint64_t call, Job*& job);

  const PluginHost& host_;
  const Duration spin_;
  std::function<void()> wake_;
  std::vector<const Handler*> handlers_;
  struct Cost {  // what a batch of a handler took: the most, forgotten slowly
    double us = 0;
    uint32_t batches = 0;
  };
  std::vector<Cost> costs_;  // by handler; loop thread

  // Loop thread.
  std::vector<std::unique_ptr<Job>> jobs_;  // all; those not in use are listed in spare_
  std::vector<Job*> live_;  // pushed, not drained
  std::vector<Job*> spare_;
  std::vector<Thread*> woken_;
  std::vector<Job*> drained_;

  std::mutex mutex_;  // of all below
  std::vector<Job*> queue_;  // from head_ on
  size_t head_ = 0;
  std::vector<Thread*> idle_;  // the last one may be spinning
  std::vector<Job*> done_;
  std::vector<CallPart> parts_;
  std::vector<std::unique_ptr<Thread>> guests_;  // not in use: what a thread needs to run jobs
  bool stop_ = false;

  std::atomic<bool> announced_{false};
  std::vector<std::unique_ptr<Thread>> threads_;
};

}  // namespace dray::worker
