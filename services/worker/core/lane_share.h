// LaneShare: how the two lanes of a worker share what a handler runs on, when the handler may run
// only so many times at once (max_concurrency: one model on one GPU). Pure: no messages, no clock.
//
// Work that runs is not interrupted, so the order of starts is all there is to decide:
// - A batch of calls that is here, or due at a router that asked for the place (WANT), goes first.
// - Queued tasks run in pieces: as many together as take at most a quantum Q.
// - While tasks wait, routers hold calls back for a window W, so that the time between pieces is
//   spent on few large batches. A greedy batcher would fill all of it with tiny ones and leave
//   nothing to the tasks. Without tasks there is no window.
// - Q + W + the calls' own batch must fit into their deadline: Q and W begin as shares of it, and
//   follow what calls were measured to take of it.
// - Tasks get at least `floor_percent` of the time, however many calls there are, and the next turn
//   after a router that asked for the place did not use it: else one that only asks would starve
//   them.
//
// Measured in the simulator and on real processes: docs/operations.md, "Two lanes on one device".
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/cost_line.h"
#include "common/base/time.h"
#include "common/wire/doc.h"
#include "common/wire/link.h"

namespace dray::worker {

struct ShareHandler {
  std::string name{};
  uint32_t limit = 0;  // runs at once, both lanes together; 0: not shared, everything may start
  uint32_t max_batch = 1;  // items that run together
};

struct LaneShareOptions {
  std::vector<ShareHandler> handlers{};
  uint32_t floor_percent = 5;  // of the time, for tasks; 0: none, below 100
  Duration gather_max = std::chrono::milliseconds(50);
  Duration quantum_max = std::chrono::milliseconds(100);
};

struct ShareCounters {
  uint64_t pieces = 0;  // of queued work
  uint64_t tasks = 0;  // in them
  uint64_t floor_pieces = 0;  // that went before calls
  uint64_t wants = 0;
  uint64_t grants = 0;
  uint64_t idle_grants = 0;  // nothing came for them
};

class LaneShare {
 public:
  explicit LaneShare(LaneShareOptions options);

  // The handlers are these from now on: those known before in their places, of which the first
  // `fixed` do not change, then new ones. Whether a handler is shared is decided when it is new.
  void set_handlers(size_t fixed, const std::vector<ShareHandler>& handlers);

  bool shares(uint32_t handler) const { return state_[handler].limit != 0; }
  const std::vector<uint32_t>& shared() const { return shared_; }  // the handlers that do

  // --- queued lane ---
  void set_queued(uint32_t handler, size_t tasks, Now now);
  // How many tasks may start now, as one piece; 0: none.
  size_t piece(uint32_t handler, Now now) const;
  size_t piece_goal(uint32_t handler, Now now) const { return piece_size(state_[handler], now); }
  bool is_busy(uint32_t handler) const {  // with tasks
    return state_[handler].queued > 0 || state_[handler].pieces > 0;
  }
  void start_piece(uint32_t handler, size_t tasks, Now now);
  void end_piece(uint32_t handler, uint32_t tasks, uint32_t run_us, Now now);  // 0 us: did not run

  // --- call lane ---
  void call_waits(uint32_t handler, int change);  // batches here that have not started
  void call_came(uint32_t handler, Duration had, Now now);  // a call that has so long in all
  bool call_may_start(uint32_t handler) const;
  void start_call(uint32_t handler, Now now);
  void end_call(uint32_t handler, uint32_t items, uint32_t run_us, Now now);  // 0 us: did not run
  // A call took so long since it reached its router, of what it had.
  void note_latency(uint32_t handler, Duration took, Duration had, Now now);

  // --- routers ---
  struct Want {
    SessionId router = SessionId::none;
    uint64_t sent = 0;
    uint32_t items = 0;
    Duration head{};  // age of its first call
  };
  void want(uint32_t handler, const Want& want, Now now);
  void came(uint32_t handler, SessionId router);  // a batch of it
  void forget(SessionId router);
  struct Grant {
    SessionId router = SessionId::none;
    uint32_t handler = 0;
    uint64_t batches = 0;
  };
  struct Terms {  // as in ShareRow
    Duration gather{};
    Duration quantum{};
    bool operator==(const Terms&) const = default;
  };
  Terms terms(uint32_t handler) const;
  // Gives free places to routers that want one. Ends every turn.
  void decide(Now now, std::vector<Grant>& grants, std::vector<uint32_t>& changed_terms);
  // True once after something that may let a piece start, or a batch of calls.
  bool take_moved();
  bool has_moved() const { return moved_; }
  bool take_calls_moved();
  Time next_deadline() const { return deadline_; }

  const ShareCounters& counters() const { return counters_; }
  void check() const;
  Doc to_doc(Now now) const;

 private:
  struct Wanting {
    SessionId router;
    uint64_t sent;
    Time since;  // arrival of its first call
  };
  struct Hold {  // a place kept for a router's batch
    SessionId router;
    Time until;
  };
  struct State {
    std::string name;
    uint32_t limit = 0;
    uint32_t limit_before = 0;  // more may run than the limit of now
    uint32_t max_batch = 1;
    uint32_t calls = 0;  // batches that run
    uint32_t pieces = 0;
    uint32_t calls_waiting = 0;
    size_t queued = 0;
    std::vector<Wanting> wants;
    std::vector<Hold> holds;
    CostLine line;
    Duration debt{};  // time that tasks are behind their floor
    bool on = false;  // tasks and calls meet
    Time off_at = kNever;
    Time calls_until{};  // calls count as present until then
    Duration slo{};  // what most calls have at least; 0: not known
    Duration derived_from{};  // the slo that gather and quantum began with
    Duration gather{};
    Duration quantum{};
    Terms told;
    std::array<uint32_t, 201> taken{};  // calls by percent of their time they took
    uint32_t samples = 0;
    uint32_t free_pieces = 0;  // meanwhile started, and not for the floor
    Time shrink_at = kNever;
    Time grow_at = kNever;
  };

  bool has_place(const State& s) const { return s.calls + s.pieces + s.holds.size() < s.limit; }
  size_t floor_size(const State& s) const;
  bool floor_due(const State& s) const;
  double piece_us(const State& s, size_t tasks) const;
  size_t piece_size(const State& s, Now now) const;
  void add(const ShareHandler& h);
  void derive(State& s);
  void steer(State& s, Now now);
  void switch_mode(State& s, Now now);
  void arm();

  LaneShareOptions options_;
  std::vector<State> state_;
  std::vector<uint32_t> shared_;
  ShareCounters counters_;
  Time deadline_ = kNever;
  bool moved_ = false;
  bool calls_moved_ = false;
};

}  // namespace dray::worker
