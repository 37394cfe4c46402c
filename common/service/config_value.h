// Text form of configuration values: parsing by type with bounds, and the way back. Internal to
// common/service.
#pragma once

#include <string>
#include <string_view>

#include "common/service/config.h"

namespace dray {

// Parses a value as written in --set or the environment. Lists and amounts are separated by commas:
// "a,b" and "x=2,y=0.5". The error has no place and no key name; the caller adds them.
Result<ConfigValue> parse_config_text(const ConfigKey& key, std::string_view text);

// Bounds, choices and syntax of a value whose type is already right.
Status check_config_value(const ConfigKey& key, const ConfigValue& value);

// An amount in 1/10,000 from "2" or "0.25".
Result<int64_t> parse_amount(std::string_view text);

// "127.0.0.1:8790", "[::1]:8790", "unix:path", or empty for off, from any spelling of an http key.
Result<std::string> normal_http(std::string_view text);

// The value as TOML ("10s" with quotes, 12, ["a", "b"], { x = 2 }).
std::string to_toml(const ConfigKey& key, const ConfigValue& value);
std::string format_duration(int64_t ns);
std::string format_size(int64_t bytes);
std::string_view config_type_name(ConfigType type);

// Key with the least edit distance, or empty if none is near.
std::string nearest_config_key(std::string_view name);

}  // namespace dray
