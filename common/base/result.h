// Result<T>: a value or a typed error. The one error type of the project; names follow
// std::expected.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace dray {

// Closed list of error codes. They travel on the wire (REJECT.code, failed results) and reach users
// as typed errors, so numbers never change and are never reused. docs/protocol.md explains each.
enum class Errc : uint8_t {
  ok = 0,
  // The request was understood and refused; nothing was changed.
  bad_message = 1,  // malformed frame, wrong type, wrong arity, number out of range
  bad_version = 2,  // protocol major not spoken here
  too_large = 3,  // payload, header or batch above its limit
  unknown_handler = 4,  // no worker has ever announced this handler
  infeasible = 5,  // no worker has ever offered so much; or the deadline of a call can not be met
  conflict = 6,  // same task id, other payload or options
  id_expired = 7,  // id older than what the broker remembers; it may have been used before
  overloaded = 8,  // a budget is used up; retry after retry_after_ms
  unavailable = 9,  // a service behind the router is away; retry after retry_after_ms
  draining = 10,  // the service is leaving
  disk_low = 11,  // no space for new durable work
  not_found = 12,  // unknown id, queue or worker
  denied = 13,  // role may not do this
  bad_argument = 14,  // well-formed request with a value that makes no sense
  no_replica = 15,  // a known handler that no worker offers at the moment
  // The end of a task or a call.
  app_error = 20,  // the handler reported a retryable failure
  app_fatal = 21,  // the handler reported a permanent failure
  time_limit = 22,  // ran longer than its time_limit
  worker_lost = 23,  // the worker that ran it went away
  cancelled = 24,
  expired = 25,
  stale = 26,  // the token is no longer current; result refused
  outcome_unknown = 27,  // a call that may have executed; its answer will not come
  // Local.
  timeout = 30,  // the caller's own deadline passed; the outcome is not known
  io = 31,  // a system call failed
  corrupt = 32,  // stored data is damaged
  fenced = 33,  // another owner took over the store
  config = 34,  // configuration is wrong
  closed = 35,  // the object was shut down
  no_space = 36,  // the disk is full; nothing was written
};

std::string_view errc_name(Errc code);  // "overloaded"
std::optional<Errc> errc_from_number(uint64_t number);  // empty if not in the list

struct Error {
  Errc code = Errc::bad_message;
  std::string detail;  // one line for people, no newline
  bool operator==(const Error&) const = default;
};

struct Unit {
  bool operator==(const Unit&) const = default;
};

template <class T = Unit>
class [[nodiscard]] Result {
 public:
  Result() requires std::is_same_v<T, Unit> : v_(Unit{}) {}
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}
  bool has_value() const { return v_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & { return std::get<0>(v_); }
  const T& value() const& { return std::get<0>(v_); }
  T&& value() && { return std::get<0>(std::move(v_)); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(v_); }
  template <class U>
  T value_or(U&& other) const& {
    return has_value() ? value() : static_cast<T>(std::forward<U>(other));
  }

 private:
  std::variant<T, Error> v_;
};

using Status = Result<Unit>;

inline Error make_error(Errc code, std::string detail) { return Error{code, std::move(detail)}; }

#define DRAY_CONCAT_(a, b) a##b
#define DRAY_CONCAT(a, b) DRAY_CONCAT_(a, b)
// Returns the error of `expr` from the calling function, if there is one.
#define DRAY_TRY(expr)                        \
  do {                                        \
    auto&& dray_try_ = (expr);                \
    if (!dray_try_) return dray_try_.error(); \
  } while (false)
// DRAY_TRY_ASSIGN(auto x, f()): x = value, or return the error.
#define DRAY_TRY_ASSIGN(var, expr) DRAY_TRY_ASSIGN_(DRAY_CONCAT(dray_try_, __LINE__), var, expr)
#define DRAY_TRY_ASSIGN_(tmp, var, expr) \
  auto tmp = (expr);                     \
  if (!tmp) return tmp.error();          \
  var = std::move(tmp).value()

}  // namespace dray
