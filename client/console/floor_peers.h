// The two bare processes of the call floor: a ZeroMQ forwarder and an echo worker behind it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace dray::console {

class Context;

// Starts this program twice more, with a hidden command; ends them when destroyed.
class FloorPeers {
 public:
  explicit FloorPeers(bool tcp);  // throws Failure
  ~FloorPeers();
  FloorPeers(const FloorPeers&) = delete;
  FloorPeers& operator=(const FloorPeers&) = delete;
  const std::string& endpoint() const { return clients_; }
  const std::vector<pid_t>& pids() const { return pids_; }

 private:
  void start(const std::string& role);
  std::string folder_, clients_, workers_;
  std::vector<pid_t> pids_;
};

// The hidden command.
void add_floor_peer(CLI::App& bench, Context& context);

}  // namespace dray::console
