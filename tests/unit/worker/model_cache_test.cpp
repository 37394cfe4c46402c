// ModelCache: least recently used, single flight, failed loads.
#include "client/include/dray/model_cache.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>
#include <vector>

namespace dray {
namespace {

struct Model {
  explicit Model(std::string_view key) : name(key) { ++alive; }
  ~Model() { --alive; }
  std::string name;
  static inline std::atomic<int> alive{0};
};

}  // namespace

TEST_CASE("model cache: the longest unused model goes, before the next one is loaded") {
  int alive_at_load = 0;
  ModelCache<Model> cache(2, [&](std::string_view key) {
    alive_at_load = Model::alive;
    return std::make_shared<Model>(key);
  });
  CHECK(cache.get("a")->name == "a");
  CHECK(cache.get("b")->name == "b");
  CHECK(cache.get("a")->name == "a");
  CHECK(cache.loads() == 2);
  CHECK(cache.get("c")->name == "c");  // b goes
  CHECK(alive_at_load == 1);
  CHECK(cache.size() == 2);
  cache.get("a");
  CHECK(cache.loads() == 3);
  cache.get("b");
  CHECK(cache.loads() == 4);
  CHECK(Model::alive == 2);
}

TEST_CASE("model cache: a model in use outlives its place") {
  ModelCache<Model> cache(1, [](std::string_view key) { return std::make_shared<Model>(key); });
  const auto a = cache.get("a");
  cache.get("b");
  CHECK(a->name == "a");
  CHECK(Model::alive == 2);
}

TEST_CASE("model cache: one load for all who want it, others do not wait") {
  std::atomic<int> loads{0};
  std::atomic<bool> go{false};
  ModelCache<Model> cache(4, [&](std::string_view key) {
    ++loads;
    while (key == "slow" && !go) std::this_thread::yield();
    return std::make_shared<Model>(key);
  });
  std::vector<std::thread> threads;
  std::atomic<int> got{0};
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] { got += cache.get("slow")->name == "slow"; });
  while (loads == 0) std::this_thread::yield();
  CHECK(cache.get("quick")->name == "quick");
  CHECK(got == 0);
  go = true;
  for (std::thread& t : threads) t.join();
  CHECK(got == 8);
  CHECK(loads == 2);
}

TEST_CASE("model cache: a failed load is told to all who waited and tried again later") {
  std::atomic<bool> broken{true};
  std::atomic<bool> go{false};
  ModelCache<Model> cache(2, [&](std::string_view key) {
    while (!go) std::this_thread::yield();
    if (broken) throw std::runtime_error("no memory");
    return std::make_shared<Model>(key);
  });
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      try {
        cache.get("a");
      } catch (const std::runtime_error&) {
        ++failed;
      }
    });
  go = true;
  for (std::thread& t : threads) t.join();
  CHECK(failed == 4);
  CHECK(cache.size() == 0);
  broken = false;
  CHECK(cache.get("a")->name == "a");
}

}  // namespace dray
