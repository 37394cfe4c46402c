// LoadView: what routers say about calls and the broker about queued tasks, summed by handler.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/time.h"
#include "common/wire/fleet.h"
#include "common/wire/message.h"

namespace dray {

struct LoadSum {
  int64_t ongoing = 0, waiting = 0;  // calls
  int64_t queued = 0;  // tasks that wait or run
  double arrivals_per_s = 0, replies_per_s = 0, refusals_per_s = 0;
  uint64_t p50_us = 0, p99_us = 0;  // the slowest router's
  int64_t calls() const { return ongoing + waiting; }
  void add(const LoadSum& other);
};

class LoadView {
 public:
  void on_router(SessionId router) { routers_[router]; }
  // Blobs that can not be read are left out; returns how many those were.
  size_t on_load(SessionId router, const Load& load, Time now);
  void on_backlog(const Backlog& backlog);
  void drop(SessionId router) { routers_.erase(router); }
  void drop_backlog() { tasks_.clear(); }
  // Whether anybody says how much there is to do. Without a router nothing is known.
  bool has_router() const { return !routers_.empty(); }
  LoadSum of(const std::string& handler) const;
  LoadSum of(const std::vector<std::string>& handlers) const;

 private:
  struct Entry {
    HandlerLoad last;
    Time at{};
    LoadSum rates;  // only its rates
  };
  std::map<SessionId, std::map<std::string, Entry>> routers_;
  std::map<std::string, int64_t> tasks_;
};

}  // namespace dray
