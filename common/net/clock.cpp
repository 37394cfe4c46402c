// Clock: reads CLOCK_BOOTTIME and CLOCK_REALTIME (both without a system call on Linux).
#include "common/net/clock.h"

#include <ctime>

namespace dray {

Time read_mono() {
  timespec mono{};
  ::clock_gettime(CLOCK_BOOTTIME, &mono);
  return Time(std::chrono::seconds(mono.tv_sec) + std::chrono::nanoseconds(mono.tv_nsec));
}

Now read_clock() {
  timespec wall{};
  ::clock_gettime(CLOCK_REALTIME, &wall);
  Now now;
  now.mono = read_mono();
  now.wall_ms = int64_t{wall.tv_sec} * 1000 + wall.tv_nsec / 1'000'000;
  return now;
}

}  // namespace dray
