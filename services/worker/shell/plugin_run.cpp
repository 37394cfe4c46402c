// Running a handler: the C side of a task or call and its callbacks.
#include "services/worker/shell/plugin_run.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <vector>

namespace dray {
namespace {

static_assert(sizeof(std::atomic<bool>) == 1 && std::atomic<bool>::is_always_lock_free);
constexpr std::atomic<bool> kNotCancelled{false};

dray_str to_abi(std::string_view s) { return {s.data(), s.size()}; }

// The host's side of one run; dray_task::opaque points here.
struct Running {
  dray_task abi{};
  const TaskView* view = nullptr;
  TaskOutput* out = nullptr;
  size_t max_result_bytes = 0;
  std::string parts;  // if there is no sink for them
  size_t too_large = 0;  // so many bytes of parts were too many
};

Running& running(const dray_task* task) { return *static_cast<Running*>(task->opaque); }

void fail(TaskOutput& out, TaskOutput::Kind kind, std::string_view text) {
  out.kind = kind;
  out.bytes.clear();
  out.text = text.empty() ? "failed without a reason" : one_line(text);
}

// A result above the limit can not be cured by another attempt.
void fail_too_large(Running& run, size_t size) {
  fail(*run.out, TaskOutput::Kind::fail_final,
       "result of " + std::to_string(size) + " bytes is above the limit of " +
           std::to_string(run.max_result_bytes));
}

bool resize_result(Running& run, size_t size) {
  run.out->kind = TaskOutput::Kind::ok;
  run.out->text.clear();
  run.out->bytes.clear();
  if (size <= run.max_result_bytes) return true;
  fail_too_large(run, size);
  return false;
}

// Nothing below may throw into a plugin, which may be plain C; out of memory ends the process.
void host_set_result(const dray_task* task, const char* data, size_t size) noexcept {
  Running& run = running(task);
  if (resize_result(run, size)) run.out->bytes.assign(data, size);
}

char* host_result_buffer(const dray_task* task, size_t size) noexcept {
  Running& run = running(task);
  if (!resize_result(run, size)) return nullptr;
  run.out->bytes.resize(size);
  return run.out->bytes.data();
}

void host_set_error(const dray_task* task, int32_t kind, const char* text, size_t size) noexcept {
  fail(*running(task).out,
       kind == DRAY_FAIL_FINAL ? TaskOutput::Kind::fail_final : TaskOutput::Kind::fail,
       {text, size});
}

void host_progress(const dray_task* task, double fraction, const char* text, size_t size) noexcept {
  const TaskView& view = *running(task).view;
  if (view.progress == nullptr) return;
  const double bounded = std::isnan(fraction) ? 0.0 : std::clamp(fraction, 0.0, 1.0);
  view.progress->on_progress(view, bounded, one_line({text, size}));
}

void host_log(const dray_worker* worker, int32_t level, const char* text, size_t size) noexcept {
  auto* sink = static_cast<LogSink*>(worker->opaque);
  if (sink != nullptr)
    sink->on_log(std::clamp(level, DRAY_LOG_DEBUG, DRAY_LOG_ERROR), one_line({text, size}));
}

int32_t host_send_part(const dray_task* task, const char* data, size_t size) noexcept {
  Running& run = running(task);
  if (size == 0) return 0;
  if (run.view->parts != nullptr)
    return run.view->parts->send_part(*run.view, {data, size}) ? 0 : 1;
  if (size > run.max_result_bytes - run.parts.size()) run.too_large = run.parts.size() + size;
  if (run.too_large != 0) return 1;
  run.parts.append(data, size);
  return 0;
}

constexpr dray_host kHost{sizeof(dray_host), host_set_result, host_result_buffer, host_set_error,
                          host_progress,     host_log,        host_send_part};

void put_big_endian(uint8_t* to, uint64_t value) {
  for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(value >> (56 - 8 * i));
}

void begin(Running& run, const TaskView& task, TaskOutput& out) {
  out.kind = TaskOutput::Kind::ok;
  out.bytes.clear();
  out.text.clear();
  run.view = &task;
  run.out = &out;
  run.parts.clear();
  run.too_large = 0;
  dray_task& abi = run.abi;
  abi.size = sizeof(dray_task);
  abi.host = &kHost;
  abi.opaque = &run;
  put_big_endian(abi.id, task.id.hi);
  put_big_endian(abi.id + 8, task.id.lo);
  abi.token_epoch = task.token.epoch;
  abi.token_seq = task.token.seq;
  abi.attempt = task.attempt;
  abi.deadline_ns = task.deadline_ns;
  abi.cancelled = reinterpret_cast<const unsigned char*>(
      task.cancelled != nullptr ? task.cancelled : &kNotCancelled);
  abi.payload = to_abi(task.payload);
  abi.user_header = to_abi(task.user_header);
  abi.model = to_abi(task.model);
  abi.is_call = task.is_call ? 1 : 0;
  abi.items = task.items;
}

// Parts that nobody took come before the result.
void end(Running& run) {
  TaskOutput& out = *run.out;
  if (run.too_large != 0) return fail_too_large(run, run.too_large);
  if (out.kind != TaskOutput::Kind::ok || run.parts.empty()) return;
  const size_t size = run.parts.size() + out.bytes.size();
  if (size > run.max_result_bytes) return fail_too_large(run, size);
  out.bytes.insert(0, run.parts);
}

void fail_all(std::span<TaskOutput> outs, std::string_view text) {
  for (TaskOutput& out : outs) fail(out, TaskOutput::Kind::fail, text);
}

}  // namespace

std::string one_line(std::string_view text) {
  std::string line(text.substr(0, kErrorTextMax));
  for (char& c : line)
    if (c == '\n' || c == '\r' || c == '\0') c = ' ';
  return line;
}

const dray_host& PluginHost::callbacks() { return kHost; }

void PluginHost::run(const Handler& handler, const TaskView& task, TaskOutput& out) const {
  if (handler.runner_ != nullptr) return handler.runner_->run(handler, {&task, 1}, {&out, 1});
  if (handler.abi_->run == nullptr) return run_batch(handler, {&task, 1}, {&out, 1});
  Running run;
  run.max_result_bytes = options_.max_result_bytes;
  run.abi.worker = &impl_->worker;
  run.abi.handler = to_abi(handler.info_.name);
  begin(run, task, out);
  try {
    handler.abi_->run(handler.abi_, handler.state_, &run.abi);
  } catch (const std::exception& e) {
    fail(out, TaskOutput::Kind::fail, e.what());
  } catch (...) {
    fail(out, TaskOutput::Kind::fail, "unknown exception");
  }
  end(run);
}

void PluginHost::run_batch(const Handler& handler, std::span<const TaskView> tasks,
                           std::span<TaskOutput> outs) const {
  if (handler.runner_ != nullptr) return handler.runner_->run(handler, tasks, outs);
  thread_local std::vector<Running> runs;  // kept, so that batches do not allocate
  thread_local std::vector<const dray_task*> pointers;
  if (runs.size() < tasks.size()) runs.resize(tasks.size());
  pointers.clear();
  for (size_t i = 0; i < tasks.size(); ++i) {
    Running& run = runs[i];
    run.max_result_bytes = options_.max_result_bytes;
    run.abi.worker = &impl_->worker;
    run.abi.handler = to_abi(handler.info_.name);
    begin(run, tasks[i], outs[i]);
    pointers.push_back(&run.abi);
  }
  try {
    handler.abi_->run_batch(handler.abi_, handler.state_, pointers.data(), pointers.size());
  } catch (const std::exception& e) {
    fail_all(outs, e.what());
  } catch (...) {
    fail_all(outs, "unknown exception");
  }
  for (size_t i = 0; i < tasks.size(); ++i) end(runs[i]);
}

}  // namespace dray
