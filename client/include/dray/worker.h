/* worker.h: everything a handler plugin needs; a stable C ABI and a header-only C++17 layer over
 * it.
 *
 *   #include <dray/worker.h>
 *   DRAY_HANDLER("echo", [](dray::Context& ctx) -> dray::Outcome { return dray::ok(ctx.payload());
 * });
 *
 *   g++ -std=c++20 -O2 -fPIC -shared -fvisibility=hidden echo.cpp -o echo.so
 *
 * Part 1 is the C ABI. Part 2 (C++ only, left out when DRAY_WORKER_ABI_ONLY is defined) is what
 * people use. The header needs nothing but the standard library.
 */
#ifndef DRAY_WORKER_H_
#define DRAY_WORKER_H_

#include <stddef.h>
#include <stdint.h>

/* ---- Part 1: C ABI ---------------------------------------------------------------------------
 * Rules of growth. The major number changes when an old plugin can not work any more. Otherwise a
 * struct only grows at its end; `size` says how much of it its maker knew, so a reader uses a field
 * added after major.0 only if `size` covers it. Every pointer a task carries is valid until run
 * returns. Strings are counted, not terminated. The plugin must not let an exception out.
 */
#define DRAY_ABI_MAJOR 1
#define DRAY_ABI_MINOR 0

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dray_str {
  const char* data;
  size_t size;
} dray_str;

/* Kinds of failure (set_error). */
#define DRAY_FAIL 1 /* may be tried again */
#define DRAY_FAIL_FINAL 2 /* never try again */

/* Log levels. */
#define DRAY_LOG_DEBUG 0
#define DRAY_LOG_INFO 1
#define DRAY_LOG_WARN 2
#define DRAY_LOG_ERROR 3

/* Flags of a handler. */
#define DRAY_HANDLER_TEST_ONLY 1u /* loaded only by a worker that allows test handlers */

#define DRAY_NO_DEADLINE INT64_MAX

struct dray_task;
struct dray_worker;
struct dray_handler;

/* What the worker offers. set_result, result_buffer and set_error: only from the thread that called
 * run, the last call wins; a run that calls none of them succeeds with an empty result. progress
 * and log: any thread, while run runs. All copy what they are given. */
typedef struct dray_host {
  size_t size;
  void (*set_result)(const struct dray_task* task, const char* data, size_t size);
  /* Zeroed memory of the result itself, to fill in before run returns; NULL if too large. */
  char* (*result_buffer)(const struct dray_task* task, size_t size);
  void (*set_error)(const struct dray_task* task, int32_t kind, const char* text, size_t size);
  void (*progress)(const struct dray_task* task, double fraction, const char* text, size_t size);
  void (*log)(const struct dray_worker* worker, int32_t level, const char* text, size_t size);
} dray_host;

/* The worker process; lives longer than any handler state. */
typedef struct dray_worker {
  size_t size;
  const dray_host* host;
  void* opaque; /* the worker's own */
  dray_str name;
  dray_str data_dir; /* where files named in payloads live; empty if not configured */
} dray_worker;

/* One execution of one task. */
typedef struct dray_task {
  size_t size;
  const dray_host* host;
  void* opaque; /* the worker's own */
  const dray_worker* worker;
  uint8_t id[16];
  uint64_t token_epoch; /* (epoch, seq) grows with every lease of every task: a fencing token */
  uint64_t token_seq;
  uint32_t attempt; /* from 1 */
  uint32_t reserved;
  int64_t deadline_ns; /* CLOCK_MONOTONIC, or DRAY_NO_DEADLINE */
  const unsigned char* cancelled; /* never NULL; read atomically; not 0: stop soon */
  dray_str handler;
  dray_str payload;
  dray_str user_header;
} dray_task;

