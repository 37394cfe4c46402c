// A run that a child has, as the thread of ChildProcess::run() and the child's thread share it.
#pragma once

#include <vector>

#include "services/worker/shell/child_process.h"

namespace dray::worker {

struct ChildProcess::Pending {
  Pending(std::span<const TaskView> all, std::span<TaskOutput> results)
      : tasks(all),
        outs(results),
        has(all.size()),
        cancelled(all.size()),
        granted(all.size()),
        refused(all.size()) {
    int64_t last = 0;
    for (const TaskView& t : tasks) last = std::max(last, t.deadline_ns);
    if (last != INT64_MAX) until = Clock::time_point(std::chrono::nanoseconds(last)) + kChildGrace;
  }

  std::span<const TaskView> tasks;
  std::span<TaskOutput> outs;
  Clock::time_point until = Clock::time_point::max();  // the child is killed then
  Futex moved;  // something below changed
  // Under the process's mutex.
  std::vector<bool> has;  // which outputs came
  std::vector<bool> cancelled;  // the child was told
  std::vector<Piece> pieces;
  size_t piece_bytes = 0;
  bool late = false;  // it was killed for this run
  bool done = false;
  // The thread of run().
  std::vector<uint64_t> granted;
  std::vector<bool> refused;
};

}  // namespace dray::worker
