// LogHistogram: how often which duration was seen, in buckets of constant relative width. Plain
// memory, no allocation; adding is a few instructions, so it stands on hot paths.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dray {

// Values are microseconds by convention, but any unit will do. Eight buckets an octave: a quantile
// is off by 6 % at most. Values above 2^40 count as 2^40.
class LogHistogram {
 public:
  static constexpr unsigned kSubBits = 3;
  static constexpr size_t kBuckets = (40 - kSubBits + 1) << kSubBits;

  void add(uint64_t value, uint64_t times = 1) {
    buckets_[index_of(value)] += times;
    count_ += times;
    sum_ += value * times;
  }
  uint64_t count() const { return count_; }
  uint64_t sum() const { return sum_; }
  double mean() const {
    return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_);
  }
  // Middle of the bucket that holds the q-th part (0..1) of all values; 0 if there are none.
  uint64_t quantile(double q) const;
  // Values up to `bound`, as far as whole buckets tell.
  uint64_t count_upto(uint64_t bound) const;
  void merge(const LogHistogram& other);
  void halve();  // forget: old values count half as much from now on

 private:
  static size_t index_of(uint64_t v) {
    if (v < (uint64_t{1} << kSubBits)) return static_cast<size_t>(v);
    const unsigned octave = static_cast<unsigned>(std::bit_width(v)) - 1;
    const size_t i = ((octave - kSubBits + 1) << kSubBits) +
                     ((v >> (octave - kSubBits)) & ((1u << kSubBits) - 1));
    return i < kBuckets ? i : kBuckets - 1;
  }
  static uint64_t low_end(size_t i);

  std::array<uint64_t, kBuckets> buckets_{};
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
};

}  // namespace dray
