#include "common/base/ids.h"

#include <cstdio>

namespace dray {
namespace {
std::string hex128(uint64_t hi, uint64_t lo) {
  char buf[33];
  std::snprintf(buf, sizeof buf, "%016llx%016llx", static_cast<unsigned long long>(hi),
                static_cast<unsigned long long>(lo));
  return buf;
}
int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}
}  // namespace

std::string to_hex(TaskId id) { return hex128(id.hi, id.lo); }
std::string to_hex(BootId id) { return hex128(id.hi, id.lo); }

std::optional<TaskId> task_id_from_hex(std::string_view text) {
  TaskId id;
  int digits = 0;
  for (char c : text) {
    if (c == '-') continue;
    int d = hex_digit(c);
    if (d < 0 || digits == 32) return std::nullopt;
    uint64_t& half = digits < 16 ? id.hi : id.lo;
    half = half << 4 | static_cast<uint64_t>(d);
    ++digits;
  }
  if (digits != 32 || id.is_null()) return std::nullopt;
  return id;
}
}  // namespace dray
