// Wake: the flag and eventfd protocol; both flags are sequentially consistent, so either the
// sleeper sees the signal or the signaller sees the sleeper.
#include "common/net/wake.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

namespace dray {

Wake::~Wake() {
  if (fd_ >= 0) ::close(fd_);
}

Status Wake::open() {
  if (fd_ >= 0) return {};
  fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd_ < 0) return make_error(Errc::io, std::string("eventfd: ") + std::strerror(errno));
  return {};
}

void Wake::signal() {
  // Who set it before and has not been heard yet sees to it that the loop wakes.
  if (pending_.exchange(true) || !sleeping_.load() || fd_ < 0) return;
  int saved = errno;
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(fd_, &one, sizeof one);  // full counter: awake anyway
  errno = saved;
}

bool Wake::before_sleep() {
  sleeping_.store(true);
  return !pending_.load();
}

void Wake::after_sleep(bool fd_readable) {
  sleeping_.store(false);
  if (!fd_readable) return;
  uint64_t count = 0;
  [[maybe_unused]] ssize_t n = ::read(fd_, &count, sizeof count);
}

}  // namespace dray
