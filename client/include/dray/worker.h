/* worker.h: everything a handler plugin needs: a header-only C++17 layer over a stable C ABI.
 *
 *   #include <dray/worker.h>
 *   DRAY_HANDLER("echo", [](dray::Context& ctx) -> dray::Outcome { return dray::ok(ctx.payload());
 * });
 *
 *   g++ -std=c++20 -O2 -fPIC -shared -fvisibility=hidden echo.cpp -o echo.so
 *
 * The C ABI is in worker_abi.h. What is here (C++ only, left out when DRAY_WORKER_ABI_ONLY is
 * defined) is what people use. The headers need nothing but the standard library. ModelCache, for
 * handlers that keep several models loaded, is in model_cache.h.
 */
#ifndef DRAY_WORKER_H_
#define DRAY_WORKER_H_

#include "worker_abi.h"

#if defined(__cplusplus) && !defined(DRAY_WORKER_ABI_ONLY)
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
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

// Success. ok() alone: the result is empty, or what Context::result or
// Context::result_buffer made it.
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

// One execution of one task or call; valid until the handler returns.
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
  // Which model the call is for; calls of one batch are all for the same one.
  std::string_view model() const {
    return is_1_1() ? std::string_view{task_->model.data, task_->model.size} : std::string_view();
  }
  bool is_call() const { return is_1_1() && task_->is_call != 0; }
  uint32_t items() const { return is_1_1() ? task_->items : 1; }

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

  // The result, copied once; then return ok(). Cheaper for large results than ok(bytes).
  void result(std::string_view bytes) {
    task_->host->set_result(task_, bytes.data(), bytes.size());
  }
  // Zeroed memory of the result itself: fill it in and return ok(). Saves a copy of a large result.
  char* result_buffer(size_t size) {
    char* data = task_->host->result_buffer(task_, size);
    if (data == nullptr)
      throw FinalError("result of " + std::to_string(size) + " bytes is too large");
    return data;
  }

  // Sends a part of the result at once, in this thread. Blocks while the reader is behind; false:
  // nobody reads any more, stop. A task, or a call for a whole reply, returns the parts together,
  // in front of the result. Parts above half of the reader's window may be cut.
  bool send(std::string_view part) {
    if (task_->host->size < offsetof(dray_host, send_part) + sizeof(void*)) return false;
    return task_->host->send_part(task_, part.data(), part.size()) == 0;
  }

  const dray_task* raw() const { return task_; }

 private:
  bool is_1_1() const { return task_->size >= offsetof(dray_task, items) + sizeof(uint32_t); }

  const dray_task* task_;
};

// Calls that run together; valid until the handler returns. Each gets its own outcome.
class Batch {
 public:
  Batch(const dray_task* const* tasks, size_t count) : items_(count), done_(count, false) {
    for (size_t i = 0; i < count; ++i) items_[i].emplace(tasks[i]);
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  size_t size() const { return items_.size(); }
  Context& operator[](size_t i) { return *items_[i]; }
  std::string_view model() const { return items_[0]->model(); }
  // Once for each. What is not set when the handler returns has failed; after a throw, with the
  // text of the exception.
  inline void set(size_t i, const Outcome& outcome);
  bool is_set(size_t i) const { return done_[i]; }

 private:
  std::vector<std::optional<Context>> items_;
  std::vector<bool> done_;
};

struct HandlerOptions {
  bool test_only = false;  // loaded only by a worker that allows test handlers
  // Runs at the same time in one worker, calls and tasks together; 0: no limit. With a limit the
  // two lanes share the places: calls first, tasks of a batch handler in pieces.
  uint32_t max_concurrency = 0;
  // Calls only.
  bool idempotent = false;  // may run more than once: calls of a lost worker are sent to another
  bool streams = false;  // uses Context::send
  uint32_t max_ongoing = 0;  // batches at the same time in one worker; 0: no limit of its own
  uint32_t max_batch_size = 1;  // items in one batch; above 1 only with DRAY_BATCH_HANDLER
  uint64_t max_batch_bytes = 0;  // payloads of one batch; 0: what fits in a message
  std::chrono::microseconds batch_wait{0};  // a free worker waits so long for a batch to fill
  uint32_t max_models = 0;  // models it keeps loaded (ModelCache); 0: it has none
};

namespace detail {

inline uint32_t flags(const HandlerOptions& o) {
  return (o.test_only ? DRAY_HANDLER_TEST_ONLY : 0) | (o.idempotent ? DRAY_HANDLER_IDEMPOTENT : 0) |
         (o.streams ? DRAY_HANDLER_STREAMS : 0);
}

struct Entry {
  Entry(std::string handler_name, HandlerOptions options) : name(std::move(handler_name)) {
    abi.size = sizeof(abi);
    abi.name = {name.data(), name.size()};
    abi.flags = flags(options);
    abi.max_concurrency = options.max_concurrency;
    abi.user = this;
    abi.max_batch_size = options.max_batch_size;
    abi.max_ongoing = options.max_ongoing;
    abi.max_batch_bytes = options.max_batch_bytes;
    abi.batch_wait_us = static_cast<uint32_t>(
        std::min<int64_t>(std::max<int64_t>(options.batch_wait.count(), 0), UINT32_MAX));
    abi.max_models = options.max_models;
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  virtual ~Entry() = default;
  std::string name;
  dray_handler abi{};
};

inline Entry* entry(const dray_handler* self) { return static_cast<Entry*>(self->user); }

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

template <class Body>
void guarded_batch(const dray_task* const* tasks, size_t count, Body&& body) noexcept {
  int32_t kind = DRAY_FAIL;
  std::string text = "the handler gave no outcome";
  Batch batch(tasks, count);
  try {
    body(batch);
  } catch (const FinalError& e) {
    kind = DRAY_FAIL_FINAL;
    text = e.what();
  } catch (const std::exception& e) {
    text = e.what();
  } catch (...) {
    text = "unknown exception";
  }
  for (size_t i = 0; i < count; ++i)
    if (!batch.is_set(i)) set_error(tasks[i], kind, text);
}

template <class Run>
struct Stateless final : Entry {
  Stateless(std::string handler_name, HandlerOptions options, Run run)
      : Entry(std::move(handler_name), options), run_(std::move(run)) {
    abi.run = [](const dray_handler* self, void*, const dray_task* task) {
      guarded(task, [&] {
        Context ctx(task);
        return static_cast<Stateless*>(entry(self))->run_(ctx);
      });
    };
  }
  Run run_;
};

template <class Run>
struct StatelessBatch final : Entry {
  StatelessBatch(std::string handler_name, HandlerOptions options, Run run)
      : Entry(std::move(handler_name), options), run_(std::move(run)) {
    abi.run_batch = [](const dray_handler* self, void*, const dray_task* const* tasks,
                       size_t count) {
      guarded_batch(tasks, count,
                    [&](Batch& batch) { static_cast<StatelessBatch*>(entry(self))->run_(batch); });
    };
  }
  Run run_;
};

template <class Init>
struct WithState : Entry {
  using State = decltype(std::declval<Init&>()(std::declval<const WorkerInfo&>()));

