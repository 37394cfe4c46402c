// Pace: how long tasks take here, and what follows from it: how much to prefetch (k of T1) and how
// many tasks to hand to the executors ahead of time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/base/time.h"

namespace dray::worker {

class Pace {
 public:
  Pace(uint64_t slots, uint64_t prefetch_max) : slots_(slots), prefetch_max_(prefetch_max) {}

  // EWMA with alpha 0.1 over all tasks: 100 tasks forget a difference of five decades.
  void on_finished(Duration exec) {
    exec = std::clamp<Duration>(exec, kFloor, kCeiling);
    service_ = known_ ? service_ + (exec - service_) / 10 : exec;
    service_ = std::max(service_, kFloor);
    known_ = true;
  }
  bool known() const { return known_; }
  Duration service() const { return service_; }

  // Tasks to hold here, running or queued. Enough beyond the slots to bridge two round trips to the
  // broker, which syncs each dispatch; nothing for tasks that are long against that, because behind
  // a long task a prefetched one only waits.
  uint64_t target(bool stalled) const {
    if (stalled) return slots_;
    if (!known_) return slots_ + std::min<uint64_t>(prefetch_max_, kFirstPrefetch);
    if (service_ >= kLong) return slots_;
    const auto s = static_cast<uint64_t>(service_.count());
    const uint64_t bridge = (2 * slots_ * static_cast<uint64_t>(kRoundTrip.count()) + s - 1) / s;
    return slots_ + std::min(prefetch_max_, bridge);
  }

  // Tasks given to the executors at once: one per slot, plus, for short tasks, up to 1 ms of work
  // (at most kAheadMax) per slot waiting in their queue, so that an executor does not wait for the
  // loop after each task. What waits there too long is recalled.
  uint64_t ahead(bool stalled) const {
    if (stalled || !known_ || service_ >= kLong) return slots_;
    const auto more = static_cast<uint64_t>(std::chrono::milliseconds(1) / service_);
    return slots_ * (1 + std::clamp<uint64_t>(more, 1, kAheadMax));
  }

 private:
  static constexpr Duration kFloor = std::chrono::microseconds(1);
  static constexpr Duration kCeiling = std::chrono::hours(24);
  static constexpr Duration kRoundTrip = std::chrono::milliseconds(5);
  static constexpr Duration kLong = std::chrono::milliseconds(20);
  static constexpr uint64_t kFirstPrefetch = 16;
  static constexpr uint64_t kAheadMax = 255;

  uint64_t slots_;
  uint64_t prefetch_max_;
  Duration service_{0};
  bool known_ = false;
};

}  // namespace dray::worker
