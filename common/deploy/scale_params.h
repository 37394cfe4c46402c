// The autoscaler's parameters by name: for app.toml, for stored goals and for people. Times are in
// seconds there, factors and numbers as they are.
#pragma once

#include <span>
#include <string_view>

#include "common/base/result.h"
#include "common/deploy/autoscaler.h"
#include "common/wire/doc.h"

namespace dray {

struct ScaleField {
  std::string_view name;
  int64_t unit;  // what "1" is in ScaleParams
  int64_t min, max;  // in ScaleParams
  int64_t ScaleParams::*member;  // null: an optional one
  std::optional<int64_t> ScaleParams::*optional_member;
};
std::span<const ScaleField> scale_fields();

// The error names the field, and what may be given.
Status set_scale_field(ScaleParams& params, std::string_view name, double value);
// Rules between fields.
Status check_scale(const ScaleParams& params);

Doc scale_doc(const ScaleParams& params);
Result<ScaleParams> parse_scale(const Doc& doc);  // unknown names and wrong values are errors

}  // namespace dray
