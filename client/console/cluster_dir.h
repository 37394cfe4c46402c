// ClusterDir: the folder of one local cluster: where it is, what lies in it, its settings.
//
//   dray.toml supervisord.conf       settings; written by the first `dray up`, then yours
//   run/ log/ data/                  sockets and pids; logs; journal and results
//   run/cluster                      what the last `dray up` was given (workers, --set)
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/service/config.h"

namespace dray::console {

struct UpSettings {
  int workers = 1;
  std::vector<std::string> sets;  // "key=value"
};

struct ServiceAddress {
  std::string name;  // "broker", "worker-0"
  std::string http;  // "unix:/path" or "127.0.0.1:port"; empty: off
};

class ClusterDir {
 public:
  // `given` is --dir; empty: $DRAY_DIR, else ~/.dray.
  explicit ClusterDir(const std::string& given);

  const std::string& path() const { return path_; }  // as the user knows it
  // The path the processes get: a short link when socket paths would be too long.
  const std::string& short_path() const { return short_; }
  bool is_linked() const { return short_ != path_; }
  std::string file(const std::string& name) const { return short_ + "/" + name; }
  bool exists() const;  // `dray up` was here

  // Creates folders, link and files. Throws Failure.
  void create() const;
  void save(const UpSettings& settings) const;
  UpSettings saved() const;

  // The settings in effect for `sets`; throws Failure (kUsage) when they are bad.
  Config config(const std::vector<std::string>& sets) const;
  Config config() const { return config(saved().sets); }
  std::string endpoint() const;  // of the router, for clients
  std::vector<ServiceAddress> services(const Config& config, int workers) const;

 private:
  std::string path_, short_;
};

std::optional<std::string> read_file(const std::string& path, size_t max_bytes);
// Whole or not at all. Throws Failure.
void write_file(const std::string& path, const std::string& text);

}  // namespace dray::console
