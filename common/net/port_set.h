// PortSet: all ports of one process behind one wait, with fair reading.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/net/context.h"
#include "common/net/port.h"
#include "common/net/wake.h"

namespace dray {

struct ListenSpec {
  Port port = 0;
  std::string endpoint;  // several specs with one port: one socket with several endpoints
};
struct DialSpec {
  Port port = 0;
  std::string endpoint;
  Role role = Role::broker;  // of the peer
};

class PortSet {
 public:
  PortSet();
  ~PortSet();
  PortSet(const PortSet&) = delete;
  PortSet& operator=(const PortSet&) = delete;

  Status open(const std::vector<ListenSpec>& listen, const std::vector<DialSpec>& dial,
              const SocketOptions& options = {}, int io_threads = 1);
  // The messages already accepted get this long to leave.
  void close(Duration linger);
  std::string endpoint(Port port, size_t index = 0) const;  // of a listening port, as bound

  // Next packet in fair rotation. `none`: nothing waits at any port, until the next wait(); without
  // `all` something may wait that the next wait() finds.
  Received receive(Packet& packet, bool all = true);
  bool drained() const { return ready_.empty(); }

  void send(Packet&& packet);
  void recreate(Port port);  // a dialing port
  void retry();  // packets that wait for a peer
  bool has_pending() const;
  // Whether a connection to a listening port ended since the last call.
  bool take_departures() { return std::exchange(departures_, false); }
  bool take_unreachable(std::vector<Unreachable>& out);  // false if there was none

  // Sleeps until something can be received, `wake` is signalled or the time is over. Does not sleep
  // if something is waiting. Returns true if it slept.
  bool wait(Duration timeout, Wake& wake);

  PortCounters counters() const;  // sums
  uint64_t missed() const { return missed_; }  // input found by the safety tick only; must stay 0

 private:
  struct Slot;
  void mark_ready(Slot& slot);
  bool check_all();
  void watch(int wake_fd);

  Context context_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::array<Slot*, 256> by_port_{};
  std::vector<Slot*> ready_;  // front is read next
  int burst_ = 0;
  int calm_ = 0;  // sleeps in a row that one packet ended
  size_t since_sleep_ = 0;  // packets
  int epoll_ = -1;
  uint64_t watched_generation_ = 0;  // of the sockets in the epoll set, summed; 0: watch anew
  int watched_wake_ = -1;
  uint64_t missed_ = 0;
  bool departures_ = false;
};

}  // namespace dray
