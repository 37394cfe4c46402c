/* worker_hooks.h: DRAY_RECONFIGURE and DRAY_HEALTH, what a handler does besides running. A part of
 * worker.h, which includes it.
 */
#ifndef DRAY_WORKER_HOOKS_H_
#define DRAY_WORKER_HOOKS_H_

namespace dray {
inline namespace worker_v1 {
namespace detail {

// --- hooks: the state is the first argument, if the handler has one ---
template <class State, class... Args>
State hook_state_of(void (*)(State&, Args...));
template <class F, class State, class... Args>
State hook_state_of(void (F::*)(State&, Args...));
template <class F, class State, class... Args>
State hook_state_of(void (F::*)(State&, Args...) const);
template <class F>
using HookState = decltype(hook_state_of(&F::operator()));

template <class F>
int32_t guarded_hook(char* error, size_t error_size, F&& f) noexcept {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, error_size, "%s", e.what());
  } catch (...) {
    std::snprintf(error, error_size, "unknown exception");
  }
  return 1;
}

template <class F>
bool add_reconfigure(std::string name, F f) {
  Hook hook{std::move(name), &typeid(void), {}, {}};
  if constexpr (std::is_invocable_v<F&, std::string_view>) {
    hook.reconfigure = [f](void*, std::string_view config) mutable { f(config); };
  } else {
    using State = HookState<F>;
    hook.state = &typeid(State);
    hook.reconfigure = [f](void* state, std::string_view config) mutable {
      f(*static_cast<State*>(state), config);
    };
  }
  registry().hooks.push_back(std::move(hook));
  return true;
}

template <class F>
bool add_health(std::string name, F f) {
  Hook hook{std::move(name), &typeid(void), {}, {}};
  if constexpr (std::is_invocable_v<F&>) {
    hook.health = [f](void*) mutable { f(); };
  } else {
    using State = HookState<F>;
    hook.state = &typeid(State);
    hook.health = [f](void* state) mutable { f(*static_cast<State*>(state)); };
  }
  registry().hooks.push_back(std::move(hook));
  return true;
}

inline int32_t run_reconfigure(const dray_handler* self, void* state, dray_str config, char* error,
                               size_t error_size) {
  return guarded_hook(error, error_size, [&] {
    entry(self)->reconfigure(state, std::string_view(config.data, config.size));
  });
}
inline int32_t run_health(const dray_handler* self, void* state, char* error, size_t error_size) {
  return guarded_hook(error, error_size, [&] { entry(self)->health(state); });
}

inline Entry* find_entry(const std::string& name) {
  for (auto& e : registry().entries)
    if (e->name == name) return e.get();
  return nullptr;
}

// A hook that fits no handler makes the worker refuse the plugin: a handler that can not start.
struct BrokenHook final : Entry {
  explicit BrokenHook(std::string why) : Entry("broken.hook", HandlerOptions{}), text(why) {
    abi.init = [](const dray_handler* self, const dray_worker*, void**, char* error,
                  size_t error_size) -> int32_t {
      std::snprintf(error, error_size, "%s", static_cast<BrokenHook*>(entry(self))->text.c_str());
      return 1;
    };
    abi.run = [](const dray_handler*, void*, const dray_task*) {};
  }
  std::string text;
};

inline void resolve_hooks() {
  std::vector<Hook> hooks;
  hooks.swap(registry().hooks);
  for (Hook& hook : hooks) {
    Entry* const e = find_entry(hook.name);
    const bool fits =
        e != nullptr && (*hook.state == typeid(void) || *hook.state == e->state_type());
    if (!fits) {
      add(std::make_unique<BrokenHook>(
          "a hook for '" + hook.name +
          "': " + (e == nullptr ? "there is no such handler" : "its state is of another type")));
      return;
    }
    if (hook.reconfigure) {
      e->reconfigure = std::move(hook.reconfigure);
      e->abi.reconfigure = run_reconfigure;
    }
    if (hook.health) {
      e->health = std::move(hook.health);
      e->abi.health = run_health;
    }
  }
}

}  // namespace detail
}  // namespace worker_v1
}  // namespace dray

// DRAY_RECONFIGURE(name, f)   f: void(State&, std::string_view user_config), or without the state.
// DRAY_HEALTH(name, f)        f: void(State&), or without the state.
// Of the handler of that name; called while runs go on. A throw says what is wrong.
#define DRAY_RECONFIGURE(...)                                                              \
  [[maybe_unused]] static const bool DRAY_WORKER_CONCAT_(dray_reconfigure_, __COUNTER__) = \
      ::dray::detail::add_reconfigure(__VA_ARGS__)
#define DRAY_HEALTH(...)                                                              \
  [[maybe_unused]] static const bool DRAY_WORKER_CONCAT_(dray_health_, __COUNTER__) = \
      ::dray::detail::add_health(__VA_ARGS__)

#endif /* DRAY_WORKER_HOOKS_H_ */
