// SyncTimes: a histogram of how long commits took.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dray::rocks {

// Times in quarter-octave buckets: at most 25 % off, 1 us .. 2^39 us.
class SyncTimes {
 public:
  void add(uint64_t us) {
    ++buckets_[bucket(us)];
    ++count_;
  }
  uint64_t quantile(uint64_t per_mille) const {
    uint64_t left = count_ * per_mille / 1000;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      if (buckets_[i] > left) return upper(i);
      left -= buckets_[i];
    }
    return 0;
  }

 private:
  static size_t bucket(uint64_t us) {
    us = std::clamp<uint64_t>(us, 4, uint64_t{1} << 39);
    const auto top = static_cast<unsigned>(std::bit_width(us) - 1);
    return (top - 2) * 4 + ((us >> (top - 2)) & 3);
  }
  static uint64_t upper(size_t i) { return (5 + i % 4) << (i / 4); }
  std::array<uint64_t, 160> buckets_{};
  uint64_t count_ = 0;
};

}  // namespace dray::rocks
