// Config: the typed, checked settings of a process, with the origin of every value.
//
// One table (config_table.cpp) holds a row per key; it drives parsing, bounds, hints, printing and
// deploy/dray.toml. Precedence: --set over environment over drop-in files over the file over the
// default. Whatever is not in the table is an error: a misspelt key that is silently ignored costs
// somebody a night.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/base/time.h"

namespace dray {

enum class ConfigType : uint8_t {
  string,  // min..max is the length
  choice,  // one of `choices`
  boolean,
  integer,  // min..max
  duration,  // "250ms" "30s" "2h"; min..max in nanoseconds
  size,  // "64MiB" or a number of bytes; min..max in bytes
  endpoint,  // "ipc://run/x.sock" or "tcp://127.0.0.1:5555"; an ipc path is relative to the dir
  http,  // "unix:run/x.http", "127.0.0.1:8790", a loopback port, "auto" (free port) or 0 (off)
  path,  // relative to the dir
  strings,  // max entries
  paths,  // max entries, relative to the dir
  amounts,  // table of name = number with at most four decimals; max entries
  endpoints,  // max entries
};

struct ConfigKey {
  std::string_view name;  // "broker.lease_ttl"
  ConfigType type;
  std::string_view fallback;  // the default, written as for --set
  int64_t min;
  int64_t max;
  std::string_view readers;  // processes that use it
  std::string_view help;  // one sentence
  std::string_view choices;  // "auto|text|json"
};

std::span<const ConfigKey> config_keys();

// Numbers of an `amounts` table are fixed-point, in units of 1/10,000.
using ConfigAmounts = std::map<std::string, int64_t>;
// Which member holds the value follows from the key's type; the others are empty.
struct ConfigValue {
  std::string text;  // string, choice, endpoint, http, path
  int64_t number = 0;  // integer, duration (ns), size (bytes), boolean (0 or 1)
  std::vector<std::string> list;
  ConfigAmounts amounts;
  bool operator==(const ConfigValue&) const = default;
};

struct ConfigSources {
  std::string process;  // "broker", ...: whose own endpoint must be safe to bind; empty: all
  std::string file;  // empty: no file
  std::string drop_in_dir;  // empty: none; else its *.toml in the order of their names
  std::string dir;  // base of relative paths; empty: folder of `file`, or the working folder
  std::vector<std::pair<std::string, std::string>> environment;  // see dray_environment()
  std::vector<std::string> sets;  // "key=value"
};

class Config {
 public:
  // A name that is not in the table, or has another type, is a bug of ours and aborts.
  const std::string& text(std::string_view name) const;  // string, choice, endpoint, http, path
  bool boolean(std::string_view name) const;
  int64_t integer(std::string_view name) const;
  uint64_t size(std::string_view name) const;
  Duration duration(std::string_view name) const;
  const std::vector<std::string>& strings(
      std::string_view name) const;  // strings, paths, endpoints
  const ConfigAmounts& amounts(std::string_view name) const;
  // "default", "dray.toml:12", "env DRAY_BROKER_LEASE_TTL" or "--set".
  const std::string& origin(std::string_view name) const;
  const ConfigValue& value(std::string_view name) const;
  const std::string& dir() const { return dir_; }
  // Rules between keys; one message for each broken rule.
  std::vector<std::string> validate(std::string_view process) const;

 private:
  friend Result<Config> load_config(const ConfigSources& sources);
  friend class ConfigLoader;
  struct Slot {
    ConfigValue value;
    std::string origin;
  };
  const ConfigValue& get(std::string_view name, std::initializer_list<ConfigType> types) const;
  std::vector<Slot> slots_;  // parallel to config_keys()
  std::string dir_;
};

// Reads every source, checks every value and rule. The error names all problems found, each with
// its place ("dray.toml:12: ...").
Result<Config> load_config(const ConfigSources& sources);

// The DRAY_* variables of this process.
std::vector<std::pair<std::string, std::string>> dray_environment();

// The effective values as TOML, each with its origin as a comment.
std::string print_config(const Config& config);

// The text of deploy/dray.toml: every key with its help, bounds and default, commented out.
std::string config_reference();

// Ok for ipc:// files and loopback tcp. Everything else is refused: there are no keys yet, so a
// public port would let anybody run tasks.
Status check_bind_endpoint(std::string_view endpoint);

}  // namespace dray
