// Slab: values in slots that are used again, so that nothing is allocated once it is warm. A slot
// keeps its value (and its value's memory) between uses.
#pragma once

#include <cstdint>
#include <vector>

namespace dray {

constexpr uint32_t kNoSlot = ~uint32_t{0};

template <class T>
class Slab {
 public:
  // References to other slots do not survive this.
  uint32_t take() {
    if (free_.empty()) {
      slots_.emplace_back();
      return static_cast<uint32_t>(slots_.size() - 1);
    }
    const uint32_t i = free_.back();
    free_.pop_back();
    return i;
  }
  void give_back(uint32_t i) { free_.push_back(i); }
  T& operator[](uint32_t i) { return slots_[i]; }
  const T& operator[](uint32_t i) const { return slots_[i]; }
  uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
  size_t used() const { return slots_.size() - free_.size(); }

 private:
  std::vector<T> slots_;
  std::vector<uint32_t> free_;
};

}  // namespace dray
