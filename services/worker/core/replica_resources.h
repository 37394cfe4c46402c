// ReplicaResources: what of the node replicas hold. An interface, so that the replicas do not know
// whose ledger it is; NodeResources is one of their own, for pools.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/wire/fleet.h"
#include "common/wire/fleet_messages.h"

namespace dray {
class NodeLedger;
}

namespace dray::worker {

class ReplicaResources {
 public:
  virtual ~ReplicaResources() = default;
  // The devices of the grant, or why there is none now. Pre: the id has none.
  virtual Result<std::vector<std::string>> reserve(uint64_t id, const ReplicaSpec& spec) = 0;
  virtual void release(uint64_t id) = 0;
  // Fills in all but the goal and the replicas.
  virtual void report(NodeReport& report) const = 0;
};

// bad_argument names what is wrong with a replica's needs.
Status check_needs(const ReplicaSpec& spec);

class NodeResources : public ReplicaResources {
 public:
  using Amounts = std::vector<std::pair<std::string, uint64_t>>;
  NodeResources(const Amounts& pools, std::vector<std::string> labels);
  ~NodeResources() override;
  Result<std::vector<std::string>> reserve(uint64_t id, const ReplicaSpec& spec) override;
  void release(uint64_t id) override;
  void report(NodeReport& report) const override;

 private:
  Amounts pools_;
  std::vector<std::string> labels_;
  std::unique_ptr<NodeLedger> ledger_;
};

}  // namespace dray::worker
