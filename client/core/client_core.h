// ClientCore: the client's half of every promise: requests are kept until answered, credit is
// obeyed, and each open task and call ends in exactly one event. No I/O, no clock, no threads.
//
// Pushed results (READY after a submit with watch) are an optimisation; the truth is WAIT at the
// aggregator. It is sent for every accepted task that is still open after a second, and again for
// all open tasks after a new session or WATCH_LOST.
//
// Several routers may be dialled, one to a port. Calls use all of them (call_core.h); requests use
// the session that opened first, and move to another one when it is lost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client/core/call_core.h"
#include "client/core/events.h"
#include "client/core/open_table.h"
#include "common/base/rng.h"
#include "common/base/time.h"
#include "common/wire/credit.h"

namespace dray {

struct ClientCoreOptions {
  uint64_t seed = 1;
  size_t queue_bytes = size_t{256} << 20;  // requests kept here, waiting or unanswered
  Duration silence = 2s;  // resend after; doubles per resend of one request, up to 16 s
  Duration wait_after = 1s;  // accepted and still open for so long: WAIT for it
  Duration wait_check = 250ms;
  Duration wait_refresh = 10s;  // a WAIT without news is repeated; doubles up to 160 s
  Duration wait_rotate = 30s;  // oldest WAIT gives way after this when waits_max is reached
  size_t waits_max = 256;
  Duration group_poll = 5s;
  CallCoreOptions calls;
};

struct SubmitCmd {
  std::vector<std::string> specs;
  Rows<SubmitRow> rows;
  Bytes bytes;
  Time deadline = kNever;
  bool watch = true;  // report the ends of these tasks
};

struct ClientCounters {
  uint64_t sent = 0;
  uint64_t resent = 0;  // of those, repeats of a request
  uint64_t retried_rejects = 0;
  uint64_t results = 0;  // result events, by task
  uint64_t repeated_results = 0;  // READY rows of tasks that were not open
  uint64_t waits = 0;
  uint64_t watch_lost = 0;
};

// Collects the messages of one FETCH answer; a repeated request may bring some rows twice.
class FetchParts {
 public:
  void add(const Ready& m);
  std::pair<Rows<ResultRow>, Bytes> take();

 private:
  std::set<TaskId> seen_;
  RowsBuilder<ResultRow> rows_;
  std::string bytes_;
};

class ClientCore {
 public:
  using Out = ClientOut;
  explicit ClientCore(ClientCoreOptions options)
      : options_(options), rng_(options.seed), calls_(options.calls) {}

