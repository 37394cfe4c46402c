// dray_sim --balance: how near the router comes to one ideal central queue, as a table.
#include "tests/sim/balance.h"

#include <cstdio>

#include "tests/support/call_farm.h"

namespace dray::sim {

namespace {
void print(const test::Balance::Part& p) {
  std::printf(" | %7.2f %7.2f %7.2f  %5.3f %5.3f", p.ours, p.ideal, p.distant, p.ours / p.ideal,
              p.ours / p.distant);
}
}  // namespace

void print_balance() {
  std::printf(
      "99th percentiles in ms. 16 replicas, one call at a time, 5 ms on average, 80 %% load, "
      "200,000\n"
      "calls a row. ideal: one queue whose servers lose no time between calls; distant: one that "
      "is\n"
      "as far from its servers as the router (two hops between calls); then ours against "
      "both.\n\n");
  std::printf("%-11s %6s %4s | all %39s | short calls\n", "service", "hop us", "seed", "");
  std::printf("%23s", "");
  for (int i = 0; i < 2; ++i)
    std::printf(" | %7s %7s %7s  %5s %5s", "ours", "ideal", "distant", "/idl", "/dist");
  std::printf("\n");
  for (const bool bimodal : {false, true})
    for (const Duration hop : {Duration(0us), Duration(50us), Duration(200us)})
      for (const uint64_t seed : {3, 4, 5}) {
        const test::Balance b = test::measure_balance({bimodal, seed, 200'000, hop});
        std::printf("%-11s %6ld %4lu", bimodal ? "bimodal" : "exponential",
                    static_cast<long>(to_us(hop)), seed);
        print(b.all);
        print(b.brief);
        std::printf("\n");
      }
}

}  // namespace dray::sim
