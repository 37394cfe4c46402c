// The user's form of a request, with errors that name the field.
#include "common/resources/request.h"

#include <array>

#include "common/base/limits.h"

namespace dray {
namespace {

constexpr std::array<std::pair<std::string_view, Strategy>, 3> kStrategies = {
    {{"pack", Strategy::pack}, {"spread", Strategy::spread}, {"strict", Strategy::strict}}};
// These are said by fields of their own; a pool of that name would be a silent mistake.
constexpr std::array<std::string_view, 3> kNotPools = {"gpu", "gpus", "gpu_memory"};

Error bad(const std::string& field, const std::string& why) {
  return make_error(Errc::bad_argument, field + ": " + why);
}

// parse_amount with the reason of its refusal.
Result<uint64_t> parse_decimal(const std::string& field, const std::string& text) {
  if (text.empty()) return bad(field, "is empty");
  if (text[0] == '-') return bad(field, "'" + text + "' is negative");
  if (text.size() > 64) return make_error(Errc::too_large, field + ": the number is too long");
  const size_t dot = text.find('.');
  const bool is_number = text.find_first_not_of("0123456789.") == std::string::npos &&
                         dot == text.rfind('.') && dot != 0 && dot != text.size() - 1;
  if (!is_number) return bad(field, "'" + text + "' is not a number such as 2 or 0.5");
  if (dot != std::string::npos && text.size() - dot - 1 > 4)
    return bad(field, "'" + text + "' has more than 4 decimals");
  uint64_t units = 0;
  if (!parse_amount(text, units))
    return make_error(Errc::too_large, field + ": '" + text + "' is too large");
  return units;
}

Status check_name(const std::string& field, const std::string& name) {
  if (name.empty()) return bad(field, "a name is empty");
  if (name.size() > kNameBytesMax)
    return make_error(Errc::too_large, field + ": a name is longer than " +
                                           std::to_string(kNameBytesMax) + " bytes");
  return {};
}

Result<ResourceVec> parse_pools(const VariantText& text) {
  std::vector<std::pair<std::string, uint64_t>> amounts;
  for (const auto& [name, amount] : text.resources) {
    DRAY_TRY(check_name("resources", name));
    const std::string field = "resources." + name;
    for (const auto& [seen, units] : amounts)
      if (seen == name) return bad(field, "is given twice");
    // "memory" is counted in MiB.
    if (name == "memory") {
      DRAY_TRY_ASSIGN(uint64_t mib, parse_memory_mib(amount));
      amounts.emplace_back(name, mib * kResourceUnit);
    } else {
      DRAY_TRY_ASSIGN(uint64_t units, parse_decimal(field, amount));
      amounts.emplace_back(name, units);
    }
  }
  return ResourceVec(std::move(amounts));
}

Status check_pools(const ResourceVec& pools) {
  if (pools.amounts().size() > kResourcesMax)
    return make_error(Errc::too_large, "resources: more than " + std::to_string(kResourcesMax));
  for (const auto& [name, units] : pools.amounts()) {
    DRAY_TRY(check_name("resources", name));
    if (units > kPoolUnitsMax)
      return make_error(Errc::too_large, "resources." + name + ": too large");
    for (std::string_view taken : kNotPools)
      if (name == taken) return bad("resources." + name, "has a field of its own");
  }
  return {};
}

Status check_variant(const Variant& variant) {
  if (variant.gpus > kGpusMax)
    return make_error(Errc::too_large, "gpus: more than " + print_amount(kGpusMax));
  if (variant.gpu_memory_mib > kMemoryMibMax)
    return make_error(Errc::too_large, "gpu_memory: more than 1 PiB");
  DRAY_TRY(check_pools(variant.pools));
  if (variant.labels.size() > kLabelsMax)
    return make_error(Errc::too_large, "labels: more than " + std::to_string(kLabelsMax));
  for (const std::string& label : variant.labels) DRAY_TRY(check_name("labels", label));
  return {};
}

}  // namespace

Result<uint64_t> parse_gpus(const std::string& text) {
  DRAY_TRY_ASSIGN(uint64_t units, parse_decimal("gpus", text));
  if (units > kGpusMax)
    return make_error(Errc::too_large,
                      "gpus: '" + text + "' is more than " + print_amount(kGpusMax));
  return units;
}

Result<uint64_t> parse_memory_mib(const std::string& text) {
  const size_t digits = std::min(text.find_first_not_of("-0123456789."), text.size());
  const std::string unit = text.substr(digits);
  uint64_t mib_per_unit = 0;
  if (unit == "MiB") mib_per_unit = 1;
  if (unit == "GiB") mib_per_unit = 1024;
  if (unit == "TiB") mib_per_unit = 1024 * 1024;
  if (mib_per_unit == 0)
    return bad("memory", "'" + text.substr(0, 64) + "' needs a unit: MiB, GiB or TiB");
  DRAY_TRY_ASSIGN(uint64_t amount, parse_decimal("memory", text.substr(0, digits)));
  if (amount / kResourceUnit > kMemoryMibMax / mib_per_unit)
    return make_error(Errc::too_large, "memory: '" + text + "' is more than 1 PiB");
  return (amount * mib_per_unit + kResourceUnit - 1) / kResourceUnit;  // up to the next MiB
}

Result<Strategy> parse_strategy(const std::string& text) {
  for (const auto& [name, strategy] : kStrategies)
    if (text == name) return strategy;
  return bad("strategy", "'" + text.substr(0, 64) + "' is none of pack, spread, strict");
}

Result<Variant> parse_variant(const VariantText& text) {
  Variant variant;
  if (!text.gpus.empty()) {
    DRAY_TRY_ASSIGN(variant.gpus, parse_gpus(text.gpus));
  }
  if (!text.gpu_memory.empty()) {
    auto mib = parse_memory_mib(text.gpu_memory);
    if (!mib) return make_error(mib.error().code, "gpu_" + mib.error().detail);
    variant.gpu_memory_mib = *mib;
  }
  DRAY_TRY_ASSIGN(variant.pools, parse_pools(text));
  variant.labels = text.labels;
  DRAY_TRY(check_variant(variant));
  return variant;
}

Result<Request> parse_request(const std::vector<VariantText>& variants,
                              const std::string& strategy) {
  Request request;
  if (!strategy.empty()) {
    DRAY_TRY_ASSIGN(request.strategy, parse_strategy(strategy));
  }
  for (size_t i = 0; i < variants.size() && i <= kVariantsMax; ++i) {
    auto variant = parse_variant(variants[i]);
    if (!variant && variants.size() > 1)
      return make_error(variant.error().code,
                        "variant " + std::to_string(i + 1) + ": " + variant.error().detail);
    if (!variant) return variant.error();
    request.variants.push_back(std::move(*variant));
  }
  DRAY_TRY(check_request(request));
  return request;
}

Status check_request(const Request& request) {
  if (request.variants.empty()) return bad("request", "has no variant");
  if (request.variants.size() > kVariantsMax)
    return make_error(Errc::too_large,
                      "request: more than " + std::to_string(kVariantsMax) + " variants");
  for (const Variant& variant : request.variants) DRAY_TRY(check_variant(variant));
  return {};
}

std::string_view strategy_name(Strategy strategy) {
  return kStrategies[static_cast<size_t>(strategy)].first;
}

}  // namespace dray
