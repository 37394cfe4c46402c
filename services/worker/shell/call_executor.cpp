// Threads, hand-over, stop flags, deadlines and windows of calls.
#include "services/worker/shell/call_executor.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <thread>
#include <tuple>

#include "common/base/assert.h"
#include "common/net/clock.h"
#include "services/worker/shell/futex.h"

namespace dray::worker {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kPartMax = size_t{1} << 20;  // larger parts are cut
// All guests of one turn together. A hand-over to another thread and back costs 20 to 100 us.
constexpr double kGuestTurnUs = 200;
constexpr uint32_t kGuestAfter = 4;  // batches, before a handler is known
constexpr double kCostKeeps = 0.98;

uint32_t micros(Clock::duration d) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(d).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(us, 0, UINT32_MAX));
}

std::pair<CallEnd, Errc> end_of(TaskOutput::Kind kind) {
  switch (kind) {
    case TaskOutput::Kind::ok:
      return {CallEnd::reply, Errc::ok};
    case TaskOutput::Kind::fail:
      return {CallEnd::failed, Errc::app_error};
    case TaskOutput::Kind::crashed:
      return {CallEnd::unknown, Errc::outcome_unknown};
    case TaskOutput::Kind::not_started:
      return {CallEnd::rejected, Errc::unavailable};
    default:
      return {CallEnd::failed, Errc::app_fatal};
  }
}

}  // namespace

struct CallExecutors::Call {
  std::atomic<bool> stopped{false};
  Clock::time_point deadline;
  uint64_t window = 0;  // the first one
  // Under the job's mutex.
  uint64_t granted = 0;
  uint64_t sent = 0;
};

struct CallExecutors::Job {
  BatchStart start;
  Clock::time_point pushed;
  std::unique_ptr<Call[]> calls;
  size_t capacity = 0;
  BatchOutcome outcome;
  std::mutex mutex;
  std::condition_variable moved;  // credit came, or a stop
};

struct CallExecutors::Thread : PartSink {
  explicit Thread(CallExecutors& executors) : pool(executors) {}

  // In this thread.
  bool send_part(const TaskView& task, std::string_view bytes) override {
    const size_t i = places[static_cast<size_t>(&task - views.data())];
    Call& call = job->calls[i];
    while (!bytes.empty()) {
      const uint64_t n = room_for(call, bytes.size());
      if (n == 0) return false;
      pool.add_part(job->start.calls[i].call, bytes.substr(0, n));
      bytes.remove_prefix(n);
    }
    return true;
  }
  // Waits until the part fits, or half of the first window is free, then part of it goes: more may
  // never come free, because readers grant in steps. 0: stopped or too late.
  uint64_t room_for(Call& call, size_t size) const {
    const uint64_t piece = std::min<uint64_t>(size, kPartMax);
    const uint64_t enough = std::min(piece, std::max<uint64_t>(call.window / 2, 1));
    std::unique_lock lock(job->mutex);
    const auto ready = [&] { return call.stopped.load() || call.granted - call.sent >= enough; };
    if (!job->moved.wait_until(lock, call.deadline, ready)) return 0;
    if (call.stopped.load() || Clock::now() >= call.deadline) return 0;
    const uint64_t n = std::min(piece, call.granted - call.sent);
    call.sent += n;
    return n;
  }

  CallExecutors& pool;
  std::thread thread;
  Futex go;
  std::atomic<bool> spins{false};
  Job* job = nullptr;  // handed over before `go`
  std::vector<TaskView> views;  // of the calls that are run together
  std::vector<size_t> places;  // their places in the batch
  std::vector<TaskOutput> outputs;  // their memory is reused
};

CallExecutors::CallExecutors(const PluginHost& host, CallExecutorOptions options)
    : host_(host), spin_(options.spin), wake_(std::move(options.wake)) {
  handlers_.reserve(kHandlersMax);  // executors read it while handlers are added
  for (const std::string& name : options.handlers) {
    handlers_.push_back(host_.find(name));
    DRAY_ASSERT(handlers_.back() != nullptr);
  }
  costs_.resize(handlers_.size());
  for (uint32_t i = 0; i < options.threads; ++i)
    threads_.push_back(std::make_unique<Thread>(*this));
  for (auto& t : threads_) {
    t->thread = std::thread([this, &t] { loop(*t); });
    pthread_setname_np(t->thread.native_handle(), "call");
  }
}

CallExecutors::~CallExecutors() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    for (Thread* idle : idle_) {
      idle->job = nullptr;
      idle->go.set();
    }
    idle_.clear();
  }
  for (auto& t : threads_) t->thread.join();
}

// --- loop thread -------------------------------------------------------------------------------

void CallExecutors::add_handler(const Handler* handler) {
  DRAY_ASSERT(handlers_.size() < handlers_.capacity());
  handlers_.push_back(handler);
  costs_.emplace_back();
}

