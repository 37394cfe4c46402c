#include "common/deploy/scale_model.h"

#include <algorithm>
#include <charconv>

namespace dray {
namespace {

constexpr size_t kTracePointsMax = 1'000'000;
constexpr int64_t kTraceMsMax = int64_t{366} * 24 * 3600 * 1000;

class Fleet {
 public:
  explicit Fleet(int64_t ready) : ready_(ready) {}
  void start(int64_t n, int64_t ready_at) {
    starting_.insert(starting_.end(), static_cast<size_t>(n), ready_at);
  }
  // Those that start go first: they do nothing yet.
  void stop(int64_t n) {
    for (; n > 0 && !starting_.empty(); --n) starting_.pop_back();
    ready_ = std::max<int64_t>(0, ready_ - n);
  }
  void pass(int64_t now_ms) {
    const auto began =
        std::partition(starting_.begin(), starting_.end(), [&](int64_t at) { return at > now_ms; });
    ready_ += starting_.end() - began;
    starting_.erase(began, starting_.end());
  }
  int64_t ready() const { return ready_; }
  int64_t starting() const { return static_cast<int64_t>(starting_.size()); }

 private:
  int64_t ready_;
  std::vector<int64_t> starting_;  // when each will be ready
};

// Up to the next comma; false if it is no number.
bool take_number(std::string_view& line, double& value) {
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  const auto [end, ec] = std::from_chars(line.data(), line.data() + line.size(), value);
  if (ec != std::errc() || !(value >= 0) || value > 1e15) return false;
  line.remove_prefix(static_cast<size_t>(end - line.data()));
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  if (line.empty()) return true;
  if (line.front() != ',') return false;
  line.remove_prefix(1);
  return true;
}

Error bad_line(size_t number, const char* what) {
  return make_error(Errc::bad_argument, "line " + std::to_string(number) + ": " + what);
}

}  // namespace

ModelResult run_model(const ScaleParams& params, const LoadOverTime& load,
                      const ModelOptions& options) {
  ModelResult result;
  ScaleHistory history;
  Fleet fleet(options.replicas);
  for (int64_t now = 0; now < options.length_ms; now += options.tick_ms) {
    fleet.pass(now);
    ModelStep step;
    step.at_ms = now;
    step.load = load(now);
    step.ready = fleet.ready();
    step.asked = fleet.ready() + fleet.starting();
    history.note_load(now, step.load.calls, step.load.backlog);
    const ScaleReplicas seen{fleet.ready(), options.count_starting ? fleet.starting() : 0, 0};
    step.decision = decide_scale(params, history, now, seen);
    history.note(params, step.decision);
    const int64_t change = step.decision.desired - seen.current();
    if (change > 0) {
      fleet.start(change, now + options.start_ms);
      ++result.ups;
    } else if (change < 0) {
      fleet.stop(-change);
      ++result.downs;
    }
    if (step.load.calls > step.ready * options.slots) result.overload_ms += options.tick_ms;
    result.replica_ms += step.asked * options.tick_ms;
    result.steps.push_back(std::move(step));
  }
  return result;
}

Result<std::vector<TracePoint>> parse_trace(std::string_view text) {
  std::vector<TracePoint> trace;
  size_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    if (line.empty() || line.front() == '#') continue;
    if (trace.empty() && line.find_first_of("0123456789") != 0) continue;  // names
    double time_s = 0, calls = 0, backlog = 0;
    if (!take_number(line, time_s) || line.empty())
      return bad_line(number, "expected time_s,ongoing[,backlog]");
    if (!take_number(line, calls)) return bad_line(number, "ongoing is no number");
    if (!line.empty() && !take_number(line, backlog))
      return bad_line(number, "backlog is no number");
    if (!line.empty()) return bad_line(number, "more than three columns");
    const auto at_ms = static_cast<int64_t>(time_s * 1000);
    if (at_ms > kTraceMsMax) return bad_line(number, "the time is over a year");
    if (!trace.empty() && at_ms < trace.back().at_ms) return bad_line(number, "times must rise");
    if (trace.size() == kTracePointsMax) return bad_line(number, "more than a million points");
    trace.push_back({at_ms, {static_cast<int64_t>(calls), static_cast<int64_t>(backlog)}});
  }
  if (trace.empty()) return make_error(Errc::bad_argument, "no points in it");
  return trace;
}

LoadOverTime load_of(std::vector<TracePoint> trace) {
  return [trace = std::move(trace)](int64_t at_ms) {
    const auto after = std::upper_bound(trace.begin(), trace.end(), at_ms,
                                        [](int64_t t, const TracePoint& p) { return t < p.at_ms; });
    return after == trace.begin() ? ModelLoad{} : std::prev(after)->load;
  };
}

}  // namespace dray
