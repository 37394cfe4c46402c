// Threads, cancel flags and hand-over of outcomes.
#include "services/worker/shell/executor.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "common/base/assert.h"
#include "common/net/priority.h"

namespace dray::worker {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kProgressEvery = std::chrono::milliseconds(250);  // per task
// Smaller results are copied, so that the executor's buffer is kept.
constexpr size_t kCopyMax = 4096;

Verdict verdict_of(TaskOutput::Kind kind) {
  switch (kind) {
    case TaskOutput::Kind::ok:
      return Verdict::ok;
    case TaskOutput::Kind::fail:
      return Verdict::fail;
    case TaskOutput::Kind::crashed:
      return Verdict::crashed;
    default:
      return Verdict::fail_final;
  }
}
Errc code_of(TaskOutput::Kind kind) {
  switch (kind) {
    case TaskOutput::Kind::ok:
      return Errc::ok;
    case TaskOutput::Kind::fail:
      return Errc::app_error;
    case TaskOutput::Kind::crashed:
      return Errc::worker_lost;
    default:
      return Errc::app_fatal;
  }
}

}  // namespace

struct Executors::Executor : ProgressSink {
  explicit Executor(Executors& executors) : pool(executors) {}

  void on_progress(const TaskView& task, double fraction, std::string_view text) override {
    const Clock::time_point now = Clock::now();
    {
      std::lock_guard lock(mutex);
      if (!(task.token == current) || now < progress_at) return;
      progress_at = now + kProgressEvery;
      const double part = std::isfinite(fraction) ? std::clamp(fraction, 0.0, 1.0) : 0.0;
      progress.push_back({task.id, task.token, static_cast<uint32_t>(std::lround(part * 1000)),
                          std::string(text.substr(0, kErrorTextMax))});
      has_any.store(true);
    }
    pool.announce();
  }

  Executors& pool;
  TaskOutput output;  // its memory is reused
  std::thread thread;
  std::atomic<bool> cancelled{false};
  std::atomic<bool> has_any{false};  // outcomes or progress; a hint for drain()
  std::mutex mutex;
  Token current;  // null between tasks
  std::vector<Outcome> outcomes;
  std::vector<ProgressItem> progress;
  Clock::time_point progress_at{};
};

Executors::Executors(const PluginHost& host, ExecutorOptions options)
    : host_(host), wake_(std::move(options.wake)), queue_(size_t{options.threads} * 256) {
  handlers_.reserve(kHandlersMax);  // executors read it while handlers are added
  for (const std::string& name : options.handlers) {
    handlers_.push_back(host_.find(name));
    DRAY_ASSERT(handlers_.back() != nullptr);
  }
  for (uint32_t i = 0; i < options.threads; ++i)
    executors_.push_back(std::make_unique<Executor>(*this));
  for (auto& e : executors_) {
    e->thread = std::thread([this, &e, nice = options.nice] {
      be_nice(nice);
      loop(*e);
    });
    pthread_setname_np(e->thread.native_handle(), "executor");
  }
}

Executors::~Executors() {
  {
    std::lock_guard lock(idle_mutex_);
    stop_ = true;
  }
  idle_.notify_all();
  for (auto& e : executors_) e->thread.join();
}

// --- loop thread -------------------------------------------------------------------------------

void Executors::add_handler(const Handler* handler) {
  DRAY_ASSERT(handlers_.size() < handlers_.capacity());
  handlers_.push_back(handler);
}

void Executors::push(std::vector<Start>&& starts) {
  if (starts.empty()) return;
  for (Start& s : starts) {
    // The agent hands out at most 256 per executor (Pace::ahead), so there is room, except while an
    // executor was preempted between claiming a cell and emptying it and the others went once
    // around.
    while (!queue_.push(std::move(s))) std::this_thread::yield();
  }
  // A read-modify-write, so that it is ordered after the pushes as sleepers see them.
  if (sleepers_.fetch_add(0) == 0) return;
  { std::lock_guard lock(idle_mutex_); }
  if (starts.size() == 1)
    idle_.notify_one();
  else
    idle_.notify_all();
}

// Either we see the token in an executor, or the executor, which publishes it before it looks at
// the set, sees it there.
void Executors::cancel(const std::vector<Token>& tokens) {
  if (tokens.empty()) return;
  {
    std::lock_guard lock(cancel_mutex_);
    cancelled_.insert(tokens.begin(), tokens.end());
    cancelled_count_.store(cancelled_.size());
  }
  for (auto& e : executors_) {
    std::lock_guard lock(e->mutex);
    if (std::find(tokens.begin(), tokens.end(), e->current) != tokens.end())
      e->cancelled.store(true);
  }
}

