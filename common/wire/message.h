// The wire messages: one plain struct per verb, each with one field list that drives encoding,
// decoding, printing and random test data. docs/protocol.md is the contract in prose.
//
// A message is 1 to 3 frames: head (two msgpack arrays back to back: envelope, then the body fields
// below in order), rows (fixed-width table, rows.h) and bytes (payloads, concatenated in row
// order).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/wire/doc.h"
#include "common/wire/envelope.h"
#include "common/wire/fleet_messages.h"
#include "common/wire/rows.h"

namespace dray {

// --- link ------------------------------------------------------------------------------------
#define DRAY_SELF Hello
struct Hello {  // dialer -> listener, first message of a connection
  static constexpr Kind kind = Kind::hello;
  uint8_t role = 0;
  std::string name;
  BootId boot;
  uint64_t connect_no = 0;  // grows with every new socket of this boot
  DRAY_FIELDS(role, name, boot.hi, boot.lo, connect_no)
};
#undef DRAY_SELF
#define DRAY_SELF Welcome
struct Welcome {  // listener -> dialer
  static constexpr Kind kind = Kind::welcome;
  uint64_t session = 0;
  uint8_t role = 0;
  std::string name;
  BootId boot;
  uint64_t epoch = 0;  // broker epoch, 0 for others
  uint64_t connect_no = 0;  // echo of HELLO
  uint32_t beat_ms = 1000;
  uint32_t liveness_ms = 5000;
  uint64_t payload_max = 0;
  DRAY_FIELDS(session, role, name, boot.hi, boot.lo, epoch, connect_no, beat_ms, liveness_ms,
              payload_max)
};
#undef DRAY_SELF
#define DRAY_SELF Beat
struct Beat {
  static constexpr Kind kind = Kind::beat;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Bye
struct Bye {  // either side: this conversation is over, do not wait for the timeout
  static constexpr Kind kind = Kind::bye;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Who
struct Who {  // listener: I do not know your session, say HELLO
  static constexpr Kind kind = Kind::who;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF

// --- answers -----------------------------------------------------------------------------------
#define DRAY_SELF Reject
struct Reject {  // nothing was changed; but `unavailable` from the router: not known
  static constexpr Kind kind = Kind::reject;
  uint8_t code = 0;  // Errc
  std::string detail;
  uint32_t retry_after_ms = 0;
  std::string limit;  // name of the budget for `overloaded`
  uint64_t value = 0;  // its value
  DRAY_FIELDS(code, detail, retry_after_ms, limit, value)
};
#undef DRAY_SELF
#define DRAY_SELF Ok
struct Ok {
  static constexpr Kind kind = Kind::ok;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF States
struct States {
  static constexpr Kind kind = Kind::states;
  Rows<StateRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF

// --- client -> broker --------------------------------------------------------------------------
#define DRAY_SELF Submit
struct Submit {
  static constexpr Kind kind = Kind::submit;
  bool watch = false;  // push READY for these tasks to this client as they finish
  std::vector<std::string> specs;
  Rows<SubmitRow> rows;
  Bytes bytes;
  DRAY_FIELDS(watch, specs)
};
#undef DRAY_SELF
#define DRAY_SELF Submitted
struct Submitted {  // durable. rows: only the tasks that were not fresh, with their state now
  static constexpr Kind kind = Kind::submitted;
  uint32_t accepted = 0;  // fresh ones
  uint64_t epoch = 0;  // broker epoch that holds the watch
  Rows<StateRow> rows;  // code: ok = known already, conflict, id_expired
  DRAY_FIELDS(accepted, epoch)
};
#undef DRAY_SELF
#define DRAY_SELF Cancel
struct Cancel {  // answered by STATES after it is durable
  static constexpr Kind kind = Kind::cancel;
  Rows<IdRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Query
struct Query {  // broker's view of tasks, answered by STATES
  static constexpr Kind kind = Kind::query;
  Rows<IdRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Admin
struct Admin {
  static constexpr Kind kind = Kind::admin;
  uint8_t target = 0;  // Role that shall answer
  std::string verb;
  Doc args;
  DRAY_FIELDS(target, verb, args)
};
#undef DRAY_SELF
#define DRAY_SELF AdminReply
struct AdminReply {
  static constexpr Kind kind = Kind::admin_reply;
  Doc body;
  DRAY_FIELDS(body)
};
#undef DRAY_SELF

// --- worker <-> broker -------------------------------------------------------------------------
#define DRAY_SELF Attach
struct Attach {  // worker -> broker, first message of a session; rows: every lease it still holds
  static constexpr Kind kind = Kind::attach;
  uint32_t slots = 0;  // executor slots
  bool draining = false;
  std::vector<std::string> handlers;
  std::vector<std::string> labels;
  std::vector<std::pair<std::string, uint64_t>> resources;  // units of 1/10,000
  uint64_t results_from = 0;  // first result number not yet acknowledged
  std::vector<std::string> devices;  // DeviceInfo blobs (fleet.h)
  Rows<TokenRow> rows;  // running, queued here, or finished and not yet acknowledged
  DRAY_FIELDS(slots, draining, handlers, labels, resources, results_from, devices)
};
#undef DRAY_SELF
#define DRAY_SELF Dispatch
struct Dispatch {
  static constexpr Kind kind = Kind::dispatch;
  uint64_t epoch = 0;
  uint64_t first = 0;  // tasks sent to this session before this message
  std::vector<std::string> specs;
  Rows<DispatchRow> rows;
  Bytes bytes;
  DRAY_FIELDS(epoch, first, specs)
};
#undef DRAY_SELF
#define DRAY_SELF Results
struct Results {  // kept by the worker until acknowledged
  static constexpr Kind kind = Kind::results;
  uint64_t first = 0;  // number of the first row; dense, per boot of the worker, from 1
  uint64_t received = 0;  // tasks received in this session (`recv_upto`)
  Rows<ResultRow> rows;
  Bytes bytes;
  DRAY_FIELDS(first, received)
};
#undef DRAY_SELF
#define DRAY_SELF ResultsAck
struct ResultsAck {
  static constexpr Kind kind = Kind::results_ack;
  uint64_t upto = 0;  // every result with a lower number is settled
  Rows<TokenRow> rows;  // those that were refused as stale
  DRAY_FIELDS(upto)
};
#undef DRAY_SELF
#define DRAY_SELF GiveBack
struct GiveBack {  // worker -> broker: never started here; costs the task nothing
  static constexpr Kind kind = Kind::give_back;
  uint8_t code = 0;  // Errc: draining, overloaded, unknown_handler, infeasible
  uint64_t received = 0;
  Rows<TokenRow> rows;
  DRAY_FIELDS(code, received)
};
#undef DRAY_SELF
#define DRAY_SELF Revoke
struct Revoke {  // broker -> worker: these tokens are void; stop if you can
  static constexpr Kind kind = Kind::revoke;
  Rows<TokenRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Progress
struct Progress {
  static constexpr Kind kind = Kind::progress;
  Rows<ProgressRow> rows;
  Bytes bytes;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Drain
struct Drain {  // broker -> worker: drain; worker -> broker: I am draining, send no more
  static constexpr Kind kind = Kind::drain;
  bool on = true;
  DRAY_FIELDS(on)
};
#undef DRAY_SELF
#define DRAY_SELF Have
struct Have {  // worker -> broker, each beat: what it holds, FIFO with its results
  static constexpr Kind kind = Kind::have;
  uint64_t received = 0;
  Rows<TokenRow> rows;  // at most kItemsMax; `complete` says whether that is all of it
  bool complete = true;
  DRAY_FIELDS(received, complete)
};
#undef DRAY_SELF
#define DRAY_SELF Sync
struct Sync {  // broker -> worker, each beat: how many tasks were sent in this session
  static constexpr Kind kind = Kind::sync;
  uint64_t sent = 0;
  DRAY_FIELDS(sent)
};
#undef DRAY_SELF

// --- broker -> aggregator ----------------------------------------------------------------------
#define DRAY_SELF AttachStream
struct AttachStream {  // aggregator -> broker: continue after this journal record
  static constexpr Kind kind = Kind::attach_stream;
  uint64_t after = 0;
  DRAY_FIELDS(after)
};
#undef DRAY_SELF
#define DRAY_SELF Finished
struct Finished {  // terminal states in commit order; row.status is a TaskState
  static constexpr Kind kind = Kind::finished;
  uint64_t prev = 0;  // record number of the FINISHED before this one, 0 = none known
  uint64_t record = 0;  // journal record number, grows
  int64_t wall_ms = 0;
  Rows<ResultRow> rows;
  Bytes bytes;
  DRAY_FIELDS(prev, record, wall_ms)
};
#undef DRAY_SELF
#define DRAY_SELF FinishedAck
struct FinishedAck {
  static constexpr Kind kind = Kind::finished_ack;
  uint64_t upto = 0;  // every record up to and including this one is durable here
  DRAY_FIELDS(upto)
};
#undef DRAY_SELF

// --- results -----------------------------------------------------------------------------------
#define DRAY_SELF Wait
struct Wait {  // answered by READY pushes with the same req; the last one has `done`
  static constexpr Kind kind = Kind::wait;
  uint32_t n_ready = 0;  // done when so many of the ids are terminal; 0 = all
  bool with_bytes = true;  // send results, not only states
  Rows<IdRow> rows;
  DRAY_FIELDS(n_ready, with_bytes)
};
#undef DRAY_SELF
#define DRAY_SELF Unwait
struct Unwait {
  static constexpr Kind kind = Kind::unwait;
  uint64_t wait_req = 0;
  DRAY_FIELDS(wait_req)
};
#undef DRAY_SELF
#define DRAY_SELF Fetch
struct Fetch {  // answered by one READY; ids without a stored result come with status `unknown`
  static constexpr Kind kind = Kind::fetch;
  Rows<IdRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Ready
struct Ready {
  static constexpr Kind kind = Kind::ready;
  bool done = true;
  Rows<ResultRow> rows;  // row.status is a TaskState
  Bytes bytes;
  DRAY_FIELDS(done)
};
#undef DRAY_SELF
#define DRAY_SELF Forget
struct Forget {  // drop stored results; answered by OK after it is durable
  static constexpr Kind kind = Kind::forget;
  Rows<IdRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF WatchLost
struct WatchLost {  // router -> client: pushes may be missing; WAIT for what is not finished
  static constexpr Kind kind = Kind::watch_lost;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF GroupPut
struct GroupPut {  // create or extend a group (idempotent: a set of ids); answered by OK
  static constexpr Kind kind = Kind::group_put;
  TaskId id;
  Rows<IdRow> rows;
  DRAY_FIELDS(id.hi, id.lo)
};
#undef DRAY_SELF
#define DRAY_SELF GroupWatch
struct GroupWatch {  // answered by GROUP_STATE now, and (push) at each change, at most 10 a second
  static constexpr Kind kind = Kind::group_watch;
  TaskId id;
  bool push = false;
  DRAY_FIELDS(id.hi, id.lo, push)
};
#undef DRAY_SELF
#define DRAY_SELF GroupState
struct GroupState {
  static constexpr Kind kind = Kind::group_state;
  TaskId id;
  uint64_t total = 0;
  uint64_t done = 0;  // terminal in any way
  uint64_t succeeded = 0;
  uint64_t failed = 0;  // failed or dead
  uint64_t cancelled = 0;
  uint64_t expired = 0;
  DRAY_FIELDS(id.hi, id.lo, total, done, succeeded, failed, cancelled, expired)
};
#undef DRAY_SELF

// --- calls -------------------------------------------------------------------------------------
#define DRAY_SELF Call
struct Call {  // client -> router: calls of one handler (and model key), answered by REPLY rows
  static constexpr Kind kind = Kind::call;
  std::string handler;
  std::string key;  // model key; calls with different keys never share a batch
  uint64_t window = 0;  // bytes of parts the client takes unasked; 0: one whole reply, no parts
  Rows<CallRow> rows;
  Bytes bytes;
  DRAY_FIELDS(handler, key, window)
};
#undef DRAY_SELF
#define DRAY_SELF Reply
struct Reply {  // router -> client; also without rows, to grant
  static constexpr Kind kind = Kind::reply;
  uint64_t granted = 0;  // absolute: calls this client may have sent in this session in all
  Rows<ReplyRow> rows;
  Bytes bytes;
  DRAY_FIELDS(granted)
};
#undef DRAY_SELF
#define DRAY_SELF CallCancel
struct CallCancel {  // client -> router; each call that is open still ends, most as `cancelled`
  static constexpr Kind kind = Kind::call_cancel;
  Rows<CallIdRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF CallCredit
struct CallCredit {  // whoever reads a streaming reply -> whoever writes it
  static constexpr Kind kind = Kind::call_credit;
  Rows<CallCreditRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Offer
struct Offer {  // worker -> router, first message of a session
  static constexpr Kind kind = Kind::offer;
  uint32_t slots = 0;  // batches it runs at once
  bool draining = false;
  std::vector<std::string> handlers;  // one HandlerOffer blob each (offer.h)
  DRAY_FIELDS(slots, draining, handlers)
};
#undef DRAY_SELF
#define DRAY_SELF Run
struct Run {  // router -> worker, against credit: Envelope.granted counts batches
  static constexpr Kind kind = Kind::run;
  uint64_t first = 0;  // batches sent in this session before this message
  std::vector<std::string> keys;
  Rows<RunRow> rows;
  Bytes bytes;
  DRAY_FIELDS(first, keys)
};
#undef DRAY_SELF
#define DRAY_SELF Done
struct Done {  // worker -> router: ends and parts
  static constexpr Kind kind = Kind::done;
  Rows<DoneRow> rows;
  Bytes bytes;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Stop
struct Stop {  // router -> worker: nobody waits for these any more; stop if you can
  static constexpr Kind kind = Kind::stop;
  Rows<CallIdRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF

#define DRAY_SELF Want
struct Want {  // router -> worker: a batch is due and waits for credit; rows: one for each handler
  static constexpr Kind kind = Kind::want;
  Rows<WantRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF
#define DRAY_SELF Share
struct Share {  // worker -> router: how its devices are shared with queued work from now on
  static constexpr Kind kind = Kind::share;
  Rows<ShareRow> rows;
  DRAY_NO_FIELDS()
};
#undef DRAY_SELF

using Message =
    std::variant<Hello, Welcome, Beat, Bye, Who, Reject, Ok, States, Submit, Submitted, Cancel,
                 Query, Admin, AdminReply, Attach, Dispatch, Results, ResultsAck, GiveBack, Revoke,
                 Progress, Drain, Have, Sync, AttachStream, Finished, FinishedAck, Wait, Unwait,
                 Fetch, Ready, Forget, WatchLost, GroupPut, GroupWatch, GroupState, Call, Reply,
                 CallCancel, CallCredit, Offer, Run, Done, Stop, CapacityNews, Handlers, Want,
                 Share, NodeReport, Place, Load, View, Backlog>;

template <class M>
concept HasRows = requires(M m) {
  m.rows;
};
template <class M>
concept HasBytes = requires(M m) {
  m.bytes;
};

struct Frames {
  std::array<Bytes, 3> frame;
  uint8_t count = 0;
};

struct Incoming {
  Envelope envelope;
  Message message;
};

Frames encode(const Envelope& envelope, const Message& message);
// Every bound is checked before anything is allocated for it; rows and payload lengths agree.
Result<Incoming> decode(const Frames& frames);

// For the router, which forwards bodies as they came.
Result<Envelope> decode_envelope(const Frames& frames);
// Same body and further frames behind another envelope.
Result<Frames> with_envelope(const Frames& frames, const Envelope& envelope);

std::string print(const Message& message);  // one line for logs, golden tests and the console

}  // namespace dray
