// Pace: how long tasks take here, and what follows from it: how much to prefetch (k of T1) and how
// many tasks to hand to the executors ahead of time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/base/time.h"

namespace dray::worker {

struct PaceOptions {
  uint64_t slots = 1;
  uint64_t prefetch_max = 0;
  Duration round_trip = std::chrono::milliseconds(5);  // to whoever sends the work
  Duration too_long = std::chrono::milliseconds(20);  // such tasks are not prefetched
  uint64_t first_prefetch = 16;  // while nothing is known
};

class Pace {
 public:
  explicit Pace(const PaceOptions& options) : o_(options) {}
  Pace(uint64_t slots, uint64_t prefetch_max) : Pace(PaceOptions{slots, prefetch_max}) {}

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
    if (stalled) return o_.slots;
    if (!known_) return o_.slots + std::min(o_.prefetch_max, o_.first_prefetch);
    if (service_ >= o_.too_long) return o_.slots;
    const auto s = static_cast<uint64_t>(service_.count());
    const auto round_trip = static_cast<uint64_t>(o_.round_trip.count());
    const uint64_t bridge = (2 * o_.slots * round_trip + s - 1) / s;
    return o_.slots + std::min(o_.prefetch_max, bridge);
  }

  // Tasks given to the executors at once: one per slot, plus, for short tasks, up to 1 ms of work
  // (at most kAheadMax) per slot waiting in their queue, so that an executor does not wait for the
  // loop after each task. What waits there too long is recalled.
  uint64_t ahead(bool stalled) const {
    if (stalled || !known_ || service_ >= o_.too_long) return o_.slots;
    const auto more = static_cast<uint64_t>(std::chrono::milliseconds(1) / service_);
    return o_.slots * (1 + std::clamp<uint64_t>(more, 1, kAheadMax));
  }

 private:
  static constexpr Duration kFloor = std::chrono::microseconds(1);
  static constexpr Duration kCeiling = std::chrono::hours(24);
  static constexpr uint64_t kAheadMax = 255;

  PaceOptions o_;
  Duration service_{0};
  bool known_ = false;
};

}  // namespace dray::worker
