// Input: the bytes of libFuzzer as a row of choices; when they are used up, each choice is 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dray {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint64_t below(uint64_t n) { return empty() ? 0 : data_[at_++] % n; }
  // Mostly small, sometimes at the edge of what fits.
  uint64_t number(uint64_t small) {
    static constexpr uint64_t kEdges[] = {0, 1ull << 31, 1ull << 32, 1ull << 63, UINT64_MAX};
    const uint64_t choice = below(16);
    return choice < 5 ? kEdges[choice] : below(small);
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

}  // namespace dray
