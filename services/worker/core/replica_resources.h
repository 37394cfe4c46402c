// ReplicaResources: what of the node replicas hold. An interface, so that the replicas do not know
// whose ledger it is; NodeResources takes of the node's own, as tasks do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/wire/fleet.h"
#include "common/wire/fleet_messages.h"
#include "services/worker/core/node.h"

namespace dray::worker {

struct ReplicaGrant {
  std::vector<std::string> devices;  // uuids
  std::vector<std::pair<std::string, std::string>> environment;  // of its process
};

class ReplicaResources {
 public:
  virtual ~ReplicaResources() = default;
  // Or why there is nothing now. Pre: the id has none.
  virtual Result<ReplicaGrant> reserve(uint64_t id, const ReplicaSpec& spec) = 0;
  virtual void release(uint64_t id) = 0;
  // Why what the id holds is of no use any more, or none.
  virtual std::optional<std::string> lost(uint64_t id) const = 0;
  // Fills in all but the goal and the replicas.
  virtual void report(NodeReport& report) const = 0;
};

// bad_argument names what is wrong with a replica's needs.
Status check_needs(const ReplicaSpec& spec);

class NodeResources : public ReplicaResources {
 public:
  explicit NodeResources(Node& node) : node_(node) {}
  Result<ReplicaGrant> reserve(uint64_t id, const ReplicaSpec& spec) override;
  void release(uint64_t id) override;
  std::optional<std::string> lost(uint64_t id) const override;
  void report(NodeReport& report) const override;

 private:
  Node& node_;
  std::unordered_map<uint64_t, GrantId> grants_;  // by id of the replica; for lookups only
};

}  // namespace dray::worker
