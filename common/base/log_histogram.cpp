// Reading of LogHistogram.
#include "common/base/log_histogram.h"

#include <algorithm>
#include <cmath>

namespace dray {

uint64_t LogHistogram::low_end(size_t i) {
  constexpr size_t kSub = size_t{1} << kSubBits;
  if (i < kSub) return i;
  const size_t octave = (i >> kSubBits) + kSubBits - 1;
  return (uint64_t{1} << octave) + (static_cast<uint64_t>(i & (kSub - 1)) << (octave - kSubBits));
}

uint64_t LogHistogram::quantile(double q) const {
  if (count_ == 0) return 0;
  const double rank = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count_));
  uint64_t seen = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    seen += buckets_[i];
    if (buckets_[i] == 0 || static_cast<double>(seen) < rank) continue;
    return (low_end(i) + low_end(i + 1)) / 2;
  }
  return low_end(kBuckets);
}

uint64_t LogHistogram::count_upto(uint64_t bound) const {
  uint64_t n = 0;
  for (size_t i = 0; i < kBuckets && low_end(i + 1) <= bound + 1; ++i) n += buckets_[i];
  return n;
}

void LogHistogram::merge(const LogHistogram& other) {
  for (size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
}

void LogHistogram::halve() {
  const double mean_before = mean();
  count_ = 0;
  for (uint64_t& n : buckets_) count_ += n /= 2;
  sum_ = static_cast<uint64_t>(mean_before * static_cast<double>(count_));
}

}  // namespace dray
