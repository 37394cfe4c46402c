// Wake: an eventfd that other threads and signal handlers use to end a loop's sleep.
#pragma once

#include <atomic>

#include "common/base/result.h"

namespace dray {

class Wake {
 public:
  Wake() = default;
  ~Wake();
  Wake(const Wake&) = delete;
  Wake& operator=(const Wake&) = delete;

  Status open();
  int fd() const { return fd_; }

  // Any thread, also from a signal handler. A system call only if the loop really sleeps, and
  // only one until it is awake.
  void signal();

  // Loop thread. Returns true if it may sleep; false if somebody signalled since the last awake().
  bool before_sleep();
  void after_sleep(bool fd_readable);
  // Takes the signal; call it before looking at whatever the signal announces.
  bool awake() { return pending_.load(std::memory_order_relaxed) && pending_.exchange(false); }

 private:
  int fd_ = -1;
  std::atomic<bool> pending_{false};
  std::atomic<bool> sleeping_{false};
};

}  // namespace dray
