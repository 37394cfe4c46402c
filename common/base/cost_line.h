// CostLine: how long a batch of n items runs at one handler: L(n) = a + b n, learned by least
// squares that forget (techniques: Clockwork, Clipper). Only the time in the handler counts, not
// the way there.
#pragma once

#include <cstdint>

namespace dray {

class CostLine {
 public:
  void add(uint32_t items, double run_us);
  bool ready() const { return batches_ >= kIgnored + 1; }
  double us(double items) const { return a_ + b_ * items; }
  double guarded_us(double items) const { return us(items) * guard(); }
  double guard() const;  // covers what the line does not explain: at least 1.06
  double a_us() const { return a_; }
  double b_us() const { return b_; }
  double sigma() const;  // of the residuals, relative
  uint64_t batches() const { return batches_; }
  // Items of the batch to aim for: the largest whose guarded time is in `budget_us`, at most `max`,
  // and at most half as much again as was ever tried.
  uint32_t target(uint32_t max, double budget_us) const;

 private:
  static constexpr uint64_t kIgnored = 3;  // first batches: loading, warming caches
  static constexpr double kForget = 0.98;
  static constexpr double kOutlier = 4;  // a batch counts for at most so many times the expected
  void solve();

  // Sums weighted by age. Unlike the usual recursion over a covariance they do not blow up when all
  // batches have one size.
  double w_ = 0, n_ = 0, nn_ = 0, y_ = 0, ny_ = 0;
  double residual_ = 0;  // mean square, relative, weighted by age
  double a_ = 0, b_ = 0;
  uint64_t batches_ = 0;
  uint32_t tried_ = 0;  // largest batch measured
};

}  // namespace dray
