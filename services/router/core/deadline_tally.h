// DeadlineTally: how many queued items have to be done before a given deadline, roughly: counted in
// slots of 16.8 ms up to 17 s ahead. What is due later counts as due later, even when it comes
// near.
#pragma once

#include <array>
#include <cstdint>

#include "common/base/time.h"

namespace dray {

class DeadlineTally {
 public:
  // Returns the slot, for remove().
  uint16_t add(Time deadline, Time now, uint32_t items) {
    total_ += items;
    const int64_t at = tick(deadline);
    if (at - tick(now) >= kSlots) return kFar;
    const auto slot = static_cast<uint16_t>(at % kSlots);
    slots_[slot] += items;
    return slot;
  }
  void remove(uint16_t slot, uint32_t items) {
    total_ -= items;
    if (slot != kFar) slots_[slot] -= items;
  }
  uint64_t total() const { return total_; }
  // Items due at `deadline` or before.
  uint64_t due(Time deadline, Time now) const {
    const int64_t from = tick(now);
    if (tick(deadline) - from >= kSlots) return total_;
    uint64_t n = 0;
    for (int64_t t = from; t <= tick(deadline); ++t) n += slots_[static_cast<size_t>(t % kSlots)];
    return n;
  }

 private:
  static constexpr int64_t kSlots = 1024;
  static constexpr uint16_t kFar = 0xffff;
  static int64_t tick(Time t) { return t.time_since_epoch().count() >> 24; }

  std::array<uint32_t, kSlots> slots_{};
  uint64_t total_ = 0;
};

}  // namespace dray
