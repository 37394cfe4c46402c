// Text form of configuration values: parsing by type with bounds, and the way back.
#include "common/service/config_value.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <numeric>

namespace dray {
namespace {

struct Unit64 {
  std::string_view name;
  int64_t scale;
};
constexpr Unit64 kDurationUnits[] = {{"ns", 1},
                                     {"us", 1'000},
                                     {"ms", 1'000'000},
                                     {"s", 1'000'000'000},
                                     {"m", 60'000'000'000},
                                     {"h", 3'600'000'000'000},
                                     {"d", 86'400'000'000'000}};
constexpr Unit64 kSizeUnits[] = {{"B", 1},
                                 {"KiB", int64_t{1} << 10},
                                 {"MiB", int64_t{1} << 20},
                                 {"GiB", int64_t{1} << 30},
                                 {"TiB", int64_t{1} << 40}};
constexpr int64_t kAmountScale = 10'000;
constexpr int64_t kAmountMax = int64_t{1'000'000'000} * kAmountScale;

Error bad(std::string text) { return make_error(Errc::config, std::move(text)); }

Result<int64_t> parse_integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty())
    return bad("'" + std::string(text) + "' is not a whole number");
  return value;
}

// "<whole number><unit>".
Result<int64_t> parse_with_unit(std::string_view text, std::span<const Unit64> units,
                                std::string_view example) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::string_view unit = text.substr(digits);
  for (const Unit64& u : units) {
    if (u.name != unit) continue;
    const auto number = parse_integer(text.substr(0, digits));
    int64_t value = 0;
    if (!number || __builtin_mul_overflow(*number, u.scale, &value)) break;
    return value;
  }
  std::string names;
  for (const Unit64& u : units) names.append(names.empty() ? "" : " ").append(u.name);
  return bad("'" + std::string(text) + "' is not a number with a unit such as " +
             std::string(example) + " (units: " + names + ")");
}

std::string format_with_unit(int64_t value, std::span<const Unit64> units) {
  Unit64 best = units.front();
  for (const Unit64& u : units)
    if (value != 0 && value % u.scale == 0) best = u;
  return std::to_string(value / best.scale) + std::string(best.name);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t at = std::min(text.find(separator), text.size());
    parts.push_back(text.substr(0, at));
    text.remove_prefix(std::min(at + 1, text.size()));
  }
  return parts;
}

Result<ConfigAmounts> parse_amounts(std::string_view text) {
  ConfigAmounts amounts;
  for (const std::string_view part : split(text, ',')) {
    const size_t equals = part.find('=');
    if (equals == std::string_view::npos || equals == 0)
      return bad("'" + std::string(part) + "' is not name=amount");
    DRAY_TRY_ASSIGN(const int64_t amount, parse_amount(part.substr(equals + 1)));
    amounts[std::string(part.substr(0, equals))] = amount;
  }
  return amounts;
}

Result<int64_t> parse_boolean(std::string_view text) {
  if (text == "true") return int64_t{1};
  if (text == "false") return int64_t{0};
  return bad("'" + std::string(text) + "' is not true or false");
}

Result<int64_t> parse_size(std::string_view text) {
  const auto bytes = parse_integer(text);
  return bytes ? bytes : parse_with_unit(text, kSizeUnits, "64MiB");
}

Status check_range(const ConfigKey& key, int64_t value, std::string (*format)(int64_t)) {
  if (value < key.min) return bad(format(value) + " is below the minimum " + format(key.min));
  if (value > key.max) return bad(format(value) + " is above the maximum " + format(key.max));
  return {};
}

Status check_port(std::string_view port) {
  const auto number = parse_integer(port);
  if (!number || *number < 1 || *number > 65535)
    return bad("'" + std::string(port) + "' is not a port (1 to 65535)");
  return {};
}

Status check_endpoint(std::string_view text) {
  if (text.starts_with("ipc://") && text.size() > 6) return {};
  const size_t colon = text.rfind(':');
  if (text.starts_with("tcp://") && colon > 6) return check_port(text.substr(colon + 1));
  return bad("'" + std::string(text) + "' is not an endpoint: ipc://path or tcp://host:port");
}

Status check_choice(const ConfigKey& key, const std::string& text) {
  for (const std::string_view choice : split(key.choices, '|'))
    if (choice == text) return {};
  return bad("'" + text + "' is not one of " + std::string(key.choices));
}

Status check_text(const ConfigKey& key, const std::string& text) {
  if (text.find('\0') != std::string::npos) return bad("a zero byte is not allowed");
  switch (key.type) {
    case ConfigType::choice:
      return check_choice(key, text);
    case ConfigType::endpoint:
      return check_endpoint(text);
    case ConfigType::path:
      if (text.empty()) return bad("a path must not be empty");
      return {};
    case ConfigType::string:
      if (text.size() < static_cast<size_t>(key.min)) return bad("must not be empty");
      if (text.size() > static_cast<size_t>(key.max))
        return bad("longer than " + std::to_string(key.max) + " bytes");
      return {};
    default:
      return {};
  }
}

Status check_count(const ConfigKey& key, size_t count) {
  if (count > static_cast<size_t>(key.max))
    return bad(std::to_string(count) + " entries, at most " + std::to_string(key.max));
  return {};
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({change, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row.back();
}

std::string quoted(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.append({'\\', c});
    } else if (byte < 0x20 || byte == 0x7f) {
      out.append("\\u00").append({kHex[byte >> 4], kHex[byte & 15]});
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string format_amount(int64_t amount) {
  std::string text = std::to_string(amount / kAmountScale);
  if (amount % kAmountScale == 0) return text;
  std::string fraction = std::to_string(kAmountScale + amount % kAmountScale).substr(1);
  fraction.erase(fraction.find_last_not_of('0') + 1);
  return text + "." + fraction;
}

}  // namespace

std::string format_duration(int64_t ns) {
  return ns == 0 ? "0s" : format_with_unit(ns, kDurationUnits);
}
std::string format_size(int64_t bytes) { return format_with_unit(bytes, kSizeUnits); }

std::string_view config_type_name(ConfigType type) {
  static constexpr std::string_view kNames[] = {
      "string",        "one of the choices", "true or false",    "whole number", "duration",
      "size",          "endpoint",           "address",          "path",         "list of strings",
      "list of paths", "table of amounts",   "list of endpoints"};
  return kNames[static_cast<size_t>(type)];
}

Result<int64_t> parse_amount(std::string_view text) {
  const size_t dot = std::min(text.find('.'), text.size());
  std::string digits(text.substr(0, dot));
  const std::string_view fraction = text.substr(std::min(dot + 1, text.size()));
  if (fraction.size() > 4) return bad("'" + std::string(text) + "' has more than four decimals");
  digits.append(fraction).append(4 - fraction.size(), '0');
  const auto value = parse_integer(digits);
  if (!value || dot == 0 || digits.front() == '-' || *value > kAmountMax)
    return bad("'" + std::string(text) + "' is not an amount from 0 to 1000000000");
  return *value;
}

Result<std::string> normal_http(std::string_view text) {
  if (text.empty() || text == "0" || text == "off") return std::string();
  if (text == "auto") return std::string("127.0.0.1:0");
  if (text.starts_with("unix:") && text.size() > 5) return std::string(text);
  if (text.find_first_not_of("0123456789") == std::string_view::npos) {
    DRAY_TRY(check_port(text));
    return "127.0.0.1:" + std::string(text);
  }
  std::string_view host = text.substr(0, std::min(text.rfind(':'), text.size()));
  std::string_view port = text.substr(std::min(host.size() + 1, text.size()));
  if (host == "localhost") host = "127.0.0.1";
  if (!check_bind_endpoint("tcp://" + std::string(host) + ":1"))
    return bad("'" + std::string(text) +
               "' is not unix:path, a loopback address with a port, a port, auto or 0 (off)");
  if (port != "0") DRAY_TRY(check_port(port));
  return std::string(host) + ":" + std::string(port);
}

Result<ConfigValue> parse_config_text(const ConfigKey& key, std::string_view text) {
  ConfigValue value;
  switch (key.type) {
    case ConfigType::boolean: {
      DRAY_TRY_ASSIGN(value.number, parse_boolean(text));
      break;
    }
    case ConfigType::integer: {
      DRAY_TRY_ASSIGN(value.number, parse_integer(text));
      break;
    }
    case ConfigType::duration: {
      DRAY_TRY_ASSIGN(value.number, parse_with_unit(text, kDurationUnits, "250ms or 30s"));
      break;
    }
    case ConfigType::size: {
      DRAY_TRY_ASSIGN(value.number, parse_size(text));
      break;
    }
    case ConfigType::http: {
      DRAY_TRY_ASSIGN(value.text, normal_http(text));
      break;
    }
    case ConfigType::amounts: {
      DRAY_TRY_ASSIGN(value.amounts, parse_amounts(text));
      break;
    }
    case ConfigType::strings:
    case ConfigType::paths:
    case ConfigType::endpoints:
      for (const std::string_view part : split(text, ',')) value.list.emplace_back(part);
      break;
    case ConfigType::string:
    case ConfigType::choice:
    case ConfigType::endpoint:
    case ConfigType::path:
      value.text = text;
      break;
  }
  return value;
}

Status check_config_value(const ConfigKey& key, const ConfigValue& value) {
  switch (key.type) {
    case ConfigType::boolean:
      return {};
    case ConfigType::integer:
      return check_range(key, value.number, [](int64_t n) { return std::to_string(n); });
    case ConfigType::duration:
      return check_range(key, value.number, format_duration);
    case ConfigType::size:
      return check_range(key, value.number, format_size);
    case ConfigType::amounts:
      return check_count(key, value.amounts.size());
    case ConfigType::endpoints:
      for (const std::string& item : value.list) DRAY_TRY(check_endpoint(item));
      return check_count(key, value.list.size());
    case ConfigType::strings:
    case ConfigType::paths:
      for (const std::string& item : value.list)
        if (item.empty()) return bad("an entry must not be empty");
      return check_count(key, value.list.size());
    default:
      return check_text(key, value.text);
  }
}

std::string to_toml(const ConfigKey& key, const ConfigValue& value) {
  std::string out;
  switch (key.type) {
    case ConfigType::boolean:
      return value.number != 0 ? "true" : "false";
    case ConfigType::integer:
      return std::to_string(value.number);
    case ConfigType::duration:
      return quoted(format_duration(value.number));
    case ConfigType::size:
      return quoted(format_size(value.number));
    case ConfigType::amounts:
      for (const auto& [name, amount] : value.amounts)
        out.append(out.empty() ? " " : ", ").append(quoted(name) + " = " + format_amount(amount));
      return out.empty() ? "{}" : "{" + out + " }";
    case ConfigType::strings:
    case ConfigType::paths:
    case ConfigType::endpoints:
      for (const std::string& item : value.list)
        out.append(out.empty() ? "" : ", ").append(quoted(item));
      return "[" + out + "]";
    default:
      if (key.type == ConfigType::http && value.text.empty()) return "0";
      return quoted(value.text);
  }
}

std::string nearest_config_key(std::string_view name) {
  std::string_view best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  const auto last_part = [](std::string_view s) { return s.substr(s.find('.') + 1); };
  for (const ConfigKey& key : config_keys()) {
    size_t distance = edit_distance(name, key.name);
    // The right key in the wrong section is a common mistake.
    if (last_part(name) == last_part(key.name)) distance = std::min<size_t>(distance, 1);
    if (distance < best_distance) {
      best_distance = distance;
      best = key.name;
    }
  }
  return std::string(best);
}

Status check_bind_endpoint(std::string_view endpoint) {
  const auto refuse = [&](std::string_view why) {
    return make_error(Errc::config,
                      "refusing to listen on '" + std::string(endpoint) + "': " + std::string(why));
  };
  if (endpoint.starts_with("ipc://")) {
    if (endpoint.size() == 6) return refuse("the path is empty");
    if (endpoint[6] == '@') return refuse("an abstract socket has no permissions; use a file");
    return {};
  }
  constexpr std::string_view kPublic =
      "without keys only ipc:// and loopback tcp:// (127.0.0.1, [::1], localhost) are allowed";
  const size_t colon = endpoint.rfind(':');
  if (!endpoint.starts_with("tcp://") || colon <= 6) return refuse(kPublic);
  const std::string host(endpoint.substr(6, colon - 6));
  in_addr v4{};
  if (host == "localhost" || host == "[::1]") return {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127) return {};
  return refuse(kPublic);
}

}  // namespace dray
