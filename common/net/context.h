// Context: owns one ZeroMQ context and its I/O threads.
#pragma once

#include "common/base/result.h"

namespace dray {

class Context {
 public:
  Context() = default;
  ~Context();  // waits for closed sockets, at most as long as their linger
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Starts the I/O threads, with all signals blocked. Never fork after this.
  Status open(int io_threads = 1);
  void close();
  void* native() const { return context_; }

 private:
  void* context_ = nullptr;
};

}  // namespace dray
