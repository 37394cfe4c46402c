// ModelProcesses: the processes of handlers of a worker in a simulation: they take time to start,
// end when nobody expects it, and are what the routes of the core lead to.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "services/worker/core/worker_core.h"
#include "tests/sim/node.h"

namespace dray::sim {

class ModelProcesses {
 public:
  // `every`: mean time between two ends; 0: there are none.
  ModelProcesses(World& world, Node& node, Duration every)
      : world_(world), node_(node), every_(every) {}

  // A new life. Of `handlers`, the first ones stay with the worker; returns how many.
  size_t boot(const std::vector<worker::ReplicaHandler>& handlers);
  std::vector<ReplicaSpec> fixed() const;
  const std::vector<HandlerOffer>& known() const { return known_; }  // by index of the handler

  void tell(worker::WorkerCore& core, Now now, worker::WorkerOut& out);
  // Handlers whose runs end with their process now.
  std::vector<uint32_t> take(worker::WorkerOut& out);
  std::vector<uint32_t> take_lost() { return std::exchange(lost_, {}); }

  enum class Way : uint8_t { open, expected, closed };
  Way way(uint32_t handler) const;

 private:
  struct Process {
    uint64_t spec = 0;
    bool ready = false;
  };
  void start(const worker::ProcessStart& order);
  void end(uint64_t process, bool told);
  void say(worker::ProcessEvent event);

  World& world_;
  Node& node_;
  Duration every_;
  std::vector<std::vector<worker::ReplicaHandler>> plugins_;  // by fixed replica
  std::vector<HandlerOffer> known_;
  std::map<uint64_t, Process> processes_;
  std::map<uint32_t, worker::HandlerRoute> routes_;
  std::vector<worker::ProcessEvent> events_;
  std::vector<uint32_t> lost_;
  size_t own_ = 0;
  bool begun_ = false;
};

}  // namespace dray::sim