typedef struct dray_handler {
  size_t size;
  dray_str name; /* 1..128 of A-Z a-z 0-9 . _ - / */
  uint32_t flags;
  uint32_t max_concurrency; /* runs at the same time in one worker; 0: no limit */
  void* user; /* the plugin's own */
  /* Called once per worker, before the first run. May be NULL. Returns 0, or not 0 with a line of
   * text in error (terminated, at most error_size bytes): then the worker refuses the plugin. */
  int32_t (*init)(const struct dray_handler* self, const dray_worker* worker, void** state,
                  char* error, size_t error_size);
  void (*fini)(const struct dray_handler* self, void* state); /* may be NULL */
  /* Up to max_concurrency threads at the same time, with the same state. */
  void (*run)(const struct dray_handler* self, void* state, const dray_task* task);
  /* Reserved for batching: many tasks in one call, each answered through its own callbacks. NULL.
   */
  void (*run_batch)(const struct dray_handler* self, void* state, const dray_task* const* tasks,
                    size_t count);
} dray_handler;

typedef struct dray_plugin {
  size_t size;
  uint32_t abi_major;
  uint32_t abi_minor;
  const dray_handler* const* handlers;
  size_t handler_count;
} dray_plugin;

/* The one symbol a plugin exports. The table must stay valid and unchanged. */
typedef const dray_plugin* (*dray_plugin_entry)(void);
#define DRAY_PLUGIN_ENTRY "dray_plugin_v1"

#ifdef __cplusplus
} /* extern "C" */
#endif

