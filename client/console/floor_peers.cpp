// Life of the floor's processes and what they run.
#include "client/console/floor_peers.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "client/console/cluster_dir.h"
#include "client/console/context.h"
#include "common/net/floor.h"

namespace dray::console {

FloorPeers::FloorPeers(bool tcp) {
  if (tcp) {
    clients_ = free_loopback_endpoint();
    workers_ = free_loopback_endpoint();
  } else {
    char name[] = "/tmp/dray-floor-XXXXXX";
    if (::mkdtemp(name) == nullptr)
      throw Failure{kTaskFailed, "cannot make a folder in /tmp", "leave out the floor: --no-floor"};
    folder_ = name;
    clients_ = "ipc://" + folder_ + "/clients";
    workers_ = "ipc://" + folder_ + "/workers";
  }
  start("forwarder");
  start("worker");
}

FloorPeers::~FloorPeers() {
  for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
  for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
  std::error_code ec;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ec);
}

void FloorPeers::start(const std::string& role) {
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0)
    throw Failure{kTaskFailed, "cannot start a process", "is the machine out of memory?"};
  if (pid > 0) return pids_.push_back(pid);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  ::execl("/proc/self/exe", "dray", "bench", "floor-peer", role.c_str(), clients_.c_str(),
          workers_.c_str(), nullptr);
  ::_exit(127);
}

void add_floor_peer(CLI::App& bench, Context& context) {
  struct Peer {
    std::string role, clients, workers;
  };
  auto peer = std::make_shared<Peer>();
  CLI::App* cmd = bench.add_subcommand("floor-peer", "A bare process for `dray bench call`");
  cmd->group("");  // not in the help
  cmd->add_option("role", peer->role)->required()->check(CLI::IsMember({"forwarder", "worker"}));
  cmd->add_option("clients", peer->clients)->required();
  cmd->add_option("workers", peer->workers)->required();
  cmd->callback([&context, peer] {
    context.action = [peer] {
      std::atomic<bool> never{false};  // ends by a signal
      const Status done = peer->role == "worker"
                              ? run_floor_worker(peer->workers, never)
                              : run_floor_forwarder(peer->clients, peer->workers, never);
      if (!done) throw Failure{kTaskFailed, done.error().detail, ""};
      return kOk;
    };
  });
}

}  // namespace dray::console
