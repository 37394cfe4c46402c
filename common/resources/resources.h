// Resource amounts as integers in units of 1/10,000, and vectors of them. No floating point: a
// ledger of fractions adds up exactly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dray {

constexpr uint64_t kResourceUnit = 10'000;  // "1.0"

// Named amounts, sorted by name, no zero entries.
class ResourceVec {
 public:
  ResourceVec() = default;
  explicit ResourceVec(std::vector<std::pair<std::string, uint64_t>> amounts);
  uint64_t get(const std::string& name) const;
  bool empty() const { return amounts_.empty(); }
  // True if every amount of `need` is here.
  bool fits(const ResourceVec& need) const;
  // Pre: fits(need).
  void take(const ResourceVec& need);
  void give(const ResourceVec& back);
  // Name of the first amount of `need` that is not here; empty if it fits.
  std::string first_missing(const ResourceVec& need) const;
  // Element-wise maximum.
  void raise_to(const ResourceVec& other);
  const std::vector<std::pair<std::string, uint64_t>>& amounts() const { return amounts_; }
  bool operator==(const ResourceVec&) const = default;

 private:
  uint64_t& at(const std::string& name);
  std::vector<std::pair<std::string, uint64_t>> amounts_;
};

// "0.5", "2", "1.25" with at most four decimals; false if it is not such a number.
bool parse_amount(const std::string& text, uint64_t& units);
std::string print_amount(uint64_t units);

}  // namespace dray