  void on_open(const SessionInfo& session, Now now, Out& out);
  void on_close(SessionId id, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  void tick(Now now, Out& out);
  void end_turn(Now now, Out& out) { calls_.end_turn(now, out); }
  Time next_deadline() const;

  CallCore& calls() { return calls_; }

  // Commands. Each returns the request number that its one closing event carries; that event may
  // already be in `out` on return (queue full). Ids per call: at most kItemsMax.
  uint64_t submit(SubmitCmd&& cmd, Now now, Out& out);
  uint64_t fetch(Rows<IdRow> ids, Time deadline, Now now, Out& out);
  uint64_t cancel(Rows<IdRow> ids, Time deadline, Now now, Out& out);
  uint64_t query(Rows<IdRow> ids, Time deadline, Now now, Out& out);
  uint64_t forget(Rows<IdRow> ids, Time deadline, Now now, Out& out);
  uint64_t admin(Admin admin, Time deadline, Now now, Out& out);
  uint64_t group_put(TaskId group, Rows<IdRow> ids, Time deadline, Now now, Out& out);
  // push: GroupEvents keep coming, through reconnects, until group_unwatch.
  uint64_t group_watch(TaskId group, bool push, Time deadline, Now now, Out& out);
  void group_unwatch(TaskId group, Out& out);
  // Opens tasks that somebody else submitted: each gets its one result event in time. No request.
  void wait(const Rows<IdRow>& ids, Now now);
  // Closes tasks without an event.
  void unwait(const Rows<IdRow>& ids);

  bool connected() const { return session_ != SessionId::none; }
  size_t requests() const { return pending_.size(); }
  size_t request_bytes() const { return pending_bytes_; }
  size_t waits() const { return waits_.size(); }
  OpenTable& open_tasks() { return open_; }
  const ClientCounters& counters() const { return counters_; }
  void check() const;  // tests: recompute what is kept twice

 private:
  enum class Phase : uint8_t { queued, in_flight, backoff };
  struct Pending {
    Message message;
    Time deadline{};
    Time timer{};  // its entry in timers_
    size_t bytes = 0;
    uint32_t sends = 0;
    uint32_t tries = 0;  // refusals
    uint32_t rejects = 0;  // of those, that surely changed nothing
    Errc last_code = Errc::unavailable;
    std::string last_detail;
    Phase phase = Phase::queued;
    FetchParts fetched;  // of a FETCH
  };
  struct LiveWait {
    Rows<IdRow> rows;
    Time since{};
    Time refresh_at{};
    Duration interval{};
  };
  struct DueBlock {
    OpenTable::Index block;
    Time at;
  };
  using PendingIt = std::unordered_map<uint64_t, Pending>::iterator;

  // requests (client_core.cpp)
  uint64_t start(Message message, size_t bytes, Time deadline, Now now, Out& out);
  void set_timer(uint64_t req, Pending& p, Time at);
  void enqueue(uint64_t req, Pending& p);
  void send_pending(uint64_t req, Pending& p, Now now, Out& out);
  void pump(Now now, Out& out);
  void finish(PendingIt it);
  void give_up(PendingIt it, Reject&& why, Out& out);
  void expire(PendingIt it, Out& out);
  void on_timer(uint64_t req, Now now, Out& out);
  void on_answer(uint64_t req, Message&& message, Now now, Out& out);
  void on_reject(uint64_t req, Reject&& m, Now now, Out& out);
  template <class... Requests>
  PendingIt answered(uint64_t req);
  Duration backoff(uint32_t retry_after_ms, uint32_t tries);

  // open tasks (client_results.cpp)
  void open_rows(const Rows<SubmitRow>& rows);
  void accept_rows(const Rows<SubmitRow>& rows, Now now);
  Rows<SubmitRow> not_open(const Rows<SubmitRow>& rows) const;
  Rows<SubmitRow> close_rows(const Rows<SubmitRow>& rows);
  void on_submitted(uint64_t req, Submitted&& m, Now now, Out& out);
  void on_ready(uint64_t req, Ready&& m, Now now, Out& out);
  void settle_known(const Rows<StateRow>& rows, bool watch, Now now, Out& out);
  void resolve(Rows<ResultRow> rows, Bytes bytes, Out& out);
  void queue_block(OpenTable::Index i, Time at);
  void uncover_all(Now now);
  void retry_group(uint64_t req, Now now);
  void on_group_state(uint64_t req, GroupState&& m, Now now, Out& out);

  void check_waits(Now now, Out& out);
  void refresh_waits(Now now, Out& out);
  void cover_due(Now now, Out& out);
  void pop_due();
  bool due_is_useful(Now now);
  Rows<IdRow> collect_due(Now now);
  Rows<IdRow> still_open(const Rows<IdRow>& rows) const;
  void send_wait(uint64_t req, LiveWait& w, Now now, Out& out);
  void end_wait(std::map<uint64_t, LiveWait>::iterator it, Time again_at);
  bool rotate_waits(Now now, Out& out);
  void poll_groups(Now now, Out& out);
  void post(uint64_t req, Message message, Out& out);
  void adopt(Now now, Out& out);
  void arm_wait_check(Time at) { wait_check_at_ = std::min(wait_check_at_, at); }

  struct Standby {  // an open session that requests do not use
    SessionInfo info;
    CreditTaker credit;
  };
  struct GroupWatched {
    uint64_t req = 0;  // the same in every repeat
    Time poll_at{};
  };

  ClientCoreOptions options_;
  Rng rng_;
  SessionId session_ = SessionId::none;
  CreditTaker credit_;
  std::vector<Standby> standby_;  // in opening order
  uint64_t next_req_ = 1;
  std::unordered_map<uint64_t, Pending> pending_;
  std::deque<uint64_t> send_queue_;  // reqs in phase queued (stale entries are skipped)
  std::set<std::pair<Time, uint64_t>> timers_;
  size_t pending_bytes_ = 0;

  OpenTable open_;
  std::deque<DueBlock> due_;
  std::map<uint64_t, LiveWait> waits_;
  Time wait_check_at_ = kNever;
  bool waits_starved_ = false;  // the last check ran out of credit
  std::map<TaskId, GroupWatched> groups_;
  uint64_t broker_epoch_ = 0;
  ClientCounters counters_;
  CallCore calls_;
};

}  // namespace dray
