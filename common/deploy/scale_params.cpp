#include "common/deploy/scale_params.h"

#include <cmath>
#include <cstdio>

namespace dray {
namespace {

using P = ScaleParams;
constexpr int64_t kReplicasMax = 100'000;
constexpr int64_t kDay = 86'400'000;
constexpr int64_t kLongMs = 30 * kDay;

constexpr ScaleField of(std::string_view name, int64_t unit, int64_t min, int64_t max,
                        int64_t P::*member) {
  return {name, unit, min, max, member, nullptr};
}
constexpr ScaleField maybe(std::string_view name, int64_t unit, int64_t min, int64_t max,
                           std::optional<int64_t> P::*member) {
  return {name, unit, min, max, nullptr, member};
}

constexpr ScaleField kFields[] = {
    of("min_replicas", 1, 0, kReplicasMax, &P::min_replicas),
    of("max_replicas", 1, 1, kReplicasMax, &P::max_replicas),
    maybe("initial_replicas", 1, 0, kReplicasMax, &P::initial_replicas),
    of("target_ongoing_requests", 1000, 1, 1'000'000'000, &P::target_ongoing_requests),
    of("upscale_delay_s", 1000, 0, kDay, &P::upscale_delay_ms),
    of("downscale_delay_s", 1000, 0, kDay, &P::downscale_delay_ms),
    maybe("downscale_to_zero_delay_s", 1000, 0, kDay, &P::downscale_to_zero_delay_ms),
    of("upscaling_factor", 1000, 1, 1'000'000, &P::upscaling_factor),
    of("downscaling_factor", 1000, 1, 1'000'000, &P::downscaling_factor),
    of("look_back_period_s", 1000, 1000, 3'600'000, &P::look_back_period_ms),
    of("panic_window_s", 1000, 1000, 3'600'000, &P::panic_window_ms),
    of("panic_threshold", 1000, 0, 1'000'000, &P::panic_threshold),
    of("panic_hold_s", 1000, 0, kDay, &P::panic_hold_ms),
    of("tolerance", 1000, 0, 1000, &P::tolerance),
    of("step_up", 1000, 1000, 1'000'000, &P::step_up),
    of("step_up_replicas", 1, 0, kReplicasMax, &P::step_up_replicas),
    of("step_down", 1000, 1, 1000, &P::step_down),
    of("step_down_every_s", 1000, 0, kDay, &P::step_down_every_ms),
    of("task_time_s", 1000, 0, kDay, &P::task_time_ms),
    of("backlog_deadline_s", 1000, 1000, kLongMs, &P::backlog_deadline_ms),
    of("backlog_utilisation", 1000, 1, 1000, &P::backlog_utilisation),
};

std::string text_of(int64_t value, int64_t unit) {
  char text[48];
  std::snprintf(text, sizeof text, "%.10g", static_cast<double>(value) / static_cast<double>(unit));
  return text;
}

const ScaleField* find(std::string_view name) {
  for (const ScaleField& field : kFields)
    if (field.name == name) return &field;
  return nullptr;
}

Error unknown(std::string_view name) {
  std::string names;
  for (const ScaleField& field : kFields)
    names.append(names.empty() ? "" : ", ").append(field.name);
  return make_error(Errc::bad_argument,
                    "unknown field '" + std::string(name.substr(0, 60)) + "'; there are: " + names);
}

}  // namespace

std::span<const ScaleField> scale_fields() { return kFields; }

Status set_scale_field(ScaleParams& params, std::string_view name, double value) {
  const ScaleField* field = find(name);
  if (field == nullptr) return unknown(name);
  const double stored = value * static_cast<double>(field->unit);
  // Also false for NaN.
  const bool in_range = stored >= static_cast<double>(field->min) - 0.5 &&
                        stored <= static_cast<double>(field->max) + 0.5;
  if (!in_range || (field->unit == 1 && std::floor(value) != value))
    return make_error(Errc::bad_argument, std::string(name) + " must be " +
                                              (field->unit == 1 ? "a whole number " : "") +
                                              "from " + text_of(field->min, field->unit) + " to " +
                                              text_of(field->max, field->unit));
  const auto number = static_cast<int64_t>(std::llround(stored));
  if (field->member != nullptr)
    params.*field->member = number;
  else
    params.*field->optional_member = number;
  return {};
}

Status check_scale(const ScaleParams& p) {
  if (p.min_replicas > p.max_replicas)
    return make_error(Errc::bad_argument, "min_replicas is over max_replicas");
  if (p.initial_replicas &&
      (*p.initial_replicas < p.min_replicas || *p.initial_replicas > p.max_replicas))
    return make_error(Errc::bad_argument,
                      "initial_replicas is not between min_replicas and max_replicas");
  return {};
}

Doc scale_doc(const ScaleParams& params) {
  Doc doc{Doc::Object{}};
  for (const ScaleField& field : kFields) {
    const std::optional<int64_t> value =
        field.member != nullptr ? params.*field.member : params.*field.optional_member;
    if (!value) continue;
    if (field.unit == 1 || *value % field.unit == 0)
      doc.set(std::string(field.name), *value / field.unit);
    else
      doc.set(std::string(field.name),
              static_cast<double>(*value) / static_cast<double>(field.unit));
  }
  return doc;
}

Result<ScaleParams> parse_scale(const Doc& doc) {
  ScaleParams params;
  if (!doc.is_object() && !doc.is_null()) return make_error(Errc::bad_argument, "must be a table");
  for (const auto& [name, value] : doc.object()) {
    const bool is_number = std::holds_alternative<int64_t>(value.value()) ||
                           std::holds_alternative<double>(value.value());
    if (!is_number) {
      if (find(name) == nullptr) return unknown(name);
      return make_error(Errc::bad_argument, name + " must be a number");
    }
    DRAY_TRY(set_scale_field(params, name, value.as_number()));
  }
  DRAY_TRY(check_scale(params));
  return params;
}

}  // namespace dray
