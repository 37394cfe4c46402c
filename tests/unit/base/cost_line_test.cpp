// CostLine: learning L(n) = a + b n, its guard, and the size of batch to aim for.
#include "common/base/cost_line.h"

#include <catch2/catch.hpp>

using namespace dray;

TEST_CASE("the first three batches tell nothing") {
  CostLine line;
  for (int i = 0; i < 3; ++i) line.add(1, 1e6);
  CHECK_FALSE(line.ready());
  line.add(1, 100);
  CHECK(line.ready());
  CHECK(line.us(1) == Approx(100));
}

TEST_CASE("a line is found, and followed when it changes") {
  CostLine line;
  for (uint32_t i = 0; i < 300; ++i) line.add(1 + i % 64, 8000 + 250 * (1 + i % 64));
  CHECK(line.a_us() == Approx(8000));
  CHECK(line.b_us() == Approx(250));
  CHECK(line.guard() == Approx(1.06));
  for (uint32_t i = 0; i < 500; ++i) line.add(1 + i % 64, 4000 + 500 * (1 + i % 64));
  CHECK(line.a_us() == Approx(4000).epsilon(0.05));
  CHECK(line.b_us() == Approx(500).epsilon(0.05));
}

TEST_CASE("batches of one size for ever do no harm") {
  CostLine line;
  for (int i = 0; i < 100'000; ++i) line.add(16, 5000);
  CHECK(line.us(16) == Approx(5000));
  for (uint32_t i = 0; i < 100; ++i) line.add(i % 2 == 0 ? 16 : 8, i % 2 == 0 ? 5000 : 3000);
  CHECK(line.us(8) == Approx(3000).epsilon(0.05));
}

TEST_CASE("the guard grows with what the line does not explain, within bounds") {
  CostLine line;
  for (uint32_t i = 0; i < 400; ++i) line.add(1, i % 2 == 0 ? 900 : 1100);
  CHECK(line.guard() == Approx(1.3).epsilon(0.02));
  line.add(1, 1e9);  // a stall
  CHECK(line.guard() <= 4.01);
}

TEST_CASE("some stalls move the line little, a change for good is learned") {
  CostLine line;
  for (int i = 0; i < 400; ++i) line.add(1, 2000);
  for (int i = 0; i < 12; ++i) line.add(1, 300'000);  // all slots stood still once
  CHECK(line.guarded_us(1) < 12'000);
  for (int i = 0; i < 400; ++i) line.add(1, 40'000);
  CHECK(line.us(1) == Approx(40'000).epsilon(0.02));
}

TEST_CASE("the target fits the budget, and is at most half as much again as was tried") {
  CostLine line;
  CHECK(line.target(128, 1e6) == 1);
  for (uint32_t n : {1u, 2u, 3u, 4u, 6u, 8u}) line.add(n, 1000 + 100 * n);
  CHECK(line.target(128, 1e6) == 12);
  CHECK(line.target(10, 1e6) == 10);
  CHECK(line.target(128, 1600) == 5);  // 1500 * 1.06 = 1590
  CHECK(line.target(128, 10) == 1);
}
