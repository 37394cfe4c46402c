// Time as an argument. CoreClock has no now(): a core can not ask for the time even by accident.
#pragma once

#include <chrono>
#include <cstdint>

namespace dray {

struct CoreClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<CoreClock>;
  static constexpr bool is_steady = true;
};
using Duration = std::chrono::nanoseconds;
using Time = CoreClock::time_point;  // monotonic, meaningful inside one process life only

constexpr Time kNever = Time::max();
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;
using std::chrono_literals::operator""us;

constexpr Time at_ms(int64_t ms) { return Time(std::chrono::milliseconds(ms)); }
constexpr int64_t to_ms(Duration d) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(d).count();
}
constexpr int64_t to_us(Duration d) {
  return std::chrono::duration_cast<std::chrono::microseconds>(d).count();
}

// Both clocks, read once per turn by the shell and constant inside it.
// mono drives every timeout; wall (Unix ms) is only for ETA, expiry dates and display.
struct Now {
  Time mono{};
  int64_t wall_ms = 0;
};

}  // namespace dray
