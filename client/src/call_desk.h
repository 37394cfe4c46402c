// CallDesk: where callers and the client's thread meet for calls: commands of other threads are
// collected for one wake-up, those of callbacks go straight to the core, and each end finds its
// caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "client/core/client_core.h"
#include "client/src/convert.h"
#include "common/service/host.h"

namespace dray {
inline namespace client_v1 {

CallOutcome make_refusal(Code code, std::string text);

// A thread blocked in Client::call. One futex, and a wake-up only if the thread sleeps.
class CallWaiter {
 public:
  void arm() { state_.store(kOpen); }
  void finish(CallOutcome&& outcome);
  // False: not over by then, and the object must not be used again by this caller.
  bool wait(Duration limit);
  CallOutcome take() { return std::move(outcome_); }

 private:
  static constexpr int kOpen = 0;
  static constexpr int kSleeping = 1;
  static constexpr int kOver = 2;
  std::atomic<int> state_{kOpen};
  CallOutcome outcome_;
};

// A streaming reply between the client's thread and its reader.
struct StreamState {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::string> parts;
  uint64_t untold = 0;  // bytes taken that the core does not know of
  uint64_t window = 0;
  bool over = false;
  CallOutcome outcome;
  std::chrono::steady_clock::time_point until;  // the core ends it before
  std::weak_ptr<ClientImpl> impl;
  uint64_t handle = 0;

  void push(std::string_view part);
  void finish(CallOutcome&& result);
};

// Who is told about a call: one of the three.
struct CallSink {
  std::function<void(CallOutcome&&)> f;
  std::shared_ptr<CallWaiter> waiter;
  std::shared_ptr<StreamState> stream;
  void finish(CallOutcome&& outcome);
};

class CallDesk {
 public:
  CallDesk(ClientCore& core, Host<ClientCore, NoDurable>& host) : core_(core), host_(host) {}

  // --- any thread ---
  // Returns a handle for cancel and taken.
  uint64_t start(CallCmd&& cmd, Duration limit, CallSink&& sink);
  void cancel(uint64_t handle);
  void taken(uint64_t handle, uint64_t bytes, bool hurry);

  // --- the client's thread ---
  void set_thread() { thread_id_.store(std::this_thread::get_id()); }
  void poll(Now now, ClientOut& out);  // start of a turn: what other threads want
  bool has_news(const ClientOut& out) const { return !late_.empty() || !out.calls.empty(); }
  // Around everything that runs callbacks in a turn. What they start leaves with this turn.
  void enter(ClientOut& out);
  void leave(ClientOut& out);
  void close();  // after the last turn: ends everything

 private:
  struct Start {
    CallCmd cmd;
    CallSink sink;
    Time at{};
    uint64_t handle = 0;
  };
  struct Taken {
    uint64_t handle = 0;
    uint64_t bytes = 0;
  };
  struct Inbox {
    std::vector<Start> starts;
    std::vector<uint64_t> cancels;
    std::vector<Taken> taken;
  };
  struct Slot {
    CallSink sink;
    Time at{};
    uint64_t handle = 0;
  };
  static constexpr uint64_t kForeign = uint64_t{1} << 63;  // handle made by another thread

  bool on_thread() const { return thread_id_.load() == std::this_thread::get_id(); }
  uint64_t begin(Start&& start, Now now, ClientOut& out);
  uint64_t number_of(uint64_t handle) const;
  void wake_once(std::unique_lock<std::mutex>& lock);
  void deliver(CallEvent& event, Time now);
  void deliver_all(ClientOut& out);

  ClientCore& core_;
  Host<ClientCore, NoDurable>& host_;
  std::atomic<std::thread::id> thread_id_{};

  std::mutex mutex_;
  Inbox inbox_;
  uint64_t next_handle_ = kForeign;
  bool woken_ = false;  // the client's thread is on its way to the inbox
  bool closed_ = false;
  std::atomic<bool> has_inbox_{false};

  // The client's thread only.
  Inbox spare_;
  ClientOut* turn_ = nullptr;  // callbacks are running
  bool dirty_ = false;  // they did something
  std::vector<Slot> slots_;  // by tag
  std::vector<uint32_t> free_slots_;
  std::unordered_map<uint64_t, uint64_t> numbers_;  // by foreign handle
  std::vector<CallEvent> batch_;
  std::vector<CallEvent> late_;  // came of callbacks: told in the next turn
  std::deque<CallSink> refused_;  // started by callbacks while the client closes
};

}  // namespace client_v1
}  // namespace dray
