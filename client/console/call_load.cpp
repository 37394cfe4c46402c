// The closed loop and its tally.
#include "client/console/call_load.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kStall = std::chrono::seconds(5);  // beyond the deadline

class ClosedLoop {
 public:
  ClosedLoop(Client& client, const CallLoad& load) : client_(client), load_(load) {}

  CallTally run() {
    start_ = Clock::now();
    last_end_ = start_;
    stop_at_ = load_.duration.count() > 0 ? start_ + load_.duration : Clock::time_point::max();
    // One call from here: all others start on the client's thread, without a wake-up each.
    if (claim()) start_one();
    std::unique_lock lock(mutex_);
    while (!(is_over() && open_ == 0 && active_ == 0)) {
      over_.wait_for(lock, std::chrono::milliseconds(100));
      if (Clock::now() - last_end_ > load_.options.deadline + kStall) {
        is_stopped_ = true;
        throw Failure{kTimeout, "no call ends any more", "dray status"};
      }
    }
    tally_.seconds = std::chrono::duration<double>(last_end_ - start_).count();
    return std::move(tally_);
  }

 private:
  bool is_over() const {
    return is_stopped_ || (load_.count > 0 && started_ >= load_.count) || Clock::now() >= stop_at_;
  }

  bool claim() {
    if (is_over()) return false;
    if (open_.fetch_add(1) >= load_.concurrency) return open_.fetch_sub(1), false;
    if (load_.count > 0 && started_.fetch_add(1) >= load_.count) return open_.fetch_sub(1), false;
    return true;
  }

  void start_one() {
    const auto at = Clock::now();
    client_.async_call(load_.handler, load_.payload, load_.options,
                       [this, at](CallOutcome&& outcome) { on_end(std::move(outcome), at); });
  }

  void on_end(CallOutcome&& outcome, Clock::time_point at) {
    ++active_;
    {
      const std::lock_guard lock(mutex_);
      last_end_ = Clock::now();
      tally_.add(std::move(outcome), (last_end_ - at).count());
    }
    --open_;
    thread_local bool is_starting = false;  // a refusal ends inside start_one: no recursion
    if (!is_starting) {
      is_starting = true;
      while (claim()) start_one();
      is_starting = false;
    }
    // The last touch: run() leaves when it sees nothing open and nobody in here.
    const std::lock_guard lock(mutex_);
    if (--active_ == 0 && open_ == 0) over_.notify_all();
  }

  Client& client_;
  const CallLoad load_;
  Clock::time_point start_, stop_at_;
  std::atomic<uint64_t> started_{0};
  std::atomic<uint32_t> open_{0};
  std::atomic<uint32_t> active_{0};  // callbacks at work
  std::atomic<bool> is_stopped_{false};
  std::mutex mutex_;  // of the rest
  std::condition_variable over_;
  Clock::time_point last_end_;
  CallTally tally_;
};

}  // namespace

uint64_t CallTally::total() const {
  uint64_t sum = 0;
  for (const uint64_t n : ends) sum += n;
  return sum;
}

void CallTally::add(CallOutcome&& outcome, int64_t ns) {
  ++ends[std::min<size_t>(static_cast<size_t>(outcome.end), ends.size() - 1)];
  if (!outcome.ok()) {
    ++reasons[reason_of(outcome)];
    if (!first_bad) first_bad = std::move(outcome);
    return;
  }
  reply_ns.push_back(ns);
  const CallTimes& t = outcome.times;
  sums.total += t.total;
  sums.queue += t.queue;
  sums.gather += t.gather;
  sums.worker += t.worker;
  sums.wait += t.wait;
  sums.run += t.run;
  sums.attempts += t.attempts;
  batch_items += t.batch_items;
}

std::string reason_of(const CallOutcome& o) {
  if (o.end != CallEnd::rejected) return std::string(call_end_text(o.end));
  if (o.code == Code::overloaded && !o.limit.empty()) return o.limit;
  return std::string(code_name(o.code));
}

CallTally run_calls(Client& client, const CallLoad& load) {
  auto loop = std::make_unique<ClosedLoop>(client, load);
  try {
    return loop->run();
  } catch (...) {
    static_cast<void>(loop.release());  // late callbacks still use it; the program ends
    throw;
  }
}

int64_t percentile(std::vector<int64_t> values, double p) {
  if (values.empty()) return 0;
  const auto at =
      std::min(values.size() - 1, static_cast<size_t>(p * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(at), values.end());
  return values[at];
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace dray::console
