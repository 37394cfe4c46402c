// Encoding and bounds of TaskSpec.
#include "common/wire/spec.h"

#include "common/base/limits.h"
#include "common/wire/fleet.h"
#include "common/wire/pack.h"

namespace dray {
namespace {
constexpr uint64_t kGpuUnitsMax = 1024 * 10'000;
constexpr uint64_t kGpuMibMax = uint64_t{1} << 30;
constexpr size_t kMoreVariantsMax = 3;  // besides the first

template <class S, class V>
void spec_fields(S& s, V& v) {
  v(s.handler, s.queue, s.priority, s.delay_ms, s.expires_ms, s.time_limit_ms, s.max_failures,
    s.max_lost, s.backoff_base_ms, s.backoff_cap_ms, s.resources, s.labels, s.result_ttl_ms,
    s.header);
}
constexpr size_t kFieldsMin = 14;  // of version 1.0 before there were GPUs
template <class S, class V>
void all_fields(S& s, V& v) {
  v(s.handler, s.queue, s.priority, s.delay_ms, s.expires_ms, s.time_limit_ms, s.max_failures,
    s.max_lost, s.backoff_base_ms, s.backoff_cap_ms, s.resources, s.labels, s.result_ttl_ms,
    s.header, s.gpus, s.gpu_memory_mib, s.strategy, s.variants);
}

bool has_gpu_fields(const TaskSpec& s) {
  return s.gpus != 0 || s.gpu_memory_mib != 0 || s.strategy != 0 || !s.variants.empty();
}

Error bad(const char* field, const std::string& why) {
  return make_error(Errc::bad_argument, std::string("task option ") + field + ": " + why);
}

Status check_name(const char* field, const std::string& name) {
  if (name.empty()) return bad(field, "is empty");
  if (name.size() > kNameBytesMax) return bad(field, "is longer than 128 bytes");
  for (char c : name)
    if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f)
      return bad(field, "contains a space or control character");
  return {};
}

Status check_duration(const char* field, uint64_t ms) {
  if (ms > static_cast<uint64_t>(kDurationMsMax)) return bad(field, "is longer than a year");
  return {};
}

Status check_gpus(const TaskSpec& s) {
  if (s.gpus > kGpuUnitsMax) return bad("gpus", "are more than 1024");
  if (s.gpu_memory_mib > kGpuMibMax) return bad("gpu_memory", "is more than 1 PiB");
  if (s.strategy > 2) return bad("strategy", "is none of pack, spread, strict");
  if (s.variants.size() > kMoreVariantsMax)
    return bad("variants", "are more than 3 besides the first");
  for (const std::string& blob : s.variants) {
    auto need = decode_need(blob);
    if (!need) return bad("variants", need.error().detail);
    if (need->gpus > kGpuUnitsMax) return bad("variants", "ask for more than 1024 gpus");
    if (need->gpu_memory_mib > kGpuMibMax) return bad("variants", "ask for more than 1 PiB");
    for (const auto& [name, units] : need->pools)
      if (units == 0 || units > (uint64_t{1} << 53))
        return bad("variants", "amount of " + name + " is out of range");
  }
  return {};
}
}  // namespace

std::string encode_spec(const TaskSpec& spec) {
  std::string out;
  wire::Packer p(out);
  if (has_gpu_fields(spec))
    all_fields(spec, p);
  else
    spec_fields(spec, p);
  return out;
}

Status check_spec(const TaskSpec& s) {
  DRAY_TRY(check_name("handler", s.handler));
  DRAY_TRY(check_name("queue", s.queue));
  if (s.priority >= kPriorityBands) return bad("priority", "must be 0 to 9");
  DRAY_TRY(check_duration("delay", s.delay_ms));
  DRAY_TRY(check_duration("expires", s.expires_ms));
  DRAY_TRY(check_duration("time_limit", s.time_limit_ms));
  DRAY_TRY(check_duration("backoff", s.backoff_base_ms));
  DRAY_TRY(check_duration("backoff_cap", s.backoff_cap_ms));
  DRAY_TRY(check_duration("result_ttl", s.result_ttl_ms));
  if (s.max_failures < 1 || s.max_failures > kAttemptsMax)
    return bad("max_failures", "must be 1 to 1000");
  if (s.max_lost < 1 || s.max_lost > kAttemptsMax) return bad("max_lost", "must be 1 to 1000");
  if (s.resources.size() > kResourcesMax) return bad("resources", "has more than 32 entries");
  for (size_t i = 0; i < s.resources.size(); ++i) {
    DRAY_TRY(check_name("resources", s.resources[i].first));
    if (s.resources[i].second == 0 || s.resources[i].second > (uint64_t{1} << 53))
      return bad("resources", "amount of " + s.resources[i].first + " is out of range");
    for (size_t k = 0; k < i; ++k)
      if (s.resources[k].first == s.resources[i].first)
        return bad("resources", s.resources[i].first + " appears twice");
  }
  if (s.labels.size() > kLabelsMax) return bad("labels", "has more than 64 entries");
  for (const auto& label : s.labels) DRAY_TRY(check_name("labels", label));
  if (s.header.size() > kUserHeaderBytesMax) return bad("header", "is longer than 4096 bytes");
  return check_gpus(s);
}

Result<TaskSpec> decode_spec(std::string_view blob) {
  std::vector<wire::Element> elements;
  DRAY_TRY_ASSIGN(size_t used, wire::parse_elements(blob, elements));
  if (used != blob.size()) return make_error(Errc::bad_message, "bytes after the task options");
  TaskSpec spec;
  wire::Reader r(elements);
  wire::LenientReader lenient{r, kFieldsMin};
  all_fields(spec, lenient);
  if (r.failed()) return make_error(Errc::bad_message, std::string("task options: ") + r.why());
  DRAY_TRY(check_spec(spec));
  return spec;
}

}  // namespace dray
