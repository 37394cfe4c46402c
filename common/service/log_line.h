// Rendering of one log event as text or JSON. Internal to common/service; pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/service/log.h"

namespace dray {

struct LogLine {
  int64_t wall_ns = 0;
  LogLevel level = LogLevel::info;
  std::string_view process;
  std::string_view event;
  std::span<const LogField> fields;
  uint64_t suppressed = 0;  // printed when not 0
};

std::string log_line_text(const LogLine& line);
std::string log_line_json(const LogLine& line);

// JSON string with quotes. Bytes that are not UTF-8 become U+FFFD: the text may come from a peer.
std::string json_quoted(std::string_view text);

}  // namespace dray
