// LogHistogram: counts, quantiles within a bucket's width, forgetting.
#include "common/base/log_histogram.h"

#include <catch2/catch.hpp>

using namespace dray;

TEST_CASE("quantiles are off by less than a bucket") {
  LogHistogram h;
  CHECK(h.quantile(0.5) == 0);
  for (uint64_t v = 1; v <= 100'000; ++v) h.add(v);
  CHECK(h.count() == 100'000);
  CHECK(h.mean() == Approx(50'000.5));
  for (double q : {0.01, 0.5, 0.95, 0.99, 0.999})
    CHECK(static_cast<double>(h.quantile(q)) == Approx(q * 100'000).epsilon(0.0625));
}

TEST_CASE("small values are exact and the largest have a bucket") {
  LogHistogram h;
  for (uint64_t v = 0; v < 8; ++v) h.add(v);
  CHECK(h.quantile(0.5) == 3);
  CHECK(h.count_upto(3) == 4);
  h.add(~uint64_t{0} >> 1);
  CHECK(h.quantile(1) > uint64_t{1} << 39);
}

TEST_CASE("merging adds, halving forgets") {
  LogHistogram a, b;
  a.add(10, 100);
  b.add(1000, 100);
  a.merge(b);
  CHECK(a.count() == 200);
  CHECK(a.count_upto(15) == 100);
  a.halve();
  CHECK(a.count() == 100);
  CHECK(a.mean() == Approx(505).epsilon(0.01));
}
