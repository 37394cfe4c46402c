#include "common/resources/resources.h"

#include <catch2/catch.hpp>

#include "common/base/rng.h"

using namespace dray;

TEST_CASE("amounts parse and print exactly") {
  uint64_t u = 0;
  REQUIRE(parse_amount("0.5", u));
  CHECK(u == 5000);
  REQUIRE(parse_amount("2", u));
  CHECK(u == 20000);
  REQUIRE(parse_amount("1.0001", u));
  CHECK(u == 10001);
  for (const char* bad : {"", ".", "1.", "0.00001", "-1", "1e3", "a", "99999999999999999"})
    CHECK_FALSE(parse_amount(bad, u));
  CHECK(print_amount(5000) == "0.5");
  CHECK(print_amount(20000) == "2");
  CHECK(print_amount(10001) == "1.0001");
}

TEST_CASE("a vector fits, takes and gives back exactly") {
  ResourceVec free({{"cpu", 20000}, {"slot", 10000}});
  ResourceVec need({{"cpu", 15000}});
  CHECK(free.fits(need));
  free.take(need);
  CHECK_FALSE(free.fits(need));
  CHECK(free.first_missing(need) == "cpu");
  CHECK(free.first_missing(ResourceVec({{"gpu", 1}})) == "gpu");
  free.give(need);
  CHECK(free == ResourceVec({{"cpu", 20000}, {"slot", 10000}}));
}

TEST_CASE("random takes and gives never go below zero nor above capacity") {
  Rng rng(7);
  const ResourceVec capacity({{"a", 30000}, {"b", 10000}, {"c", 7}});
  ResourceVec free = capacity;
  std::vector<ResourceVec> held;
  for (int i = 0; i < 20000; ++i) {
    ResourceVec need({{"a", rng.below(9000)}, {"b", rng.below(4000)}, {"c", rng.below(3)}});
    if (rng.below(2) == 0 && free.fits(need)) {
      free.take(need);
      held.push_back(need);
    } else if (!held.empty()) {
      size_t k = rng.below(held.size());
      free.give(held[k]);
      held.erase(held.begin() + static_cast<long>(k));
    }
    for (const auto& [name, units] : free.amounts()) REQUIRE(units <= capacity.get(name));
  }
  for (auto& h : held) free.give(h);
  CHECK(free == capacity);
}
