// CallExecutor: a model of the threads that run calls in a worker: batches take time, send parts
// against credit, fail, do not listen to stop flags, or kill the process.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "services/worker/core/worker_core.h"
#include "tests/sim/call_oracle.h"
#include "tests/sim/call_plan.h"
#include "tests/sim/model_processes.h"
#include "tests/sim/node.h"

namespace dray::sim {

class CallExecutor {
 public:
  CallExecutor(World& world, CallOracle& oracle, const CallKnobs& knobs, Node& node,
               uint32_t threads)
      : world_(world), oracle_(oracle), knobs_(knobs), node_(node), threads_(threads) {}

  void set_processes(const ModelProcesses* processes) { processes_ = processes; }
  void died();
  void lose(uint32_t handler);  // what runs of it
  void take(Now now, worker::WorkerOut& out);  // what the core wants
  void tell(worker::WorkerCore& core, Now now, worker::WorkerOut& out);  // what was done
  bool idle() const { return batches_.empty(); }
  size_t ongoing(const std::string& handler) const;  // batches handed out
  uint64_t abandoned() const;  // batches of which all calls were stopped
  Duration shortest() const { return shortest_; }  // of the batches of this life
  bool has_news() const { return !outcomes_.empty() || !parts_.empty(); }

 private:
  struct Run {
    uint64_t call = 0;  // the worker's number
    uint64_t id = 0;  // the simulation's
    uint64_t execution = 0;  // 0: not begun
    Duration deadline{0};
    uint64_t window = 0;
    uint64_t granted = 0;
    uint64_t sent = 0;
    uint64_t total = 0;  // bytes of its stream
    bool stopped = false;
  };
  struct Batch {
    uint64_t number = 0;
    uint32_t handler = 0;
    std::string key;
    std::vector<Run> calls;
    uint64_t items = 0;
    Duration pushed{0};
    Duration begun{0};
    uint64_t step_no = 0;  // of the step that is planned; older ones are void
    size_t at = 0;  // the call whose parts are sent
    bool running = false;
    bool blocked = false;
  };

  void push(const worker::BatchStart& start, Now now);
  void check_batch(const Batch& b) const;
  void start_waiting();
  void refuse(Batch& b);
  const HandlerOffer& offer_of(uint32_t handler) const { return processes_->known().at(handler); }
  void begin(Batch& b);
  Duration time_of(const Batch& b) const;
  void plan_step(Batch& b, Duration delay);
  void step(uint64_t number, uint64_t step_no, uint64_t life);
  bool send_part(Batch& b);
  void finish(Batch& b);
  void stop(uint64_t call);
  void grant(const worker::CallGrant& g);
  Run* find(uint64_t call, Batch*& batch);

  World& world_;
  CallOracle& oracle_;
  const CallKnobs& knobs_;
  Node& node_;
  uint32_t threads_;
  const ModelProcesses* processes_ = nullptr;
  bool looks_again_ = false;
  std::map<uint64_t, Batch> batches_;
  std::deque<uint64_t> queue_;
  uint32_t busy_ = 0;
  Duration shortest_ = Duration::max();
  std::vector<worker::BatchOutcome> outcomes_;
  std::vector<worker::CallPart> parts_;
};

}  // namespace dray::sim
