// Plugins made with DRAY_HANDLER, each with the one fault its VARIANT names, for the loader's
// tests.
#include <dray/worker.h>

namespace {
dray::Outcome nothing(dray::Context&) { return dray::ok(); }
}  // namespace

DRAY_HANDLER("fine", nothing);
#if defined(VARIANT_bad_name)
DRAY_HANDLER("bad name", nothing);
#elif defined(VARIANT_empty_name)
DRAY_HANDLER("", nothing);
#elif defined(VARIANT_twice)
DRAY_HANDLER("fine", nothing);
#elif defined(VARIANT_duplicate)
DRAY_HANDLER("echo", nothing);
#elif defined(VARIANT_init_throws)
DRAY_HANDLER(
    "fine2", dray::HandlerOptions{},
    [](const dray::WorkerInfo&) -> int { throw std::runtime_error("no model file"); },
    [](dray::Context&, int&) { return dray::ok(); });
#elif defined(VARIANT_wait_too_long)
DRAY_HANDLER("fine3", dray::HandlerOptions{.batch_wait = std::chrono::minutes(2)}, nothing);
#elif defined(VARIANT_hook_without_handler)
DRAY_RECONFIGURE("nobody", [](std::string_view) {});
#elif defined(VARIANT_hook_of_other_state)
DRAY_HANDLER(
    "it", dray::HandlerOptions{}, [](const dray::WorkerInfo&) { return 7; },
    [](dray::Context&, int&) { return dray::ok(); });
DRAY_HEALTH("it", [](std::string&) {});
#elif defined(VARIANT_test_only)
DRAY_HANDLER("hidden", dray::HandlerOptions{.test_only = true}, nothing);
#endif
