#include "common/resources/resources.h"

#include "common/base/assert.h"

namespace dray {
namespace {
auto find(const std::vector<std::pair<std::string, uint64_t>>& v, const std::string& name) {
  return std::lower_bound(v.begin(), v.end(), name,
                          [](const auto& a, const std::string& n) { return a.first < n; });
}
}  // namespace

ResourceVec::ResourceVec(std::vector<std::pair<std::string, uint64_t>> amounts) {
  for (auto& [name, units] : amounts)
    if (units > 0) at(name) += units;
}

uint64_t& ResourceVec::at(const std::string& name) {
  auto it = find(amounts_, name);
  if (it == amounts_.end() || it->first != name) it = amounts_.insert(it, {name, 0});
  return amounts_[static_cast<size_t>(it - amounts_.begin())].second;
}

uint64_t ResourceVec::get(const std::string& name) const {
  auto it = find(amounts_, name);
  return it != amounts_.end() && it->first == name ? it->second : 0;
}

std::string ResourceVec::first_missing(const ResourceVec& need) const {
  for (const auto& [name, units] : need.amounts_)
    if (get(name) < units) return name;
  return {};
}

bool ResourceVec::fits(const ResourceVec& need) const { return first_missing(need).empty(); }

void ResourceVec::take(const ResourceVec& need) {
  for (const auto& [name, units] : need.amounts_) {
    uint64_t& have = at(name);
    DRAY_ASSERT(have >= units);
    have -= units;
  }
}

void ResourceVec::give(const ResourceVec& back) {
  for (const auto& [name, units] : back.amounts_) at(name) += units;
}

void ResourceVec::raise_to(const ResourceVec& other) {
  for (const auto& [name, units] : other.amounts_) at(name) = std::max(at(name), units);
}

bool parse_amount(const std::string& text, uint64_t& units) {
  uint64_t value = 0;
  int decimals = -1;
  if (text.empty() || text.size() > 15) return false;
  for (char c : text) {
    if (c == '.' && decimals < 0) {
      decimals = 0;
    } else if (c >= '0' && c <= '9' && decimals < 4) {
      value = value * 10 + static_cast<uint64_t>(c - '0');
      if (decimals >= 0) ++decimals;
    } else {
      return false;
    }
  }
  if (text == "." || decimals == 0) return false;
  for (int i = std::max(decimals, 0); i < 4; ++i) value *= 10;
  units = value;
  return true;
}

std::string print_amount(uint64_t units) {
  std::string out = std::to_string(units / kResourceUnit);
  uint64_t rest = units % kResourceUnit;
  if (rest == 0) return out;
  std::string digits = std::to_string(rest + kResourceUnit).substr(1);
  while (digits.back() == '0') digits.pop_back();
  return out + "." + digits;
}

}  // namespace dray
