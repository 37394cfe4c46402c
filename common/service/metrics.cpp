// The process's one metric registry and its export through prometheus-cpp's text serializer.
#include "common/service/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <variant>

#include "common/base/assert.h"

namespace dray {
namespace {

using Metric =
    std::variant<std::unique_ptr<Counter>, std::unique_ptr<Gauge>, std::unique_ptr<Histogram>>;

struct Family {
  std::string help;
  size_t kind = 0;  // index in Metric
  std::map<MetricLabels, Metric> series;
};

bool is_valid_name(std::string_view name, bool is_label) {
  const auto is_letter = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!is_label && c == ':');
  };
  return !name.empty() && is_letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

prometheus::ClientMetric sample(double value, bool is_counter) {
  prometheus::ClientMetric metric;
  if (is_counter)
    metric.counter.value = value;
  else
    metric.gauge.value = value;
  return metric;
}

prometheus::MetricFamily single(const char* name, const char* help, double value,
                                bool is_counter = false) {
  return {name,
          help,
          is_counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge,
          {sample(value, is_counter)}};
}

double seconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
}

// The process_* metrics that Prometheus dashboards expect.
void collect_process(std::vector<prometheus::MetricFamily>& out) {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0)
    out.push_back(single("process_cpu_seconds_total", "User and system CPU time.",
                         seconds(usage.ru_utime) + seconds(usage.ru_stime), true));
  double pages_total = 0;
  double pages = 0;
  if (std::ifstream statm("/proc/self/statm"); statm >> pages_total >> pages) {
    const double page = static_cast<double>(sysconf(_SC_PAGESIZE));
    out.push_back(single("process_resident_memory_bytes", "Resident memory.", pages * page));
    out.push_back(single("process_virtual_memory_bytes", "Virtual memory.", pages_total * page));
  }
  std::error_code failure;
  const auto fds = std::filesystem::directory_iterator("/proc/self/fd", failure);
  if (!failure)
    out.push_back(single("process_open_fds", "Open file descriptors.",
                         static_cast<double>(std::distance(begin(fds), end(fds)))));
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
    out.push_back(single("process_max_fds", "Most file descriptors allowed.",
                         static_cast<double>(limit.rlim_cur)));
}

struct Export {
  prometheus::ClientMetric operator()(const std::unique_ptr<Counter>& c) const {
    return sample(static_cast<double>(c->value()), true);
  }
  prometheus::ClientMetric operator()(const std::unique_ptr<Gauge>& g) const {
    return sample(g->value(), false);
  }
  // _count is derived from the buckets, so that it equals the +Inf bucket in every snapshot.
  prometheus::ClientMetric operator()(const std::unique_ptr<Histogram>& h) const {
    prometheus::ClientMetric metric;
    uint64_t count = 0;
    for (size_t i = 0; i <= h->bounds().size(); ++i) {
      count += h->bucket(i);
      const bool is_last = i == h->bounds().size();
      metric.histogram.bucket.push_back({count, is_last ? INFINITY : h->bounds()[i]});
    }
    metric.histogram.sample_count = count;
    metric.histogram.sample_sum = h->sum();
    return metric;
  }
};

class MetricRegistry : public prometheus::Collectable {
 public:
  Metric& find(std::string_view name, std::string_view help, const MetricLabels& labels,
               size_t kind, const std::function<Metric()>& make) {
    const std::lock_guard lock(mutex_);
    auto [it, is_new] = families_.try_emplace(std::string(name));
    Family& family = it->second;
    if (is_new) {
      DRAY_ASSERT(is_valid_name(name, false));
      DRAY_ASSERT((kind == 0) == name.ends_with("_total"));
      family.help = help;
      family.kind = kind;
    }
    DRAY_ASSERT(family.kind == kind);
    MetricLabels key = labels;
    if (!family.series.contains(key) && family.series.size() >= kMetricSeriesMax)
      for (auto& label : key) label.second = "other";
    if (const auto found = family.series.find(key); found != family.series.end())
      return found->second;
    for (const auto& label : key) DRAY_ASSERT(is_valid_name(label.first, true));
    return family.series.emplace(std::move(key), make()).first->second;
  }

  std::vector<prometheus::MetricFamily> Collect() const override {
    static constexpr prometheus::MetricType kTypes[] = {prometheus::MetricType::Counter,
                                                        prometheus::MetricType::Gauge,
                                                        prometheus::MetricType::Histogram};
    std::vector<prometheus::MetricFamily> out;
    const std::lock_guard lock(mutex_);
    for (const auto& [name, family] : families_) {
      prometheus::MetricFamily exported{name, family.help, kTypes[family.kind], {}};
      for (const auto& [labels, metric] : family.series) {
        exported.metric.push_back(std::visit(Export{}, metric));
        for (const auto& [key, value] : labels)
          exported.metric.back().label.push_back({key, value});
      }
      out.push_back(std::move(exported));
    }
    collect_process(out);
    return out;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Family, std::less<>> families_;
};

// Never destroyed: threads may still count while the process ends.
MetricRegistry& registry() {
  static auto* instance = new MetricRegistry;
  return *instance;
}

}  // namespace

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds.begin(), bounds.end()), buckets_(bounds.size() + 1) {
  DRAY_ASSERT(std::is_sorted(bounds_.begin(), bounds_.end()));
}

void Histogram::observe(double value) {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  buckets_[static_cast<size_t>(bound - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

void Histogram::set_totals(std::span<const uint64_t> upto, uint64_t count, double sum) {
  DRAY_ASSERT(upto.size() == bounds_.size());
  uint64_t below = 0;
  for (size_t i = 0; i < upto.size(); ++i) {
    buckets_[i].store(upto[i] - below, std::memory_order_relaxed);
    below = upto[i];
  }
  buckets_.back().store(count - below, std::memory_order_relaxed);
  sum_.store(sum, std::memory_order_relaxed);
}

Counter& counter(std::string_view name, std::string_view help, const MetricLabels& labels) {
  return *std::get<0>(
      registry().find(name, help, labels, 0, [] { return std::make_unique<Counter>(); }));
}

Gauge& gauge(std::string_view name, std::string_view help, const MetricLabels& labels) {
  return *std::get<1>(
      registry().find(name, help, labels, 1, [] { return std::make_unique<Gauge>(); }));
}

Histogram& histogram(std::string_view name, std::string_view help, std::span<const double> bounds,
                     const MetricLabels& labels) {
  return *std::get<2>(
      registry().find(name, help, labels, 2, [&] { return std::make_unique<Histogram>(bounds); }));
}

std::span<const double> latency_bounds() {
  static constexpr double kBounds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                       0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
  return kBounds;
}

std::string metrics_text() { return prometheus::TextSerializer().Serialize(registry().Collect()); }

}  // namespace dray
