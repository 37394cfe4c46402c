// Reading: one look at a device. Absent: the driver does not tell, or was not asked this time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace dray::gpu {

enum class Answer : uint8_t {
  ok,
  failed,  // an error that says nothing about the device
  withdrawn,  // the driver is being replaced or was taken away: nothing new may start
  lost,  // lost, or waits for a reset
};

struct Reading {
  std::string uuid;
  Answer answer = Answer::ok;
  std::string reason;  // a sentence, unless ok
  std::optional<uint64_t> memory_mib;
  std::optional<uint64_t> free_mib;
  std::optional<uint64_t> throttle;
  std::optional<uint32_t> utilisation;
  std::optional<uint32_t> temperature_c;
};

}  // namespace dray::gpu
