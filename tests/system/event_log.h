// EventLog: the append-only file in which a test client writes what it did and what it was told;
// one line per event, whole lines only.
#pragma once

#include <dray/client.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

namespace storm {

inline int64_t unix_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

class EventLog {
 public:
  explicit EventLog(const std::string& path) : file_(std::fopen(path.c_str(), "a")) {
    if (file_ == nullptr) {
      std::perror(path.c_str());
      std::exit(2);
    }
  }
  ~EventLog() { std::fclose(file_); }
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  void add(const std::string& lines) {
    std::lock_guard lock(mutex_);
    if (std::fwrite(lines.data(), 1, lines.size(), file_) != lines.size()) {
      std::perror("the client's log");
      std::_Exit(2);
    }
  }

 private:
  std::FILE* file_;
  std::mutex mutex_;
};

// "R <id> <state> <code> <attempt> <first bytes of the result>\n"
inline std::string result_line(char tag, dray::Id id, dray::State state, dray::Code code,
                               uint32_t attempt, std::string_view bytes) {
  std::string line{tag, ' '};
  line += id.hex() + ' ' + std::to_string(int{static_cast<uint8_t>(state)}) + ' ' +
          std::to_string(int{static_cast<uint8_t>(code)}) + ' ' + std::to_string(attempt) + ' ';
  for (char c : bytes.substr(0, 40)) line += c > ' ' && c < 127 ? c : '_';
  return line += '\n';
}

}  // namespace storm
