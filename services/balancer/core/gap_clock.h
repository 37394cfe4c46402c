// GapClock: how long one peer is silent between two signs of life, and whether it is silent for
// longer than it ever is. It raises suspicion only; death has fixed limits (links).
//
// phi is -log10 of the chance that a peer with such gaps is silent for so long (the phi accrual
// failure detector of Hayashibara et al., with a normal distribution); 3 is one in a thousand. The
// deviation is taken as a quarter of a beat at least: links look at their sessions that often.
#pragma once

#include <array>
#include <cstddef>

#include "common/base/time.h"

namespace dray {

constexpr Duration kSuspectSilence = std::chrono::seconds(2);  // two beats, if those are slower
constexpr double kSuspectPhi = 3.0;

class GapClock {
 public:
  explicit GapClock(Time begin, Duration beat = std::chrono::seconds(1))
      : heard_(begin), beat_(beat) {}
  // The last sign of life; older ones than known change nothing.
  void heard(Time at);
  // We ourselves did not look for so long: it is no silence of the peer.
  void forgive(Duration ours) { forgiven_ += ours; }
  Duration silence(Time now) const;
  // 0 while there are too few gaps to tell.
  double phi(Time now) const;
  bool is_suspect(Time now) const;

 private:
  static constexpr size_t kGaps = 100;
  static constexpr size_t kEnough = 10;
  std::array<double, kGaps> gaps_{};  // seconds
  size_t count_ = 0, next_ = 0;
  Time heard_;
  Duration beat_;
  Duration forgiven_{};  // since heard_
};

}  // namespace dray
