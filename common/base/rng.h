// Small seeded generator (splitmix64). The seed is an argument everywhere, so every run repeats.
#pragma once

#include <cstdint>

#include "common/base/ids.h"

namespace dray {

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next() { return mix64(state_ += 0x9e3779b97f4a7c15ULL); }
  // Uniform in [0, n); 0 when n is 0. Multiply-shift (Lemire 2019), bias below 2^-32 for our n.
  uint64_t below(uint64_t n) { return static_cast<uint64_t>(static_cast<Wide>(next()) * n >> 64); }
  bool chance(uint64_t per_million) { return below(1'000'000) < per_million; }

 private:
  __extension__ using Wide = unsigned __int128;
  uint64_t state_;
};

}  // namespace dray
