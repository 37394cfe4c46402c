// CallAgent: the worker's half of the conversations with routers: offers, credit for batches, the
// batches held here, stops, parts of streams and drain. Pure: messages, outcomes and time in,
// messages and batches out.
//
// Rules
// - Every message to a router carries `granted` = received + k - held (T1), held = its batches
// here.
//   k is what is left of slots and prefetch after the batches of others, never less than a fair
//   share of the slots.
// - A batch ends with the DONE row of its last call, which frees its slot, or with its session.
// - A call whose deadline is over, or that is stopped, before its batch is handed to the executors
//   is not executed. Afterwards the executors look again.
// - Batches start in order, except that one whose handler is at max_ongoing is passed.
// - When a session ends, nobody waits for its calls: those that run are stopped, what comes out of
//   them is dropped, and the slot is free when the executor returns.
// - A handler that shares its place with queued tasks (LaneShare): its batches start when that says
//   so, and routers ask for the place before they send (WANT, SHARE).
// - All that one turn says to one router is said at its end, as one DONE.
#pragma once

#include <tsl/robin_map.h>

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/time.h"
#include "common/wire/credit.h"
#include "common/wire/doc.h"
#include "common/wire/link.h"
#include "common/wire/offer.h"
#include "services/worker/core/lane_share.h"
#include "services/worker/core/pace.h"
#include "services/worker/core/work.h"

namespace dray::worker {

struct CallAgentOptions {
  uint32_t slots = 1;  // batches that run at once
  uint32_t prefetch_max = 64;
  std::vector<HandlerOffer> offers = {};  // by handler; routers name handlers by their place
  Duration drain_timeout = std::chrono::seconds(30);
};

struct CallCounters {
  uint64_t batches = 0;  // taken
  uint64_t calls = 0;  // taken
  uint64_t started = 0;  // batches handed to the executors
  uint64_t replies = 0;
  uint64_t failed = 0;
  uint64_t expired = 0;
  uint64_t cancelled = 0;
  uint64_t unknown = 0;  // the process that ran them ended
  uint64_t refused = 0;  // calls in rows that make no sense here, or beyond the credit
  uint64_t withdrawn = 0;  // calls of a handler that is not offered any more
  uint64_t dropped = 0;  // outcomes and parts for a session that is gone, or of a stopped call
  uint64_t parts = 0;
  uint64_t part_bytes = 0;
  uint64_t repeated = 0;  // batches ignored: received before
  uint64_t missed = 0;  // batches that never arrived
  uint64_t grants = 0;  // messages that only grant
  uint64_t stuck = 0;  // batches that ignored their deadline
};

class CallAgent {
 public:
  using Out = WorkerOut;
  explicit CallAgent(CallAgentOptions options, LaneShare* share = nullptr);

  void on_open(const SessionInfo& info, Now now, Out& out);
  void on_close(SessionId id, CloseReason reason, Now now, Out& out);
  void on_message(SessionId from, const Envelope& envelope, Message&& message, Now now, Out& out);
  // Everything the executors said since the last turn: parts first, they come before the ends.
  void on_parts(std::vector<CallPart>&& parts, Now now, Out& out);
  void on_batches(std::vector<BatchOutcome>&& outcomes, Now now, Out& out);
  void tick(Now now, Out& out);
  Time next_deadline() const;
  // Starts what can start and says what is to be said. Must end every turn.
  void end_turn(Now now, Out& out);
  void start_more(Now now, Out& out) {  // LaneShare may let it now
    changed_ = true;
    end_turn(now, out);
  }
  // What LaneShare decided, to the routers.
  void tell_share(const std::vector<LaneShare::Grant>& grants,
                  const std::vector<uint32_t>& changed_terms, Now now, Out& out);

  void set_draining(bool on, Now now, Out& out);  // tells every router
  // By handler, as HandlerNow; without a value: not offered any more. Tells every router.
  void set_offers(const std::vector<std::optional<HandlerOffer>>& offers, Now now, Out& out);
  void tell(SessionId to, const CapacityNews& news, Now now, Out& out);  // none: every router
  void begin_drain(Now now, Out& out);  // for good: leave after drain_timeout at the latest
  bool draining() const { return draining_ || leaving_; }
  bool drained() const { return drained_; }

  bool has(SessionId id) const { return find(id) != nullptr; }
  size_t routers() const { return routers_.size(); }
  size_t held() const { return batches_.size(); }
  size_t running() const { return running_; }  // handed to the executors
  size_t waiting() const { return waiting_.size(); }
  size_t payload_bytes() const { return payload_bytes_; }
  bool stuck() const { return counters_.stuck != 0; }
  Duration service() const { return pace_.service(); }
  uint64_t target(SessionId id, Now now) const;  // k
  uint64_t granted(SessionId id, Now now) const;
  uint64_t received(SessionId id) const;
  uint64_t held(SessionId id) const;
  const CallCounters& counters() const { return counters_; }
  void check() const;
  Doc to_doc(Now now) const;

