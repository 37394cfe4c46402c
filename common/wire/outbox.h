// Outbox: everything a core may do to the world in one turn, as plain values.
//
// Three lanes decide when a message leaves: `now` goes out before anything is written, `after_sync`
// only after the turn's durable records are synced, and the durable records themselves live in the
// core's own extension of this struct. A message that promises what a record says belongs in
// after_sync; the simulator delivers `now` first and may crash in between, so a wrong lane shows.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/base/ids.h"
#include "common/base/record.h"
#include "common/wire/message.h"

namespace dray {

// A piece of a journal record's blob.
struct BlobRef {
  RecordNo record = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
};

struct Send {
  SessionId to = SessionId::none;
  uint64_t route = 0;
  uint64_t req = 0;
  uint64_t granted = 0;
  Message message;
  std::vector<BlobRef> gather;  // if set, the message's bytes are these pieces, concatenated
  RecordNo load = 0;  // if set (FINISHED), rows and bytes are those of this record
};

// A one-line event for the log and for tests; `fields` is "key=value key=value".
struct Note {
  const char* event;
  std::string fields;
};

struct Outbox {
  std::vector<Send> now;
  std::vector<Send> after_sync;
  std::vector<SessionId> close;  // say BYE and forget
  std::vector<Note> notes;

  void clear() {
    now.clear();
    after_sync.clear();
    close.clear();
    notes.clear();
  }
  void note(const char* event, std::string fields) { notes.push_back({event, std::move(fields)}); }
};

inline Send reply_to(SessionId to, const Envelope& request, Message message) {
  return Send{to, request.route, request.req, 0, std::move(message), {}, 0};
}
inline Message make_reject(Errc code, std::string detail, uint32_t retry_after_ms = 0,
                           std::string limit = {}, uint64_t value = 0) {
  return Reject{static_cast<uint8_t>(code), std::move(detail), retry_after_ms, std::move(limit),
                value};
}

}  // namespace dray
