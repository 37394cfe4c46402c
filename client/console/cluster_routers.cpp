// The routers of a local cluster: where they listen, what that means for the settings of the
// others, and the supervisord programs of the second and up.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "client/console/cluster_dir.h"
#include "client/console/context.h"

namespace dray::console {
namespace fs = std::filesystem;
namespace {

// Below the ports that the kernel gives to outgoing connections: a router that is started again
// must find its port free.
constexpr int kFirstPort = 20'000;
constexpr int kLastPort = 32'000;

bool is_free(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(static_cast<uint16_t>(port));
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool ok = fd >= 0 && ::bind(fd, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0;
  if (fd >= 0) ::close(fd);
  return ok;
}

// As the program router in deploy/supervisord.conf.
std::string program_of(const RouterAddress& r) {
  return "[program:" + r.name +
         "]\n"
         "command=%(ENV_DRAY_BIN)s/dray-router --config %(ENV_DRAY_DIR)s/dray.toml --dir "
         "%(ENV_DRAY_DIR)s --set router.name=" +
         r.name + " --set router.endpoint=" + r.clients +
         " --set router.worker_endpoint=" + r.workers +
         "\n"
         "priority=300\n"
         "autorestart=true\n"
         "startsecs=1\n"
         "startretries=1000000\n"
         "stopsignal=TERM\n"
         "stopwaitsecs=20\n"
         "killasgroup=true\n"
         "redirect_stderr=true\n"
         "stdout_logfile=%(ENV_DRAY_DIR)s/log/%(program_name)s.log\n"
         "stdout_logfile_maxbytes=20MB\n"
         "stdout_logfile_backups=5\n";
}

}  // namespace

std::string free_loopback_endpoint() {
  // Two clusters that start at the same time look at different places.
  static int next = kFirstPort + static_cast<int>(::getpid()) * 37 % (kLastPort - kFirstPort);
  for (int tries = 0; tries < kLastPort - kFirstPort; ++tries) {
    const int port = next;
    next = next + 1 < kLastPort ? next + 1 : kFirstPort;
    if (is_free(port)) return "tcp://127.0.0.1:" + std::to_string(port);
  }
  throw Failure{kTaskFailed, "no loopback port is free", "use sockets: leave out --tcp"};
}

std::vector<std::string> UpSettings::all_sets() const {
  if (routers.empty()) return sets;
  std::string workers_list;
  for (const auto& r : routers) workers_list += (workers_list.empty() ? "" : ",") + r.workers;
  std::vector<std::string> all{"router.endpoint=" + routers[0].clients,
                               "router.worker_endpoint=" + routers[0].workers,
                               "worker.routers=" + workers_list};
  all.insert(all.end(), sets.begin(), sets.end());
  return all;
}

std::vector<RouterAddress> ClusterDir::plan_routers(int count, bool tcp) const {
  std::vector<RouterAddress> list;
  for (int i = 0; i < count; ++i) {
    const std::string name = i == 0 ? "router" : "router-" + std::to_string(i);
    const std::string base = "ipc://" + file("run/" + name);
    if (tcp)
      list.push_back({name, free_loopback_endpoint(), free_loopback_endpoint()});
    else
      list.push_back({name, base + ".sock", base + "-workers.sock"});
  }
  return list;
}

void ClusterDir::write_routers(const std::vector<RouterAddress>& routers) const {
  std::error_code ec;
  std::vector<fs::path> old;  // of an earlier `dray up`
  for (const auto& entry : fs::directory_iterator(path() + "/run", ec))
    if (entry.path().extension() == ".conf") old.push_back(entry.path());
  for (const auto& path : old) fs::remove(path, ec);
  for (size_t i = 1; i < routers.size(); ++i)
    write_file(path() + "/run/" + routers[i].name + ".conf", program_of(routers[i]));
}

}  // namespace dray::console
