// Reading the sources of a Config in order of precedence, and the rules between keys. The only file
// that knows toml++.
#include "common/service/config.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "common/base/assert.h"
#include "common/service/config_value.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

extern char** environ;

namespace dray {
namespace fs = std::filesystem;
namespace {

constexpr size_t kFileBytesMax = 1024 * 1024;
constexpr size_t kProblemsMax = 10;  // more would only hide the first
constexpr size_t kSocketPathMax = 107;  // sockaddr_un without its zero
constexpr size_t kHintNameBytesMax = 64;  // longer names get no hint

size_t index_of(std::string_view name) {
  const auto keys = config_keys();
  const auto found =
      std::find_if(keys.begin(), keys.end(), [&](const ConfigKey& k) { return k.name == name; });
  return static_cast<size_t>(found - keys.begin());
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "worker";
  return name;
}

std::string environment_name(std::string_view key) {
  std::string name = "DRAY_";
  for (const char c : key)
    name += c == '.' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

// A variable such as DRAY_BROKER_X is meant for us; DRAY_DIR and DRAY_BIN belong to scripts.
bool names_a_section(std::string_view variable) {
  for (const ConfigKey& key : config_keys()) {
    const std::string_view section = key.name.substr(0, key.name.find('.') + 1);
    if (variable.starts_with(environment_name(section))) return true;
  }
  return false;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const std::string& part : parts) out.append(out.empty() ? "" : separator).append(part);
  return out;
}

Result<std::string> amounts_text(const toml::table& table) {
  std::string out;
  for (const auto& [name, node] : table) {
    out.append(out.empty() ? "" : ",").append(name.str()).append("=");
    if (const auto* whole = node.as_integer()) {
      out += std::to_string(whole->get());
    } else if (const auto* real = node.as_floating_point()) {
      char text[400];  // shortest form without exponent, so that 0.1 stays 0.1
      const auto end =
          std::to_chars(text, text + sizeof text, real->get(), std::chars_format::fixed);
      out.append(text, end.ptr);
    } else {
      return make_error(Errc::config, "amount of '" + std::string(name.str()) + "' is no number");
    }
  }
  return out;
}

ConfigValue number_value(int64_t number) {
  ConfigValue value;
  value.number = number;
  return value;
}

Error wrong_type(const ConfigKey& key) {
  return make_error(Errc::config,
                    "wrong type, expected " + std::string(config_type_name(key.type)));
}

// A TOML value of the type that the key wants; strings are then read as on the command line.
Result<ConfigValue> value_of(const ConfigKey& key, const toml::node& node) {
  switch (key.type) {
    case ConfigType::boolean:
      if (const auto* flag = node.as_boolean()) return number_value(flag->get() ? 1 : 0);
      return wrong_type(key);
    case ConfigType::integer:
      if (const auto* number = node.as_integer()) return number_value(number->get());
      return wrong_type(key);
    case ConfigType::strings:
    case ConfigType::endpoints:
    case ConfigType::paths: {
      if (!node.is_array()) return wrong_type(key);
      ConfigValue value;
      for (const auto& item : *node.as_array()) {
        if (!item.is_string()) return wrong_type(key);
        value.list.push_back(item.as_string()->get());
      }
      return value;
    }
    case ConfigType::amounts: {
      if (!node.is_table()) return wrong_type(key);
      DRAY_TRY_ASSIGN(const std::string text, amounts_text(*node.as_table()));
      return parse_config_text(key, text);
    }
    default:
      break;
  }
  if (const auto* text = node.as_string()) return parse_config_text(key, text->get());
  const auto* number = node.as_integer();
  if (number != nullptr && (key.type == ConfigType::size || key.type == ConfigType::http))
    return parse_config_text(key, std::to_string(number->get()));
  return wrong_type(key);
}

}  // namespace

// One load: sources are applied lowest first, problems are collected.
class ConfigLoader {
 public:
  explicit ConfigLoader(const ConfigSources& sources) : sources_(sources) {
    std::error_code ignored;
    const std::string folder =
        sources.dir.empty() ? fs::path(sources.file).parent_path().string() : sources.dir;
    config_.dir_ = fs::absolute(folder.empty() ? "." : folder, ignored).lexically_normal().string();
    if (config_.dir_.size() > 1 && config_.dir_.ends_with('/')) config_.dir_.pop_back();
    for (const ConfigKey& key : config_keys()) {
      auto value = parse_config_text(key, key.fallback);
      DRAY_ASSERT(value.has_value());
      config_.slots_.push_back({std::move(value).value(), "default"});
    }
  }

  Result<Config> run() {
    if (!sources_.file.empty()) read_file(sources_.file);
    if (!sources_.drop_in_dir.empty()) read_drop_ins();
    for (const auto& [name, value] : sources_.environment) read_variable(name, value);
    for (const std::string& set : sources_.sets) read_set(set);
    if (problems_.empty()) {
      resolve();
      problems_ = config_.validate(sources_.process);
    }
    if (problems_.empty()) return std::move(config_);
    if (problems_.size() > kProblemsMax) {
      const std::string more = std::to_string(problems_.size() - kProblemsMax);
      problems_.resize(kProblemsMax);
      problems_.push_back("and " + more + " more");
    }
    return make_error(Errc::config, join(problems_, "; "));
  }

