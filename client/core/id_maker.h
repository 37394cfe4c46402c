// IdMaker: fresh task ids, page by page, so that a batch is cheap to index and store everywhere.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/base/ids.h"
#include "common/base/rng.h"

namespace dray {

class IdMaker {
 public:
  explicit IdMaker(uint64_t seed) : rng_(seed) {}

  // Next id. Slots of a page go up by one; a page older than a minute is left, so that an id is
  // never much older than its submit.
  TaskId next(int64_t wall_ms) {
    int64_t age = wall_ms - static_cast<int64_t>(page_.wall_ms());
    if (slot_ >= kSlots || age > kPageAgeMs || age < -kPageAgeMs) new_page(wall_ms);
    return {page_.hi, page_.lo | slot_++};
  }

 private:
  static constexpr uint64_t kSlots = 256;
  static constexpr int64_t kPageAgeMs = 60'000;

  void new_page(int64_t wall_ms) {
    auto ms = static_cast<uint64_t>(std::max<int64_t>(wall_ms, 1));
    page_.hi = (ms << 16) | (rng_.next() & 0xffff);
    page_.lo = rng_.next() & ~uint64_t{0xff};
    slot_ = 0;
  }

  Rng rng_;
  TaskId page_;
  uint64_t slot_ = kSlots;
};

}  // namespace dray
