// ClassMix: which shapes of requests are frequent. The weights of least fragmentation
// (placement.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/resources/request.h"

namespace dray {

// A class is the shape of a request: two requests for the same amounts are one class.
struct RequestClass {
  Variant need;  // labels left out
  uint64_t weight = 0;  // how often it was asked for, recent requests counting more
  bool operator==(const RequestClass&) const = default;
};

// Integer counts that are halved every kHalveEvery notes, so old habits fade without a clock.
// Bounded: a new class takes the place of the rarest of kKept ones.
class ClassMix {
 public:
  static constexpr size_t kClassesMax = 16;  // used for placement
  static constexpr size_t kKept = 64;
  static constexpr uint32_t kHalveEvery = 4096;
  // Counts the first variant. Requests without GPU units strand none and are not counted.
  void note(const Request& request);
  // The most frequent classes, most frequent first.
  std::span<const RequestClass> classes() const;

 private:
  void halve();
  std::vector<RequestClass> kept_;  // sorted by weight, falling; ties: older first
  uint32_t notes_ = 0;
};

}  // namespace dray
