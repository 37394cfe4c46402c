// NaiveLedger: the rules of NodeLedger in the slowest and plainest way, for comparison. It keeps a
// list of grants and adds up; it shares no code with the ledger but the plain structs.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "common/resources/node_ledger.h"

namespace dray::test {

class NaiveLedger {
 public:
  struct Entry {
    GrantId id;
    Grant grant;
  };
  Capacity capacity;
  std::vector<Entry> entries;  // oldest first

  uint64_t taken_units(const std::string& uuid) const {
    return sum(uuid, [](const DeviceShare& s) { return s.units; });
  }
  uint64_t taken_mib(const std::string& uuid) const {
    return sum(uuid, [](const DeviceShare& s) { return s.memory_mib; });
  }
  uint64_t holders(const std::string& uuid) const {
    return sum(uuid, [](const DeviceShare&) { return uint64_t{1}; });
  }
  bool is_whole(const std::string& uuid) const {
    return sum(uuid, [](const DeviceShare& s) { return uint64_t{s.units == kResourceUnit}; }) > 0;
  }
  uint64_t free_units(const Device& d) const {
    return d.usable ? minus(d.units, taken_units(d.uuid)) : 0;
  }
  uint64_t free_mib(const Device& d) const {
    return d.usable && !is_whole(d.uuid) ? minus(d.memory_mib, taken_mib(d.uuid)) : 0;
  }
  uint64_t taken(const std::string& pool) const {
    uint64_t all = 0;
    for (const Entry& e : entries) all += e.grant.pools.get(pool);
    return all;
  }
  uint64_t free(const std::string& pool) const {
    return minus(capacity.pools.get(pool), taken(pool));
  }

  bool can_be_whole(const Device& d, const Variant& v) const {
    return d.usable && d.units == kResourceUnit && holders(d.uuid) == 0 &&
           d.memory_mib >= v.gpu_memory_mib;
  }
  bool can_be_part(const Device& d, const Variant& v) const {
    return free_units(d) >= v.gpus % kResourceUnit && free_mib(d) >= v.gpu_memory_mib;
  }

  // Do these devices hold the variant: some part donor, and enough whole ones besides it.
  bool devices_hold(const std::vector<Device>& devices, const Variant& v) const {
    const uint64_t wholes = v.gpus / kResourceUnit;
    const bool has_part = v.gpus % kResourceUnit > 0 || (v.gpus == 0 && v.gpu_memory_mib > 0);
    for (size_t donor = 0; donor <= devices.size(); ++donor) {
      const bool is_nobody = donor == devices.size();
      if (is_nobody == has_part || (has_part && !can_be_part(devices[donor], v))) continue;
      uint64_t others = 0;
      for (size_t i = 0; i < devices.size(); ++i)
        others += i != donor && can_be_whole(devices[i], v);
      if (others >= wholes) return true;
    }
    return false;
  }

  // Fewest groups whose devices hold the variant; 0 if all together do not.
  size_t fewest_groups(const Variant& v) const {
    std::set<uint32_t> seen;
    for (const Device& d : capacity.devices) seen.insert(d.group);
    const std::vector<uint32_t> groups(seen.begin(), seen.end());
    size_t best = 0;
    for (uint32_t mask = 1; mask < (1u << groups.size()); ++mask) {
      std::vector<Device> devices;
      for (const Device& d : capacity.devices)
        for (size_t g = 0; g < groups.size(); ++g)
          if (groups[g] == d.group && (mask >> g & 1) != 0) devices.push_back(d);
      const auto count = static_cast<size_t>(__builtin_popcount(mask));
      if (devices_hold(devices, v) && (best == 0 || count < best)) best = count;
    }
    return best;
  }

  bool fits(const Variant& v, Strategy strategy) const {
    for (const std::string& label : v.labels)
      if (std::count(capacity.labels.begin(), capacity.labels.end(), label) == 0) return false;
    for (const auto& [name, units] : v.pools.amounts())
      if (free(name) < units) return false;
    if (v.gpus == 0 && v.gpu_memory_mib == 0) return true;
    if (!devices_hold(capacity.devices, v)) return false;
    if (strategy != Strategy::strict || v.gpus <= kResourceUnit) return true;
    NaiveLedger idle;
    idle.capacity = capacity;
    return fewest_groups(v) <= idle.fewest_groups(v);
  }
  // Index of the first variant that fits; the number of variants if none does.
  size_t first_fit(const Request& r) const {
    size_t i = 0;
    while (i < r.variants.size() && !fits(r.variants[i], r.strategy)) ++i;
    return i;
  }

  // Is the grant, which is not in the entries, what the variant asks for, and is it free?
  bool is_right(const Grant& g, const Variant& v) const {
    uint64_t units = 0;
    std::set<std::string> uuids(g.uuids.begin(), g.uuids.end());
    bool ok = uuids.size() == g.shares.size() && g.pools == v.pools;
    for (size_t i = 0; i < g.shares.size(); ++i) {
      const Device* d = device(g.uuids[i]);
      units += g.shares[i].units;
      ok = ok && d != nullptr && g.shares[i].memory_mib == v.gpu_memory_mib;
      if (!ok) return false;
      if (g.shares[i].units == kResourceUnit)
        ok = can_be_whole(*d, v);
      else
        ok = g.shares[i].units == v.gpus % kResourceUnit && can_be_part(*d, v);
      if (!ok) return false;
    }
    const uint64_t parts = v.gpus % kResourceUnit > 0 || (v.gpus == 0 && v.gpu_memory_mib > 0);
    return units == v.gpus && g.shares.size() == v.gpus / kResourceUnit + parts;
  }

  // Grants that do not fit when they are put back oldest first.
  std::vector<GrantId> misfits() const {
    NaiveLedger kept;
    kept.capacity = capacity;
    std::vector<GrantId> out;
    for (const Entry& e : entries) {
      if (kept.can_hold(e.grant))
        kept.entries.push_back(e);
      else
        out.push_back(e.id);
    }
    return out;
  }

  Entry* find(GrantId id) {
    for (Entry& e : entries)
      if (e.id == id) return &e;
    return nullptr;
  }
  void release(GrantId id) {
    std::erase_if(entries, [&](const Entry& e) { return e.id == id; });
  }

 private:
  static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

  template <class F>
  uint64_t sum(const std::string& uuid, F of) const {
    uint64_t all = 0;
    for (const Entry& e : entries)
      for (size_t i = 0; i < e.grant.shares.size(); ++i)
        if (e.grant.uuids[i] == uuid) all += of(e.grant.shares[i]);
    return all;
  }
  const Device* device(const std::string& uuid) const {
    for (const Device& d : capacity.devices)
      if (d.uuid == uuid) return &d;
    return nullptr;
  }
  bool can_hold(const Grant& g) const {
    for (size_t i = 0; i < g.shares.size(); ++i) {
      const Device* d = device(g.uuids[i]);
      if (d == nullptr || !d->usable || free_units(*d) < g.shares[i].units) return false;
      if (free_mib(*d) < g.shares[i].memory_mib) return false;
    }
    for (const auto& [name, units] : g.pools.amounts())
      if (free(name) < units) return false;
    return true;
  }
};

}  // namespace dray::test
