// Aggregator core: the owner of results, of those who wait for them, and of groups.
//
// It follows the broker's stream of finished tasks, makes every result durable exactly once and in
// order, acknowledges it, and only then tells whoever waits. A turn has three steps:
//
//   on_message   stages: results go to out.batch, what depends on them is remembered
//   end_turn     completes the batch: group bits, rows, stream position
//   on_committed (the batch is durable) or on_stalled (the disk is full: nothing was written).
//                Answers, READY pushes and the acknowledgement are made here, in after_sync.
//
// So nothing volatile runs ahead of the disk: a batch that is not written changes nothing, and the
// broker is asked to send it again. The durable adapter calls on_committed or on_stalled once in
// every turn (shell/store_durable.h).
//
// Stream: FINISHED names the record before it (`prev`). A record is taken if it continues what was
// received; older ones are acknowledged again and dropped; after a hole the stream is asked for
// again from the durable position. Two cases mean that a data folder was replaced, and are said
// loudly: a broker with a lower epoch, or one that refuses our position, has another journal, so
// the position starts again at 0 (repeats are harmless); a hole that 50 attaches did not close is
// skipped, because a stream that stands still for ever helps nobody.
//
// The result store is read directly: it is this core's own state, and reads see committed turns.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/wire/doc.h"
#include "common/wire/link.h"
#include "common/wire/outbox.h"
#include "services/aggregator/core/group_watches.h"
#include "services/aggregator/core/groups.h"
#include "services/aggregator/core/waits.h"
#include "services/aggregator/store/result_store.h"

namespace dray {

struct Sweep {
  int64_t wall_ms = 0;
  uint64_t size_budget = 0;
  size_t pages_max = 0;
};

struct AggregatorOut : Outbox {
  StoreBatch batch;
  std::optional<Sweep> sweep;  // after the batch
  void clear() {
    Outbox::clear();
    batch = {};
    sweep.reset();
  }
};

struct AggregatorOptions {
  int64_t result_ttl_ms = int64_t{24} * 3600 * 1000;  // of results that bring none
  uint64_t size_budget = uint64_t{8} << 30;
  uint64_t waiters_max = 1'000'000;  // ids waited for, and watches
  uint64_t answer_bytes_max = uint64_t{64} << 20;  // one FETCH, or what a WAIT finds at once
  Duration sweep_every = 1s;
  Duration sweep_again = 20ms;  // while there is more to drop
  size_t sweep_pages = 256;
  Duration retry = 1s;  // pause after `the disk is full`
  GroupLimits groups;
};

struct AggregatorCounters {
  uint64_t records = 0, results = 0;  // accepted
  uint64_t bad_rows = 0;  // without id or not terminal; dropped
  uint64_t duplicates = 0;  // records seen before
  uint64_t holes = 0;
  uint64_t stalls = 0;  // turns that found the disk full
  uint64_t dropped_stalled = 0;  // records dropped while waiting for space
  uint64_t gaps = 0;  // holes that were skipped: results are missing
  uint64_t attaches = 0;
  uint64_t swept = 0;  // results
  uint64_t rejected = 0;
  uint64_t read_errors = 0;
};

class Aggregator {
 public:
  using Out = AggregatorOut;
  static constexpr Port kRouters = 0;
  static constexpr Port kBroker = 1;

  // `store` is acquired and outlives this; only its const part and its reads are used.
  explicit Aggregator(ResultStore& store, AggregatorOptions options = {});
  Status start();  // loads what is durable; before anything else

  void on_open(const SessionInfo& session, Now now, Out& out);
  void on_close(SessionId session, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  void tick(Now now, Out& out);
  Time next_deadline() const;
  void end_turn(Now now, Out& out);
  void begin_drain(Now now, Out& out);
  bool drained() const { return true; }  // every turn leaves nothing undone

  // From the durable adapter, before after_sync is sent.
  void on_committed(Out& out);
  void on_stalled(Out& out);
  void on_swept(size_t results);

  bool has_broker() const { return broker_ != SessionId::none; }
  bool stalled() const { return stalled_; }
  bool refused() const { return refused_; }  // the broker does not know our position
  StreamPos position() const { return {epoch_, durable_}; }
  const AggregatorCounters& counters() const { return counters_; }
  const Waits& waits() const { return waits_; }
  const Groups& groups() const { return groups_; }
  Doc to_doc() const;
  void check() const;  // between turns

 private:
  struct PendingPut {
    WaitKey asker;
    GroupPut put;
  };
  struct PendingWatch {
    WaitKey asker;
    GroupWatch watch;
  };

  void on(const WaitKey& asker, Wait&& m, Now now, Out& out);
  void on(const WaitKey& asker, Unwait&& m, Now now, Out& out);
  void on(const WaitKey& asker, Fetch&& m, Now now, Out& out);
  void on(const WaitKey& asker, Forget&& m, Now now, Out& out);
  void on(const WaitKey& asker, GroupPut&& m, Now now, Out& out);
  void on(const WaitKey& asker, GroupWatch&& m, Now now, Out& out);
  void on(const WaitKey& asker, Admin&& m, Now now, Out& out);
  void on_finished(Finished&& m, Now now, Out& out);
  void stage(const Finished& m, Now now, Out& out);
  void attach(Out& out);
  void on_broker_reject(const Reject& m, Out& out);
  void on_hole(Finished&& m, Now now, Out& out);
  void take(Finished&& m, Now now, Out& out);
  void apply_put(const PendingPut& pending, Now now, Out& out);
  void answer_watch(const PendingWatch& pending, Out& out);
  void tell(const std::vector<std::pair<WaitKey, TaskId>>& watchers, Out& out);
  void push_ready(Out& out);
  void reject(const WaitKey& asker, Errc code, std::string detail, Out& out);
  void over_limit(const WaitKey& asker, const char* limit, uint64_t value, Out& out);
  bool has_room(uint64_t more) const {
    return waits_.ids() + watches_.size() + more <= options_.waiters_max;
  }
  // Calls found(i, result) for each stored id in order, until it returns false.
  template <class Found>
  Status read(const std::vector<TaskId>& ids, int64_t wall_ms, Found&& found);

  ResultStore& store_;
  AggregatorOptions options_;
  AggregatorCounters counters_;
  Now now_;  // of the last input

  SessionId broker_ = SessionId::none;
  std::set<SessionId> routers_;
  uint64_t epoch_ = 0;  // of the stream
  uint64_t durable_ = 0;  // last record that is in the store
  uint64_t received_ = 0;  // last record taken; ahead of durable_ inside a turn only
  bool attached_ = false;  // ATTACH_STREAM was sent and no record taken since
  bool ack_due_ = false;
  bool hole_ = false;  // ask again at attach_at_
  bool stalled_ = false;  // no space; ask again at attach_at_
  bool refused_ = false;
  Time attach_at_{};
  int fruitless_ = 0;  // attaches since a record was taken
  uint64_t first_beyond_ = 0;  // lowest record behind the hole
  Time sweep_at_{};

  std::vector<Finished> staged_;
  std::vector<Send> answers_;  // promise what the batch says
  std::vector<PendingPut> puts_;
  std::vector<PendingWatch> group_watches_;

  Waits waits_;
  Groups groups_;
  GroupWatches watches_;
};

}  // namespace dray
