// Strong ids. A bare integer or string is never an id.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace dray {

// 128-bit client-made task (or group) id: 48-bit Unix milliseconds, 72 random bits, 8-bit slot.
// The id without its last byte is a *page*: a client fills the 256 slots of a page one after the
// other, so batches are cheap to index and store. Any UUIDv7 is a valid id. All zero is "no id".
struct TaskId {
  uint64_t hi = 0;
  uint64_t lo = 0;
  auto operator<=>(const TaskId&) const = default;
  bool is_null() const { return hi == 0 && lo == 0; }
  uint64_t wall_ms() const { return hi >> 16; }
  uint8_t slot() const { return static_cast<uint8_t>(lo); }
  TaskId page() const { return {hi, lo & ~uint64_t{0xff}}; }
};

// Identity of one life (process incarnation) of a worker or service: 128 random bits.
struct BootId {
  uint64_t hi = 0;
  uint64_t lo = 0;
  auto operator<=>(const BootId&) const = default;
  bool is_null() const { return hi == 0 && lo == 0; }
};

// Fencing token of a lease, unique for ever, compared lexicographically.
struct Token {
  uint64_t epoch = 0;  // broker start, bumped durably
  uint64_t seq = 0;  // lease number inside the epoch, from 1
  auto operator<=>(const Token&) const = default;
  bool is_null() const { return epoch == 0 && seq == 0; }
};

// One HELLO/WELCOME conversation as a process sees it; unique inside that process's life. 0 = none.
enum class SessionId : uint64_t { none = 0 };

std::string to_hex(TaskId id);  // 32 lower-case hex digits
std::string to_hex(BootId id);
std::optional<TaskId> task_id_from_hex(std::string_view text);  // accepts dashes as in a UUID
inline std::string to_string(Token t) {
  return std::to_string(t.epoch) + ":" + std::to_string(t.seq);
}

constexpr uint64_t mix64(uint64_t x) {  // splitmix64 finaliser (Steele, Lea, Flood 2014)
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace dray

template <>
struct std::hash<dray::TaskId> {
  size_t operator()(const dray::TaskId& id) const noexcept {
    return dray::mix64(id.hi * 0x9e3779b97f4a7c15ULL + id.lo);
  }
};
template <>
struct std::hash<dray::BootId> {
  size_t operator()(const dray::BootId& id) const noexcept { return dray::mix64(id.hi ^ id.lo); }
};
template <>
struct std::hash<dray::Token> {
  size_t operator()(const dray::Token& t) const noexcept {
    return dray::mix64(t.epoch * 0x9e3779b97f4a7c15ULL + t.seq);
  }
};
