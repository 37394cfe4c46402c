// Ledger: what of this node's resources is taken by running tasks. The final judge of its node.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/worker/core/work.h"

namespace dray::worker {

using ResourceList = std::vector<std::pair<std::string, uint64_t>>;  // units of 1/10,000

class Ledger {
 public:
  explicit Ledger(const ResourceList& total);
  // Names to indexes; empty if this node could never satisfy it.
  std::optional<std::vector<ResourceNeed>> resolve(const ResourceList& wanted) const;
  bool fits(const std::vector<ResourceNeed>& needs) const;
  void take(const std::vector<ResourceNeed>& needs);  // must fit
  void give(const std::vector<ResourceNeed>& needs);
  size_t size() const { return rows_.size(); }
  uint64_t taken(size_t i) const { return rows_[i].taken; }
  uint64_t total(size_t i) const { return rows_[i].total; }
  const std::string& name(size_t i) const { return rows_[i].name; }

 private:
  struct Row {
    std::string name;
    uint64_t total = 0;
    uint64_t taken = 0;
  };
  std::vector<Row> rows_;
};

}  // namespace dray::worker
