// Executors: the threads that run handlers. Starts in, outcomes out; they never speak the protocol.
//
// - Starts are taken strictly in order, one at a time, so nothing waits behind a busy thread while
//   another one is free.
// - A start with others in `more` is one run of a batch handler; each task has an outcome of its
// own.
// - An outcome can be drained the moment it exists; `wake` is called for the first one after a
//   drain(), and again when a thread runs out of work.
// - A handler that does not return keeps its thread: the process must then leave by _Exit.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "services/worker/core/work.h"
#include "services/worker/shell/plugin_host.h"
#include "services/worker/shell/start_queue.h"

namespace dray::worker {

struct ExecutorOptions {
  uint32_t threads = 1;
  std::vector<std::string> handlers;  // as AgentOptions.handlers: LocalSpec.handler is an index
  std::function<void()> wake;  // any thread; something can be drained
  int nice = 0;  // of the threads
};

class Executors {
 public:
  Executors(const PluginHost& host, ExecutorOptions options);
  ~Executors();  // waits for what runs
  Executors(const Executors&) = delete;
  Executors& operator=(const Executors&) = delete;

  // --- loop thread ---
  void push(std::vector<Start>&& starts);
  void cancel(const std::vector<Token>& tokens);  // each pushed, its outcome not drained
  void recall();  // what has not begun comes back as an outcome with started = false
  void drain(std::vector<Outcome>& outcomes, std::vector<ProgressItem>& progress);
  bool has_waiting() const { return !queue_.empty(); }

 private:
  struct Executor;
  void loop(Executor& me);
  bool take(Start& start);
  void run(Executor& me, const Start& start);
  void begin(Executor& me, const Start& start);
  void run_handler(Executor& me);
  Outcome outcome_of(const Start& start, TaskOutput& output, uint64_t own_us, uint64_t all_us);
  void end(Executor& me);
  bool is_cancelled(Token token);
  void announce();

  const PluginHost& host_;
  std::function<void()> wake_;
  std::vector<const Handler*> handlers_;
  StartQueue queue_;
  std::vector<std::unique_ptr<Executor>> executors_;
  std::vector<Outcome> recalled_;  // loop thread
  std::atomic<bool> announced_{false};

  std::mutex idle_mutex_;
  std::condition_variable idle_;
  std::atomic<int> sleepers_{0};
  bool stop_ = false;

  std::mutex cancel_mutex_;
  std::unordered_set<Token> cancelled_;
  std::atomic<size_t> cancelled_count_{0};
};

}  // namespace dray::worker
