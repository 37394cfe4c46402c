// Conversions between the public values of client.h and those of the wire.
//
// Both have a `Done` and a `CallEnd`. Files of this folder include the wire's first and live in
// client_v1, where the public ones are meant.
#pragma once

#include "client/core/events.h"
#include "client/include/dray/client.h"
#include "common/wire/spec.h"

namespace dray {

inline TaskId to_wire(Id id) { return {id.hi, id.lo}; }
inline Id to_public(TaskId id) { return {id.hi, id.lo}; }
inline Code to_code(Errc code) { return static_cast<Code>(code); }
inline Code to_code(uint8_t number) {
  return errc_from_number(number) ? static_cast<Code>(number) : Code::bad_message;
}
ClientError to_public(const Error& error);
ClientError to_public(const RejectedEvent& event);
inline ClientError fault(Code code, std::string detail) {
  return {code, std::move(detail), Millis{0}, {}, 0};
}

// Checked and encoded options.
Expected<std::string> make_spec(std::string_view handler, const TaskOptions& options);

}  // namespace dray
