// LoopPair: two threads that take turns at being the loop of a process. The one that is may run a
// guest (user code that is expected to be short) in between; if the guest stays too long, the other
// one takes the loop over, and the first becomes the spare when its guest returns. So a short guest
// costs no hand-over between threads, and a long one does not stop the loop.
//
// The spare looks every kGuestMax while guests come, and sleeps for good when none came for a
// while.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "common/base/time.h"
#include "common/net/clock.h"

namespace dray {

constexpr Duration kGuestMax = 5ms;  // then the loop goes on without it, at most so long again

class LoopPair {
 public:
  // `loop` runs until the end (true) or until this thread is no longer the loop (false).
  explicit LoopPair(std::function<bool()> loop) : state_(std::make_shared<State>()) {
    state_->loop = std::move(loop);
  }
  ~LoopPair() {
    for (std::thread& t : threads_)
      if (t.joinable()) t.detach();
  }
  LoopPair(const LoopPair&) = delete;
  LoopPair& operator=(const LoopPair&) = delete;

  // Until the loop has ended. A thread whose guest does not return is left alone: the process must
  // then leave by _Exit.
  void run() {
    for (std::thread& t : threads_) t = std::thread([s = state_] { member(*s); });
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->ended; });
    const bool both = state_->changed.wait_for(lock, kEndWait, [&] { return state_->left == 2; });
    lock.unlock();
    if (!both) return;
    for (std::thread& t : threads_) t.join();
  }

  // --- loop thread ---
  // False: nobody could take over.
  bool has_spare() const { return state_->spare.load(); }
  // Returns whether this thread is still the loop.
  template <class Guest>
  bool run_guest(Guest&& guest) {
    const std::shared_ptr<State> s = state_;  // the host may be gone when the guest returns
    s->since.store(read_mono().time_since_epoch().count());
    s->phase.store(Phase::guest);
    if (!s->watching.load()) {
      std::lock_guard lock(s->mutex);
      s->watching.store(true);
      s->changed.notify_all();
    }
    guest();
    s->guests.fetch_add(1, std::memory_order_relaxed);
    Phase expected = Phase::guest;
    return s->phase.compare_exchange_strong(expected, Phase::loop);
  }

 private:
  enum class Phase : uint8_t { loop, guest };
  static constexpr int kQuietLooks = 200;  // without a guest: the spare may sleep
  static constexpr Duration kEndWait = 200ms;

  struct State {
    std::function<bool()> loop;
    std::atomic<Phase> phase{Phase::loop};
    std::atomic<int64_t> since{0};  // begin of the guest
    std::atomic<uint64_t> guests{0};
    std::atomic<bool> watching{false};
    std::atomic<bool> spare{false};
    std::mutex mutex;  // what follows
    std::condition_variable changed;
    bool has_loop = false;
    bool ended = false;
    int left = 0;
  };

  static void member(State& s) {
    std::unique_lock lock(s.mutex);
    while (!s.ended) {
      if (s.has_loop && !wait_for_guest(s, lock)) break;
      s.has_loop = true;
      lock.unlock();
      const bool ended = s.loop();
      lock.lock();
      if (ended) s.ended = true;
    }
    ++s.left;
    s.changed.notify_all();
  }

  // As the spare. True: this thread is the loop now; false: the end.
  static bool wait_for_guest(State& s, std::unique_lock<std::mutex>& lock) {
    s.spare.store(true);
    uint64_t seen = s.guests.load();
    int quiet = 0;
    while (!s.ended) {
      if (s.watching.load())
        s.changed.wait_for(lock, kGuestMax);
      else
        s.changed.wait(lock);
      if (take_over(s)) break;
      const uint64_t guests = s.guests.load();
      quiet = guests == seen && s.phase.load() == Phase::loop ? quiet + 1 : 0;
      seen = guests;
      if (quiet < kQuietLooks) continue;
      s.watching.store(false);  // a guest that comes now sees this, or we see it
      if (s.phase.load() == Phase::guest) s.watching.store(true);
      quiet = 0;
    }
    s.spare.store(false);
    return !s.ended;
  }

  static bool take_over(State& s) {
    if (s.phase.load() != Phase::guest) return false;
    const int64_t now = read_mono().time_since_epoch().count();
    if (now - s.since.load() < Duration(kGuestMax).count()) return false;
    Phase expected = Phase::guest;
    return s.phase.compare_exchange_strong(expected, Phase::loop);
  }

  std::shared_ptr<State> state_;
  std::thread threads_[2];
};

}  // namespace dray
