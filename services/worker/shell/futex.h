// Futex: a flag that one thread sleeps on and another sets; a system call only if somebody sleeps.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace dray::worker {

class Futex {
 public:
  bool is_set() const { return word_.load(std::memory_order_acquire) == kSet; }
  // Any thread.
  void set() {
    if (word_.exchange(kSet) == kSleeps) call(FUTEX_WAKE_PRIVATE, 1);
  }
  // The one thread that waits. Takes the flag.
  void wait() {
    while (word_.load(std::memory_order_acquire) != kSet) {
      uint32_t clear = kClear;
      word_.compare_exchange_strong(clear, kSleeps);
      if (word_.load() == kSleeps) call(FUTEX_WAIT_PRIVATE, kSleeps);
    }
    word_.store(kClear, std::memory_order_relaxed);
  }

 private:
  enum : uint32_t { kClear, kSet, kSleeps };
  static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free);

  // Interrupted or changed meanwhile: whoever waits looks again.
  void call(int operation, uint32_t value) {
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word_), operation, value, nullptr, nullptr,
              0);
  }
  std::atomic<uint32_t> word_{kClear};
};

}  // namespace dray::worker
