// The process's one logger: level, rate limit per event, and the queue to stdout. The only file
// that knows spdlog.
#include "common/service/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "common/service/log_line.h"

namespace dray {
namespace {

constexpr size_t kQueueLines = 8192;
constexpr size_t kEventsMax = 1024;  // names with a rate limit of their own
constexpr auto kFlushMax = std::chrono::seconds(1);

// Writes whole lines to stdout and counts them.
class StdoutSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  uint64_t written() const { return written_.load(std::memory_order_acquire); }

 protected:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    std::string line(msg.payload.begin(), msg.payload.end());
    line += '\n';
    size_t done = 0;
    while (done < line.size()) {
      const ssize_t n = ::write(STDOUT_FILENO, line.data() + done, line.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;  // nobody reads; there is nowhere else to complain
      done += static_cast<size_t>(n);
    }
    written_.fetch_add(1, std::memory_order_release);
  }
  void flush_() override {}

 private:
  std::atomic<uint64_t> written_{0};
};

int64_t wall_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

class Logger {
 public:
  void configure(LogOptions options) {
    const std::lock_guard lock(mutex_);
    is_json_ = options.format == "json" || (options.format == "auto" && isatty(STDOUT_FILENO) == 0);
    level_.store(options.level, std::memory_order_relaxed);
    options_ = std::move(options);
    rates_.clear();
    if (!options_.sink) start_queue();
  }

  void set_level(LogLevel level) { level_.store(level, std::memory_order_relaxed); }
  bool enabled(LogLevel level) const { return level >= level_.load(std::memory_order_relaxed); }

  void write(LogLevel level, std::string_view event, std::span<const LogField> fields) {
    {
      const std::lock_guard lock(mutex_);
      const int64_t now = options_.wall_ns ? options_.wall_ns() : wall_now_ns();
      LogLine line{now, level, options_.process, event, fields, 0};
      if (!admit(event, now, line.suppressed)) return;
      const std::string text = is_json_ ? log_line_json(line) : log_line_text(line);
      if (options_.sink) return options_.sink(text);
      if (!output_) start_queue();
      ++submitted_;
      output_->log(spdlog::level::info, text);
    }
    if (level == LogLevel::error) flush();
  }

  bool flush() {
    const auto limit = std::chrono::steady_clock::now() + kFlushMax;
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        if (!output_ || sink_->written() + pool_->overrun_counter() >= submitted_) return true;
      }
      if (std::chrono::steady_clock::now() > limit) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

 private:
  struct Rate {
    int64_t second = 0;
    uint32_t printed = 0;
    uint64_t suppressed = 0;
  };

  bool admit(std::string_view event, int64_t now, uint64_t& suppressed) {
    // Names are literals of ours, so the map is small; the wall is for the day when one is not.
    const bool is_full = rates_.size() >= kEventsMax;
    Rate& rate = rates_[is_full ? std::string() : std::string(event)];
    const int64_t second = now / 1'000'000'000;
    if (rate.second != second) {
      rate.second = second;
      rate.printed = 0;
    }
    if (rate.printed >= options_.per_event_per_second) {
      ++rate.suppressed;
      return false;
    }
    ++rate.printed;
    suppressed = std::exchange(rate.suppressed, 0);
    return true;
  }

  void start_queue() {
    if (output_) return;
    std::signal(SIGPIPE, SIG_IGN);
    sink_ = std::make_shared<StdoutSink>();
    pool_ = std::make_shared<spdlog::details::thread_pool>(kQueueLines, 1);
    output_ = std::make_shared<spdlog::async_logger>("dray", sink_, pool_,
                                                     spdlog::async_overflow_policy::overrun_oldest);
  }

  std::mutex mutex_;
  LogOptions options_;
  bool is_json_ = false;
  std::atomic<LogLevel> level_{LogLevel::info};
  std::unordered_map<std::string, Rate> rates_;
  uint64_t submitted_ = 0;
  std::shared_ptr<StdoutSink> sink_;
  std::shared_ptr<spdlog::details::thread_pool> pool_;
  std::shared_ptr<spdlog::async_logger> output_;
};

// Never destroyed: threads may still log while the process ends.
Logger& logger() {
  static auto* instance = [] {
    std::atexit([] { log_flush(); });
    return new Logger;
  }();
  return *instance;
}

constexpr std::string_view kLevelNames[] = {"debug", "info", "warn", "error"};

}  // namespace

void log_init(LogOptions options) { logger().configure(std::move(options)); }
void log_set_level(LogLevel level) { logger().set_level(level); }
bool log_enabled(LogLevel level) { return logger().enabled(level); }
bool log_flush() { return logger().flush(); }

void log_event(LogLevel level, std::string_view event, std::span<const LogField> fields) {
  if (log_enabled(level)) logger().write(level, event, fields);
}

Result<LogLevel> log_level_from(std::string_view name) {
  for (size_t i = 0; i < std::size(kLevelNames); ++i)
    if (kLevelNames[i] == name) return static_cast<LogLevel>(i);
  return make_error(Errc::config, "'" + std::string(name) + "' is not a log level");
}

std::string_view log_level_name(LogLevel level) { return kLevelNames[static_cast<size_t>(level)]; }

}  // namespace dray