 private:
  void problem(const std::string& place, std::string_view text) {
    problems_.push_back(place + ": " + std::string(text));
  }

  void unknown(const std::string& place, std::string_view name) {
    const std::string near =
        name.size() > kHintNameBytesMax ? std::string() : nearest_config_key(name);
    problem(place, "unknown key '" + std::string(name.substr(0, kHintNameBytesMax)) + "'" +
                       (near.empty() ? "" : ", did you mean '" + near + "'?"));
  }

  void store(size_t index, Result<ConfigValue> value, const std::string& place) {
    const ConfigKey& key = config_keys()[index];
    const std::string where = place + ": " + std::string(key.name);
    if (!value) return problem(where, value.error().detail);
    if (const Status status = check_config_value(key, *value); !status)
      return problem(where, status.error().detail);
    config_.slots_[index] = {std::move(value).value(), place};
  }

  void read_file(const std::string& path) {
    std::error_code failure;
    const auto size = fs::file_size(path, failure);
    if (failure) return problem(path, failure.message());
    if (size > kFileBytesMax) return problem(path, "larger than 1 MiB");
    std::ifstream in(path, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    if (!in.good() && !in.eof()) return problem(path, "can not be read");
    const auto parsed = toml::parse(text, path);
    const auto place = [&](const toml::source_region& at) {
      return path + ":" + std::to_string(at.begin.line);
    };
    if (!parsed) return problem(place(parsed.error().source()), parsed.error().description());
    for (const auto& [section, node] : parsed.table()) {
      const std::string prefix(section.str());
      if (!node.is_table()) {
        unknown(place(section.source()), prefix);
        continue;
      }
      for (const auto& [name, value] : *node.as_table()) {
        const std::string full = prefix + "." + std::string(name.str());
        const size_t index = index_of(full);
        if (index == config_keys().size())
          unknown(place(name.source()), full);
        else
          store(index, value_of(config_keys()[index], value), place(name.source()));
      }
    }
  }

  void read_drop_ins() {
    std::error_code failure;
    std::vector<std::string> files;
    for (fs::directory_iterator it(sources_.drop_in_dir, failure), end; !failure && it != end;
         it.increment(failure))
      if (it->path().extension() == ".toml") files.push_back(it->path().string());
    // The folder is optional: most installations have none.
    if (failure && failure != std::errc::no_such_file_or_directory)
      return problem(sources_.drop_in_dir, failure.message());
    std::sort(files.begin(), files.end());
    for (const std::string& file : files) read_file(file);
  }

  void read_variable(const std::string& name, const std::string& value) {
    const auto keys = config_keys();
    for (size_t i = 0; i < keys.size(); ++i)
      if (environment_name(keys[i].name) == name)
        return store(i, parse_config_text(keys[i], value), "env " + name);
    if (!names_a_section(name)) return;
    // DRAY_BROKER_LEASE_TL -> broker.lease_tl, so that the hint is the usual one.
    std::string key = name.substr(5);
    for (char& c : key) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    key[key.find('_')] = '.';
    unknown("env " + name, key);
  }

  void read_set(const std::string& text) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos) return problem("--set", "'" + text + "' is not key=value");
    const std::string name = text.substr(0, equals);
    const size_t index = index_of(name);
    if (index == config_keys().size()) return unknown("--set", name);
    store(index, parse_config_text(config_keys()[index], text.substr(equals + 1)), "--set");
  }

  std::string absolute(const std::string& path) const {
    return (fs::path(config_.dir_) / path).lexically_normal().string();
  }

  std::string absolute_endpoint(const std::string& text) const {
    if (!text.starts_with("ipc://") || text[6] == '@') return text;
    return "ipc://" + absolute(text.substr(6));
  }

  // Values that depend on the machine or the folder.
  void resolve() {
    std::string& worker_name = config_.slots_[index_of("worker.name")].value.text;
    if (worker_name.empty()) worker_name = host_name();
    const std::string& router_name = config_.slots_[index_of("router.name")].value.text;
    for (size_t i = 0; i < config_.slots_.size(); ++i) {
      const ConfigType type = config_keys()[i].type;
      std::string& text = config_.slots_[i].value.text;
      if (type == ConfigType::paths)
        for (std::string& item : config_.slots_[i].value.list) item = absolute(item);
      if (type == ConfigType::path) text = absolute(text);
      if (type == ConfigType::endpoint) text = absolute_endpoint(text);
      if (type == ConfigType::endpoints)
        for (std::string& item : config_.slots_[i].value.list) item = absolute_endpoint(item);
      if (type == ConfigType::http && text.starts_with("unix:")) {
        const size_t at = text.find("{name}");
        const bool router = config_keys()[i].name.starts_with("router.");
        if (at != std::string::npos) text.replace(at, 6, router ? router_name : worker_name);
        text = "unix:" + absolute(text.substr(5));
      }
    }
  }

