// Short ways to write requests, nodes and ledgers in tests.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/resources/node_ledger.h"

namespace dray::test {

inline Variant want(const std::string& gpus, const std::string& memory = "",
                    std::vector<std::pair<std::string, std::string>> pools = {},
                    std::vector<std::string> labels = {}) {
  return parse_variant({gpus, memory, std::move(pools), std::move(labels)}).value();
}

inline Request one(const Variant& variant, Strategy strategy = Strategy::pack) {
  return {{variant}, strategy};
}

// n whole devices GPU-0 ... of 24 GiB in groups of `group_size`; 16 cpus.
inline Capacity node_of(size_t n, size_t group_size = 64) {
  Capacity c;
  for (size_t i = 0; i < n; ++i)
    c.devices.push_back({"GPU-" + std::to_string(i), kResourceUnit, 24576,
                         static_cast<uint32_t>(i / group_size), true});
  c.pools = ResourceVec({{"cpu", 16 * kResourceUnit}});
  return c;
}

// Indexes of the devices of a grant or placement.
inline std::vector<uint32_t> devices_of(const std::vector<DeviceShare>& shares) {
  std::vector<uint32_t> out;
  for (const DeviceShare& s : shares) out.push_back(s.device);
  return out;
}

// A ledger that numbers its grants and weighs what it was asked so far.
struct Bench {
  explicit Bench(const Capacity& capacity) : ledger(capacity) {}
  // Devices of the grant, or {99} and `refusal`.
  std::vector<uint32_t> take(const Request& request) {
    auto got = ledger.reserve(GrantId{++last}, request, classes);
    ledger.check();
    if (auto* grant = std::get_if<Grant>(&got)) return devices_of(grant->shares);
    refusal = std::get<PlacementRefusal>(got);
    return {99};
  }
  std::vector<uint32_t> take(const Variant& variant, Strategy strategy = Strategy::pack) {
    return take(one(variant, strategy));
  }
  void drop(uint64_t id) {
    ledger.release(GrantId{id});
    ledger.check();
  }
  NodeLedger ledger;
  std::vector<RequestClass> classes;
  PlacementRefusal refusal;
  uint64_t last = 0;
};

using Indexes = std::vector<uint32_t>;
inline const Indexes kRefused = {99};

}  // namespace dray::test
