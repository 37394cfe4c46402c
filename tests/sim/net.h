// Net: connections between the processes of a simulation. A connection delivers in order or breaks;
// a break loses any suffix in both directions, and what is kept may be read after packets of the
// next connection. The rules of a real port (common/net/port.h) hold: after a loss only a HELLO
// starts again, and each connection is a new peer for the listener.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/wire/link.h"
#include "tests/sim/world.h"

namespace dray::sim {

class Node;

class Net {
 public:
  Net(World& world, Duration delay_max) : world_(world), delay_max_(delay_max) {}

  void dial(Node& from, Port port, Node& to, Port listening);  // once per life of `from`
  void send(Node& from, Packet&& packet);
  void recreate(Node& from, Port port);  // closes the socket and makes a new one
  void on_death(Node& node);  // every connection of it breaks
  void on_leave(Node& node);  // the same, but what it said still arrives

  // Faults. A connection is chosen among those of `node`, or any.
  bool break_some(Node* node);
  bool hole_some(Node* node, bool up, bool down);  // loses all that follows, silently
  void partition(Node& a, Node& b, bool up, bool down, Duration until);
  bool has_hole(const Node& node, const Node& listener) const;
  void heal() { blocked_.clear(); }
  void set_delay(Duration max) { delay_max_ = max; }
  void set_repeat(uint64_t percent) { repeat_percent_ = percent; }
  // Names both ends of a connection that a fault hit since the last call.
  std::vector<Node*> take_hit() { return std::exchange(hit_, {}); }

 private:
  enum Dir { kUp = 0, kDown = 1 };  // kUp: dialer to listener
  struct Dial;
  struct Conn {
    uint64_t id = 0;
    Node* dialer = nullptr;
    Node* listener = nullptr;
    Dial* dial = nullptr;
    Port dport = 0;
    Port lport = 0;
    uint64_t dialer_life = 0;
    uint64_t listener_life = 0;
    uint64_t socket_no = 0;
    bool broken = false;
    bool dialer_left = false;  // in peace: all it said arrives
    bool hole[2] = {false, false};
    Duration listener_knows{0};  // broken: from here on sending says unreachable
    Duration late_until{0};  // broken: what is kept arrives after this
    Duration ready[2] = {};
    std::deque<Frames> flight[2];
  };
  struct Dial {
    Node* from = nullptr;
    Node* to = nullptr;
    Port port = 0;
    Port lport = 0;
    uint64_t life = 0;
    uint64_t socket_no = 0;
    uint64_t conn = 0;
    bool muted = false;
    std::deque<Frames> unsent;
  };

  Conn* find(uint64_t id);
  void connect_later(Dial& dial, Duration delay);
  void connect(Dial& dial, uint64_t socket_no);
  void push(Conn& conn, Dir dir, Frames frames);
  void arrive_all(Conn& conn);
  void deliver(uint64_t id, Dir dir);
  void break_conn(Conn& conn, bool dialer_notices);
  void part(Conn& conn, bool dialer_notices, Duration after);
  void lose(Dial& dial);
  void send_from_dialer(Dial& dial, Frames&& frames);
  Conn* choose(Node* node);
  Duration blocked_until(const Node* dialer, const Node* listener, Dir dir) const;

  World& world_;
  Duration delay_max_;
  uint64_t repeat_percent_ = 0;
  uint64_t next_conn_ = 1;
  std::map<uint64_t, Conn> conns_;
  std::map<std::pair<const Node*, Port>, std::unique_ptr<Dial>> dials_;  // looked up only
  std::map<std::pair<const Node*, const Node*>, std::pair<Duration, Duration>> blocked_;
  std::vector<Node*> hit_;
};

}  // namespace dray::sim