  const ConfigSources& sources_;
  Config config_;
  std::vector<std::string> problems_;
};

Result<Config> load_config(const ConfigSources& sources) { return ConfigLoader(sources).run(); }

const ConfigValue& Config::get(std::string_view name,
                               std::initializer_list<ConfigType> types) const {
  const size_t index = index_of(name);
  DRAY_ASSERT(index < slots_.size());
  DRAY_ASSERT(std::find(types.begin(), types.end(), config_keys()[index].type) != types.end());
  return slots_[index].value;
}

const std::string& Config::text(std::string_view name) const {
  using enum ConfigType;
  return get(name, {string, choice, endpoint, http, path}).text;
}
bool Config::boolean(std::string_view name) const {
  return get(name, {ConfigType::boolean}).number != 0;
}
int64_t Config::integer(std::string_view name) const {
  return get(name, {ConfigType::integer}).number;
}
uint64_t Config::size(std::string_view name) const {
  return static_cast<uint64_t>(get(name, {ConfigType::size}).number);
}
Duration Config::duration(std::string_view name) const {
  return Duration(get(name, {ConfigType::duration}).number);
}
const std::vector<std::string>& Config::strings(std::string_view name) const {
  return get(name, {ConfigType::strings, ConfigType::paths, ConfigType::endpoints}).list;
}
const ConfigAmounts& Config::amounts(std::string_view name) const {
  return get(name, {ConfigType::amounts}).amounts;
}
const std::string& Config::origin(std::string_view name) const {
  const size_t index = index_of(name);
  DRAY_ASSERT(index < slots_.size());
  return slots_[index].origin;
}
const ConfigValue& Config::value(std::string_view name) const {
  const size_t index = index_of(name);
  DRAY_ASSERT(index < slots_.size());
  return slots_[index].value;
}

std::vector<std::string> Config::validate(std::string_view process) const {
  std::vector<std::string> problems;
  const auto rule = [&](bool holds, std::string_view text) {
    if (!holds) problems.emplace_back(text);
  };
  const Duration beat = duration("broker.beat_interval");
  rule(beat * 3 < duration("broker.lease_ttl"),
       "broker.lease_ttl must be more than three times broker.beat_interval");
  rule(beat * 3 < duration("broker.resume_window"),
       "broker.resume_window must be more than three times broker.beat_interval");
  rule(size("broker.segment_bytes") * 4 <= size("broker.journal_budget"),
       "broker.journal_budget must hold at least four times broker.segment_bytes");
  rule(size("broker.journal_keep") < size("broker.journal_budget"),
       "broker.journal_keep must be less than broker.journal_budget");
  const std::string& router = text("router.name");
  rule(std::all_of(router.begin(), router.end(),
                   [](unsigned char c) { return std::isalnum(c) || strchr("._-", c); }),
       "router.name may have letters, digits, '.', '_' and '-' only");
  rule(size("router.client_bytes") <= size("router.inflight_bytes"),
       "router.client_bytes must not exceed router.inflight_bytes");
  rule(text("broker.journal_dir") != text("aggregator.store_dir"),
       "broker.journal_dir and aggregator.store_dir must differ");
  const std::string& name = text("worker.name");
  rule(std::all_of(name.begin(), name.end(),
                   [](unsigned char c) { return std::isalnum(c) || strchr("._-", c); }),
       "worker.name may have letters, digits, '.', '_' and '-' only");

  const std::set<std::string> ends = {text("broker.endpoint"), text("router.endpoint"),
                                      text("router.worker_endpoint"), text("aggregator.endpoint"),
                                      text("balancer.endpoint")};
  rule(ends.size() == 5,
       "broker.endpoint, router.endpoint, router.worker_endpoint, aggregator.endpoint and "
       "balancer.endpoint must differ");
  for (const ConfigKey& key : config_keys()) {
    if (key.type != ConfigType::endpoint && key.type != ConfigType::http) continue;
    const std::string& where = text(key.name);
    const bool is_file = where.starts_with("ipc://") || where.starts_with("unix:");
    const std::string path = is_file ? where.substr(where[0] == 'i' ? 6 : 5) : "";
    rule(path.size() <= kSocketPathMax, std::string(key.name) + ": socket path '" + path +
                                            "' is longer than 107 bytes; use a shorter --dir");
    const std::string_view owner = key.name.substr(0, key.name.find('.'));
    if (key.type != ConfigType::endpoint || owner == "client") continue;
    if (!process.empty() && process != owner) continue;
    const Status safe = check_bind_endpoint(where);
    rule(safe.has_value(), safe ? "" : std::string(key.name) + ": " + safe.error().detail);
  }
  return problems;
}

std::vector<std::pair<std::string, std::string>> dray_environment() {
  std::vector<std::pair<std::string, std::string>> found;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (text.starts_with("DRAY_") && equals != std::string_view::npos)
      found.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return found;
}

}  // namespace dray
