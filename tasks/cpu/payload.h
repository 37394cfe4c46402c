// Reader: takes a little-endian binary payload apart; a short payload throws FinalError, never
// reads past the end.
#pragma once

#include <dray/worker.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace dray_tasks {

static_assert(std::endian::native == std::endian::little, "payloads are read with memcpy");

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, bytes(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::string_view bytes(uint64_t size, const char* what) {
    if (size > rest_.size())
      throw dray::FinalError("payload ends inside " + std::string(what) + ": needs " +
                             std::to_string(size) + " bytes, has " + std::to_string(rest_.size()));
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  size_t left() const { return rest_.size(); }
  void end() const {
    if (!rest_.empty())
      throw dray::FinalError(std::to_string(rest_.size()) +
                             " extra bytes at the end of the payload");
  }

 private:
  std::string_view rest_;
};

template <class T>
char* put(char* to, T value) {
  std::memcpy(to, &value, sizeof(T));
  return to + sizeof(T);
}

// A decimal number of 1..max_digits digits and nothing else.
inline uint64_t decimal(std::string_view text, const char* what, size_t max_digits = 9) {
  uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9') throw dray::FinalError(std::string(what) + " is not a decimal number");
    value = value * 10 + static_cast<uint64_t>(c - '0');
    if (max_digits-- == 0) throw dray::FinalError(std::string(what) + " has too many digits");
  }
  if (text.empty()) throw dray::FinalError(std::string(what) + " is empty");
  return value;
}

}  // namespace dray_tasks
