// Socket: one ZeroMQ socket with the options of the socket sheet (docs/reliability), whole messages
// in and out, never blocking.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/base/time.h"
#include "common/net/context.h"
#include "common/wire/message.h"

namespace dray {

struct SocketOptions {
  int send_high_water = 1000;  // messages per peer inside libzmq
  int receive_high_water = 128;  // low: it counts messages, and one may be 8 MiB
  uint64_t in_flight_bytes = 32 * 1024 * 1024;  // per peer: large frames inside libzmq
};

enum class SendResult : uint8_t {
  sent,
  busy,  // nothing was sent; try later
  gone,  // the peer or connection is lost; nothing more will arrive there
};
enum class Received : uint8_t {
  none,  // nothing waits
  packet,
  dropped,  // a message broke the rules and was thrown away; there may be more
};

// Bytes of one peer that libzmq still holds without a copy; its I/O thread counts them down.
using InFlight = std::shared_ptr<std::atomic<uint64_t>>;

class Socket {
 public:
  enum class Type : uint8_t { listener, dialer };
  Socket() = default;
  ~Socket() { close(Duration::zero()); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  Status open(const Context& context, Type type, const SocketOptions& options);
  void close(Duration linger);
  bool is_open() const { return socket_ != nullptr; }
  Status bind(const std::string& endpoint);  // may be called again for more endpoints
  Status connect(const std::string& endpoint);
  std::string last_endpoint() const;

  // `address` is filled by listeners: the connection's routing id.
  Received receive(Frames& frames, std::string& address);
  // Takes nothing from `frames` unless the result is `sent` or `gone`.
  SendResult send(std::string_view address, const Frames& frames, InFlight& in_flight);

  // Any API call can consume the fd's signal: ask readable() before waiting for it.
  int fd() const { return fd_; }
  uint64_t generation() const { return generation_; }  // grows whenever fd() may have changed
  bool readable() const;
  void* native() const { return socket_; }  // for tests

 private:
  Received receive_rest(Frames& frames);

  void* socket_ = nullptr;
  int fd_ = -1;
  uint64_t generation_ = 0;
  bool listener_ = false;
  uint64_t in_flight_max_ = 0;
};

}  // namespace dray
