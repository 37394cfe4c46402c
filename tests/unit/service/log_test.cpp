// Log: the two line formats, quoting of hostile values, levels and the rate limit.
#include "common/service/log.h"

#include <catch2/catch.hpp>
#include <limits>
#include <thread>

#include "common/service/log_line.h"

using namespace dray;
using Catch::Matchers::Contains;

namespace {

// Captures lines at a clock that the test moves.
struct Capture {
  explicit Capture(const std::string& format, LogLevel level = LogLevel::info) {
    LogOptions options;
    options.process = "broker";
    options.level = level;
    options.format = format;
    options.sink = [this](std::string_view line) { lines.emplace_back(line); };
    options.wall_ns = [this] { return now; };
    log_init(std::move(options));
  }
  ~Capture() { log_init({}); }
  std::vector<std::string> lines;
  int64_t now = 1'767'225'600'123'000'000;  // 2026-01-01
};

}  // namespace

TEST_CASE("a text line has time, level, process, event and fields") {
  Capture log("text");
  log_event(
      LogLevel::warn, "lease_expired",
      {{"worker", "w1"}, {"tasks", 3}, {"ratio", 0.5}, {"big", uint64_t{1} << 63}, {"ok", true}});
  REQUIRE(log.lines.size() == 1);
  CHECK(log.lines[0] ==
        "2026-01-01T00:00:00.123Z warn broker lease_expired worker=w1 tasks=3 ratio=0.5 "
        "big=9223372036854775808 ok=true");
}

TEST_CASE("a JSON line has the same as one object") {
  Capture log("json");
  log_event(LogLevel::info, "started",
            {{"name", std::string("a \"b\"\n")}, {"n", -1}, {"ok", false}});
  REQUIRE(log.lines.size() == 1);
  CHECK(log.lines[0] ==
        R"({"ts":"2026-01-01T00:00:00.123Z","level":"info","proc":"broker","event":"started",)"
        R"("name":"a \"b\"\n","n":-1,"ok":false})");
}

TEST_CASE("a value can not forge a line or a field") {
  Capture log("text");
  log_event(LogLevel::info, "e",
            {{"v", "x\n2026 error fake"}, {"w", "a b=c"}, {"z", ""}, {"u", "\xff\x1b[31m"}});
  REQUIRE(log.lines.size() == 1);
  CHECK(log.lines[0].ends_with(R"(e v="x\n2026 error fake" w="a b=c" z="" u="\ufffd\u001b[31m")"));
}

TEST_CASE("JSON strings are valid UTF-8 whatever came in") {
  CHECK(json_quoted("gr\xc3\xbc\xc3\x9f") == "\"gr\xc3\xbc\xc3\x9f\"");
  CHECK(json_quoted("\xc0\x80") == "\"\\ufffd\\ufffd\"");  // overlong
  CHECK(json_quoted("\xed\xa0\x80") == "\"\\ufffd\\ufffd\\ufffd\"");  // surrogate
  CHECK(json_quoted("\xf0\x9f\x98\x80") == "\"\xf0\x9f\x98\x80\"");
  CHECK(json_quoted("\xe2\x82") == "\"\\ufffd\\ufffd\"");  // cut short
  CHECK(json_quoted(std::string_view("\0", 1)) == "\"\\u0000\"");
  Capture log("json");
  log_event(LogLevel::info, "e", {{"inf", std::numeric_limits<double>::infinity()}});
  CHECK_THAT(log.lines.at(0), Contains("\"inf\":\"inf\""));
}

TEST_CASE("long values are cut") {
  Capture log("text");
  log_event(LogLevel::info, "e", {{"v", std::string(100'000, 'x')}});
  CHECK(log.lines.at(0).size() < 700);
}

TEST_CASE("lines below the level are not printed and cost no formatting") {
  Capture log("text", LogLevel::warn);
  log_event(LogLevel::info, "quiet");
  CHECK(log.lines.empty());
  CHECK_FALSE(log_enabled(LogLevel::info));
  log_set_level(LogLevel::debug);
  log_event(LogLevel::debug, "loud");
  CHECK(log.lines.size() == 1);
}

TEST_CASE(
    "an event in a loop is limited per second and the next line tells how many were left out") {
  Capture log("text");
  for (int i = 0; i < 100; ++i) log_event(LogLevel::info, "noisy", {{"i", i}});
  CHECK(log.lines.size() == 10);
  log_event(LogLevel::info, "other");
  CHECK(log.lines.size() == 11);
  log.now += 1'000'000'000;
  log_event(LogLevel::info, "noisy", {{"i", 100}});
  CHECK(log.lines.back().ends_with("noisy i=100 suppressed=90"));
  log_event(LogLevel::info, "noisy", {{"i", 101}});
  CHECK(log.lines.back().ends_with("noisy i=101"));
}

TEST_CASE("a flood of different event names does not grow memory without end") {
  Capture log("text");
  for (int i = 0; i < 5000; ++i) log_event(LogLevel::info, "e" + std::to_string(i));
  CHECK(log.lines.size() == 1024 + 10);
}

TEST_CASE("threads may log at the same time") {
  Capture log("text");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (int i = 0; i < 5; ++i) log_event(LogLevel::info, "t" + std::to_string(t));
    });
  for (auto& thread : threads) thread.join();
  CHECK(log.lines.size() == 20);
}

TEST_CASE("lines reach stdout through the queue") {
  log_init({});
  log_event(LogLevel::info, "unit_service_writes_one_line");
  CHECK(log_flush());
}

TEST_CASE("levels have names") {
  CHECK(*log_level_from("debug") == LogLevel::debug);
  CHECK(log_level_name(LogLevel::error) == "error");
  CHECK_FALSE(log_level_from("loud"));
}
