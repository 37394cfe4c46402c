// CallDesk: inbox of other threads, delivery of ends and parts, and the last breath of a client.
#include "client/src/call_desk.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/net/clock.h"

namespace dray {
inline namespace client_v1 {
namespace {

constexpr std::string_view kClosedText = "the client was shut down";

void futex_wake(std::atomic<int>* word) {
  ::syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}
void futex_wait(std::atomic<int>* word, int value, Duration limit) {
  timespec time{};
  time.tv_sec = static_cast<time_t>(limit.count() / 1'000'000'000);
  time.tv_nsec = static_cast<long>(limit.count() % 1'000'000'000);
  ::syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &time, nullptr, 0);
}

// What a router left open about the reason.
Code usual_code(CallEnd end) {
  switch (end) {
    case CallEnd::reply:
      return Code::ok;
    case CallEnd::failed:
      return Code::app_error;
    case CallEnd::rejected:
      return Code::unavailable;
    case CallEnd::expired:
      return Code::expired;
    case CallEnd::cancelled:
      return Code::cancelled;
    case CallEnd::unknown:
      break;
  }
  return Code::outcome_unknown;
}

CallOutcome to_outcome(const CallEvent& event, Duration total) {
  using std::chrono::microseconds;
  const ReplyRow& row = event.row;
  CallOutcome o;
  o.end = static_cast<CallEnd>(row.status);
  o.code = o.end == CallEnd::reply ? Code::ok : to_code(row.code);
  if (o.code == Code::ok) o.code = usual_code(o.end);
  o.bytes = std::string(event.bytes.view());
  o.retry_after = Millis{row.retry_after_ms};
  if (event.own_limit)
    o.limit = event.own_limit;
  else if (row.limit > 0 && row.limit < kCallLimits)
    o.limit = std::string(call_limit_name(static_cast<CallLimit>(row.limit)));
  o.value = row.value;
  o.times = {std::chrono::duration_cast<microseconds>(total),
             microseconds(row.queue_us),
             microseconds(row.gather_us),
             microseconds(row.worker_us),
             microseconds(row.wait_us),
             microseconds(row.run_us),
             row.batch_items,
             row.attempts};
  return o;
}

}  // namespace

CallOutcome make_refusal(Code code, std::string text) {
  CallOutcome o;
  o.end = CallEnd::rejected;
  o.code = code;
  o.bytes = std::move(text);
  return o;
}

// --- the three kinds of callers ------------------------------------------------------------------

void CallWaiter::finish(CallOutcome&& outcome) {
  outcome_ = std::move(outcome);
  if (state_.exchange(kOver) == kSleeping) futex_wake(&state_);
}

bool CallWaiter::wait(Duration limit) {
  Time until = read_clock().mono + limit;
  while (true) {
    int open = kOpen;
    state_.compare_exchange_strong(open, kSleeping);
    if (open == kOver) return true;
    if (limit <= Duration::zero()) return false;
    futex_wait(&state_, kSleeping, limit);
    if (state_.load() == kOver) return true;
    limit = until - read_clock().mono;
  }
}

void StreamState::push(std::string_view part) {
  std::lock_guard lock(mutex);
  parts.emplace_back(part);
  changed.notify_one();
}

void StreamState::finish(CallOutcome&& result) {
  std::lock_guard lock(mutex);
  outcome = std::move(result);
  over = true;
  changed.notify_all();
}

void CallSink::finish(CallOutcome&& outcome) {
  if (waiter)
    waiter->finish(std::move(outcome));
  else if (stream)
    stream->finish(std::move(outcome));
  else if (f)
    f(std::move(outcome));
}

// --- any thread ----------------------------------------------------------------------------------

uint64_t CallDesk::start(CallCmd&& cmd, Duration limit, CallSink&& sink) {
  Now now = read_clock();
  cmd.deadline = now.mono + limit;
  Start start{std::move(cmd), std::move(sink), now.mono, 0};
  if (on_thread()) {
    if (turn_) return begin(std::move(start), now, *turn_);
    refused_.push_back(std::move(start.sink));
    return 0;
  }
  std::unique_lock lock(mutex_);
  if (closed_) {
    lock.unlock();
    start.sink.finish(make_refusal(Code::closed, std::string(kClosedText)));
    return 0;
  }
  uint64_t handle = start.handle = ++next_handle_;
  inbox_.starts.push_back(std::move(start));
  wake_once(lock);
  return handle;
}

void CallDesk::cancel(uint64_t handle) {
  if (handle == 0) return;
  if (on_thread()) {
    if (!turn_) return;
    dirty_ = true;
    return core_.calls().cancel(number_of(handle), *turn_);
  }
  std::unique_lock lock(mutex_);
  if (closed_) return;
  inbox_.cancels.push_back(handle);
  wake_once(lock);
}

void CallDesk::taken(uint64_t handle, uint64_t bytes, bool hurry) {
  std::unique_lock lock(mutex_);
  if (closed_) return;
  inbox_.taken.push_back({handle, bytes});
  if (hurry) return wake_once(lock);
  has_inbox_.store(true, std::memory_order_relaxed);  // for the next turn, whatever causes it
}

void CallDesk::wake_once(std::unique_lock<std::mutex>& lock) {
  has_inbox_.store(true, std::memory_order_relaxed);
  bool first = !std::exchange(woken_, true);
  lock.unlock();
  if (first) host_.wake();
}

// --- the client's thread -------------------------------------------------------------------------

uint64_t CallDesk::number_of(uint64_t handle) const {
  if (!(handle & kForeign)) return handle;
  auto it = numbers_.find(handle);
  return it == numbers_.end() ? 0 : it->second;
}

uint64_t CallDesk::begin(Start&& start, Now now, ClientOut& out) {
  dirty_ = true;
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  uint32_t tag = free_slots_.back();
  free_slots_.pop_back();
  slots_[tag] = {std::move(start.sink), start.at, start.handle};
  start.cmd.tag = tag;
  return core_.calls().start(std::move(start.cmd), now, out);
}

void CallDesk::poll(Now now, ClientOut& out) {
  if (!has_inbox_.load(std::memory_order_relaxed)) return;
  {
    std::lock_guard lock(mutex_);
    std::swap(inbox_, spare_);
    woken_ = false;
    has_inbox_.store(false, std::memory_order_relaxed);
  }
  for (Start& start : spare_.starts) {
    uint64_t handle = start.handle;
    bool waits = start.sink.waiter != nullptr;  // nobody can cancel it
    if (waits) start.handle = 0;
    uint64_t number = begin(std::move(start), now, out);
    if (!waits) numbers_.emplace(handle, number);
  }
  for (uint64_t handle : spare_.cancels) core_.calls().cancel(number_of(handle), out);
  for (const Taken& t : spare_.taken) core_.calls().taken(number_of(t.handle), t.bytes, now);
  spare_.starts.clear();
  spare_.cancels.clear();
  spare_.taken.clear();
}

void CallDesk::deliver(CallEvent& event, Time now) {
  Slot& slot = slots_[event.tag];
  if (event.row.status == 0) {  // a part
    if (slot.sink.stream) slot.sink.stream->push(event.bytes.view());
    return;
  }
  CallSink sink = std::move(slot.sink);
  Duration total = now - slot.at;
  if (slot.handle != 0) numbers_.erase(slot.handle);
  slot = Slot{};
  free_slots_.push_back(static_cast<uint32_t>(event.tag));
  sink.finish(to_outcome(event, total));
}

void CallDesk::deliver_all(ClientOut& out) {
  batch_.clear();
  std::swap(batch_, late_);
  if (batch_.empty()) {
    std::swap(batch_, out.calls);
  } else {
    std::move(out.calls.begin(), out.calls.end(), std::back_inserter(batch_));
    out.calls.clear();
  }
  if (batch_.empty()) return;
  Time now = read_clock().mono;
  for (CallEvent& event : batch_) deliver(event, now);
}

// The `now` lane was sent before callbacks run; what they start goes with the other one.
void CallDesk::enter(ClientOut& out) {
  out.now.clear();
  turn_ = &out;
  dirty_ = false;
}

void CallDesk::leave(ClientOut& out) {
  deliver_all(out);
  turn_ = nullptr;
  if (!dirty_) return;
  Now now = read_clock();
  if (core_.calls().next_deadline() <= now.mono) core_.calls().tick(now, out);
  core_.calls().end_turn(now, out);
  std::move(out.now.begin(), out.now.end(), std::back_inserter(out.after_sync));
  out.now.clear();
  std::swap(late_, out.calls);
  if (!late_.empty())
    host_.wake();  // in the next turn: a callback may start another call each time
}

void CallDesk::close() {
  ClientOut out;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  poll(read_clock(), out);
  core_.calls().end_all(out);
  deliver_all(out);
  while (!refused_.empty()) {
    CallSink sink = std::move(refused_.front());
    refused_.pop_front();
    sink.finish(make_refusal(Code::closed, std::string(kClosedText)));
  }
}

}  // namespace client_v1
}  // namespace dray
