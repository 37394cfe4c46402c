// Both lanes on one device, with the real cores of router and worker: what a window and a quantum
// are for.
#include <catch2/catch.hpp>

#include "tests/support/mixed_farm.h"

namespace dray::test {
namespace {

MixedFigures measure(double load, std::function<void(MixedCase&)> change = {}) {
  MixedCase c;
  c.load = load;
  c.seconds = 15;
  c.warm_s = 5;
  if (change) change(c);
  return MixedFarm(c).run();
}
constexpr double kAlone = 3200;  // tasks a second of a device that does nothing else

}  // namespace

TEST_CASE("mixed: tasks alone use the device fully") {
  CHECK(measure(0).tasks_per_s == Approx(kAlone).epsilon(0.02));
}

TEST_CASE("mixed: calls alone are not held back") {
  const MixedFigures f = measure(0.2, [](MixedCase& c) { c.backlog = false; });
  CHECK(f.refused == 0);
  CHECK(f.p50_ms < 16);
  CHECK(f.p99_ms < 25);
}

TEST_CASE("mixed: half a device of calls in time and a good part of it for tasks") {
  const MixedFigures half = measure(0.5);
  CHECK(half.refused == 0);
  CHECK(half.p99_ms < 150);
  CHECK(half.tasks_per_s > 0.35 * kAlone);
  const MixedFigures fifth = measure(0.2);
  CHECK(fifth.refused == 0);
  CHECK(fifth.p99_ms < 150);
  CHECK(fifth.tasks_per_s > 0.6 * kAlone);
}

TEST_CASE("mixed: without a window calls leave nothing to tasks") {
  const auto greedy = [](MixedCase& c) {
    c.gather_max = {};
    c.floor_percent = 0;
  };
  CHECK(measure(0.5, greedy).tasks_per_s < 0.02 * kAlone);
}

TEST_CASE("mixed: more calls than the device can do leave the floor to tasks and are refused") {
  const MixedFigures f = measure(1.2);
  CHECK(f.p99_ms <= 150);
  CHECK(f.tasks_per_s > 0.04 * kAlone);
  CHECK(f.tasks_per_s < 0.1 * kAlone);
  const double answered = static_cast<double>(f.answered) / static_cast<double>(f.calls);
  CHECK(answered > 0.97 * 0.95 / 1.2);
}

TEST_CASE("mixed: four devices share as one does") {
  const MixedFigures f = measure(0.5, [](MixedCase& c) { c.devices = 4; });
  CHECK(f.refused == 0);
  CHECK(f.p99_ms < 150);
  CHECK(f.tasks_per_s > 4 * 0.35 * kAlone);
}

}  // namespace dray::test
