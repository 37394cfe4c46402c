// PluginHost: dlopen, the checks on what a plugin claims, and the C callbacks of a running task.
#include "services/worker/shell/plugin_host.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <exception>
#include <filesystem>
#include <utility>

#define DRAY_WORKER_ABI_ONLY
#include "client/include/dray/worker.h"

namespace dray {
namespace {

static_assert(sizeof(std::atomic<bool>) == 1 && std::atomic<bool>::is_always_lock_free);
static_assert(sizeof(size_t) == 8, "the ABI is for 64-bit machines");
// Sizes of ABI 1.0, what every plugin has at least. They never change.
constexpr size_t kPluginSizeV1 = 32;
constexpr size_t kHandlerSizeV1 = 72;
static_assert(sizeof(dray_plugin) == kPluginSizeV1 && sizeof(dray_handler) == kHandlerSizeV1);
static_assert(sizeof(dray_task) == 136 && sizeof(dray_worker) == 56 && sizeof(dray_host) == 48);

constexpr std::atomic<bool> kNotCancelled{false};
constexpr size_t kInitErrorBytes = 512;

dray_str to_abi(std::string_view s) { return {s.data(), s.size()}; }
std::string_view from_abi(dray_str s) {
  return s.size == 0 ? "" : std::string_view{s.data, s.size};
}

std::string one_line(std::string_view text) {
  std::string line(text.substr(0, kErrorTextMax));
  for (char& c : line)
    if (c == '\n' || c == '\r' || c == '\0') c = ' ';
  return line;
}

bool is_good_name(std::string_view name) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-' || c == '/';
  };
  return !name.empty() && name.size() <= kNameBytesMax &&
         std::all_of(name.begin(), name.end(), good);
}

std::string printable(std::string_view name) {
  std::string text(name.substr(0, kNameBytesMax));
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

// The host's side of one run; dray_task::opaque points here.
struct Running {
  dray_task abi{};
  const TaskView* view = nullptr;
  TaskOutput* out = nullptr;
  size_t max_result_bytes = 0;
};

Running& running(const dray_task* task) { return *static_cast<Running*>(task->opaque); }

void fail(TaskOutput& out, TaskOutput::Kind kind, std::string_view text) {
  out.kind = kind;
  out.bytes.clear();
  out.text = text.empty() ? "failed without a reason" : one_line(text);
}

// Size the result; a result above the limit can not be cured by another attempt.
bool resize_result(Running& run, size_t size) {
  run.out->kind = TaskOutput::Kind::ok;
  run.out->text.clear();
  run.out->bytes.clear();
  if (size > run.max_result_bytes) {
    fail(*run.out, TaskOutput::Kind::fail_final,
         "result of " + std::to_string(size) + " bytes is above the limit of " +
             std::to_string(run.max_result_bytes));
    return false;
  }
  return true;
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

constexpr dray_host kHost{sizeof(dray_host), host_set_result, host_result_buffer,
                          host_set_error,    host_progress,   host_log};

void put_big_endian(uint8_t* to, uint64_t value) {
  for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(value >> (56 - 8 * i));
}

Error plugin_error(const std::string& path, std::string_view text) {
  return make_error(Errc::config, "plugin " + path + ": " + std::string(text));
}

}  // namespace

struct PluginHost::Impl {
  dray_worker worker{};
};

PluginHost::PluginHost(PluginOptions options)
    : options_(std::move(options)), impl_(std::make_unique<Impl>()) {
  impl_->worker = {sizeof(dray_worker), &kHost, options_.log, to_abi(options_.worker_name),
                   to_abi(options_.data_dir)};
}

PluginHost::~PluginHost() {
  for (auto& [name, handler] : handlers_) fini(*handler);
}

Status PluginHost::load(const std::string& path) {
  std::error_code ec;
  const auto file = std::filesystem::absolute(path, ec);
  const auto kind = std::filesystem::status(file, ec);
  if (!std::filesystem::exists(kind)) return plugin_error(path, "no such file");
  if (!std::filesystem::is_regular_file(kind)) return plugin_error(path, "not a file");
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return plugin_error(path, one_line(reason != nullptr ? reason : "dlopen failed"));
  }
  auto fresh = collect(path, library);
  Status ready = fresh ? init(*fresh) : Status(fresh.error());
  if (!ready) {
    dlclose(library);
    return ready;
  }
  for (auto& handler : *fresh) {
    std::string name = handler->info_.name;
    handlers_.emplace(std::move(name), std::move(handler));
  }
  return {};
}