void Executors::recall() {
  Start start;
  while (queue_.take(start)) {
    Outcome o;
    o.id = start.id;
    o.token = start.token;
    o.started = false;
    recalled_.push_back(std::move(o));
  }
  if (!recalled_.empty()) announce();
}

void Executors::drain(std::vector<Outcome>& outcomes, std::vector<ProgressItem>& progress) {
  // Before looking: who adds later finds it false and wakes us. With has_any in the same total
  // order nothing falls between.
  announced_.store(false);
  std::move(recalled_.begin(), recalled_.end(), std::back_inserter(outcomes));
  recalled_.clear();
  for (auto& e : executors_) {
    if (!e->has_any.load()) continue;
    std::lock_guard lock(e->mutex);
    e->has_any.store(false);
    std::move(e->outcomes.begin(), e->outcomes.end(), std::back_inserter(outcomes));
    e->outcomes.clear();
    std::move(e->progress.begin(), e->progress.end(), std::back_inserter(progress));
    e->progress.clear();
  }
  if (cancelled_count_.load(std::memory_order_relaxed) == 0) return;
  std::lock_guard lock(cancel_mutex_);
  for (const Outcome& o : outcomes) cancelled_.erase(o.token);
  cancelled_count_.store(cancelled_.size());
}

// --- executor threads --------------------------------------------------------------------------

void Executors::loop(Executor& me) {
  Start start;
  while (take(start)) {
    Outcome outcome;
    RunGate* const gate = handlers_[start.spec->handler]->gate();
    if (begin(me, start) &&
        (gate == nullptr || gate->enter(Clock::time_point::max(), &me.cancelled))) {
      outcome = run(me, start);
      if (gate != nullptr) gate->leave();
    } else {
      outcome.id = start.id;
      outcome.token = start.token;
      outcome.started = false;
    }
    start = Start{};  // the payload goes before the outcome is seen
    end(me, std::move(outcome));
  }
}

bool Executors::take(Start& start) {
  for (;;) {
    if (queue_.take(start)) return true;
    if (announced_.load()) wake_();  // the loop may be letting outcomes gather: now it must not
    std::unique_lock lock(idle_mutex_);
    sleepers_.fetch_add(1);
    const bool found = queue_.take(start);
    if (!found && !stop_) idle_.wait(lock);
    sleepers_.fetch_sub(1);
    if (found) return true;
    if (stop_) return false;
  }
}

// False: cancelled before it began.
bool Executors::begin(Executor& me, const Start& start) {
  {
    std::lock_guard lock(me.mutex);
    me.current = start.token;
    me.cancelled.store(false);
    me.progress_at = {};
  }
  return cancelled_count_.load() == 0 || !is_cancelled(start.token);
}

bool Executors::is_cancelled(Token token) {
  std::lock_guard lock(cancel_mutex_);
  return cancelled_.count(token) != 0;
}

Outcome Executors::run(Executor& me, const Start& start) {
  TaskView view;
  view.id = start.id;
  view.token = start.token;
  view.attempt = start.attempt;
  view.payload = start.payload.view();
  view.user_header = start.spec->spec.header;
  view.cancelled = &me.cancelled;
  view.progress = &me;
  const Clock::time_point began = Clock::now();
  if (start.spec->time_limit > Duration::zero())
    view.deadline_ns = (began + start.spec->time_limit).time_since_epoch().count();
  host_.run(*handlers_[start.spec->handler], view, me.output);
  const auto us =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - began).count();

  Outcome o;
  o.id = start.id;
  o.token = start.token;
  o.started = me.output.kind != TaskOutput::Kind::not_started;
  o.verdict = verdict_of(me.output.kind);
  o.code = code_of(me.output.kind);
  o.exec_us = static_cast<uint32_t>(std::clamp<int64_t>(us, 0, UINT32_MAX));
  // A handler that looked at its deadline and gave up.
  const bool late = start.spec->time_limit > Duration::zero() &&
                    std::chrono::microseconds(us) >= start.spec->time_limit;
  if (late && o.verdict == Verdict::fail) {
    o.verdict = Verdict::time_limit;
    o.code = Errc::time_limit;
  }
  std::string& bytes = o.verdict == Verdict::ok ? me.output.bytes : me.output.text;
  o.result = bytes.size() <= kCopyMax ? Bytes::copy(bytes) : Bytes(std::exchange(bytes, {}));
  return o;
}

void Executors::end(Executor& me, Outcome&& outcome) {
  {
    std::lock_guard lock(me.mutex);
    me.current = Token{};
    me.outcomes.push_back(std::move(outcome));
    me.has_any.store(true);
  }
  announce();
}

void Executors::announce() {
  if (!announced_.load() && !announced_.exchange(true)) wake_();
}

}  // namespace dray::worker
