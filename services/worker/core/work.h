// Work: what passes between the agent and the executors, and the agent's outbox.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/time.h"
#include "common/resources/node_ledger.h"
#include "common/wire/outbox.h"
#include "common/wire/spec.h"
#include "services/worker/core/call_work.h"
#include "services/worker/core/replica_work.h"

namespace dray::worker {

// The options of a task, parsed once per blob and judged against this worker.
struct LocalSpec {
  TaskSpec spec;
  uint32_t handler = 0;  // index into AgentOptions.handlers
  Errc refuse = Errc::ok;  // unknown_handler or infeasible: give back; bad_message: fail
  std::string problem;  // text for `refuse`
  Duration time_limit{0};  // 0 = none
  Request request;  // of the node's ledger
  bool has_needs = false;  // else the ledger is not asked
  bool has_devices = false;
  std::vector<uint32_t> waits_on;  // what it may have to wait for, as Agent::wait_row numbers it
};

// Run this. The executors may keep it waiting behind others, in order; see WorkerOut.recall.
struct Start {
  TaskId id;
  Token token;
  uint32_t attempt = 1;
  std::shared_ptr<const LocalSpec> spec;
  Bytes payload;
  std::vector<Start> more{};  // of the same handler: run them together with it, as one batch
  std::shared_ptr<const Grant> grant{};  // of the node; null: nothing (gpu_environment.h)
};

// One for every Start, always, also when it was cancelled.
struct Outcome {
  TaskId id;
  Token token;
  Verdict verdict = Verdict::ok;
  Errc code = Errc::ok;
  bool started = true;  // false: handed back before it began (recall, or cancelled while waiting)
  uint32_t exec_us = 0;  // of a batch: its part of it
  Bytes result;  // or the error text
  uint32_t piece_us = 0;  // of the whole batch
};

struct ProgressItem {
  TaskId id;
  Token token;
  uint32_t permille = 0;
  std::string text;
};

struct WorkerOut : Outbox {
  std::vector<Start> start;
  std::vector<Token> cancel;  // ask these to stop; each was started
  std::vector<BatchStart> batches;  // run these; the executors of calls keep them in order
  std::vector<uint64_t> stop_calls;  // ask these to stop; each was in a batch
  std::vector<CallGrant> part_grants;
  ProcessOrders orders;  // carried out before anything is started
  bool recall = false;  // hand back, as Outcome{started = false}, every Start that has not begun
  bool exit = false;  // leave the process with WorkerCore::exit_code()

  void clear() {
    Outbox::clear();
    start.clear();
    cancel.clear();
    batches.clear();
    stop_calls.clear();
    part_grants.clear();
    orders.clear();
    recall = false;
    exit = false;
  }
};

// A message that asks for nothing a worker does.
template <class M>
void take_other(SessionId from, const Envelope& envelope, const M& m, WorkerOut& out) {
  if constexpr (std::is_same_v<M, Reject>) {
    out.note("rejected", "code=" + std::to_string(m.code) + " detail=" + m.detail);
  } else {
    out.note("unexpected", std::string("kind=").append(kind_name(M::kind)));
    if (envelope.req == 0) return;
    out.now.push_back(reply_to(from, envelope, make_reject(Errc::bad_message, "not for a worker")));
  }
}

}  // namespace dray::worker
