// Request: what a task or a replica asks of one node, and the user's form of it ("0.5", "8GiB").
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/resources/resources.h"

namespace dray {

constexpr size_t kVariantsMax = 4;
constexpr uint64_t kGpusMax = 1024 * kResourceUnit;  // largest `gpus` of one request
constexpr uint64_t kMemoryMibMax = uint64_t{1} << 30;  // 1 PiB: above it is surely a mistake
constexpr uint64_t kPoolUnitsMax = uint64_t{1} << 60;  // sums of a few never overflow

// How devices and nodes are chosen among those that fit.
//   pack    Least fragmentation (placement.h). Several devices come from as few topology groups as
//           the free ones allow.
//   spread  Most free units first (most free memory if no units are asked), then lowest index.
//   strict  As pack, but several devices must come from as few groups as on the idle node;
//           otherwise the request is refused and waits. After HyperQueue's `compact!`.
// In all three a share below 1 comes from one device, and a whole device is nobody else's.
enum class Strategy : uint8_t { pack, spread, strict };

// One way to satisfy a request. gpus = 2.5 is two whole devices and half of a third one.
struct Variant {
  uint64_t gpus = 0;  // in 1/10,000 of a device
  uint64_t gpu_memory_mib = 0;  // on each device it uses; without gpus: on one device
  ResourceVec pools;  // cpu, memory (MiB), custom ones; each in 1/10,000
  std::vector<std::string> labels;  // the node must have all of them
  uint64_t whole_devices() const { return gpus / kResourceUnit; }
  uint64_t share() const { return gpus % kResourceUnit; }
  // True if one device is used in part: by a share of its units, or by memory alone.
  bool has_part() const { return share() > 0 || (gpus == 0 && gpu_memory_mib > 0); }
  uint64_t device_count() const { return whole_devices() + (has_part() ? 1 : 0); }
  bool operator==(const Variant&) const = default;
};

struct Request {
  std::vector<Variant> variants;  // 1 to kVariantsMax, the preferred one first
  Strategy strategy = Strategy::pack;
  bool operator==(const Request&) const = default;
};

// The user's form; an empty text asks for nothing.
struct VariantText {
  std::string gpus;  // "0.5"
  std::string gpu_memory;  // "8GiB"
  std::vector<std::pair<std::string, std::string>> resources;  // {"step_a_slot", "1"}
  std::vector<std::string> labels;  // "node:gpu-7", "head"
  bool operator==(const VariantText&) const = default;
};

// All of these fail with bad_argument, or too_large, and a line that names the field.
Result<uint64_t> parse_gpus(const std::string& text);  // units
// "512MiB", "1.5GiB", "2TiB". A number without a unit or a decimal unit (GB) is refused.
Result<uint64_t> parse_memory_mib(const std::string& text);
Result<Strategy> parse_strategy(const std::string& text);
Result<Variant> parse_variant(const VariantText& text);
// An empty strategy is pack.
Result<Request> parse_request(const std::vector<VariantText>& variants,
                              const std::string& strategy);
// The bounds above, for a request that came by another way than parse_request.
Status check_request(const Request& request);

std::string_view strategy_name(Strategy strategy);

}  // namespace dray
