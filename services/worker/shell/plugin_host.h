// PluginHost: loads handler plugins, keeps their handlers and runs them without letting anything
// out.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/result.h"
#include "common/wire/offer.h"
#include "services/worker/shell/run_gate.h"

struct dray_handler;
struct dray_host;

namespace dray {

struct TaskView;

// Where a running handler's progress and log lines go. Called from handler threads.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void on_progress(const TaskView& task, double fraction, std::string_view text) = 0;
};

class LogSink {
 public:
  virtual ~LogSink() = default;
  virtual void on_log(int level, std::string_view text) = 0;  // level: DRAY_LOG_* of worker.h
};

// Where the parts of a streaming reply go. Called from the thread that runs the handler; blocks
// while the reader is behind. False: nobody reads any more.
class PartSink {
 public:
  virtual ~PartSink() = default;
  virtual bool send_part(const TaskView& task, std::string_view bytes) = 0;
};

// One execution. Everything it points to must live until run() returns.
struct TaskView {
  TaskId id;
  Token token;
  uint32_t attempt = 1;
  std::string_view payload;
  std::string_view user_header;
  int64_t deadline_ns = INT64_MAX;  // steady_clock; INT64_MAX: none
  const std::atomic<bool>* cancelled = nullptr;
  ProgressSink* progress = nullptr;
  std::string_view model;
  bool is_call = false;
  uint32_t items = 1;
  PartSink* parts = nullptr;  // null: parts become the beginning of the result
};

// What came out. Reuse one object per executor: its memory is kept, so small tasks never allocate.
struct TaskOutput {
  enum class Kind : uint8_t {
    ok,
    fail,
    fail_final,
    crashed,  // the process that ran it ended: nobody knows how far it came
    not_started,  // surely not executed
  };
  Kind kind = Kind::ok;
  std::string bytes;  // the result; empty unless ok
  std::string text;  // the error, one line, at most kErrorTextMax bytes; empty if ok
};

struct HandlerInfo {
  std::string name;
  std::string plugin;  // path it was loaded from
  bool test_only = false;
  bool can_batch = false;  // has a run_batch
  uint32_t max_concurrency = 0;  // 0: no limit
  HandlerOffer offer = {};  // how it takes calls
  bool operator==(const HandlerInfo&) const = default;
};

class Handler;

// Runs handlers that are not loaded here: in other processes. Any thread; blocks until every output
// is there.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual void run(const Handler& handler, std::span<const TaskView> tasks,
                   std::span<TaskOutput> outs) = 0;
};

// A loaded handler; lives as long as its PluginHost.
class Handler {
 public:
  const HandlerInfo& info() const { return info_; }
  // Keeps max_concurrency where tasks and calls of one handler meet; null: no limit. Whoever runs
  // the handler enters first.
  RunGate* gate() const { return gate_.get(); }
  bool is_remote() const { return runner_ != nullptr; }

 private:
  friend class PluginHost;
  HandlerInfo info_;
  Runner* runner_ = nullptr;  // null: it is loaded here
  const dray_handler* abi_ = nullptr;
  void* state_ = nullptr;
  std::unique_ptr<RunGate> gate_;
};

struct PluginOptions {
  bool allow_test_handlers = false;
  std::string worker_name = {};
  std::string data_dir = {};
  size_t max_result_bytes = kPayloadBytesMax;
  LogSink* log = nullptr;
  std::vector<std::string> only = {};  // handlers to keep; empty: all
  std::string user_config = {};
  std::string deployment = {};
};

// load() from one thread before work starts; find, handlers and run from any thread afterwards.
class PluginHost {
 public:
  explicit PluginHost(PluginOptions options = {});
  ~PluginHost();  // ends the handlers' state; the code stays mapped, threads of it may still live
  PluginHost(const PluginHost&) = delete;
  PluginHost& operator=(const PluginHost&) = delete;

  // All of a plugin's handlers, or none and the reason.
  Status load(const std::string& path);
  // A handler that `runner`, which outlives this host, runs. Pre: the name is free. The thread of
  // load(), also while others run handlers.
  const Handler* add_remote(HandlerInfo info, Runner& runner);
  // Ask the handlers that have such a hook. The first one's error, or ok.
  Status reconfigure(std::string_view user_config) const;
  Status health() const;
  const Handler* find(std::string_view name) const;
  std::vector<HandlerInfo> handlers() const;  // sorted by name
  void run(const Handler& handler, const TaskView& task, TaskOutput& out) const;
  // Together; the handler can_batch, and there are as many outputs as tasks.
  void run_batch(const Handler& handler, std::span<const TaskView> tasks,
                 std::span<TaskOutput> outs) const;

 private:
  static const dray_host& callbacks();

  struct Impl;  // the worker as plugins see it
  struct NameHash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  using NewHandlers = std::vector<std::unique_ptr<Handler>>;

  Result<NewHandlers> collect(const std::string& path, void* library) const;
  Status check(const std::string& path, const dray_handler* abi, const NewHandlers& seen) const;
  Status init(NewHandlers& fresh) const;
  static void fini(Handler& handler);
  using Hook = std::function<int(const Handler&, std::span<char> error)>;
  Status ask(std::string_view what, const Hook& hook) const;

  PluginOptions options_;
  std::unique_ptr<Impl> impl_;
  std::unordered_map<std::string, std::unique_ptr<Handler>, NameHash, std::equal_to<>> handlers_;
};

}  // namespace dray
