// Arithmetic of the ledger.
#include "services/worker/core/ledger.h"

#include "common/base/assert.h"

namespace dray::worker {

Ledger::Ledger(const ResourceList& total) {
  for (const auto& [name, units] : total) rows_.push_back({name, units, 0});
}

std::optional<std::vector<ResourceNeed>> Ledger::resolve(const ResourceList& wanted) const {
  std::vector<ResourceNeed> needs;
  for (const auto& [name, units] : wanted) {
    uint32_t i = 0;
    while (i < rows_.size() && rows_[i].name != name) ++i;
    if (i == rows_.size() || rows_[i].total < units) return std::nullopt;
    needs.push_back({i, units});
  }
  return needs;
}

bool Ledger::fits(const std::vector<ResourceNeed>& needs) const {
  for (const ResourceNeed& n : needs)
    if (rows_[n.resource].total - rows_[n.resource].taken < n.units) return false;
  return true;
}

void Ledger::take(const std::vector<ResourceNeed>& needs) {
  DRAY_ASSERT(fits(needs));
  for (const ResourceNeed& n : needs) rows_[n.resource].taken += n.units;
}

void Ledger::give(const std::vector<ResourceNeed>& needs) {
  for (const ResourceNeed& n : needs) {
    DRAY_ASSERT(rows_[n.resource].taken >= n.units);
    rows_[n.resource].taken -= n.units;
  }
}

}  // namespace dray::worker
