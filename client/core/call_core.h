// CallCore: the client's half of promise P5: a call ends, by its deadline, in exactly one event.
// No I/O, no clock, no threads.
//
// A call waits here until a router has credit for it, is sent in one message with the other calls
// of its turn for the same handler and model, and ends with the router's row, with the session it
// was sent in, or at its deadline, whichever comes first.
//
// *What may be sent again.* A call that was surely not executed goes to another router whatever it
// is: refused because the router is leaving, it waits for one that is not, as calls do while there
// is none at all; refused because no replica is known, only if there is another one to ask. Nothing
// is sent to a router that has said DRAIN: it would be lost with the session. A call that may have
// been executed (its session was lost) is repeated only if it is idempotent, nothing of its reply
// was given out, and the budget allows: 10 % of all calls, so that a failing fleet is not buried
// under repeats. From then on nothing but a reply or a failure tells what became of it: a later
// refusal speaks for the later sending only, so the call ends as `unknown`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client/core/events.h"
#include "common/base/time.h"
#include "common/wire/credit.h"

namespace dray {

struct CallCoreOptions {
  size_t bytes_max = size_t{256} << 20;  // payloads kept here until their calls end
  uint32_t sends_max = 3;  // of one call
  uint32_t repeats_permille = 100;  // repeats of calls that may have executed, of all calls
  uint32_t repeats_saved = 1'000;  // that many repeats can be saved up
  uint32_t repeats_at_start = 100;
  Duration leaving = 5s;  // a router that refused with `draining` is avoided for so long
  Duration grant_delay = 20ms;  // less than half a window of stream credit waits so long
};

struct CallCmd {
  std::string handler;
  std::string key;  // model
  uint64_t window = 0;  // bytes of parts on their way to the reader; 0: no parts
  Bytes payload;
  Time deadline = kNever;
  uint16_t items = 1;
  uint16_t flags = 0;  // kCallIdempotent, kCallHedge
  uint64_t tag = 0;  // comes back in every event of the call
};

struct CallCounters {
  uint64_t started = 0;
  uint64_t ended = 0;
  uint64_t messages = 0;  // CALLs
  uint64_t sent = 0;  // calls in them
  uint64_t moved = 0;  // to be sent again: a router did not take it, another one may
  uint64_t repeated = 0;  // sent again after their session was lost
  uint64_t unbudgeted = 0;  // not repeated for want of budget
  uint64_t stray_rows = 0;  // rows that name no call in flight: late, repeated or foreign
  uint64_t bad_rows = 0;  // status out of range
};

class CallCore {
 public:
  using Out = ClientOut;
  explicit CallCore(CallCoreOptions options);

  void on_open(const SessionInfo& session);
  void on_close(SessionId id, Now now, Out& out);
  void on_reply(SessionId from, Reply&& reply, Now now, Out& out);
  // What has no end yet was not taken by this router, and nothing will be.
  void on_drain(SessionId from, Out& out);
  // A CALL that the router could not read; `req` is that of the message.
  void on_reject(SessionId from, uint64_t req, const Reject& reject, Out& out);
  static bool is_call_req(uint64_t req) { return (req & kReqMark) != 0; }
  void tick(Now now, Out& out);
  void end_turn(Now now, Out& out);  // everything is sent here
  Time next_deadline() const;

  // Returns the call's number. Its end may already be in `out` on return (no room).
  uint64_t start(CallCmd&& cmd, Now now, Out& out);
  // Ends as `cancelled`, at once or by the router's word, unless another end comes first.
  void cancel(uint64_t number, Out& out);
  // The reader of a streaming reply took so many bytes of parts.
  void taken(uint64_t number, uint64_t bytes, Now now);
  // The client is shut down: what was sent is unknown, the rest rejected; code closed.
  void end_all(Out& out);

  size_t open() const { return open_; }
  size_t waiting() const;  // not in flight; walks, for tests
  size_t bytes() const { return bytes_; }
  const CallCounters& counters() const { return counters_; }
  void check() const;  // tests: recompute what is kept twice

 private:
  static constexpr uint64_t kReqMark = uint64_t{1} << 63;
  static constexpr uint64_t kIndexBits = 24;  // low bits of a number: the slot
  static constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;
  static constexpr uint32_t kNone = UINT32_MAX;

