// Threads, cancel flags and hand-over of outcomes.
#include "services/worker/shell/executor.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>

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
      const bool runs = std::any_of(tasks.begin(), tasks.end(),
                                    [&](const Task& t) { return t.token == task.token; });
      if (!runs || now < progress_at) return;
      progress_at = now + kProgressEvery;
      const double part = std::isfinite(fraction) ? std::clamp(fraction, 0.0, 1.0) : 0.0;
      progress.push_back({task.id, task.token, static_cast<uint32_t>(std::lround(part * 1000)),
                          std::string(text.substr(0, kErrorTextMax))});
      has_any.store(true);
    }
    pool.announce();
  }

  struct Task {
    Token token;
    const Start* start = nullptr;  // for its own thread only
    std::atomic<bool>* cancelled = nullptr;
    bool runs = false;  // false: cancelled before it began
  };

  Executors& pool;
  std::thread thread;
  std::vector<TaskView> views;  // of the tasks that run; all this memory is reused
  std::vector<TaskOutput> outputs;
  std::vector<Outcome> made;
  std::deque<std::atomic<bool>> flags;
  std::atomic<bool> has_any{false};  // outcomes or progress; a hint for drain()
  std::mutex mutex;
  std::vector<Task> tasks;  // of the run now; written by its thread only
  std::vector<Outcome> outcomes;
  std::vector<ProgressItem> progress;
  Clock::time_point progress_at{};
};

Executors::Executors(const PluginHost& host, ExecutorOptions options)
    : host_(host), wake_(std::move(options.wake)), queue_(size_t{options.threads} * 256) {
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
    for (const Executor::Task& t : e->tasks)
      if (std::find(tokens.begin(), tokens.end(), t.token) != tokens.end())
        t.cancelled->store(true);
  }
}

void Executors::recall() {
  Start start;
  while (queue_.take(start)) {
    const auto back = [&](const Start& s) {
      Outcome o;
      o.id = s.id;
      o.token = s.token;
      o.started = false;
      recalled_.push_back(std::move(o));
    };
    back(start);
    for (const Start& s : start.more) back(s);
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
    run(me, start);
    start = Start{};  // the payload goes before the outcome is seen
    end(me);
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

void Executors::run(Executor& me, const Start& start) {
  begin(me, start);
  RunGate* const gate = handlers_[start.spec->handler]->gate();
  const bool any =
      std::any_of(me.tasks.begin(), me.tasks.end(), [](const Executor::Task& t) { return t.runs; });
  const std::atomic<bool>* const given_up = me.tasks.size() == 1 ? me.tasks[0].cancelled : nullptr;
  if (any && (gate == nullptr || gate->enter(Clock::time_point::max(), given_up))) {
    run_handler(me);
    if (gate != nullptr) gate->leave();
    return;
  }
  for (const Executor::Task& t : me.tasks) {
    Outcome o;
    o.id = t.start->id;
    o.token = t.start->token;
    o.started = false;
    me.made.push_back(std::move(o));
  }
}

void Executors::begin(Executor& me, const Start& start) {
  const size_t n = 1 + start.more.size();
  while (me.flags.size() < n) me.flags.emplace_back(false);
  {
    std::lock_guard lock(me.mutex);
    for (size_t i = 0; i < n; ++i) {
      me.flags[i].store(false);
      const Start& s = i == 0 ? start : start.more[i - 1];
      me.tasks.push_back({s.token, &s, &me.flags[i], true});
    }
    me.progress_at = {};
  }
  if (cancelled_count_.load() == 0) return;
  for (Executor::Task& t : me.tasks) t.runs = !is_cancelled(t.token);
}

bool Executors::is_cancelled(Token token) {
  std::lock_guard lock(cancel_mutex_);
  return cancelled_.count(token) != 0;
}

void Executors::run_handler(Executor& me) {
  const Handler& handler = *handlers_[me.tasks[0].start->spec->handler];
  const Clock::time_point began = Clock::now();
  me.views.clear();
  for (const Executor::Task& t : me.tasks) {
    if (!t.runs) continue;
    TaskView view;
    view.id = t.start->id;
    view.token = t.start->token;
    view.attempt = t.start->attempt;
    view.payload = t.start->payload.view();
    view.user_header = t.start->spec->spec.header;
    view.cancelled = t.cancelled;
    view.progress = &me;
    if (t.start->spec->time_limit > Duration::zero())
      view.deadline_ns = (began + t.start->spec->time_limit).time_since_epoch().count();
    me.views.push_back(view);
  }
  const size_t n = me.views.size();
  if (me.outputs.size() < n) me.outputs.resize(n);
  if (n > 1 && handler.info().can_batch)
    host_.run_batch(handler, me.views, {me.outputs.data(), n});
  else
    for (size_t i = 0; i < n; ++i) host_.run(handler, me.views[i], me.outputs[i]);
  const auto all = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - began);
  const auto all_us = static_cast<uint64_t>(std::clamp<int64_t>(all.count(), 0, UINT32_MAX));
  size_t next = 0;
  for (const Executor::Task& t : me.tasks) {
    if (t.runs) {
      me.made.push_back(outcome_of(*t.start, me.outputs[next++], all_us / n, all_us));
      continue;
    }
    Outcome o;
    o.id = t.start->id;
    o.token = t.start->token;
    o.started = false;
    me.made.push_back(std::move(o));
  }
}

Outcome Executors::outcome_of(const Start& start, TaskOutput& output, uint64_t own_us,
                              uint64_t all_us) {
  Outcome o;
  o.id = start.id;
  o.token = start.token;
  o.verdict = verdict_of(output.kind);
  o.code = code_of(output.kind);
  o.exec_us = static_cast<uint32_t>(own_us);
  o.piece_us = static_cast<uint32_t>(all_us);
  // A handler that looked at its deadline and gave up.
  const bool late = start.spec->time_limit > Duration::zero() &&
                    std::chrono::microseconds(all_us) >= start.spec->time_limit;
  if (late && o.verdict == Verdict::fail) {
    o.verdict = Verdict::time_limit;
    o.code = Errc::time_limit;
  }
  std::string& bytes = o.verdict == Verdict::ok ? output.bytes : output.text;
  o.result = bytes.size() <= kCopyMax ? Bytes::copy(bytes) : Bytes(std::exchange(bytes, {}));
  return o;
}

void Executors::end(Executor& me) {
  {
    std::lock_guard lock(me.mutex);
    me.tasks.clear();
    std::move(me.made.begin(), me.made.end(), std::back_inserter(me.outcomes));
    me.has_any.store(true);
  }
  me.made.clear();
  announce();
}

void Executors::announce() {
  if (!announced_.load() && !announced_.exchange(true)) wake_();
}

}  // namespace dray::worker