Result<PluginHost::NewHandlers> PluginHost::collect(const std::string& path, void* library) const {
  const auto entry = std::bit_cast<dray_plugin_entry>(dlsym(library, DRAY_PLUGIN_ENTRY));
  if (entry == nullptr)
    return plugin_error(path, "has no " DRAY_PLUGIN_ENTRY "; it is not a dray plugin");
  const dray_plugin* plugin = entry();
  if (plugin == nullptr) return plugin_error(path, DRAY_PLUGIN_ENTRY " returned nothing");
  if (plugin->size < kPluginSizeV1)
    return plugin_error(path, "plugin table of " + std::to_string(plugin->size) +
                                  " bytes is too small; it needs " + std::to_string(kPluginSizeV1));
  if (plugin->abi_major != DRAY_ABI_MAJOR)
    return plugin_error(path, "made for plugin ABI " + std::to_string(plugin->abi_major) +
                                  ", this worker speaks " + std::to_string(DRAY_ABI_MAJOR) +
                                  "; build it again with this version's worker.h");
  if (plugin->handler_count == 0) return plugin_error(path, "has no handlers");
  if (plugin->handlers == nullptr) return plugin_error(path, "its list of handlers is missing");
  if (plugin->handler_count + handlers_.size() > kHandlersMax)
    return plugin_error(path, "more than " + std::to_string(kHandlersMax) + " handlers");
  NewHandlers fresh;
  for (size_t i = 0; i < plugin->handler_count; ++i) {
    const dray_handler* abi = plugin->handlers[i];
    DRAY_TRY(check(path, abi, fresh));
    auto handler = std::make_unique<Handler>();
    handler->abi_ = abi;
    handler->info_ = {std::string(from_abi(abi->name)), path,
                      (abi->flags & DRAY_HANDLER_TEST_ONLY) != 0, abi->run_batch != nullptr,
                      abi->max_concurrency};
    fresh.push_back(std::move(handler));
  }
  if (!options_.allow_test_handlers)
    std::erase_if(fresh, [](const auto& handler) { return handler->info_.test_only; });
  return fresh;
}

Status PluginHost::check(const std::string& path, const dray_handler* abi,
                         const NewHandlers& seen) const {
  if (abi == nullptr) return plugin_error(path, "a handler is missing from its list");
  if (abi->size < kHandlerSizeV1)
    return plugin_error(path, "handler of " + std::to_string(abi->size) +
                                  " bytes is too small; it needs " +
                                  std::to_string(kHandlerSizeV1));
  const std::string_view name = from_abi(abi->name);
  const std::string quoted = "handler '" + printable(name) + "'";
  if (!is_good_name(name))
    return plugin_error(path, quoted + ": a name is 1 to " + std::to_string(kNameBytesMax) +
                                  " of A-Z a-z 0-9 . _ - /");
  if (abi->run == nullptr) return plugin_error(path, quoted + " has no run function");
  for (const auto& other : seen)
    if (other->info_.name == name) return plugin_error(path, quoted + " is defined twice");
  if (const Handler* other = find(name); other != nullptr)
    return plugin_error(path, quoted + " is already defined by plugin " + other->info_.plugin);
  return {};
}

Status PluginHost::init(NewHandlers& fresh) const {
  for (size_t i = 0; i < fresh.size(); ++i) {
    Handler& handler = *fresh[i];
    if (handler.abi_->init == nullptr) continue;
    std::array<char, kInitErrorBytes> error{};
    int32_t rc = 1;
    try {
      rc = handler.abi_->init(handler.abi_, &impl_->worker, &handler.state_, error.data(),
                              error.size());
    } catch (...) {
      std::string_view("unknown exception").copy(error.data(), error.size() - 1);
    }
    if (rc == 0) continue;
    error.back() = '\0';
    for (size_t done = i; done > 0; --done) fini(*fresh[done - 1]);
    return plugin_error(handler.info_.plugin, "handler '" + handler.info_.name +
                                                  "' failed to start: " + one_line(error.data()));
  }
  return {};
}

void PluginHost::fini(Handler& handler) {
  if (handler.abi_->fini == nullptr || handler.abi_->init == nullptr) return;
  try {
    handler.abi_->fini(handler.abi_, handler.state_);
  } catch (...) {  // the worker is going away; there is nobody to tell
  }
  handler.state_ = nullptr;
}

const Handler* PluginHost::find(std::string_view name) const {
  const auto it = handlers_.find(name);
  return it == handlers_.end() ? nullptr : it->second.get();
}

std::vector<HandlerInfo> PluginHost::handlers() const {
  std::vector<HandlerInfo> list;
  list.reserve(handlers_.size());
  for (const auto& [name, handler] : handlers_) list.push_back(handler->info_);
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return list;
}

void PluginHost::run(const Handler& handler, const TaskView& task, TaskOutput& out) const {
  out.kind = TaskOutput::Kind::ok;
  out.bytes.clear();
  out.text.clear();
  Running run;
  run.view = &task;
  run.out = &out;
  run.max_result_bytes = options_.max_result_bytes;
  dray_task& abi = run.abi;
  abi.size = sizeof(dray_task);
  abi.host = &kHost;
  abi.opaque = &run;
  abi.worker = &impl_->worker;
  put_big_endian(abi.id, task.id.hi);
  put_big_endian(abi.id + 8, task.id.lo);
  abi.token_epoch = task.token.epoch;
  abi.token_seq = task.token.seq;
  abi.attempt = task.attempt;
  abi.deadline_ns = task.deadline_ns;
  abi.cancelled = reinterpret_cast<const unsigned char*>(
      task.cancelled != nullptr ? task.cancelled : &kNotCancelled);
  abi.handler = to_abi(handler.info_.name);
  abi.payload = to_abi(task.payload);
  abi.user_header = to_abi(task.user_header);
  try {
    handler.abi_->run(handler.abi_, handler.state_, &abi);
  } catch (const std::exception& e) {
    fail(out, TaskOutput::Kind::fail, e.what());
  } catch (...) {
    fail(out, TaskOutput::Kind::fail, "unknown exception");
  }
}

}  // namespace dray