  WithState(std::string handler_name, HandlerOptions options, Init init)
      : Entry(std::move(handler_name), options), init_(std::move(init)) {
    abi.init = [](const dray_handler* self, const dray_worker* worker, void** state, char* error,
                  size_t error_size) -> int32_t {
      try {
        *state = new State(static_cast<WithState*>(entry(self))->init_(WorkerInfo(worker)));
        return 0;
      } catch (const std::exception& e) {
        std::snprintf(error, error_size, "%s", e.what());
      } catch (...) {
        std::snprintf(error, error_size, "unknown exception");
      }
      return 1;
    };
    abi.fini = [](const dray_handler*, void* state) { delete static_cast<State*>(state); };
  }
  Init init_;
};

template <class Init, class Run>
struct Stateful final : WithState<Init> {
  using State = typename WithState<Init>::State;

  Stateful(std::string handler_name, HandlerOptions options, Init init, Run run)
      : WithState<Init>(std::move(handler_name), options, std::move(init)), run_(std::move(run)) {
    this->abi.run = [](const dray_handler* self, void* state, const dray_task* task) {
      guarded(task, [&] {
        Context ctx(task);
        auto* me = static_cast<Stateful*>(entry(self));
        return me->run_(ctx, *static_cast<State*>(state));
      });
    };
  }
  Run run_;
};

template <class Init, class Run>
struct StatefulBatch final : WithState<Init> {
  using State = typename WithState<Init>::State;

  StatefulBatch(std::string handler_name, HandlerOptions options, Init init, Run run)
      : WithState<Init>(std::move(handler_name), options, std::move(init)), run_(std::move(run)) {
    this->abi.run_batch = [](const dray_handler* self, void* state, const dray_task* const* tasks,
                             size_t count) {
      guarded_batch(tasks, count, [&](Batch& batch) {
        auto* me = static_cast<StatefulBatch*>(entry(self));
        me->run_(batch, *static_cast<State*>(state));
      });
    };
  }
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
template <class Run>
bool add_batch_handler(std::string name, HandlerOptions options, Run run) {
  return detail::add(
      std::make_unique<detail::StatelessBatch<Run>>(std::move(name), options, std::move(run)));
}
template <class Init, class Run>
bool add_batch_handler(std::string name, HandlerOptions options, Init init, Run run) {
  return detail::add(std::make_unique<detail::StatefulBatch<Init, Run>>(
      std::move(name), options, std::move(init), std::move(run)));
}

inline void Batch::set(size_t i, const Outcome& outcome) {
  done_[i] = true;
  detail::finish(items_[i]->raw(), outcome);
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
// DRAY_BATCH_HANDLER(name, options, run)         run: void(Batch&)
// DRAY_BATCH_HANDLER(name, options, init, run)   init: State(const WorkerInfo&), run: void(Batch&,
// State&)
// Written once for both lanes: a queued task is a batch of one.
#define DRAY_BATCH_HANDLER(...)                                                        \
  [[maybe_unused]] static const bool DRAY_WORKER_CONCAT_(dray_handler_, __COUNTER__) = \
      ::dray::add_batch_handler(__VA_ARGS__)

#endif /* __cplusplus && !DRAY_WORKER_ABI_ONLY */
#endif /* DRAY_WORKER_H_ */
