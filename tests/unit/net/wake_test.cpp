#include "common/net/wake.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <thread>
#include <vector>

namespace dray {
namespace {

uint64_t take_count(const Wake& wake) {
  uint64_t count = 0;
  return ::read(wake.fd(), &count, sizeof count) == sizeof count ? count : 0;
}

}  // namespace

TEST_CASE("wake: the first signal to a sleeper is the only system call until it is awake") {
  Wake wake;
  REQUIRE(wake.open());
  wake.signal();
  CHECK(take_count(wake) == 0);  // nobody sleeps
  CHECK_FALSE(wake.before_sleep());
  wake.after_sleep(false);
  CHECK(wake.awake());
  REQUIRE(wake.before_sleep());
  for (int i = 0; i < 5; ++i) wake.signal();
  CHECK(take_count(wake) == 1);
  wake.after_sleep(false);
  CHECK(wake.awake());
  CHECK_FALSE(wake.awake());
}

TEST_CASE("wake: what several threads announce is heard without a time limit") {
  Wake wake;
  REQUIRE(wake.open());
  constexpr uint64_t kThreads = 3, kEach = 30'000;
  std::atomic<uint64_t> announced{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < kEach; ++i) {
        announced.fetch_add(1);
        wake.signal();
      }
    });
  uint64_t heard = 0;
  bool stuck = false;
  while (heard < kThreads * kEach && !stuck) {
    wake.awake();
    heard = announced.load();
    if (heard == kThreads * kEach || !wake.before_sleep()) {
      wake.after_sleep(false);
      continue;
    }
    pollfd p{wake.fd(), POLLIN, 0};
    const int n = ::poll(&p, 1, 5'000);
    stuck = n == 0;
    wake.after_sleep(n > 0);
  }
  for (std::thread& t : threads) t.join();
  CHECK_FALSE(stuck);
}

}  // namespace dray
