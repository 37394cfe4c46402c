#include "services/balancer/core/load_view.h"

#include <algorithm>

namespace dray {
namespace {

constexpr uint64_t kCountMax = 1'000'000'000;  // more of anything is not a count

int64_t bounded(uint64_t n) { return static_cast<int64_t>(std::min(n, kCountMax)); }

// Half of the news each second.
double smoothed(double old, uint64_t before, uint64_t after, double seconds) {
  if (after < before) return old;  // another life of the router
  const double rate = static_cast<double>(after - before) / seconds;
  const double share = std::min(1.0, seconds / 2);
  return old + share * (rate - old);
}

}  // namespace

void LoadSum::add(const LoadSum& o) {
  ongoing += o.ongoing;
  waiting += o.waiting;
  queued += o.queued;
  arrivals_per_s += o.arrivals_per_s;
  replies_per_s += o.replies_per_s;
  refusals_per_s += o.refusals_per_s;
  p50_us = std::max(p50_us, o.p50_us);
  p99_us = std::max(p99_us, o.p99_us);
}

size_t LoadView::on_load(SessionId router, const Load& load, Time now) {
  size_t bad = 0;
  auto& handlers = routers_[router];
  std::map<std::string, Entry> fresh;
  for (const std::string& blob : load.handlers) {
    auto decoded = decode_handler_load(blob);
    if (!decoded) {
      ++bad;
      continue;
    }
    Entry entry;
    entry.last = std::move(*decoded);
    entry.at = now;
    if (auto it = handlers.find(entry.last.handler); it != handlers.end()) {
      const HandlerLoad& before = it->second.last;
      const double s = static_cast<double>((now - it->second.at).count()) / 1e9;
      entry.rates = it->second.rates;
      if (s < 0.1) {  // too soon to tell; the counters are compared next time
        entry.at = it->second.at;
        entry.last.arrived = before.arrived;
        entry.last.answered = before.answered;
        entry.last.refused = before.refused;
      } else {
        LoadSum& r = entry.rates;
        r.arrivals_per_s = smoothed(r.arrivals_per_s, before.arrived, entry.last.arrived, s);
        r.replies_per_s = smoothed(r.replies_per_s, before.answered, entry.last.answered, s);
        r.refusals_per_s = smoothed(r.refusals_per_s, before.refused, entry.last.refused, s);
      }
    }
    const std::string name = entry.last.handler;
    fresh.insert_or_assign(name, std::move(entry));
  }
  // What it does not name any more it does not have.
  handlers = std::move(fresh);
  return bad;
}

void LoadView::on_backlog(const Backlog& backlog) {
  tasks_.clear();
  for (const auto* list : {&backlog.waiting, &backlog.leased})
    for (const auto& [handler, n] : *list) {
      int64_t& sum = tasks_[handler];
      sum = std::min(sum + bounded(n), static_cast<int64_t>(kCountMax));
    }
}

LoadSum LoadView::of(const std::string& handler) const {
  LoadSum sum;
  for (const auto& [router, handlers] : routers_) {
    const auto it = handlers.find(handler);
    if (it == handlers.end()) continue;
    LoadSum one = it->second.rates;
    one.ongoing = bounded(it->second.last.ongoing);
    one.waiting = bounded(it->second.last.waiting);
    one.p50_us = it->second.last.p50_us;
    one.p99_us = it->second.last.p99_us;
    sum.add(one);
  }
  if (const auto it = tasks_.find(handler); it != tasks_.end()) sum.queued = it->second;
  return sum;
}

LoadSum LoadView::of(const std::vector<std::string>& handlers) const {
  LoadSum sum;
  for (const std::string& handler : handlers) sum.add(of(handler));
  return sum;
}

}  // namespace dray
