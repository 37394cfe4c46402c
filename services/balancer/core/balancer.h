// Balancer core: who is alive, how busy everybody is, where replicas run and how many.
//
//  * Owned here: the goal (goal.h). It is durable before anything that promises it is said.
//    What runs is told by the workers (NODE_REPORT); a replica is theirs until they say it is gone.
//  * A PLACE is the complete list of a worker's replicas; it is sent only to a worker that has
//    reported in its session, or what runs there would be stopped because we did not know it.
//  * Ids of replicas and numbers of goals begin with the life of the balancer, so that none is used
//    twice.
//  * Death has fixed limits, those of links: 5 s of silence, BYE, or a connection that is lost and
//    not back within a second. Suspicion (gap_clock.h) only keeps new work away, and ends by
//    itself. What this process itself slept is nobody's silence.
//  * After a start nothing new is placed until `settle` has passed: workers report what they have.
//  * A roll: replicas of a new version start as standby, are offered when they are ready, and for
//    each that stayed well for `prove` one old replica goes. Never fewer good ones than wanted, but
//    where no node has room for one more. `roll_failures` failed starts or bad health checks of the
//    new version, and the roll goes back to the last version that proved itself.
//  * Without a router nobody tells the load, and nothing is scaled.
//  * Peers are weather: what can not be read is dropped and counted.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/resources/class_mix.h"
#include "common/resources/fleet.h"
#include "common/wire/link.h"
#include "common/wire/outbox.h"
#include "services/balancer/core/gap_clock.h"
#include "services/balancer/core/goal.h"
#include "services/balancer/core/load_view.h"

namespace dray {

struct BalancerOut : Outbox {
  bool goal_changed = false;  // it must be on disk before after_sync leaves
  void clear() {
    Outbox::clear();
    goal_changed = false;
  }
};

struct BalancerOptions {
  Duration settle = std::chrono::seconds(5);
  Duration prove = std::chrono::seconds(10);  // a replica of a new version must stay well so long
  int roll_failures = 3;
  Duration back_off = std::chrono::seconds(1);  // after a failed start; doubles
  Duration back_off_max = std::chrono::seconds(60);
  Duration room_wait = std::chrono::seconds(10);  // then a roll without room stops one first
  Duration beat = std::chrono::seconds(1);  // of the links
  Duration lost_wait = std::chrono::seconds(1);  // a lost connection may come back
};

struct BalancerCounters {
  uint64_t reports = 0, loads = 0, backlogs = 0, places = 0, views = 0;
  uint64_t bad = 0;  // messages or blobs that make no sense
  uint64_t starts = 0, stops = 0, failed_starts = 0, rolled_back = 0;
  uint64_t ups = 0, downs = 0;  // decisions of the autoscaler
  uint64_t deaths = 0, suspicions = 0;
  uint64_t rejected = 0;  // admin requests
};

class Balancer {
 public:
  using Out = BalancerOut;
  static constexpr Port kPeers = 0;  // workers, routers and the broker dial it

  // `goal` as it is stored; its epoch is raised, which is the first thing to be made durable.
  Balancer(Goal goal, BalancerOptions options);

