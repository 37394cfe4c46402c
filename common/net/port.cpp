// Port: peers, waiting packets and what happens when a peer does not take them.
#include "common/net/port.h"

#include <algorithm>

#include "common/net/endpoint.h"

namespace dray {
namespace {
constexpr size_t kRoutingIdBytes = 5;  // made by libzmq: a zero byte and a counter

bool is_kind(const Frames& frames, Kind kind) {
  auto envelope = decode_envelope(frames);
  return envelope && envelope->kind == kind;
}
size_t bytes_of(const Frames& frames) {
  size_t bytes = 0;
  for (uint8_t i = 0; i < frames.count; ++i) bytes += frames.frame[i].size();
  return bytes;
}
}  // namespace

// --- PendingQueue ------------------------------------------------------------------------------

bool PendingQueue::push(Frames&& frames) {
  size_t bytes = bytes_of(frames);
  if (!queue_) queue_ = std::make_unique<std::deque<Item>>();
  if (queue_->size() >= kPendingPacketsMax || bytes_ + bytes > kPendingBytesMax) return false;
  bytes_ += bytes;
  queue_->push_back({std::move(frames), bytes});
  return true;
}

void PendingQueue::pop() {
  bytes_ -= queue_->front().bytes;
  queue_->pop_front();
  if (queue_->empty()) queue_.reset();
}

size_t PendingQueue::clear() {
  size_t dropped = queue_ ? queue_->size() : 0;
  queue_.reset();
  bytes_ = 0;
  return dropped;
}

bool PendingQueue::ends_with(Kind kind) const {
  return !empty() && is_kind(queue_->back().frames, kind);
}

// --- ListenPort --------------------------------------------------------------------------------

Status ListenPort::open(const Context& context) {
  DRAY_TRY(socket_.open(context, Socket::Type::listener, options_));
  Status status = monitor_.open(context, socket_);
  if (!status) close(Duration::zero());
  return status;
}

void ListenPort::close(Duration linger) {
  monitor_.close();
  socket_.close(linger);
}

Status ListenPort::bind(const std::string& endpoint) {
  DRAY_TRY(prepare_listen(endpoint));
  DRAY_TRY(socket_.bind(endpoint));
  DRAY_TRY(restrict_listen(endpoint));
  endpoints_.push_back(socket_.last_endpoint());
  return {};
}

ListenPort::PeerState& ListenPort::peer_of(const std::string& routing_id) {
  auto found = by_routing_id_.find(routing_id);
  if (found != by_routing_id_.end()) return *found->second;
  if (peers_.size() >= kPeersRemembered) make_room();
  Peer handle = next_peer_++;
  PeerState& peer = peers_[handle];
  peer.handle = handle;
  peer.routing_id = routing_id;
  by_routing_id_[routing_id] = &peer;
  return peer;
}

// Forgets the eighth of the peers that were silent longest. Peers with a session beat, so these are
// connections that ended.
void ListenPort::make_room() {
  std::vector<std::pair<uint64_t, Peer>> idle;
  for (const auto& [handle, peer] : peers_)
    if (peer.pending.empty()) idle.emplace_back(peer.used, handle);
  size_t n = std::min(idle.size(), kPeersRemembered / 8);
  std::partial_sort(idle.begin(), idle.begin() + static_cast<std::ptrdiff_t>(n), idle.end());
  for (size_t i = 0; i < n; ++i) forget(idle[i].second);
}

Received ListenPort::receive(Packet& packet) {
  Received result = socket_.receive(packet.frames, address_);
  if (result == Received::none) {
    for (Peer handle : std::exchange(left_peers_, {})) forget(handle);
    return result;
  }
  // Routing ids are made by our side. A peer that chose one could come back under it after a loss.
  if (result == Received::dropped || address_.size() != kRoutingIdBytes || address_[0] != '\0') {
    ++counters_.bad;
    return Received::dropped;
  }
  PeerState& peer = peer_of(address_);
  peer.used = ++use_;
  packet.port = port_;
  packet.peer = peer.handle;
  ++counters_.received;
  return Received::packet;
}

void ListenPort::send(Packet&& packet) {
  auto found = peers_.find(packet.peer);
  if (found == peers_.end()) {
    ++counters_.lost;
    unreachable.push_back({port_, packet.peer});
    return;
  }
  PeerState& peer = found->second;
  peer.used = ++use_;
  if (peer.pending.empty()) {
    SendResult result = socket_.send(peer.routing_id, packet.frames, peer.in_flight);
    if (result == SendResult::sent) {
      ++counters_.sent;
      return;
    }
    if (result == SendResult::gone) return left(packet.peer);
    busy_peers_.push_back(packet.peer);
  }
  ++counters_.busy;
  if (!peer.pending.push(std::move(packet.frames))) fail(packet.peer);
}

// Returns false if the peer is gone.
bool ListenPort::flush(PeerState& peer) {
  while (!peer.pending.empty()) {
    SendResult result = socket_.send(peer.routing_id, peer.pending.front(), peer.in_flight);
    if (result == SendResult::busy) return true;
    if (result == SendResult::gone) return false;
    ++counters_.sent;
    peer.pending.pop();
  }
  return true;
}

bool ListenPort::retry() {
  if (busy_peers_.empty()) return false;
  uint64_t before = counters_.sent;
  std::vector<Peer> gone;
  std::erase_if(busy_peers_, [&](Peer handle) {
    auto found = peers_.find(handle);
    if (found == peers_.end()) return true;
    if (!flush(found->second)) gone.push_back(handle);
    return found->second.pending.empty();
  });
  for (Peer handle : gone) left(handle);
  return counters_.sent != before;
}

// Its connection is over. The socket may hold what it said before.
void ListenPort::left(Peer handle) {
  auto found = peers_.find(handle);
  if (found != peers_.end()) counters_.lost += found->second.pending.clear() + 1;
  std::erase(busy_peers_, handle);
  if (std::find(left_peers_.begin(), left_peers_.end(), handle) == left_peers_.end())
    left_peers_.push_back(handle);
  unreachable.push_back({port_, handle});
}

// A message for it is lost: nothing that it says counts any more.
void ListenPort::fail(Peer handle) {
  auto found = peers_.find(handle);
  if (found != peers_.end()) counters_.lost += found->second.pending.clear() + 1;
  forget(handle);
  unreachable.push_back({port_, handle});
}

void ListenPort::forget(Peer handle) {
  auto found = peers_.find(handle);
  if (found == peers_.end()) return;
  by_routing_id_.erase(found->second.routing_id);
  peers_.erase(found);
  std::erase(busy_peers_, handle);
}

// --- DialPort ----------------------------------------------------------------------------------

Status DialPort::open(const Context& context) {
  DRAY_TRY(check_endpoint(endpoint_));
  context_ = &context;
  return connect();
}

Status DialPort::connect() {
  in_flight_.reset();
  DRAY_TRY(socket_.open(*context_, Socket::Type::dialer, options_));
  Status status = monitor_.open(*context_, socket_);
  if (status) status = socket_.connect(endpoint_);
  if (!status) close(Duration::zero());
  return status;
}

void DialPort::close(Duration linger) {
  monitor_.close();
  socket_.close(linger);
}

void DialPort::check_connection() {
  if (!monitor_.take()) return;
  // A waiting HELLO belongs to no connection yet.
  if (!pending_.empty() && is_kind(pending_.front(), Kind::hello)) return;
  fail();
}

void DialPort::recreate() {
  counters_.lost += pending_.clear();
  muted_ = true;
  close(Duration::zero());
  (void)connect();  // out of descriptors: retry() tries again
}

Received DialPort::receive(Packet& packet) {
  Received result = socket_.receive(packet.frames, address_);
  packet.port = port_;
  packet.peer = 0;
  if (result == Received::packet) ++counters_.received;
  if (result == Received::dropped) ++counters_.bad;
  return result;
}

void DialPort::send(Packet&& packet) {
  if (muted_ || !pending_.empty()) {
    // A HELLO starts a new conversation: whatever waits belongs to one that is over. So HELLOs
    // never pile up while nobody listens.
    if (is_kind(packet.frames, Kind::hello)) {
      counters_.lost += pending_.clear();
      muted_ = false;
    } else if (muted_) {
      ++counters_.lost;
      return;
    } else if (is_kind(packet.frames, Kind::beat) && pending_.ends_with(Kind::beat)) {
      return;
    }
  }
  if (pending_.empty()) {
    SendResult result = socket_.send({}, packet.frames, in_flight_);
    if (result == SendResult::sent) {
      ++counters_.sent;
      return;
    }
    if (result == SendResult::gone) return fail();
  }
  ++counters_.busy;
  if (pending_.push(std::move(packet.frames))) return;
  ++counters_.lost;
  fail();
}

bool DialPort::retry() {
  if (!socket_.is_open() && !connect()) return false;
  uint64_t before = counters_.sent;
  while (!pending_.empty()) {
    SendResult result = socket_.send({}, pending_.front(), in_flight_);
    if (result == SendResult::busy) break;
    if (result == SendResult::gone) {
      fail();
      break;
    }
    ++counters_.sent;
    pending_.pop();
  }
  return counters_.sent != before;
}

void DialPort::fail() {
  counters_.lost += pending_.clear();
  muted_ = true;
  unreachable.push_back({port_, 0});
}

}  // namespace dray
