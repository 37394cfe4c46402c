// How ends of tasks are shown: as JSON objects, as table rows, as bytes; and the progress line.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <span>

#include "client/console/context.h"

namespace dray::console {

using Json = nlohmann::ordered_json;

// {"id","state","code","attempt","exec_us"} and "result" or "error" (text), or
// "result_base64" / "error_base64" when the bytes are not UTF-8.
Json outcome_json(const TaskOutcome& outcome);
void print_json(const Json& doc);
// Parses a service's answer; throws Failure.
Json parse_json(const std::string& text);
// A member as text for a table cell: strings as they are, the rest as JSON; missing: empty.
std::string cell(const Json& object, const char* key);

void print_outcomes(const Context& context, std::span<const TaskOutcome> outcomes);
// The bytes of one task: result to stdout, error to stderr. Returns the exit code.
int print_bytes(const TaskOutcome& outcome, bool raw);
// 0 when all succeeded, else the code of the first that did not.
int exit_code_of(std::span<const TaskOutcome> outcomes);

// One line on stderr that is rewritten, when stderr is a terminal.
class Progress {
 public:
  Progress(const Context& context, uint64_t total);
  ~Progress() { end(); }
  void show(uint64_t done, uint64_t failed = 0);
  void end();

 private:
  using Clock = std::chrono::steady_clock;
  bool on_;
  bool shown_ = false;
  uint64_t total_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_{};
};

}  // namespace dray::console
