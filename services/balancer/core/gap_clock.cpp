#include "services/balancer/core/gap_clock.h"

#include <algorithm>
#include <cmath>

namespace dray {
namespace {
double seconds(Duration d) { return static_cast<double>(d.count()) / 1e9; }
}  // namespace

void GapClock::heard(Time at) {
  if (at <= heard_) return;
  gaps_[next_] = std::max(0.0, seconds(at - heard_ - forgiven_));
  next_ = (next_ + 1) % kGaps;
  count_ = std::min(count_ + 1, kGaps);
  heard_ = at;
  forgiven_ = Duration::zero();
}

Duration GapClock::silence(Time now) const {
  return std::max(Duration::zero(), now - heard_ - forgiven_);
}

double GapClock::phi(Time now) const {
  // A peer that spoke a moment ago has until its next beat to say anything, however often it
  // speaks.
  const Duration silent = silence(now);
  if (count_ < kEnough || silent <= beat_ * 3 / 2) return 0;
  double sum = 0, squares = 0;
  for (size_t i = 0; i < count_; ++i) sum += gaps_[i];
  const double mean = sum / static_cast<double>(count_);
  for (size_t i = 0; i < count_; ++i) squares += (gaps_[i] - mean) * (gaps_[i] - mean);
  const double deviation =
      std::max(std::sqrt(squares / static_cast<double>(count_)), seconds(beat_) / 4);
  const double longer = 0.5 * std::erfc((seconds(silent) - mean) / deviation / std::sqrt(2.0));
  return longer > 1e-30 ? -std::log10(longer) : 30;
}

bool GapClock::is_suspect(Time now) const {
  return silence(now) >= std::max<Duration>(kSuspectSilence, 2 * beat_) || phi(now) >= kSuspectPhi;
}

}  // namespace dray