  enum class Phase : uint8_t { free, waiting, sent };
  struct Slot {
    uint64_t number = 0;  // what the shell knows it by
    uint64_t wire = 0;  // its number of the present sending
    uint64_t req = 0;  // of the message of that sending
    uint64_t tag = 0;
    Time deadline{};
    SessionId session = SessionId::none;  // it was sent in
    SessionId avoid = SessionId::none;  // refused it, and another one may not
    Bytes payload;
    uint64_t consumed = 0;  // bytes of parts taken by the reader; a call with parts is sent once
    uint64_t announced = 0;  // bytes of parts the writer may have sent
    uint32_t lane = 0;
    uint16_t items = 1;
    uint16_t flags = 0;
    uint8_t sends = 0;
    Phase phase = Phase::free;
    bool doubtful = false;  // an earlier sending may have executed
    bool parted = false;  // a part was given out
    bool unwanted = false;  // cancelled while in flight
    bool granting = false;  // stands in growing_
  };
  struct Lane {  // calls that may share a message
    std::string name;  // handler, key and window in one
    std::string handler;
    std::string key;
    uint64_t window = 0;
    uint32_t open = 0;  // calls
    uint32_t batch = kNone;  // the one that is being filled
  };
  struct Router {
    SessionInfo info;
    CreditTaker credit;
    size_t in_flight = 0;
    uint64_t chosen = 0;  // stamp of the last choice, so that equals take turns
    Time leaving_until{};  // nothing is sent to it so long; kNever: it said DRAIN
    std::vector<uint64_t> cancels;  // numbers of sendings
    RowsBuilder<CallCreditRow> grants;
  };
  struct Batch {  // a CALL being filled
    uint32_t lane = 0;
    uint32_t run = 0;  // calls since the router was chosen
    SessionId to = SessionId::none;
    size_t bytes = 0;
    std::vector<uint32_t> calls;  // slots
  };
  struct Due {
    Time at;
    uint64_t number;
    bool operator<(const Due& o) const { return at > o.at; }  // earliest on top of the heap
  };

  // life of a call (call_core.cpp)
  Slot* find(uint64_t number);
  Slot* find_sent(SessionId from, uint64_t wire);
  uint64_t next_number(uint32_t index) { return (++serial_ << kIndexBits) | index; }
  uint32_t index_of(const Slot& s) const { return static_cast<uint32_t>(&s - slots_.data()); }
  uint32_t lane_for(CallCmd& cmd);
  void leave_lane(uint32_t lane);
  Slot& take_slot();
  void push_due(Time at, uint64_t number);
  void drop_stale_due();
  void on_row(Slot& s, const ReplyRow& row, Bytes bytes, Now now, Out& out);
  void on_part(Slot& s, const ReplyRow& row, Bytes bytes, Out& out);
  void end(Slot& s, ReplyRow row, Bytes bytes, Out& out);
  void end_local(Slot& s, CallEnd end, Errc code, std::string_view text, Out& out);
  void expire(Slot& s, Out& out);
  void leave_flight(Slot& s);
  std::vector<uint64_t> in_flight(SessionId id) const;
  bool move(Slot& s, uint64_t sends_max);
  bool may_repeat(const Slot& s, Now now);
  bool other_router(SessionId not_this, Now now) const;
  void lose(Slot& s, Now now, Out& out, std::vector<uint64_t>& again);

  // sending (call_send.cpp)
  Router* router(SessionId id);
  Router* choose(SessionId avoid, Now now);
  Batch* batch_for(const Slot& s, Now now);
  Batch& open_batch(uint32_t lane, SessionId to);
  bool place(Slot& s, Now now);
  void fill_batches(Now now);
  void send_batch(Batch& batch, Now now, Out& out);
  void send_cancels(Router& r, Out& out);
  void collect_grants();
  void post(SessionId to, uint64_t req, Message message, Out& out);

  CallCoreOptions options_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  uint64_t serial_ = 0;
  size_t open_ = 0;
  size_t bytes_ = 0;
  std::vector<Due> due_;  // heap; entries of ended calls are skipped
  std::deque<uint64_t> waiting_;  // numbers, first come first served; stale ones are skipped

  std::vector<Lane> lanes_;
  std::vector<uint32_t> free_lanes_;
  std::unordered_map<std::string, uint32_t> lane_index_;
  std::string lane_name_;
  uint32_t last_lane_ = kNone;

  std::vector<Router> routers_;  // open sessions, in opening order
  uint64_t choices_ = 0;
  std::vector<Batch> batches_;  // the first batches_used_ belong to this turn
  size_t batches_used_ = 0;
  std::vector<uint64_t> growing_;  // streams whose reader took something
  Time grant_at_ = kNever;
  bool grant_now_ = false;
  uint64_t repeats_milli_ = 0;  // budget, in thousandths of a repeat
  CallCounters counters_;
};

}  // namespace dray
