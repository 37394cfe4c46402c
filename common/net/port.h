// Port: one socket of a process as links see it: packets in and out, peers instead of routing ids.
//
// The rule of both kinds: a session is delivered in order or it is closed. A packet that does not
// fit waits in a bounded queue and everything later for that peer waits behind it. If the queue
// overflows or the connection is lost, the waiting packets are dropped, an Unreachable is reported
// (the host closes the session), and nothing more is sent for the old session.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/net/monitor.h"
#include "common/net/socket.h"
#include "common/wire/link.h"

namespace dray {

constexpr size_t kPendingBytesMax = 64 * 1024 * 1024;  // per peer
constexpr size_t kPendingPacketsMax = 10'000;  // per peer
constexpr size_t kPeersRemembered = 32 * 1024;  // per listening port

struct Unreachable {
  Port port = 0;
  Peer peer = 0;
};

struct PortCounters {
  uint64_t sent = 0;
  uint64_t received = 0;
  uint64_t busy = 0;  // packets that had to wait
  uint64_t bad = 0;  // messages dropped on receive: too many frames, too large, chosen routing id
  uint64_t lost = 0;  // packets dropped with their session
};

// Packets that wait for one peer.
class PendingQueue {
 public:
  bool empty() const { return !queue_ || queue_->empty(); }
  bool push(Frames&& frames);  // false: the bound is reached
  const Frames& front() const { return queue_->front().frames; }
  void pop();
  size_t clear();  // returns how many were dropped
  bool ends_with(Kind kind) const;

 private:
  struct Item {
    Frames frames;
    size_t bytes;
  };
  std::unique_ptr<std::deque<Item>> queue_;  // an empty deque is not small
  size_t bytes_ = 0;
};

// A listening ROUTER.
class ListenPort {
 public:
  ListenPort(Port port, SocketOptions options) : port_(port), options_(options) {}

  Status open(const Context& context);
  // ipc:// folders are created 0700; tcp://127.0.0.1:0 takes a free port. May be repeated.
  Status bind(const std::string& endpoint);
  void close(Duration linger);
  int monitor_fd() const { return monitor_.fd(); }
  // Whether somebody's connection ended since the last call. Who it was shows when something is
  // sent there, a moment later.
  bool take_departures() { return monitor_.take(); }
  const std::vector<std::string>& endpoints() const { return endpoints_; }  // as really bound

  Received receive(Packet& packet);
  void send(Packet&& packet);
  bool retry();  // sends what waits; true if something moved
  bool has_pending() const { return !busy_peers_.empty(); }
  void forget(Peer peer);  // its handle is never used again
  size_t peers() const { return peers_.size(); }

  Socket& socket() { return socket_; }
  const PortCounters& counters() const { return counters_; }
  std::vector<Unreachable> unreachable;  // consumed and cleared by the host

 private:
  struct PeerState {
    Peer handle = 0;
    uint64_t used = 0;
    std::string routing_id;
    InFlight in_flight;
    PendingQueue pending;
  };
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  PeerState& peer_of(const std::string& routing_id);
  bool flush(PeerState& peer);
  void fail(Peer peer);
  void left(Peer peer);
  void make_room();

  Port port_;
  SocketOptions options_;
  Socket socket_;
  Monitor monitor_;
  std::vector<std::string> endpoints_;
  std::unordered_map<Peer, PeerState> peers_;
  std::unordered_map<std::string, PeerState*, Hash, std::equal_to<>> by_routing_id_;
  std::vector<Peer> busy_peers_;
  std::vector<Peer> left_peers_;  // what they said is still to be read, under their handles
  Peer next_peer_ = 1;
  uint64_t use_ = 0;
  std::string address_;
  PortCounters counters_;
};

// A dialing DEALER: one endpoint, never more.
class DialPort {
 public:
  DialPort(Port port, std::string endpoint, SocketOptions options)
      : port_(port), endpoint_(std::move(endpoint)), options_(options) {}

  Status open(const Context& context);
  // A new socket. Whatever waited is dropped; nothing is sent before the next HELLO.
  void recreate();
  void close(Duration linger);
  // Looks whether the connection was lost; if so the session is over, like any unreachable peer's.
  void check_connection();
  int monitor_fd() const { return monitor_.fd(); }

  Received receive(Packet& packet);
  void send(Packet&& packet);
  bool retry();
  bool has_pending() const { return !pending_.empty() || !socket_.is_open(); }

  Socket& socket() { return socket_; }
  const PortCounters& counters() const { return counters_; }
  std::vector<Unreachable> unreachable;

 private:
  Status connect();
  void fail();

  Port port_;
  std::string endpoint_;
  SocketOptions options_;
  const Context* context_ = nullptr;
  Socket socket_;
  Monitor monitor_;
  InFlight in_flight_;
  PendingQueue pending_;
  bool muted_ = false;  // the session was given up: only a HELLO may follow
  std::string address_;
  PortCounters counters_;
};

}  // namespace dray
