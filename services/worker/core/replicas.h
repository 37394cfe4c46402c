// Replicas: which processes of handlers this worker has: those of its own configuration (fixed) and
// those that the balancer wants. Pure: PLACE, news of processes and time in, orders to start, ask
// and stop processes out.
//
// Rules
// - A replica is one process. A new process of a replica is started only when the old one is gone,
//   because their devices are the same.
// - A process that ends by itself is started again at once, then after 1, 2, 4 ... 60 s; one that
//   was ready for 30 s is forgiven its past. After kCrashesMax in a row, or kStartsMax if it was
//   never ready, the replica has failed and gives back what it holds; the balancer knows better
//   places. A fixed one never fails, it has nowhere else to go.
// - A PLACE is followed as a whole or not at all; an older one of the same session not at all.
// - Handlers of a process that ended stay offered for kKeepOffer: usually it is back before that,
//   and calls wait for it instead of being refused.
// - A replica whose device is lost has failed: the balancer knows better places.
// - Resources are held from before the first start to the end of the last process.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/time.h"
#include "common/wire/doc.h"
#include "services/worker/core/replica_resources.h"
#include "services/worker/core/work.h"

namespace dray::worker {

constexpr uint32_t kCrashesMax = 8;  // 63 s of waiting in all
constexpr uint32_t kStartsMax = 3;
constexpr Duration kKeepOffer = std::chrono::seconds(2);
constexpr size_t kReplicasMax = 256;
constexpr uint64_t kFixedBit = uint64_t{1} << 63;  // ids of fixed replicas have it

struct ReplicaOptions {
  std::vector<ReplicaSpec> fixed = {};  // ids with kFixedBit
  std::vector<std::string> handlers = {};  // of this process itself: replicas can not have these
};

// A handler as all replicas that offer it make it together.
struct OfferedHandler {
  HandlerOffer offer{};
  uint32_t limit = 0;  // tasks at once; 0: any
  bool can_batch = false;
  std::vector<HandlerPlace> places{};
  bool expected = false;
  bool operator==(const OfferedHandler&) const = default;
};

class Replicas {
 public:
  using Out = WorkerOut;
  Replicas(ReplicaOptions options, ReplicaResources& resources);

  void begin(Now now, Out& out);  // starts the fixed ones
  void on_balancer() { goal_before_ = 0; }  // a new session: its numbers may be others
  // Error, and nothing changed: it can not be read.
  Status on_place(const Place& place, Now now, Out& out);
  void on_events(std::vector<ProcessEvent>&& events, Now now, Out& out);
  // What the node has changed: replicas whose device is lost end, and fail.
  void on_devices(Now now, Out& out);
  void tick(Now now, Out& out);
  Time next_deadline() const;
  void stop_all(Now now, Out& out);  // for good: nothing is started again

  // By name; what should be offered and who runs it.
  std::vector<OfferedHandler> offered(Time now) const;
  bool take_changed();  // offered() may say something else

  uint64_t goal() const { return goal_; }
  // Statuses of the replicas of the balancer: all, or those that changed since the last time.
  std::vector<std::string> statuses(bool all);
  bool has_news() const { return news_; }

  bool fixed_ready() const;  // all of them
  std::string fixed_problem() const;  // of one that could not start, or empty
  size_t size() const { return replicas_.size(); }
  size_t processes() const { return by_process_.size(); }
  uint64_t crashes() const { return crashes_; }  // of processes, in all
  void check() const;
  Doc to_doc() const;

 private:
  struct Replica {
    ReplicaSpec spec{};
    bool fixed = false;
    ReplicaState state = ReplicaState::starting;
    uint64_t process = 0;  // 0: none
    ReplicaGrant grant{};
    bool granted = false;
    bool leaving = false;  // it is not wanted any more
    bool hopeless = false;  // it would end the same way the next time
    bool recycling = false;  // its process ends because it has run enough
    uint32_t crashes = 0;  // in a row
    uint32_t restarts = 0;
    bool was_ready = false;  // ever
    uint64_t ongoing = 0;
    Time start_at = kNever;  // without a process
    Time began{};
    Time ready_at{};
    Time limit_at = kNever;  // to become ready, or to end
    Time ping_at = kNever;
    Time pong_by = kNever;
    Time offer_until{};  // though no process is ready
    uint64_t started_ms = 0;
    uint64_t config_version = 0;  // what its process has
    std::string error{};
    std::vector<ReplicaHandler> handlers{};
    bool news = true;  // to be reported
  };
  using Map = std::map<uint64_t, Replica>;  // by id; ordered, because order reaches effects

  void start(Replica& r, Now now, Out& out);
  void stop(Replica& r, Now now, Out& out);
  void kill(Replica& r, std::string why, Out& out);
  void update(Replica& r, const ReplicaSpec& spec, Now now, Out& out);
  void send_config(Replica& r, Out& out);
  void on_event(ProcessEvent&& event, Now now, Out& out);
  std::string other_owner(const Replica& r, const std::string& name) const;
  void on_ready(Replica& r, ProcessEvent&& event, Now now, Out& out);
  void on_pong(Replica& r, const ProcessEvent& event, Now now);
  void on_gone(Replica& r, const ProcessEvent& event, Now now, Out& out);
  void fail(Replica& r, const std::string& text, Now now);
  void crashed(Replica& r, const std::string& text, Now now, Out& out);
  void release(Replica& r, Now now);
  void forget(Map::iterator it);
  void look(Replica& r, Now now, Out& out);
  void set_state(Replica& r, ReplicaState state, std::string error = {});
  bool is_offered(const Replica& r, Time now) const;
  ReplicaStatus status(const Replica& r) const;
  Time deadline(const Replica& r) const;

  ReplicaOptions options_;
  ReplicaResources& resources_;
  Map replicas_;
  std::unordered_map<uint64_t, uint64_t> by_process_;  // id; for lookups only
  std::vector<std::string> ended_;  // statuses of those that are gone
  uint64_t next_process_ = 1;
  uint64_t crashes_ = 0;
  uint64_t goal_ = 0;
  uint64_t goal_before_ = 0;  // the last one of this session
  bool stopping_ = false;
  bool changed_ = false;
  bool news_ = false;
  Time next_ = kNever;  // not after the deadline of any
};

}  // namespace dray::worker
