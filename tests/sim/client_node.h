// A client process of a simulation and the application in it: submits, repeats, cancels, asks, and
// keeps a list of its tasks that survives its crashes.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "client/core/client_core.h"
#include "client/core/id_maker.h"
#include "services/router/core/router.h"
#include "tests/sim/call_oracle.h"
#include "tests/sim/node.h"
#include "tests/sim/oracle.h"

namespace dray::sim {

class ClientNode final : public CoreNode<ClientCore, NoDurable> {
 public:
  ClientNode(World& world, Net& net, const Knobs& knobs, Oracle& oracle, CallOracle& calls,
             std::vector<Node*> routers, int index, uint64_t tasks);
  void act();  // one random thing
  void call_some();  // a burst of calls
  void probe(size_t handler);  // a call with all the time in the world: it must work
  void calm(bool on);  // end of the chaos: undo what operators did
  bool settled();
  std::string unsettled() const;
  void check_final() const;
  void ask_workers();
  const std::optional<Doc>& workers() const { return workers_; }

 protected:
  void boot() override;
  void on_died() override;
  void before_turn(Now now, Out& out) override;
  void on_effects(Now now, Out& out) override;
  void after_turn(Now now) override;

 private:
  struct Mine {
    TaskId id;
    uint16_t spec = 0;
    uint32_t submits = 0;
    bool confirmed = false;
    bool closed = false;  // got its end, or was refused
    bool refused = false;
  };
  struct Sent {
    std::vector<size_t> tasks;
    bool conflict = false;
  };
  using Action = std::function<void(Now, Out&)>;

  std::string make_spec();
  void ask_gpus(TaskSpec& s);
  void do_submit(Now now, Out& out);
  void submit(const std::vector<size_t>& tasks, bool conflict, Time deadline, Now now, Out& out);
  void do_cancel_or_query(Now now, Out& out);
  uint64_t do_admin(Now now, Out& out);
  uint64_t ask_admin(const std::string& verb, Doc args, Now now, Out& out);
  void resume_tasks(Now now, Out& out);
  void wait_again(size_t i, Now now);
  void on_results(const ResultsEvent& e, Now now);
  void on_rejected(const RejectedEvent& e);
  CallOrder choose_call(const CallHandler& handler);
  void do_calls(Now now, Out& out);
  void do_call(CallOrder order, Now now, Out& out);
  void do_probe(size_t handler, Now now, Out& out);
  void plan_cancel(uint64_t call, Duration after);
  void plan_read(uint64_t call, uint64_t bytes);
  void on_calls(Out& out);
  void count_calls();
  void check_lost_sessions();
  void later(Action action) {
    actions_.push_back(std::move(action));
    wake(world_.now());
  }

  const Knobs& knobs_;
  Oracle& oracle_;
  CallOracle& call_oracle_;
  std::vector<Node*> routers_;
  int index_;
  uint64_t left_;  // tasks still to submit
  IdMaker ids_;
  std::vector<std::string> specs_;
  std::vector<Mine> mine_;  // on the application's disk
  std::map<TaskId, size_t> by_id_;
  // of this life
  std::set<TaskId> open_;
  std::map<uint64_t, Sent> sent_;
  std::set<uint64_t> admin_reqs_;
  std::vector<Action> actions_;
  std::map<uint64_t, uint64_t> calls_;  // open: the simulation's number -> the core's
  std::set<uint64_t> probes_;
  std::map<uint64_t, SessionId> sent_in_;  // open calls: where they were sent last
  uint64_t repeats_at_start_ = 0;
  bool loss_untold_ = false;  // after the turn before
  std::optional<Doc> workers_;
  uint64_t workers_req_ = 0;
  ClientCounters seen_;
  CallCounters calls_seen_;
};

}  // namespace dray::sim
