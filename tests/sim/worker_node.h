// A worker process of a simulation, with model executors: tasks take time, fail, ignore
// cancellation or kill the process, all decided by task id and token.
#pragma once

#include <deque>
#include <map>
#include <vector>

#include "services/router/core/router.h"
#include "services/worker/core/worker_core.h"
#include "tests/sim/call_executor.h"
#include "tests/sim/gpu_oracle.h"
#include "tests/sim/model_processes.h"
#include "tests/sim/node.h"
#include "tests/sim/oracle.h"

namespace dray::sim {

class WorkerNode;

// One execution that is going on.
struct Execution {
  worker::Start task;
  Duration begun{0};
  bool running = false;  // else it waits for an executor
  bool cancelled = false;  // asked to stop: what follows is not its fault
  bool excused = false;  // its worker was out of reach for long enough to be taken for dead
  uint64_t piece = 0;  // tasks that were started together
};

// All executions of all workers, to see two of one task at a time.
struct Executions {
  std::map<TaskId, std::vector<std::pair<WorkerNode*, Token>>> running;
  std::map<Token, int> starts;
  std::map<TaskId, WorkerNode*> done;  // who did it last, while that process lives
};

class WorkerNode final : public CoreNode<worker::WorkerCore, NoDurable> {
 public:
  WorkerNode(World& world, Net& net, const Knobs& knobs, Oracle& oracle, Executions& all,
             CallOracle& calls, Node& broker, std::vector<Node*> routers, int index);
  void excuse_running();
  const std::map<Token, Execution>& executions() const { return executions_; }
  bool idle() const;
  // Called whenever this process may be out of reach for the broker until `until`.
  void out_of_reach(Duration until);
  void lose_gpu();  // one of its own, for a while
  void mend_gpus();

 protected:
  void boot() override;
  void on_died() override;
  void begin_drain() override;
  void before_turn(Now now, Out& out) override;
  void on_effects(Now now, Out& out) override;
  void after_turn(Now now) override;
  void on_note(const Note& note) override;

 private:
  void begin(Token token);
  void finish(Token token, uint64_t life);
  void end(Token token, Verdict verdict, Errc code, std::string bytes, bool started);
  void start_waiting();
  void lose_runs(const std::vector<uint32_t>& handlers);
  std::vector<HandlerOffer> choose_offers() const;
  void count_calls();
  void check_call_credit() const;
  void check_shared() const;
  void count_shares();
  void check_second_start(const worker::Start& task);
  void check_not_done(const worker::Start& task);
  Duration time_of(const worker::Start& task) const;

  const Knobs& knobs_;
  Oracle& oracle_;
  Executions& all_;
  Node& broker_;
  std::vector<Node*> routers_;
  int index_;
  uint32_t slots_;
  uint32_t call_slots_;
  std::vector<HandlerOffer> offers_;
  ModelProcesses processes_;
  CallExecutor call_threads_;
  std::map<Token, Execution> executions_;
  std::deque<Token> waiting_;
  std::vector<worker::Outcome> outcomes_;
  GpuOracle gpus_;
  size_t busy_ = 0;
  uint64_t pieces_ = 0;
  std::map<TaskId, std::pair<Token, bool>> done_;  // good ends told to the agent; excused
  Duration reach_from_{-1};  // executions begun before are excused
  worker::AgentCounters seen_;
  worker::CallCounters calls_seen_;
  worker::ShareCounters shares_seen_;
};

}  // namespace dray::sim
