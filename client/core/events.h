// What the client core tells its shell, as plain values, and the outbox that carries it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/wire/link.h"
#include "common/wire/outbox.h"

namespace dray {

// The broker has the tasks of this submit, durably. Tasks it refused one by one come as results.
struct SubmittedEvent {
  uint64_t req = 0;
  uint32_t accepted = 0;  // fresh ones
};
// Ends of tasks. Each open task is named in exactly one of these in its life.
struct ResultsEvent {
  Rows<ResultRow> rows;  // status: TaskState; `unknown` with a code: refused at submit
  Bytes bytes;  // of all rows, in row order
  std::vector<uint32_t> fresh;  // the rows that count; empty = all
};
// The request is over and was not answered with success.
struct RejectedEvent {
  uint64_t req = 0;
  Errc code = Errc::ok;  // timeout: the outcome is not known; else surely nothing was done
  std::string detail;
  uint32_t retry_after_ms = 0;
  std::string limit;
  uint64_t value = 0;
  Rows<SubmitRow> tasks;  // of a submit: those that were open still; this is their end
};
struct StatesEvent {  // answer to cancel and query
  uint64_t req = 0;
  Rows<StateRow> rows;
};
struct FetchedEvent {  // stored results; status unknown: none stored
  uint64_t req = 0;
  Rows<ResultRow> rows;
  Bytes bytes;
};
struct DoneEvent {  // answer OK: forget, group_put
  uint64_t req = 0;
};
struct AdminEvent {
  uint64_t req = 0;
  Doc body;
};
struct GroupEvent {
  uint64_t req = 0;  // 0 for a push
  GroupState state;
};
struct ConnectedEvent {
  SessionInfo session;
};
struct DisconnectedEvent {
  CloseReason reason = CloseReason::timeout;
};

using Event = std::variant<SubmittedEvent, ResultsEvent, RejectedEvent, StatesEvent, FetchedEvent,
                           DoneEvent, AdminEvent, GroupEvent, ConnectedEvent, DisconnectedEvent>;

// A part of a call's reply (status part), or its end. Each call has exactly one end.
struct CallEvent {
  ReplyRow row;  // call: the client's number; code may be a local one
  uint64_t tag = 0;  // of the command
  Bytes bytes;  // the reply or part, or the text of the error
  const char* own_limit = nullptr;  // name of the client's own budget that refused it
};

// The shell takes `events` and `calls` in the turn's on_now hook, or at any time before clear().
struct ClientOut : Outbox {
  std::vector<Event> events;
  std::vector<CallEvent> calls;
  void clear() {
    Outbox::clear();
    events.clear();
    calls.clear();
  }
};

}  // namespace dray
