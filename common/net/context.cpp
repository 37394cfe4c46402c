// Context: creation with signals masked, termination that never hangs on EINTR.
//
// ZERO_COPY_RECV (context option 10) stays on: it saves an allocation per message, and what made it
// dangerous (small messages that pin 8 KiB receive buffers) can not happen because Socket copies
// every frame below 4 KiB at once. Larger ones pin at most one buffer of twice their size.
#include "common/net/context.h"

#include <zmq.h>

#include <csignal>
#include <string>

namespace dray {

Context::~Context() { close(); }

Status Context::open(int io_threads) {
  if (context_) return {};
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  context_ = zmq_ctx_new();
  void* first = nullptr;
  if (context_) {
    zmq_ctx_set(context_, ZMQ_IO_THREADS, io_threads);
    zmq_ctx_set(context_, ZMQ_BLOCKY, 0);
    first = zmq_socket(context_, ZMQ_PAIR);  // threads start with the first socket
    if (first) zmq_close(first);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!first) {
    std::string why = zmq_strerror(zmq_errno());
    close();
    return make_error(Errc::io, "zmq context: " + why);
  }
  return {};
}

void Context::close() {
  if (!context_) return;
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
  context_ = nullptr;
}

}  // namespace dray
