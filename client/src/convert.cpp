// Conversions between the public values of client.h and those of the wire.
#include "client/src/convert.h"

#include <cmath>

#include "common/resources/advertised.h"

namespace dray {

static_assert(static_cast<int>(Code::no_space) == static_cast<int>(Errc::no_space));
static_assert(static_cast<int>(Code::timeout) == static_cast<int>(Errc::timeout));
static_assert(static_cast<int>(Code::bad_argument) == static_cast<int>(Errc::bad_argument));
static_assert(static_cast<int>(Code::stale) == static_cast<int>(Errc::stale));
static_assert(static_cast<int>(State::dead) == static_cast<int>(TaskState::dead));

std::string_view client_v1::code_name(Code code) { return errc_name(static_cast<Errc>(code)); }
std::string_view client_v1::state_text(State state) {
  return state_name(static_cast<TaskState>(state));
}

std::string ClientError::text() const {
  std::string out(code_name(code));
  if (!detail.empty()) out += ": " + detail;
  if (!limit.empty()) out += " (limit " + limit + " = " + std::to_string(value) + ")";
  return out;
}

std::string Id::hex() const { return to_hex(to_wire(*this)); }
std::optional<Id> Id::from_hex(std::string_view text) {
  auto id = task_id_from_hex(text);
  if (!id) return std::nullopt;
  return to_public(*id);
}

ClientError to_public(const Error& error) { return fault(to_code(error.code), error.detail); }

ClientError to_public(const RejectedEvent& e) {
  return {to_code(e.code), e.detail, Millis{e.retry_after_ms}, e.limit, e.value};
}

namespace {

Expected<uint64_t> to_units(const std::string& name, double amount) {
  constexpr double kUnits = 10'000;
  double units = std::round(amount * kUnits);
  if (!(units >= 1) || units > 9e15 || std::abs(amount * kUnits - units) > 1e-6 * units)
    return fault(Code::bad_argument, "resource " + name + ": amount must be above 0 and a whole " +
                                         "number of 1/10,000");
  return static_cast<uint64_t>(units);
}

Expected<NeedInfo> to_need(const TaskNeeds& needs) {
  NeedInfo need;
  if (needs.gpus != 0) {
    auto units = to_units("gpus", needs.gpus);
    if (!units) return units.error();
    need.gpus = *units;
  }
  need.gpu_memory_mib = needs.gpu_memory_mib;
  for (const auto& [name, amount] : needs.resources) {
    auto units = to_units(name, amount);
    if (!units) return units.error();
    need.pools.emplace_back(name, *units);
  }
  need.labels = needs.labels;
  return need;
}

// A negative duration becomes one that no check lets pass.
uint64_t to_ms(Millis d) { return d.count() < 0 ? UINT64_MAX : static_cast<uint64_t>(d.count()); }

}  // namespace

Expected<std::string> make_spec(std::string_view handler, const TaskOptions& o) {
  TaskSpec s;
  s.handler = std::string(handler);
  s.queue = o.queue;
  s.priority = o.priority < 0 || o.priority > 255 ? 255 : static_cast<uint8_t>(o.priority);
  s.delay_ms = to_ms(o.delay);
  s.expires_ms = to_ms(o.expires);
  s.time_limit_ms = to_ms(o.time_limit);
  s.max_failures = o.max_failures;
  s.max_lost = o.max_lost;
  s.backoff_base_ms = to_ms(o.backoff);
  s.backoff_cap_ms = to_ms(o.backoff_cap);
  auto first = to_need({o.gpus, o.gpu_memory_mib, o.resources, o.labels});
  if (!first) return first.error();
  s.gpus = first->gpus;
  s.gpu_memory_mib = first->gpu_memory_mib;
  s.resources = std::move(first->pools);
  s.labels = o.labels;
  s.strategy = static_cast<uint8_t>(o.strategy);
  for (const TaskNeeds& needs : o.variants) {
    auto need = to_need(needs);
    if (!need) return need.error();
    s.variants.push_back(encode_need(*need));
  }
  s.result_ttl_ms = to_ms(o.result_ttl);
  s.header = o.header;
  if (Status status = check_spec(s); !status) return to_public(status.error());
  if (Status status = check_request(request_of(s)); !status) return to_public(status.error());
  return encode_spec(s);
}

}  // namespace dray