CallExecutors::Job* CallExecutors::make_job(BatchStart&& start) {
  if (spare_.empty()) {
    jobs_.push_back(std::make_unique<Job>());
    spare_.push_back(jobs_.back().get());
  }
  Job* job = spare_.back();
  spare_.pop_back();
  job->start = std::move(start);
  job->pushed = Clock::now();
  const size_t n = job->start.calls.size();
  if (job->capacity < n) {
    job->calls = std::make_unique<Call[]>(n);
    job->capacity = n;
  }
  // Handlers think in CLOCK_MONOTONIC, the cores in a clock that also counts suspended time.
  const auto offset = job->pushed.time_since_epoch() - read_clock().mono.time_since_epoch();
  for (size_t i = 0; i < n; ++i) {
    const BatchCall& from = job->start.calls[i];
    Call& call = job->calls[i];
    call.stopped.store(false);
    call.deadline = from.deadline == kNever
                        ? Clock::time_point::max()
                        : Clock::time_point(from.deadline.time_since_epoch() + offset);
    call.window = call.granted = from.window;
    call.sent = 0;
  }
  live_.push_back(job);
  return job;
}

void CallExecutors::push(std::vector<BatchStart>&& batches) {
  if (batches.empty()) return;
  woken_.clear();
  const size_t first = live_.size();
  for (BatchStart& start : batches) make_job(std::move(start));
  {
    std::lock_guard lock(mutex_);
    for (size_t i = first; i < live_.size(); ++i) {
      if (idle_.empty()) {
        queue_.push_back(live_[i]);
        continue;
      }
      idle_.back()->job = live_[i];
      woken_.push_back(idle_.back());
      idle_.pop_back();
    }
  }
  for (Thread* thread : woken_) thread->go.set();
}

bool CallExecutors::are_short(const std::vector<BatchStart>& batches) const {
  double us = 0;
  for (const BatchStart& b : batches) {
    const Cost& cost = costs_[b.handler];
    us += cost.us;
    if (cost.batches < kGuestAfter || us > kGuestTurnUs) return false;
    if (handlers_[b.handler]->gate() != nullptr || handlers_[b.handler]->is_remote()) return false;
    for (const BatchCall& call : b.calls)
      if (call.window != 0) return false;
  }
  return true;
}

std::function<void()> CallExecutors::as_guest(std::vector<BatchStart>&& batches) {
  std::vector<Job*> jobs;
  jobs.reserve(batches.size());
  for (BatchStart& start : batches) jobs.push_back(make_job(std::move(start)));
  return [this, jobs = std::move(jobs)] { run_here(jobs); };
}

void CallExecutors::run_here(const std::vector<Job*>& jobs) {
  std::unique_ptr<Thread> me;
  {
    std::lock_guard lock(mutex_);
    if (!guests_.empty()) {
      me = std::move(guests_.back());
      guests_.pop_back();
    }
  }
  if (!me) me = std::make_unique<Thread>(*this);
  for (Job* job : jobs) {
    me->job = job;
    run(*me, *job);
  }
  {
    std::lock_guard lock(mutex_);
    done_.insert(done_.end(), jobs.begin(), jobs.end());
    guests_.push_back(std::move(me));
  }
  announce();
}

void CallExecutors::note_cost(const Job& job) {
  if (!job.outcome.started) return;
  Cost& cost = costs_[job.start.handler];
  cost.us = std::max<double>(job.outcome.run_us, cost.us * kCostKeeps);
  ++cost.batches;
}

CallExecutors::Call* CallExecutors::find(uint64_t call, Job*& job) {
  for (Job* live : live_)
    for (size_t i = 0; i < live->start.calls.size(); ++i)
      if (live->start.calls[i].call == call) {
        job = live;
        return &live->calls[i];
      }
  return nullptr;
}

void CallExecutors::stop(const std::vector<uint64_t>& calls) {
  for (uint64_t number : calls) {
    Job* job = nullptr;
    Call* call = find(number, job);
    if (call == nullptr) continue;
    {
      std::lock_guard lock(job->mutex);
      call->stopped.store(true);
    }
    job->moved.notify_all();
  }
}

void CallExecutors::grant(const std::vector<CallGrant>& grants) {
  for (const CallGrant& grant : grants) {
    Job* job = nullptr;
    Call* call = find(grant.call, job);
    if (call == nullptr) continue;
    {
      std::lock_guard lock(job->mutex);
      call->granted = std::max(call->granted, grant.granted);
    }
    job->moved.notify_all();
  }
}

void CallExecutors::drain(std::vector<BatchOutcome>& outcomes, std::vector<CallPart>& parts) {
  if (!announced_.load()) return;
  // Before looking: who adds later finds it false and wakes us.
  announced_.store(false);
  {
    std::lock_guard lock(mutex_);
    drained_.swap(done_);
    std::move(parts_.begin(), parts_.end(), std::back_inserter(parts));
    parts_.clear();
  }
  for (Job* job : drained_) {
    note_cost(*job);
    outcomes.push_back(std::move(job->outcome));
    live_.erase(std::find(live_.begin(), live_.end(), job));
    spare_.push_back(job);
  }
  drained_.clear();
}