 private:
  struct Call {
    uint64_t theirs = 0;  // the router's number
    Time deadline = kNever;
    uint64_t window = 0;
    Duration waited{};  // at the router
    bool stopped = false;  // its outcome does not matter
    bool ended = false;
  };
  struct Batch {
    SessionId router = SessionId::none;  // none: that session is over
    uint32_t handler = 0;
    std::string key;
    std::vector<Call> calls;
    std::vector<BatchCall> payloads;  // until it starts
    size_t open = 0;  // calls not ended
    size_t bytes = 0;
    uint32_t items = 0;
    Time since{};  // arrival; running: start
    Time arrived{};
    Time limit_at = kNever;  // running: next look at its deadlines
    bool running = false;
    bool stuck = false;
  };
  struct Peer {
    SessionId session = SessionId::none;
    std::string name;
    CreditGiver credit;
    uint64_t held = 0;  // batches
    uint64_t published = 0;  // largest grant sent
    uint64_t drains = 0;  // DRAIN(on) sent
    uint64_t drains_answered = 0;
    tsl::robin_map<uint64_t, uint64_t> calls;  // the router's number -> ours
    RowsBuilder<DoneRow> rows;  // of the DONE of this turn
    std::vector<Bytes> bytes;
    size_t body = 0;
  };
  using Batches = std::map<uint64_t, Batch>;  // by number; ordered, because order reaches effects
  struct Span {  // the rows of one batch in a RUN
    size_t begin = 0;
    size_t end = 0;
    size_t offset = 0;  // of its payloads
    size_t bytes = 0;
    size_t items = 0;
  };

  Peer* find(SessionId id);
  const Peer* find(SessionId id) const;
  uint64_t target(const Peer& peer, Now now) const;
  uint64_t granted(const Peer& peer, Now now) const;
  void send(Peer& peer, Message message, Now now, Out& out);
  void flush(Peer& peer, Now now, Out& out);
  void grant(Peer& peer, Now now, Out& out);
  void say(Peer& peer, const DoneRow& row, Bytes bytes, Now now, Out& out);

  void on_run(Peer& peer, const Run& m, Now now, Out& out);
  void on_stop(Peer& peer, const Stop& m, Now now, Out& out);
  void on_credit(Peer& peer, const CallCredit& m, Out& out);
  void on_drain(Peer& peer, const Drain& m);
  void on_want(const Peer& peer, const Want& m, Now now);
  bool is_shared(uint32_t handler) const { return share_ != nullptr && share_->shares(handler); }
  ShareRow share_row(uint32_t handler, uint64_t batches) const;
  static Span next_span(const Run& m, size_t begin, size_t offset);
  Errc judge(const Peer& peer, const Run& m, const Span& span) const;
  void take(Peer& peer, const Run& m, const Span& span, Now now, Out& out);
  void refuse(Peer& peer, const Run& m, const Span& span, Errc code, Now now, Out& out);

  bool stalled(Now now) const;
  uint32_t ongoing_max(uint32_t handler) const;
  void start_ready(Now now, Out& out);
  void start(Batches::iterator it, Now now, Out& out);
  bool drop_dead(Batches::iterator it, Now now, Out& out);
  bool end_call(Batches::iterator it, size_t i, DoneRow row, Bytes bytes, Now now, Out& out);
  void on_batch(BatchOutcome&& outcome, Now now, Out& out);
  void count(CallEnd end);
  void release(Batches::iterator it);
  void orphan(Batches::iterator it, Out& out);
  void stop(Batches::iterator it, size_t i, Out& out);
  void arm(Batch& batch);
  void check_limits(Now now, Out& out);
  void check_waiting(Now now, Out& out);
  void tell_drain(Now now, Out& out);
  void check_drain(Now now, Out& out);
  void check_batch(uint64_t number, const Batch& batch) const;

  CallAgentOptions options_;
  LaneShare* share_;  // may be null
  std::vector<std::string> blobs_;  // the offers; empty: not offered any more
  size_t fixed_offers_ = 0;  // that never change: the first ones
  Pace pace_;
  CallCounters counters_;
  std::vector<Peer> routers_;  // in opening order
  Batches batches_;
  std::deque<uint64_t> waiting_;  // numbers, in order of arrival
  std::vector<uint32_t> ongoing_;  // running batches by handler
  size_t running_ = 0;
  size_t payload_bytes_ = 0;
  uint64_t next_batch_ = 1;
  Time moved_at_{};  // last start or end
  Time limit_at_ = kNever;  // not after the limit_at of any batch
  Time expire_at_ = kNever;  // not after the deadline of any call that waits
  bool changed_ = false;  // something to start or to say in this turn

  bool draining_ = false;
  bool leaving_ = false;
  bool drain_cancelled_ = false;
  bool drained_ = false;
  Time drain_at_ = kNever;
};

// Bytes that these offers take in the head of an OFFER; it must stay below kOfferBytesMax.
size_t offer_bytes(const std::vector<HandlerOffer>& offers);
constexpr size_t kOfferBytesMax = 60 * 1024;

}  // namespace dray::worker