#if defined(__cplusplus) && !defined(DRAY_WORKER_ABI_ONLY)
/* ---- Part 2: C++ -----------------------------------------------------------------------------*/

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace dray {
inline namespace worker_v1 {

// What a handler returns. Make one with ok, fail or fail_final. A thrown exception is a fail.
class Outcome {
 public:
  Outcome(int32_t kind, std::string bytes) : kind_(kind), bytes_(std::move(bytes)) {}
  int32_t kind() const { return kind_; }  // 0, DRAY_FAIL, DRAY_FAIL_FINAL
  const std::string& bytes() const { return bytes_; }

 private:
  int32_t kind_;
  std::string bytes_;  // result, or error text
};

// Success. ok() alone: the result is empty, or what was written to Context::result_buffer.
inline Outcome ok() { return {0, {}}; }
inline Outcome ok(std::string bytes) { return {0, std::move(bytes)}; }
inline Outcome ok(std::string_view bytes) { return {0, std::string(bytes)}; }
inline Outcome ok(const char* text) { return {0, text}; }
inline Outcome ok(const void* data, size_t size) {
  return {0, std::string(static_cast<const char*>(data), size)};
}
// Failure that another attempt may cure.
inline Outcome fail(std::string text) { return {DRAY_FAIL, std::move(text)}; }
// Failure that no attempt can cure, such as a malformed payload.
inline Outcome fail_final(std::string text) { return {DRAY_FAIL_FINAL, std::move(text)}; }

// Throw this where returning fail_final(text) is not convenient.
class FinalError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Fencing token of this execution. A store that remembers the largest token it has seen can refuse
// a writer that was declared dead and replaced.
struct LeaseToken {
  uint64_t epoch = 0;
  uint64_t seq = 0;
};

// The worker process this plugin lives in.
class WorkerInfo {
 public:
  explicit WorkerInfo(const dray_worker* worker) : worker_(worker) {}
  std::string_view name() const { return {worker_->name.data, worker_->name.size}; }
  std::string_view data_dir() const { return {worker_->data_dir.data, worker_->data_dir.size}; }
  void log(int32_t level, std::string_view text) const {
    worker_->host->log(worker_, level, text.data(), text.size());
  }

 private:
  const dray_worker* worker_;
};

// One execution of one task; valid until the handler returns.
class Context {
 public:
  explicit Context(const dray_task* task) : task_(task) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  std::string_view payload() const { return {task_->payload.data, task_->payload.size}; }
  std::string_view user_header() const {
    return {task_->user_header.data, task_->user_header.size};
  }
  std::string_view handler() const { return {task_->handler.data, task_->handler.size}; }
  uint32_t attempt() const { return task_->attempt; }  // from 1
  LeaseToken token() const { return {task_->token_epoch, task_->token_seq}; }
  std::array<uint8_t, 16> task_id() const {
    std::array<uint8_t, 16> id{};
    std::copy(task_->id, task_->id + 16, id.begin());
    return id;
  }
  std::string task_hex() const {  // 32 lower-case digits
    std::string hex;
    for (uint8_t byte : task_->id) {
      hex += "0123456789abcdef"[byte >> 4];
      hex += "0123456789abcdef"[byte & 15];
    }
    return hex;
  }
  WorkerInfo worker() const { return WorkerInfo(task_->worker); }

  // True once the result is no longer wanted: one relaxed load, fine in a hot loop.
  bool cancelled() const { return __atomic_load_n(task_->cancelled, __ATOMIC_RELAXED) != 0; }
  bool has_deadline() const { return task_->deadline_ns != DRAY_NO_DEADLINE; }
  std::chrono::steady_clock::time_point deadline() const {
    return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(task_->deadline_ns));
  }
  // Time left; 0 when it is up, nanoseconds::max() without a deadline.
  std::chrono::nanoseconds remaining() const {
    if (!has_deadline()) return std::chrono::nanoseconds::max();
    const std::chrono::nanoseconds left = deadline() - std::chrono::steady_clock::now();
    return std::max(left, std::chrono::nanoseconds(0));
  }
  bool should_stop() const { return cancelled() || remaining().count() == 0; }
  // Sleeps; false if it was cut short by cancellation or the deadline.
  bool sleep_for(std::chrono::nanoseconds duration) const {
    const auto now = std::chrono::steady_clock::now();
    // A sum that would overflow means for ever.
    const auto end = duration > std::chrono::steady_clock::time_point::max() - now
                         ? std::chrono::steady_clock::time_point::max()
                         : now + duration;
    while (!should_stop()) {
      const std::chrono::nanoseconds left = end - std::chrono::steady_clock::now();
      if (left.count() <= 0) return true;
      std::this_thread::sleep_for(
          std::min({left, remaining(), std::chrono::nanoseconds(2'000'000)}));
    }
    return false;
  }

  // fraction in [0, 1]. Any thread.
  void progress(double fraction, std::string_view text = {}) {
    task_->host->progress(task_, fraction, text.data(), text.size());
  }
  void log(int32_t level, std::string_view text) const { worker().log(level, text); }

  // Zeroed memory of the result itself: fill it in and return ok(). Saves a copy of a large result.
  char* result_buffer(size_t size) {
    char* data = task_->host->result_buffer(task_, size);
    if (data == nullptr)
      throw FinalError("result of " + std::to_string(size) + " bytes is too large");
    return data;
  }

  const dray_task* raw() const { return task_; }

 private:
  const dray_task* task_;
};

struct HandlerOptions {
  bool test_only = false;  // loaded only by a worker that allows test handlers
  uint32_t max_concurrency = 0;  // runs at the same time in one worker; 0: no limit
};

namespace detail {

struct Entry {
  Entry(std::string handler_name, HandlerOptions options) : name(std::move(handler_name)) {
    abi.size = sizeof(abi);
    abi.name = {name.data(), name.size()};
    abi.flags = options.test_only ? DRAY_HANDLER_TEST_ONLY : 0;
    abi.max_concurrency = options.max_concurrency;
    abi.user = this;
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  virtual ~Entry() = default;
  std::string name;
  dray_handler abi{};
};

struct Registry {
  std::vector<std::unique_ptr<Entry>> entries;
  std::vector<const dray_handler*> table;
  dray_plugin plugin{};
};

// Hidden, because g++ makes the static of an inline function one object for the whole process
// (STB_GNU_UNIQUE), even under RTLD_LOCAL: two plugins would share one list.
__attribute__((visibility("hidden"))) inline Registry& registry() {
  static Registry instance;
  return instance;
}

inline void set_error(const dray_task* task, int32_t kind, std::string_view text) {
  task->host->set_error(task, kind, text.data(), text.size());
}

inline void finish(const dray_task* task, const Outcome& outcome) {
  if (outcome.kind() != 0) return set_error(task, outcome.kind(), outcome.bytes());
  if (outcome.bytes().empty()) return;
  task->host->set_result(task, outcome.bytes().data(), outcome.bytes().size());
}

template <class Body>
void guarded(const dray_task* task, Body&& body) noexcept {
  try {
    finish(task, body());
  } catch (const FinalError& e) {
    set_error(task, DRAY_FAIL_FINAL, e.what());
  } catch (const std::exception& e) {
    set_error(task, DRAY_FAIL, e.what());
  } catch (...) {
    set_error(task, DRAY_FAIL, "unknown exception");
  }
}

template <class Run>
struct Stateless final : Entry {
  Stateless(std::string handler_name, HandlerOptions options, Run run)
      : Entry(std::move(handler_name), options), run_(std::move(run)) {
    abi.run = [](const dray_handler* self, void*, const dray_task* task) {
      guarded(task, [&] {
        Context ctx(task);
        return static_cast<Stateless*>(self->user)->run_(ctx);
      });
    };
  }
  Run run_;
};

template <class Init, class Run>
struct Stateful final : Entry {
  using State = decltype(std::declval<Init&>()(std::declval<const WorkerInfo&>()));

  Stateful(std::string handler_name, HandlerOptions options, Init init, Run run)
      : Entry(std::move(handler_name), options), init_(std::move(init)), run_(std::move(run)) {
    abi.init = [](const dray_handler* self, const dray_worker* worker, void** state, char* error,
                  size_t error_size) -> int32_t {
      try {
        *state = new State(static_cast<Stateful*>(self->user)->init_(WorkerInfo(worker)));
        return 0;
      } catch (const std::exception& e) {
        std::snprintf(error, error_size, "%s", e.what());
      } catch (...) {
        std::snprintf(error, error_size, "unknown exception");
      }
      return 1;
    };
    abi.fini = [](const dray_handler*, void* state) { delete static_cast<State*>(state); };
    abi.run = [](const dray_handler* self, void* state, const dray_task* task) {
      guarded(task, [&] {
        Context ctx(task);
        return static_cast<Stateful*>(self->user)->run_(ctx, *static_cast<State*>(state));
      });
    };
  }
  Init init_;
  Run run_;
};

inline bool add(std::unique_ptr<Entry> entry) {
  Registry& list = registry();
  list.table.push_back(&entry->abi);
  list.entries.push_back(std::move(entry));
  return true;
}

}  // namespace detail

// The forms of DRAY_HANDLER. `init(const WorkerInfo&)` makes the state, once per worker; a throw
// there makes the worker refuse the plugin. Runs share the state: lock it, or set
// max_concurrency 1.
template <class Run>
bool add_handler(std::string name, HandlerOptions options, Run run) {
  return detail::add(
      std::make_unique<detail::Stateless<Run>>(std::move(name), options, std::move(run)));
}
template <class Init, class Run>
bool add_handler(std::string name, HandlerOptions options, Init init, Run run) {
  return detail::add(std::make_unique<detail::Stateful<Init, Run>>(
      std::move(name), options, std::move(init), std::move(run)));
}
template <class Run>
bool add_handler(std::string name, Run run) {
  return add_handler(std::move(name), HandlerOptions{}, std::move(run));
}

}  // namespace worker_v1
}  // namespace dray

// Weak: every source file of a plugin that includes this header has it, the linker keeps one.
extern "C" __attribute__((weak, visibility("default"))) const dray_plugin* dray_plugin_v1(void) {
  auto& list = dray::detail::registry();
  list.plugin = {sizeof(dray_plugin), DRAY_ABI_MAJOR, DRAY_ABI_MINOR, list.table.data(),
                 list.table.size()};
  return &list.plugin;
}

#define DRAY_WORKER_CONCAT2_(a, b) a##b
#define DRAY_WORKER_CONCAT_(a, b) DRAY_WORKER_CONCAT2_(a, b)
// DRAY_HANDLER(name, run)                  run:  Outcome(Context&)
// DRAY_HANDLER(name, options, run)
// DRAY_HANDLER(name, options, init, run)   init: State(const WorkerInfo&), run: Outcome(Context&,
// State&)
#define DRAY_HANDLER(...)                                                              \
  [[maybe_unused]] static const bool DRAY_WORKER_CONCAT_(dray_handler_, __COUNTER__) = \
      ::dray::add_handler(__VA_ARGS__)

#endif /* __cplusplus && !DRAY_WORKER_ABI_ONLY */
#endif /* DRAY_WORKER_H_ */
