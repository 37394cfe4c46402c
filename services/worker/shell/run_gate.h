// RunGate: how many threads are in one handler now, tasks and calls together.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace dray {

class RunGate {
 public:
  using Clock = std::chrono::steady_clock;
  explicit RunGate(uint32_t max) : max_(max) {}

  // Waits for a place; false: `until` came, or *given_up became true, first. The agents count
  // what they start, so it waits only if a task and a call of the handler meet.
  bool enter(Clock::time_point until, const std::atomic<bool>* given_up) {
    std::unique_lock lock(mutex_);
    while (inside_ >= max_) {
      if (Clock::now() >= until || (given_up != nullptr && given_up->load())) return false;
      free_.wait_until(lock, std::min(until, Clock::now() + kLook));
    }
    ++inside_;
    return true;
  }
  void leave() {
    {
      std::lock_guard lock(mutex_);
      --inside_;
    }
    free_.notify_one();
  }

 private:
  static constexpr std::chrono::milliseconds kLook{5};
  const uint32_t max_;
  std::mutex mutex_;
  std::condition_variable free_;
  uint32_t inside_ = 0;
};

}  // namespace dray