  void on_open(const SessionInfo& session, Now now, Out& out);
  void on_close(SessionId session, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  // The links' last sign of life of a worker (beats never get here).
  void on_heard(SessionId session, Time at);
  void tick(Now now, Out& out);
  Time next_deadline() const { return next_tick_; }
  void end_turn(Now now, Out& out);

  const Goal& goal() const { return goal_; }
  const BalancerCounters& counters() const { return counters_; }
  std::vector<SessionId> worker_sessions() const;
  size_t nodes_up() const;
  size_t suspects() const;
  size_t replicas() const { return replicas_.size(); }
  size_t ready_replicas() const;
  bool has_router() const { return loads_.has_router(); }
  Doc to_doc(Now now) const;
  void check() const;  // tests: between turns

 private:
  struct Replica {
    uint64_t id = 0;
    std::string deployment;
    uint64_t version = 0;
    std::string node;
    std::vector<DeviceShare> shares;  // as it was placed
    size_t variant = 0;
    size_t bytes = 0;  // in a PLACE
    bool standby = false;
    bool leaving = false;  // not in the worker's list any more
    bool reported = false;  // the worker knows it, its ledger counts it
    ReplicaState state = ReplicaState::starting;
    ReplicaStatus status;  // as last reported
    Time created{};
    Time good_since = kNever;  // ready and offered since
    Time bad_since = kNever;  // unhealthy since
    bool is_ready() const { return state == ReplicaState::ready; }
  };
  struct Node {
    std::string name;
    SessionId session = SessionId::none;
    BootId boot;
    std::optional<GapClock> clock;
    bool reported = false;  // in this session
    bool draining = false;  // says the worker
    bool suspect = false;
    Time lost_at = kNever;
    uint64_t acked = 0;  // goal of its last report
    uint64_t sent = 0;
    std::vector<std::string> sent_list;
    Capacity capacity;
    NodeState state;  // capacity and what is taken, as reported
    std::vector<DeviceInfo> devices;
  };
  struct Decision {
    int64_t wall_ms = 0;
    std::string what, why;
    uint64_t times = 1;
  };
  struct Work {  // what is known of a deployment besides its goal
    ScaleHistory history;
    std::optional<ScaleDecision> look;
    Time look_at{};
    int failures = 0;  // of the current version, since it was last well
    uint64_t failing = 0;  // version that failures speak of
    Time retry_at{};
    std::string trouble;  // why it is not as wanted; empty: it is
    std::map<std::string, Time> avoid;  // nodes where it failed a moment ago
    Time no_room_since = kNever;
    uint64_t start_ms = 0;  // of a recent start
    std::deque<Decision> decisions;
  };
  struct Count {  // of one deployment's replicas
    std::vector<uint64_t> fresh, stale, leaving;
    int64_t ready = 0, starting = 0, good = 0;
    bool is_rolling = false;  // other versions are there
  };
  enum class Peer : uint8_t { none, worker, router, broker };

  // balancer.cpp
  void judge(Now now, Out& out);
  void lose_node(Node& node, const std::string& why, Now now, Out& out);
  void look_at_load(Now now);
  void scale(DeploymentGoal& d, Work& work, Now now, Out& out);
  void say_places(Now now, Out& out);
  void say_view(Out& out);
  View make_view() const;
  void decide(Work& work, Now now, Out& out, const std::string& name, std::string what,
              std::string why);
  // balancer_report.cpp
  void on_report(Node& node, NodeReport&& m, Now now, Out& out);
  bool take_capacity(Node& node, const NodeReport& m);
  void take_status(Node& node, ReplicaStatus&& status, Now now, Out& out);
  bool adopt(Node& node, const ReplicaStatus& status, Now now);
  void take_state(Replica& r, ReplicaStatus&& status, Now now, Out& out);
  void fail(Replica& r, const std::string& reason, Now now, Out& out);
  void learn_handlers(const Replica& r, Out& out);
  // balancer_reconcile.cpp
  void reconcile(Now now, Out& out);
  void reconcile(DeploymentGoal& d, Work& work, Now now, Out& out);
  Count count(const DeploymentGoal& d, Now now) const;
  void watch(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out);
  void start_missing(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out);
  void stop_stale(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out);
  void stop_surplus(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out);
  void settle_roll(DeploymentGoal& d, Work& work, Count& c, Now now, Out& out);
  void roll_back(DeploymentGoal& d, Work& work, const std::string& why, Now now, Out& out);
  void stop(Replica& r);
  bool is_stale(const DeploymentGoal& d, const Replica& r) const;
  bool is_settled(Now now) const { return now.mono >= settled_at_; }
  // balancer_place.cpp
  std::optional<std::string> place_one(DeploymentGoal& d, Work& work, bool standby, Now now);
  std::vector<NodeState> node_states(const std::vector<const Node*>& nodes) const;
  std::variant<NodeChoice, PlacementRefusal> choose(const DeploymentGoal& d, const Work& work,
                                                    std::vector<const Node*>& nodes, Now now) const;
  ReplicaSpec spec_of(const Replica& r) const;
  // balancer_admin.cpp
  void on_admin(SessionId from, const Envelope& e, const Admin& m, Now now, Out& out);
  Result<Doc> admin(const Admin& m, Now now, Out& out);
  Result<Doc> deploy(const Doc& args, Now now, Out& out);
  Result<Doc> set_scale(const Doc& args, Now now, Out& out);
  Result<Doc> rollback(const Doc& args, Now now, Out& out);
  Result<Doc> undeploy(const Doc& args, Now now, Out& out);
  Result<Doc> drain(const Doc& args, Now now, Out& out);
  Result<DeploymentGoal*> find_deployment(const Doc& args);
  Status check_handlers(const DeploymentSpec& spec) const;
  std::string find_room(const DeploymentSpec& spec) const;
  // balancer_doc.cpp
  Doc deployments_doc(const std::string& only, Now now) const;
  Doc deployment_doc(const DeploymentGoal& d, Now now) const;
  Doc explain_doc(const DeploymentGoal& d, Now now) const;
  Doc nodes_doc(Now now) const;

  Goal goal_;
  BalancerOptions options_;
  BalancerCounters counters_;
  std::map<SessionId, Peer> peers_;
  std::map<SessionId, std::string> worker_of_;  // name of the node
  std::map<std::string, Node> nodes_;
  std::map<uint64_t, Replica> replicas_;
  std::map<std::string, Work> work_;
  ClassMix mix_;
  LoadView loads_;
  uint64_t next_id_ = 0, next_goal_ = 0, view_version_ = 0;
  View view_;
  bool goal_dirty_ = true;  // a new epoch
  bool loads_dirty_ = false;
  bool dirty_ = true;  // something to reconcile
  Time settled_at_ = kNever;
  Time next_tick_{};
  Time ticked_{};
};

}  // namespace dray
