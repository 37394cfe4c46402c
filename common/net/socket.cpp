// Socket: libzmq options, frames <-> zmq messages.
#include "common/net/socket.h"

#include <zmq.h>

#include <cerrno>
#include <cstring>

#include "common/base/limits.h"
#include "common/wire/compact.h"

namespace dray {
namespace {
constexpr size_t kCopyInBelow = 4096;  // smaller frames would pin an 8 KiB receive buffer
constexpr size_t kCopyOutBelow = 512;  // smaller frames cost less to copy than to share
constexpr size_t kMessageBytesMax = kHeadBytesMax + kRowsBytesMax + kFrameBytesMax;

Error zmq_failure(const std::string& what) {
  return make_error(Errc::io, what + ": " + zmq_strerror(zmq_errno()));
}

struct Option {
  int name;
  int value;
};
// For every socket. ZMQ_HEARTBEAT_* stays unset on purpose: it can abort the process (#3937).
constexpr Option kCommon[] = {
    {ZMQ_LINGER, 0},
    {ZMQ_SNDTIMEO, 0},
    {ZMQ_RCVTIMEO, 0},
    {ZMQ_TCP_MAXRT, 15'000},
    {ZMQ_TCP_KEEPALIVE, 1},
    {ZMQ_TCP_KEEPALIVE_IDLE, 15},
    {ZMQ_TCP_KEEPALIVE_INTVL, 5},
    {ZMQ_TCP_KEEPALIVE_CNT, 3},
    {ZMQ_HANDSHAKE_IVL, 5000},
    {ZMQ_CONNECT_TIMEOUT, 5000},
};
constexpr Option kListener[] = {
    {ZMQ_ROUTER_MANDATORY, 1},
    {ZMQ_ROUTER_HANDOVER, 0},
    {ZMQ_BACKLOG, 4096},
};
// All peers are on this machine until there are keys, so knocking is cheap: 50 ms to 1 s instead of
// the sheet's 200 ms to 10 s, which is meant for connections with keys over a network.
constexpr Option kDialer[] = {
    {ZMQ_IMMEDIATE, 1},
    {ZMQ_RECONNECT_IVL, 50},
    {ZMQ_RECONNECT_IVL_MAX, 1000},
};

bool set(void* socket, int name, int value) {
  return zmq_setsockopt(socket, name, &value, sizeof value) == 0;
}
template <size_t N>
bool set_all(void* socket, const Option (&options)[N]) {
  for (const Option& o : options)
    if (!set(socket, o.name, o.value)) return false;
  return true;
}

struct OwnedMessage {
  zmq_msg_t message;
  OwnedMessage() { zmq_msg_init(&message); }
  ~OwnedMessage() { zmq_msg_close(&message); }
  OwnedMessage(const OwnedMessage&) = delete;
  OwnedMessage& operator=(const OwnedMessage&) = delete;
};

Bytes take_frame(zmq_msg_t& message) {
  size_t size = zmq_msg_size(&message);
  if (size == 0) return {};
  if (size < kCopyInBelow) {
    auto memory = std::make_shared_for_overwrite<char[]>(size);
    char* data = memory.get();
    std::memcpy(data, zmq_msg_data(&message), size);
    return Bytes(std::move(memory), data, size);
  }
  auto owner = std::make_shared<OwnedMessage>();
  zmq_msg_move(&owner->message, &message);
  const char* data = static_cast<const char*>(zmq_msg_data(&owner->message));
  return Bytes(std::move(owner), data, size);
}

struct SharedFrame {
  Bytes bytes;
  InFlight in_flight;
};
void release_frame(void*, void* hint) {  // runs on an I/O thread
  auto* frame = static_cast<SharedFrame*>(hint);
  frame->in_flight->fetch_sub(frame->bytes.size(), std::memory_order_relaxed);
  delete frame;
}

void fill(zmq_msg_t& message, const Bytes& bytes, InFlight& in_flight) {
  if (bytes.size() < kCopyOutBelow) {
    zmq_msg_init_size(&message, bytes.size());
    std::memcpy(zmq_msg_data(&message), bytes.data(), bytes.size());
    return;
  }
  if (!in_flight) in_flight = std::make_shared<std::atomic<uint64_t>>(0);
  in_flight->fetch_add(bytes.size(), std::memory_order_relaxed);
  auto* frame = new SharedFrame{bytes, in_flight};
  // libzmq only reads it.
  zmq_msg_init_data(&message, const_cast<char*>(bytes.data()), bytes.size(), release_frame, frame);
}

// Sends one part; the message is consumed either way.
bool send_part(void* socket, zmq_msg_t& message, bool more) {
  int flags = ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0);
  while (zmq_msg_send(&message, socket, flags) < 0) {
    if (zmq_errno() == EINTR) continue;
    int error = zmq_errno();
    zmq_msg_close(&message);
    errno = error;
    return false;
  }
  return true;
}
}  // namespace

Status Socket::open(const Context& context, Type type, const SocketOptions& options) {
  close(Duration::zero());
  listener_ = type == Type::listener;
  in_flight_max_ = options.in_flight_bytes;
  socket_ = zmq_socket(context.native(), listener_ ? ZMQ_ROUTER : ZMQ_DEALER);
  if (!socket_) return zmq_failure("zmq socket");
  ++generation_;
  int64_t largest = kFrameBytesMax;
  bool ok = set_all(socket_, kCommon) && set(socket_, ZMQ_SNDHWM, options.send_high_water) &&
            set(socket_, ZMQ_RCVHWM, options.receive_high_water) &&
            zmq_setsockopt(socket_, ZMQ_MAXMSGSIZE, &largest, sizeof largest) == 0;
  ok = ok && (listener_ ? set_all(socket_, kListener) : set_all(socket_, kDialer));
  size_t size = sizeof fd_;
  ok = ok && zmq_getsockopt(socket_, ZMQ_FD, &fd_, &size) == 0;
  if (!ok) {
    Error error = zmq_failure("zmq socket options");
    close(Duration::zero());
    return error;
  }
  return {};
}

void Socket::close(Duration linger) {
  if (!socket_) return;
  set(socket_, ZMQ_LINGER, static_cast<int>(to_ms(linger)));
  zmq_close(socket_);
  socket_ = nullptr;
  fd_ = -1;
  ++generation_;
}

Status Socket::bind(const std::string& endpoint) {
  set(socket_, ZMQ_IPV6, endpoint.find('[') != endpoint.npos);
  if (zmq_bind(socket_, endpoint.c_str()) != 0) return zmq_failure("listen on " + endpoint);
  return {};
}

Status Socket::connect(const std::string& endpoint) {
  set(socket_, ZMQ_IPV6, endpoint.find('[') != endpoint.npos);
  if (zmq_connect(socket_, endpoint.c_str()) != 0) return zmq_failure("connect to " + endpoint);
  return {};
}

std::string Socket::last_endpoint() const {
  char text[512];
  size_t size = sizeof text;
  if (zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, text, &size) != 0 || size == 0) return {};
  return std::string(text, size - 1);
}

