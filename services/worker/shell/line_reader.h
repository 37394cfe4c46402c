// LineReader: what a child prints, by line; LineBudget: how much of that is worth a log line.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace dray::worker {

constexpr size_t kLineBytesMax = 2048;  // the rest of a longer line is left out

class LineReader {
 public:
  // Reads once; calls f(line) for each line. False: the end, or nothing there now.
  template <class F>
  bool read(int fd, F&& f) {
    std::array<char, 16384> bytes;
    const ssize_t n = ::read(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) return true;
    if (n <= 0) {
      ended_ = n == 0;
      return false;
    }
    feed({bytes.data(), static_cast<size_t>(n)}, f);
    return true;
  }
  template <class F>
  void feed(std::string_view bytes, F&& f) {
    while (!bytes.empty()) {
      const size_t end = bytes.find('\n');
      const std::string_view piece = bytes.substr(0, end);
      line_.append(piece.substr(0, kLineBytesMax - std::min(line_.size(), kLineBytesMax)));
      if (end == std::string_view::npos) return;
      flush(f);
      bytes.remove_prefix(end + 1);
    }
  }
  // A last line without an end.
  template <class F>
  void flush(F&& f) {
    if (!line_.empty()) f(std::string_view(line_));
    line_.clear();
  }
  bool ended() const { return ended_; }

 private:
  std::string line_;
  bool ended_ = false;
};

// So many lines a second, and a few more at once; what is left out is counted.
class LineBudget {
 public:
  using Clock = std::chrono::steady_clock;
  bool spend(Clock::time_point now) {
    const std::chrono::duration<double> passed = now - at_;
    left_ = std::min(kBurst, left_ + passed.count() * kPerSecond);
    at_ = now;
    if (left_ < 1) {
      ++dropped_;
      return false;
    }
    left_ -= 1;
    return true;
  }
  uint64_t take_dropped() { return std::exchange(dropped_, 0); }

 private:
  static constexpr double kPerSecond = 50;
  static constexpr double kBurst = 200;
  double left_ = kBurst;
  Clock::time_point at_{};
  uint64_t dropped_ = 0;
};

}  // namespace dray::worker
