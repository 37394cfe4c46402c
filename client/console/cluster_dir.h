// ClusterDir: the folder of one local cluster: where it is, what lies in it, its settings.
//
//   dray.toml supervisord.conf       settings; written by the first `dray up`, then yours
//   run/ log/ data/                  sockets and pids; logs; journal and results
//   run/cluster                      what the last `dray up` was given (workers, routers, --set)
//   run/router-N.conf                programs of the second router and up, for supervisord
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/service/config.h"

namespace dray::console {

// Where one router listens.
struct RouterAddress {
  std::string name;  // "router", "router-1", ...
  std::string clients;
  std::string workers;
};

struct UpSettings {
  int workers = 1;
  std::vector<std::string> sets;  // "key=value", as given
  std::vector<RouterAddress> routers;  // empty: one, where the settings say
  // `sets`, after those that follow from `routers`.
  std::vector<std::string> all_sets() const;
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
  // The first `count` routers of this folder: on sockets in run/, or on free loopback ports.
  std::vector<RouterAddress> plan_routers(int count, bool tcp) const;
  // Writes run/router-N.conf for all routers but the first.
  void write_routers(const std::vector<RouterAddress>& routers) const;
  void save(const UpSettings& settings) const;
  UpSettings saved() const;

  // The settings in effect for `sets`; throws Failure (kUsage) when they are bad.
  Config config(const std::vector<std::string>& sets) const;
  Config config() const { return config(saved().all_sets()); }
  // For clients; of all routers, with commas between.
  std::string endpoint() const;
  // All routers, as the settings in effect say.
  std::vector<RouterAddress> routers() const;
  std::vector<ServiceAddress> services(const Config& config, const UpSettings& settings) const;

 private:
  std::string path_, short_;
};

// "tcp://127.0.0.1:PORT"; a different one each time. Throws Failure.
std::string free_loopback_endpoint();
std::optional<std::string> read_file(const std::string& path, size_t max_bytes);
// Whole or not at all. Throws Failure.
void write_file(const std::string& path, const std::string& text);

}  // namespace dray::console
