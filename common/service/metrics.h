// Metrics: counters, gauges and histograms of this process, printed in the Prometheus text format.
//
// Look a metric up once and keep the reference; it stays valid for ever and an update is one
// relaxed atomic. Names are dray_<process>_<noun>_<unit>, counters end in _total; base units only
// (seconds, bytes). Label values must come from a small set: above kMetricSeriesMax combinations
// of one metric, further ones are counted together under label values "other", because some values
// (handler and queue names) come from users.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dray {

constexpr size_t kMetricSeriesMax = 1000;

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

class Counter {
 public:
  void add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  // For a total that a core keeps itself; never lower than before.
  void set_total(uint64_t total) { value_.store(total, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  void set(double value) { value_.store(value, std::memory_order_relaxed); }
  void add(double delta) { value_.fetch_add(delta, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds);  // upper bounds, ascending
  void observe(double value);
  // For a histogram that a core keeps itself: `upto[i]` values were at most bounds()[i].
  void set_totals(std::span<const uint64_t> upto, uint64_t count, double sum);
  const std::vector<double>& bounds() const { return bounds_; }
  // Not cumulative; the last one is for values above every bound.
  uint64_t bucket(size_t i) const { return buckets_[i].load(std::memory_order_relaxed); }
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> buckets_;
  std::atomic<double> sum_{0};
};

// The series with this name and these labels, made at the first call. A bad name, or a name used
// before for another kind, is a bug of ours and aborts. Thread-safe.
Counter& counter(std::string_view name, std::string_view help, const MetricLabels& labels = {});
Gauge& gauge(std::string_view name, std::string_view help, const MetricLabels& labels = {});
// For what a core counts itself, without labels.
inline void export_total(std::string_view name, std::string_view help, uint64_t total) {
  counter(name, help).set_total(total);
}
inline void export_level(std::string_view name, std::string_view help, uint64_t level) {
  gauge(name, help).set(static_cast<double>(level));
}
Histogram& histogram(std::string_view name, std::string_view help, std::span<const double> bounds,
                     const MetricLabels& labels = {});

// 100 us to 10 s in steps of 1, 2.5, 5: for anything a request waits for.
std::span<const double> latency_bounds();

// All metrics and process_* as text, content type kMetricsContentType.
std::string metrics_text();
constexpr std::string_view kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace dray
