// Monitor: the reading end of a socket's event stream.
#include "common/net/monitor.h"

#include <zmq.h>

#include <atomic>
#include <string>

#include "common/net/socket.h"

namespace dray {

Status Monitor::open(const Context& context, const Socket& socket) {
  static std::atomic<uint64_t> next{0};
  close();
  std::string address = "inproc://monitor-" + std::to_string(++next);
  int zero = 0;
  size_t size = sizeof fd_;
  reader_ = zmq_socket(context.native(), ZMQ_PAIR);
  // The I/O thread writes events with a blocking send: the reader must take any number of them.
  bool ok = reader_ && zmq_setsockopt(reader_, ZMQ_RCVHWM, &zero, sizeof zero) == 0 &&
            zmq_setsockopt(reader_, ZMQ_LINGER, &zero, sizeof zero) == 0 &&
            zmq_socket_monitor(socket.native(), address.c_str(), ZMQ_EVENT_DISCONNECTED) == 0;
  if (ok) watched_ = socket.native();
  ok = ok && zmq_connect(reader_, address.c_str()) == 0 &&
       zmq_getsockopt(reader_, ZMQ_FD, &fd_, &size) == 0;
  if (!ok) {
    Error error = make_error(Errc::io, std::string("zmq monitor: ") + zmq_strerror(zmq_errno()));
    close();
    return error;
  }
  take();
  return {};
}

void Monitor::close() {
  if (watched_) zmq_socket_monitor(watched_, nullptr, 0);
  if (reader_) zmq_close(reader_);
  watched_ = nullptr;
  reader_ = nullptr;
  fd_ = -1;
}

bool Monitor::take() {
  if (!reader_) return false;
  bool found = false;
  char part[256];  // longer addresses are cut, which is fine
  for (;;) {
    if (zmq_recv(reader_, part, sizeof part, ZMQ_DONTWAIT) >= 0)
      found = true;
    else if (zmq_errno() != EINTR)
      return found;
  }
}

}  // namespace dray