// --- executor threads --------------------------------------------------------------------------

void CallExecutors::loop(Thread& me) {
  for (Job* job = next(me, nullptr); job != nullptr; job = next(me, job)) {
    me.job = job;
    run(me, *job);
  }
}

// Hands in what is done and gets the next; null: the end.
CallExecutors::Job* CallExecutors::next(Thread& me, Job* done) {
  Job* job = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (done != nullptr) done_.push_back(done);
    if (head_ < queue_.size()) {
      job = queue_[head_++];
      if (head_ == queue_.size()) {
        queue_.clear();
        head_ = 0;
      }
    } else if (stop_) {
      return nullptr;  // what was announced is not drained any more
    } else {
      if (!idle_.empty()) idle_.back()->spins.store(false, std::memory_order_relaxed);
      me.job = nullptr;
      me.spins.store(spin_ > Duration::zero(), std::memory_order_relaxed);
      idle_.push_back(&me);
    }
  }
  if (done != nullptr) announce();
  if (job != nullptr) return job;
  return wait(me);
}

CallExecutors::Job* CallExecutors::wait(Thread& me) {
  if (me.spins.load(std::memory_order_relaxed)) {
    const auto until = Clock::now() + spin_;
    while (!me.go.is_set() && me.spins.load(std::memory_order_relaxed) && Clock::now() < until) {
    }
  }
  me.go.wait();
  return me.job;
}

bool CallExecutors::dead(Job& job, size_t i) const {
  const Call& call = job.calls[i];
  CallOutcome& o = job.outcome.calls[i];
  if (call.stopped.load()) {
    o.end = CallEnd::cancelled;
    o.code = Errc::cancelled;
    return true;
  }
  if (Clock::now() < call.deadline) return false;
  o.end = CallEnd::expired;
  o.code = Errc::expired;
  return true;
}

void CallExecutors::run(Thread& me, Job& job) {
  const Handler& handler = *handlers_[job.start.handler];
  const size_t n = job.start.calls.size();
  job.outcome = BatchOutcome{};
  job.outcome.batch = job.start.batch;
  job.outcome.started = false;
  job.outcome.calls.resize(n);
  Clock::time_point last{};
  for (size_t i = 0; i < n; ++i) {
    job.outcome.calls[i].call = job.start.calls[i].call;
    last = std::max(last, job.calls[i].deadline);
  }
  RunGate* const gate = handler.gate();
  const bool inside =
      gate == nullptr || gate->enter(last, n == 1 ? &job.calls[0].stopped : nullptr);
  const Clock::time_point began = Clock::now();
  job.outcome.wait_us = micros(began - job.pushed);
  me.views.clear();
  me.places.clear();
  for (size_t i = 0; i < n; ++i)
    if (!dead(job, i) && inside) me.places.push_back(i);
  if (!me.places.empty()) {
    job.outcome.started = true;
    run_calls(me, job);
    job.outcome.run_us = micros(Clock::now() - began);
  }
  if (gate != nullptr && inside) gate->leave();
  for (BatchCall& call : job.start.calls) call.payload = Bytes();
}

// The calls at me.places, which are alive.
void CallExecutors::run_calls(Thread& me, Job& job) {
  const Handler& handler = *handlers_[job.start.handler];
  const size_t n = me.places.size();
  for (size_t i : me.places) {
    const BatchCall& from = job.start.calls[i];
    TaskView view;
    view.id.lo = from.call;
    view.payload = from.payload.view();
    view.model = job.start.key;
    view.is_call = true;
    view.items = from.items;
    view.cancelled = &job.calls[i].stopped;
    view.deadline_ns = job.calls[i].deadline.time_since_epoch().count();
    view.parts = from.window != 0 ? &me : nullptr;
    me.views.push_back(view);
  }
  if (me.outputs.size() < n) me.outputs.resize(n);
  const std::span<TaskOutput> outs(me.outputs.data(), n);
  if (handler.info().can_batch)
    host_.run_batch(handler, me.views, outs);
  else
    for (size_t k = 0; k < n; ++k) host_.run(handler, me.views[k], outs[k]);
  for (size_t k = 0; k < n; ++k) {
    CallOutcome& o = job.outcome.calls[me.places[k]];
    TaskOutput& out = outs[k];
    const bool ok = out.kind == TaskOutput::Kind::ok;
    std::tie(o.end, o.code) = end_of(out.kind);
    // Of a batch all are started, or none.
    if (out.kind == TaskOutput::Kind::not_started) job.outcome.started = false;
    o.bytes = Bytes(std::exchange(ok ? out.bytes : out.text, {}));
  }
}

void CallExecutors::add_part(uint64_t call, std::string_view bytes) {
  Bytes copy = Bytes::copy(bytes);
  {
    std::lock_guard lock(mutex_);
    parts_.push_back({call, std::move(copy)});
  }
  announce();
}

void CallExecutors::announce() {
  if (!announced_.load() && !announced_.exchange(true)) wake_();
}

}  // namespace dray::worker
