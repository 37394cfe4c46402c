// FrameReader: bytes of a stream socket in, whole frames out (child_frames.h).
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "services/worker/shell/child_frames.h"

namespace dray::worker {

class FrameReader {
 public:
  enum class Got : uint8_t { bytes, nothing, end };

  // One receive; `flags` as for recv(2). Views that next() gave are void afterwards.
  Got fill(int fd, int flags) {
    make_room();
    const ssize_t n = ::recv(fd, buffer_.get() + end_, capacity_ - end_, flags);
    if (n > 0) {
      end_ += static_cast<size_t>(n);
      return Got::bytes;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return Got::nothing;
    return Got::end;
  }

  // False: no whole frame is here, or what came is no frame, see bad().
  bool next(ChildHead& head, std::string_view& body) {
    if (bad_ || end_ - begin_ < kChildHeadBytes) return false;
    auto read = read_head({buffer_.get() + begin_, kChildHeadBytes});
    if (!read) {
      bad_ = true;
      return false;
    }
    needed_ = kChildHeadBytes + read->len;
    if (end_ - begin_ < needed_) return false;
    head = *read;
    body = {buffer_.get() + begin_ + kChildHeadBytes, read->len};
    begin_ += needed_;
    needed_ = 0;
    return true;
  }
  bool bad() const { return bad_; }

 private:
  static constexpr size_t kUsual = size_t{64} << 10;

  // What is left moves to the front; memory for one whole frame, and not much more for long.
  void make_room() {
    const size_t left = end_ - begin_;
    const size_t want = std::max(kUsual, needed_);
    if (capacity_ < want || (capacity_ > 16 * kUsual && want == kUsual && left <= kUsual)) {
      auto larger = std::make_unique_for_overwrite<char[]>(want);
      if (left != 0) std::memcpy(larger.get(), buffer_.get() + begin_, left);
      buffer_ = std::move(larger);
      capacity_ = want;
    } else if (begin_ != 0 && left != 0) {
      std::memmove(buffer_.get(), buffer_.get() + begin_, left);
    }
    begin_ = 0;
    end_ = left;
  }

  std::unique_ptr<char[]> buffer_;
  size_t capacity_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t needed_ = 0;  // of the frame that begins at begin_, once its head is known
  bool bad_ = false;
};

}  // namespace dray::worker
