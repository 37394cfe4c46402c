// Log: one line per event on stdout. `2026-01-31T10:20:30.123Z warn broker lease_expired worker=w1`
// or the same as one JSON object. Nobody writes log files: supervisord keeps and rotates stdout.
//
// Levels by who must act: error an operator now, warn an operator this week, info life cycle, debug
// per message. Whatever a peer can trigger is debug. An event that comes more often than the limit
// is counted instead of printed; its next line says how many were left out (`suppressed=`).
//
// Thread-safe. A caller never waits for a slow reader of stdout: lines go through a bounded queue
// to a thread that writes; a full queue loses its oldest lines. Only error lines and log_flush()
// wait, at most a second, because the process may be about to end.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "common/base/result.h"

namespace dray {

enum class LogLevel : uint8_t { debug, info, warn, error };

// A field's value; text is only looked at during the call.
class LogValue {
 public:
  template <std::integral T>
  LogValue(T n) : v_(widen(n)) {}
  LogValue(double d) : v_(d) {}
  LogValue(std::string_view s) : v_(s) {}
  LogValue(const std::string& s) : v_(std::string_view(s)) {}
  LogValue(const char* s) : v_(std::string_view(s)) {}
  using Variant = std::variant<int64_t, uint64_t, bool, double, std::string_view>;
  const Variant& get() const { return v_; }

 private:
  template <std::integral T>
  static Variant widen(T n) {
    if constexpr (std::same_as<T, bool>)
      return Variant(n);
    else if constexpr (std::signed_integral<T>)
      return Variant(static_cast<int64_t>(n));
    else
      return Variant(static_cast<uint64_t>(n));
  }
  Variant v_;
};

struct LogField {
  std::string_view key;
  LogValue value;
};

struct LogOptions {
  std::string process = "dray";  // "broker", or the worker's name
  LogLevel level = LogLevel::info;
  std::string format = "auto";  // auto | text | json; auto: text if stdout is a terminal
  uint32_t per_event_per_second = 10;
  // Tests: gets every line (without newline) instead of stdout, on the caller's thread.
  std::function<void(std::string_view)> sink;
  std::function<int64_t()> wall_ns;  // tests: replaces the clock
};

// Call once, before other threads log. Without it lines go to stdout at level info. Also makes the
// process ignore SIGPIPE: a log reader that went away must not kill a service.
void log_init(LogOptions options);
void log_set_level(LogLevel level);
bool log_enabled(LogLevel level);
void log_event(LogLevel level, std::string_view event, std::span<const LogField> fields);
inline void log_event(LogLevel level, std::string_view event,
                      std::initializer_list<LogField> fields = {}) {
  log_event(level, event, std::span<const LogField>(fields.begin(), fields.size()));
}
// Waits until what was logged is written; false after a second.
bool log_flush();

Result<LogLevel> log_level_from(std::string_view name);  // "debug" "info" "warn" "error"
std::string_view log_level_name(LogLevel level);

}  // namespace dray
