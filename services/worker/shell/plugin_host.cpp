// PluginHost: dlopen and the checks on what a plugin claims.
#include "services/worker/shell/plugin_host.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <utility>

#include "common/base/assert.h"
#include "services/worker/shell/plugin_run.h"

namespace dray {
namespace {

static_assert(sizeof(size_t) == 8, "the ABI is for 64-bit machines");
// Sizes of ABI 1.0, what every plugin has at least. They never change.
constexpr size_t kPluginSizeV1 = 32;
constexpr size_t kHandlerSizeV1 = 72;
static_assert(sizeof(dray_plugin) == kPluginSizeV1);
static_assert(offsetof(dray_handler, max_batch_size) == kHandlerSizeV1);
static_assert(offsetof(dray_task, model) == 136 && offsetof(dray_host, send_part) == 48);
// Sizes of ABI 1.1.
constexpr size_t kHandlerSizeV11 = 96;
static_assert(offsetof(dray_handler, reconfigure) == kHandlerSizeV11 && sizeof(dray_task) == 160);
static_assert(offsetof(dray_worker, user_config) == 56 && sizeof(dray_host) == 56);
// Sizes of ABI 1.2.
constexpr size_t kHandlerSizeV12 = 112;
static_assert(sizeof(dray_handler) == kHandlerSizeV12 && sizeof(dray_worker) == 88);

constexpr size_t kInitErrorBytes = 512;

dray_str to_abi(std::string_view s) { return {s.data(), s.size()}; }
std::string_view from_abi(dray_str s) {
  return s.size == 0 ? "" : std::string_view{s.data, s.size};
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

// How a handler takes calls; fields that its plugin does not know keep their defaults.
HandlerOffer offer_of(const dray_handler& abi) {
  HandlerOffer offer;
  offer.name = from_abi(abi.name);
  offer.max_ongoing = std::min<uint32_t>(abi.max_concurrency, kItemsMax);
  if (abi.size < kHandlerSizeV11) return offer;
  if ((abi.flags & DRAY_HANDLER_IDEMPOTENT) != 0) offer.flags |= kOfferIdempotent;
  if ((abi.flags & DRAY_HANDLER_STREAMS) != 0) offer.flags |= kOfferStreams;
  offer.max_batch_size = std::max<uint32_t>(abi.max_batch_size, 1);
  if (abi.max_ongoing != 0 && (offer.max_ongoing == 0 || abi.max_ongoing < offer.max_ongoing))
    offer.max_ongoing = abi.max_ongoing;
  offer.max_batch_bytes = abi.max_batch_bytes;
  offer.batch_wait_us = abi.batch_wait_us;
  offer.max_models = abi.max_models;
  return offer;
}

Error plugin_error(const std::string& path, std::string_view text) {
  return make_error(Errc::config, "plugin " + path + ": " + std::string(text));
}

}  // namespace

PluginHost::PluginHost(PluginOptions options)
    : options_(std::move(options)), impl_(std::make_unique<Impl>()) {
  impl_->worker = {sizeof(dray_worker),
                   &callbacks(),
                   options_.log,
                   to_abi(options_.worker_name),
                   to_abi(options_.data_dir),
                   to_abi(options_.user_config),
                   to_abi(options_.deployment)};
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
    handler->info_ = {std::string(from_abi(abi->name)),
                      path,
                      (abi->flags & DRAY_HANDLER_TEST_ONLY) != 0,
                      abi->run_batch != nullptr,
                      abi->max_concurrency,
                      offer_of(*abi)};
    if (abi->max_concurrency != 0) handler->gate_ = std::make_unique<RunGate>(abi->max_concurrency);
    fresh.push_back(std::move(handler));
  }
  if (!options_.allow_test_handlers)
    std::erase_if(fresh, [](const auto& handler) { return handler->info_.test_only; });
  const auto& only = options_.only;
  if (!only.empty())
    std::erase_if(fresh, [&](const auto& handler) {
      return std::find(only.begin(), only.end(), handler->info_.name) == only.end();
    });
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
  if (abi->run == nullptr && abi->run_batch == nullptr)
    return plugin_error(path, quoted + " has no run function");
  const HandlerOffer offer = offer_of(*abi);
  if (offer.max_batch_size > 1 && abi->run_batch == nullptr)
    return plugin_error(path, quoted + " has a max_batch_size and no run_batch function");
  if (auto checked = decode_offer(encode_offer(offer)); !checked)
    return plugin_error(path, quoted + ": " + checked.error().detail);
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
  if (handler.abi_ == nullptr || handler.abi_->fini == nullptr || handler.abi_->init == nullptr)
    return;
  try {
    handler.abi_->fini(handler.abi_, handler.state_);
  } catch (...) {  // the worker is going away; there is nobody to tell
  }
  handler.state_ = nullptr;
}

const Handler* PluginHost::add_remote(HandlerInfo info, Runner& runner) {
  auto handler = std::make_unique<Handler>();
  std::string name = info.name;
  handler->info_ = std::move(info);
  handler->runner_ = &runner;
  const auto [place, fresh] = handlers_.emplace(std::move(name), std::move(handler));
  DRAY_ASSERT(fresh);
  return place->second.get();
}

Status PluginHost::ask(std::string_view what, const Hook& hook) const {
  for (const auto& [name, handler] : handlers_) {
    if (handler->abi_ == nullptr || handler->abi_->size < kHandlerSizeV12) continue;
    std::array<char, kInitErrorBytes> error{};
    if (hook(*handler, error) == 0) continue;
    error.back() = '\0';
    return make_error(Errc::app_error, "handler '" + name + "' " + std::string(what) + ": " +
                                           one_line(error.data()));
  }
  return {};
}

Status PluginHost::reconfigure(std::string_view user_config) const {
  return ask("refuses its user_config", [&](const Handler& h, std::span<char> error) {
    if (h.abi_->reconfigure == nullptr) return 0;
    return h.abi_->reconfigure(h.abi_, h.state_, to_abi(user_config), error.data(), error.size());
  });
}

Status PluginHost::health() const {
  return ask("is not well", [](const Handler& h, std::span<char> error) {
    if (h.abi_->health == nullptr) return 0;
    return h.abi_->health(h.abi_, h.state_, error.data(), error.size());
  });
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

}  // namespace dray
