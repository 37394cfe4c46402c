// Simulation: one run of one seed: the processes, a phase of chaos, a phase in which everything
// must settle.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "tests/sim/client_node.h"
#include "tests/sim/services.h"
#include "tests/sim/worker_node.h"

namespace dray::sim {

struct RunResult {
  std::optional<Violation> violation;
  std::map<std::string, uint64_t, std::less<>> reached;
  uint64_t hash = 0;
  Duration simulated{0};
  uint64_t events = 0;
};

RunResult run_seed(uint64_t seed, bool verbose);

class Simulation {
 public:
  Simulation(World& world, const Knobs& knobs);
  void run();

 private:
  void start_all();
  void plan_faults();
  template <class F>
  void repeat(Duration mean, F fault);  // until the chaos ends
  void crash_broker();
  void crash_worker();
  void crash_service();
  void pause_some();
  void pause_broker(Duration until);
  void reset_some();
  void hole_some();
  void partition_some();
  void jump_wall();
  void fill_disk();
  void store_fault();
  void retire_some();
  void leave_one();
  Node& some_router() { return *routers_[world_.below(routers_.size())]; }
  void plan_calls();
  void watch_calls();
  void suspend_all();
  void lose_gpu();
  Node& any_node();
  void hit_workers(Duration until);
  void follow_hole(WorkerNode& w);
  void calm_down();
  bool settled();
  void settle();
  void check_final();
  void check_calls();
  void check_crowded();
  std::string short_credit();  // empty: every worker's credit is whole
  std::string still_taken(const Doc& worker);  // the first thing that is, or empty
  std::string why_unsettled();

  World& world_;
  const Knobs& knobs_;
  Net net_;
  Oracle oracle_;
  Executions executions_;
  CallOracle call_oracle_;
  std::unique_ptr<BrokerNode> broker_;
  std::unique_ptr<AggregatorNode> aggregator_;
  std::vector<std::unique_ptr<RouterNode>> routers_;
  std::vector<std::unique_ptr<WorkerNode>> workers_;
  std::vector<std::unique_ptr<ClientNode>> clients_;
  std::vector<Node*> nodes_;
  Duration next_leave_{0};  // not before
};

}  // namespace dray::sim
