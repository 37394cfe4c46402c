// Metrics: the text format, identity of series, and the bound on label values.
#include "common/service/metrics.h"

#include <catch2/catch.hpp>
#include <sstream>
#include <thread>

using namespace dray;
using Catch::Matchers::Contains;

namespace {

std::vector<std::string> lines_with(const std::string& part) {
  std::vector<std::string> found;
  std::istringstream text(metrics_text());
  for (std::string line; std::getline(text, line);)
    if (line.find(part) != std::string::npos) found.push_back(line);
  return found;
}

}  // namespace

TEST_CASE("a counter prints HELP, TYPE and one line per label set") {
  counter("dray_test_tasks_total", "Tasks seen.", {{"outcome", "ok"}}).add(3);
  counter("dray_test_tasks_total", "Tasks seen.", {{"outcome", "fail"}}).add();
  CHECK(lines_with("dray_test_tasks_total") ==
        std::vector<std::string>{"# HELP dray_test_tasks_total Tasks seen.",
                                 "# TYPE dray_test_tasks_total counter",
                                 "dray_test_tasks_total{outcome=\"fail\"} 1",
                                 "dray_test_tasks_total{outcome=\"ok\"} 3"});
}

TEST_CASE("the same name and labels are the same series") {
  Counter& a = counter("dray_test_same_total", "x");
  CHECK(&a == &counter("dray_test_same_total", "x"));
  CHECK(&a != &counter("dray_test_same_total", "x", {{"k", "v"}}));
  a.set_total(41);
  a.add();
  CHECK(lines_with("dray_test_same_total 42").size() == 1);
}

TEST_CASE("a gauge goes up and down") {
  Gauge& g = gauge("dray_test_depth", "Depth.");
  g.set(2.5);
  g.add(-3);
  CHECK(g.value() == -0.5);
  CHECK(lines_with("dray_test_depth -0.5").size() == 1);
}

TEST_CASE("histogram buckets are cumulative and +Inf equals the count") {
  const double bounds[] = {0.1, 1};
  Histogram& h = histogram("dray_test_wait_seconds", "Wait.", bounds);
  for (const double v : {0.05, 0.1, 0.5, 7.0}) h.observe(v);
  CHECK(lines_with("dray_test_wait_seconds") ==
        std::vector<std::string>{
            "# HELP dray_test_wait_seconds Wait.", "# TYPE dray_test_wait_seconds histogram",
            "dray_test_wait_seconds_count 4", "dray_test_wait_seconds_sum 7.65",
            "dray_test_wait_seconds_bucket{le=\"0.1\"} 2",
            "dray_test_wait_seconds_bucket{le=\"1\"} 3",
            "dray_test_wait_seconds_bucket{le=\"+Inf\"} 4"});
}

TEST_CASE("label values are escaped") {
  counter("dray_test_escape_total", "x", {{"name", "a\"b\\c\nd"}}).add();
  CHECK(lines_with("dray_test_escape_total{").at(0) ==
        R"(dray_test_escape_total{name="a\"b\\c\nd"} 1)");
}

TEST_CASE("too many label values are counted together") {
  for (int i = 0; i < 3000; ++i)
    counter("dray_test_many_total", "x", {{"name", "n" + std::to_string(i)}}).add();
  CHECK(lines_with("dray_test_many_total{").size() == kMetricSeriesMax + 1);
  CHECK(counter("dray_test_many_total", "x", {{"name", "other"}}).value() == 2000);
}

TEST_CASE("the process tells its memory, CPU time and descriptors") {
  const std::string text = metrics_text();
  for (const auto* name : {"process_resident_memory_bytes ", "process_cpu_seconds_total ",
                           "process_open_fds ", "process_max_fds "})
    CHECK_THAT(text, Contains(name));
  CHECK(text.ends_with("\n"));
}

TEST_CASE("threads may count while another prints") {
  Counter& c = counter("dray_test_threads_total", "x");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) c.add();
    });
  for (int i = 0; i < 10; ++i) CHECK_FALSE(metrics_text().empty());
  for (auto& thread : threads) thread.join();
  CHECK(c.value() == 40000);
}
