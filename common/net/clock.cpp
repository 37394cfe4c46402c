// Clock: reads CLOCK_BOOTTIME and CLOCK_REALTIME (both without a system call on Linux).
#include "common/net/clock.h"

#include <ctime>

namespace dray {

Now read_clock() {
  timespec mono{};
  timespec wall{};
  ::clock_gettime(CLOCK_BOOTTIME, &mono);
  ::clock_gettime(CLOCK_REALTIME, &wall);
  Now now;
  now.mono = Time(std::chrono::seconds(mono.tv_sec) + std::chrono::nanoseconds(mono.tv_nsec));
  now.wall_ms = int64_t{wall.tv_sec} * 1000 + wall.tv_nsec / 1'000'000;
  return now;
}

}  // namespace dray