bool Socket::readable() const {
  if (!socket_) return false;
  int events = 0;
  size_t size = sizeof events;
  while (zmq_getsockopt(socket_, ZMQ_EVENTS, &events, &size) != 0)
    if (zmq_errno() != EINTR) return false;
  return (events & ZMQ_POLLIN) != 0;
}

Received Socket::receive(Frames& frames, std::string& address) {
  frames.count = 0;
  if (!socket_) return Received::none;
  if (!listener_) return receive_rest(frames);
  zmq_msg_t message;
  zmq_msg_init(&message);
  while (zmq_msg_recv(&message, socket_, ZMQ_DONTWAIT) < 0) {
    if (zmq_errno() == EINTR) continue;
    zmq_msg_close(&message);
    return Received::none;
  }
  address.assign(static_cast<const char*>(zmq_msg_data(&message)), zmq_msg_size(&message));
  bool more = zmq_msg_more(&message) != 0;
  zmq_msg_close(&message);
  return more ? receive_rest(frames) : Received::dropped;
}

Received Socket::receive_rest(Frames& frames) {
  zmq_msg_t message;
  zmq_msg_init(&message);
  size_t total = 0;
  bool good = true;
  for (bool first = true, more = true; more; first = false) {
    while (zmq_msg_recv(&message, socket_, ZMQ_DONTWAIT) < 0) {
      if (zmq_errno() == EINTR) continue;
      zmq_msg_close(&message);
      return first && !listener_ ? Received::none : Received::dropped;
    }
    more = zmq_msg_more(&message) != 0;
    total += zmq_msg_size(&message);
    good = good && frames.count < kFramesMax && total <= kMessageBytesMax;
    if (good) frames.frame[frames.count++] = take_frame(message);
  }
  zmq_msg_close(&message);
  if (good && frames.count == 1 && is_compact(frames.frame[0])) {
    Bytes whole = frames.frame[0];
    good = split_compact(whole, frames);
  }
  for (size_t i = good ? frames.count : 0; i < kFramesMax; ++i) frames.frame[i] = {};
  if (!good) frames.count = 0;
  return good ? Received::packet : Received::dropped;
}

SendResult Socket::send(std::string_view address, const Frames& frames, InFlight& in_flight) {
  if (!socket_) return SendResult::busy;
  if (frames.count == 0) return SendResult::sent;
  if (in_flight && in_flight->load(std::memory_order_relaxed) > in_flight_max_)
    return SendResult::busy;
  zmq_msg_t message;
  if (listener_) {  // only the address frame can fail
    zmq_msg_init_size(&message, address.size());
    std::memcpy(zmq_msg_data(&message), address.data(), address.size());
    if (!send_part(socket_, message, true))
      return zmq_errno() == EAGAIN ? SendResult::busy : SendResult::gone;
  }
  bool lost = false;
  if (size_t size = compact_size(frames)) {
    zmq_msg_init_size(&message, size);
    write_compact(frames, static_cast<char*>(zmq_msg_data(&message)));
    if (send_part(socket_, message, false)) return SendResult::sent;
    return !listener_ && zmq_errno() == EAGAIN ? SendResult::busy : SendResult::gone;
  }
  for (uint8_t i = 0; i < frames.count; ++i) {
    fill(message, frames.frame[i], in_flight);
    if (send_part(socket_, message, i + 1 < frames.count)) continue;
    if (i == 0 && !listener_ && zmq_errno() == EAGAIN) return SendResult::busy;
    lost = true;  // the connection died inside the message; libzmq drops the other parts
  }
  return lost ? SendResult::gone : SendResult::sent;
}

}  // namespace dray
