// Monitor: tells when a socket lost a connection. libzmq reconnects by itself and throws away what
// was on its way, so whoever speaks in sessions has to know. Of a listening socket it does not tell
// whose connection it was.
#pragma once

#include "common/base/result.h"
#include "common/net/context.h"

namespace dray {

class Socket;

class Monitor {
 public:
  Monitor() = default;
  ~Monitor() { close(); }
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  // Before the socket connects or binds. Close the monitor before the socket.
  Status open(const Context& context, const Socket& socket);
  void close();
  int fd() const { return fd_; }  // an edge: call take() when it fires
  bool take();  // true if connections were lost since the last call

 private:
  void* watched_ = nullptr;
  void* reader_ = nullptr;
  int fd_ = -1;
};

}  // namespace dray
