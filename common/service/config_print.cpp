// Printing of a Config and of the table behind it, both as TOML.
#include "common/base/assert.h"
#include "common/service/config_value.h"

namespace dray {
namespace {

std::string_view section_of(const ConfigKey& key) { return key.name.substr(0, key.name.find('.')); }
std::string_view name_in_section(const ConfigKey& key) {
  return key.name.substr(key.name.find('.') + 1);
}

// Starts a section when the key is the first of it.
void open_section(std::string& out, std::string_view& section, const ConfigKey& key) {
  if (section == section_of(key)) return;
  section = section_of(key);
  out.append(out.empty() ? "[" : "\n[").append(section).append("]\n");
}

std::string bounds_of(const ConfigKey& key) {
  const auto range = [&](std::string (*format)(int64_t)) {
    return format(key.min) + " to " + format(key.max);
  };
  switch (key.type) {
    case ConfigType::choice: {
      std::string choices(key.choices);
      for (size_t at; (at = choices.find('|')) != std::string::npos;) choices.replace(at, 1, ", ");
      return "One of " + choices + ".";
    }
    case ConfigType::integer:
      return "From " + range([](int64_t n) { return std::to_string(n); }) + ".";
    case ConfigType::duration:
      return "From " + range(format_duration) + ".";
    case ConfigType::size:
      return "From " + range(format_size) + ".";
    default:
      return "";
  }
}

}  // namespace

std::string print_config(const Config& config) {
  std::string out;
  std::string_view section;
  for (const ConfigKey& key : config_keys()) {
    open_section(out, section, key);
    out.append(name_in_section(key)).append(" = ");
    out.append(to_toml(key, config.value(key.name)));
    out.append("  # ").append(config.origin(key.name)).append("\n");
  }
  return out;
}

std::string config_reference() {
  std::string out =
      "# Settings of dray. Every key is listed with its default, commented out.\n"
      "#\n"
      "# A value can also come from the environment (DRAY_BROKER_LEASE_TTL=20s) or the command "
      "line\n"
      "# (--set broker.lease_ttl=20s); the command line wins, then the environment, then this "
      "file.\n"
      "# Relative paths start at --dir. An unknown key is an error. `dray-broker --print-config`\n"
      "# shows the values in effect and where each comes from.\n";
  std::string_view section;
  for (const ConfigKey& key : config_keys()) {
    open_section(out, section, key);
    const std::string bounds = bounds_of(key);
    out.append("# ").append(key.help).append("\n");
    if (!bounds.empty()) out.append("# ").append(bounds).append("\n");
    const auto value = parse_config_text(key, key.fallback);
    DRAY_ASSERT(value.has_value());
    out.append("#").append(name_in_section(key)).append(" = ").append(to_toml(key, *value));
    out.append("\n");
  }
  return out;
}

}  // namespace dray
