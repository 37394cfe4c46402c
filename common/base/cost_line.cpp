// Fitting and reading of the cost line.
#include "common/base/cost_line.h"

#include <algorithm>
#include <cmath>

namespace dray {

void CostLine::add(uint32_t items, double run_us) {
  tried_ = std::max(tried_, items);
  ++batches_;
  if (batches_ <= kIgnored) return;
  const double n = items;
  // What stood still for a moment (a stop, a page fault, a worker that lies) says little about the
  // next batch; what has become slow for good is still learned, in some batches more.
  if (batches_ > kIgnored + 1) run_us = std::min(run_us, kOutlier * std::max(us(n), 1.0));
  w_ = w_ * kForget + 1;
  n_ = n_ * kForget + n;
  nn_ = nn_ * kForget + n * n;
  y_ = y_ * kForget + run_us;
  ny_ = ny_ * kForget + n * run_us;
  solve();
  // One stall of seconds must not make everything look infeasible for ever: a residual is 1 at
  // most.
  const double off = std::clamp((run_us - us(n)) / std::max(us(n), 1.0), -1.0, 1.0);
  residual_ = residual_ * kForget + off * off;
}

void CostLine::solve() {
  const double mean_n = n_ / w_;
  const double mean_y = y_ / w_;
  const double variance = nn_ / w_ - mean_n * mean_n;
  // All of (nearly) one size tells nothing about the slope.
  b_ = variance > 1e-4 * mean_n * mean_n ? (ny_ / w_ - mean_n * mean_y) / variance : 0;
  a_ = mean_y - b_ * mean_n;
  if (b_ < 0) {
    b_ = 0;
    a_ = mean_y;
  } else if (a_ < 0) {
    a_ = 0;
    b_ = nn_ > 0 ? ny_ / nn_ : 0;
  }
}

double CostLine::sigma() const { return w_ > 0 ? std::sqrt(residual_ / w_) : 0; }

double CostLine::guard() const { return std::max(1.06, 1 + 3 * sigma()); }

uint32_t CostLine::target(uint32_t max, double budget_us) const {
  const uint32_t step = tried_ + std::max<uint32_t>(1, tried_ / 2);
  uint32_t n = std::min(max, step);
  if (!ready()) return std::max<uint32_t>(1, n);
  const double room = budget_us / guard() - a_;
  if (room <= b_) return 1;
  if (b_ > 0) n = static_cast<uint32_t>(std::min<double>(n, room / b_));
  return std::max<uint32_t>(1, n);
}

}  // namespace dray
