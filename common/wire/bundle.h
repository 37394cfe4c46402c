// Bundle: several small messages to one peer as one ZeroMQ frame. What one turn says to a peer
// leaves together, so the price of a ZeroMQ message (two thread hand-overs, several locks) is paid
// once. Nothing waits for company: a bundle is closed at the end of the turn that opened it.
//
// Bytes: 0xC1 0xFF 0 0, then for each message its size (u32) and the message as one frame: its head
// if that is all it has, else its compact form (compact.h).
#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/wire/compact.h"
#include "common/wire/link.h"

namespace dray {

constexpr size_t kBundleBytesMax = 32 * 1024;

bool is_bundle(const Bytes& frame);
// Takes the next message out of a bundle. `at` starts at 0. False: no more, or `bad`.
bool next_in_bundle(const Bytes& bundle, size_t& at, Frames& out, bool& bad);

class Bundler {
 public:
  // Calls send(Packet&&) for what is ready: per peer in the order of add(). Link verbs travel
  // alone, because a HELLO starts a new conversation.
  template <class Send>
  void add(Packet&& packet, Send&& send) {
    size_t size = bundled_size(packet.frames);
    Open& open = open_for(packet.port, packet.peer);
    if (!open.packets.empty() && (size == 0 || open.bytes + size > kBundleBytesMax))
      close(open, send);
    if (size == 0) return send(std::move(packet));
    open.bytes += size;
    open.packets.push_back(std::move(packet));
  }
  template <class Send>
  void flush(Send&& send) {
    for (size_t i = 0; i < used_; ++i) close(opens_[i], send);
    used_ = 0;
    by_peer_.clear();
  }

 private:
  struct Open {
    std::vector<Packet> packets;
    size_t bytes = 0;
  };
  template <class Send>
  void close(Open& open, Send&& send) {
    if (open.packets.size() == 1) {
      send(std::move(open.packets[0]));
    } else if (!open.packets.empty()) {
      send(join(open.packets, open.bytes));
    }
    open.packets.clear();
    open.bytes = 0;
  }
  static size_t bundled_size(const Frames& frames);  // with its size field; 0: travels alone
  static Packet join(const std::vector<Packet>& packets, size_t bytes);
  Open& open_for(Port port, Peer peer);

  std::vector<Open> opens_;  // the first used_ belong to this turn; the others keep their memory
  size_t used_ = 0;
  std::unordered_map<uint64_t, size_t> by_peer_;
};

}  // namespace dray
