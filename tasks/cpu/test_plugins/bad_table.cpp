// Plugins in plain ABI style, each broken in the one way its VARIANT names, for the loader's tests.
#define DRAY_WORKER_ABI_ONLY
#include <dray/worker.h>

namespace {
#ifdef VARIANT_raw_throw
void run(const dray_handler*, void*, const dray_task*) { throw 7; }
#else
[[maybe_unused]] void run(const dray_handler*, void*, const dray_task*) {}
#endif

dray_handler make_handler() {
  dray_handler handler{};
  handler.size = sizeof(handler);
  handler.name = {"raw", 3};
  handler.run = run;
#ifdef VARIANT_small_handler
  handler.size = 8;
#endif
#ifdef VARIANT_no_run
  handler.run = nullptr;
#endif
  return handler;
}

[[maybe_unused]] const dray_handler kHandler = make_handler();
#ifdef VARIANT_null_handler
const dray_handler* const kList[] = {&kHandler, nullptr};
#else
[[maybe_unused]] const dray_handler* const kList[] = {&kHandler};
#endif

dray_plugin make_table() {
  dray_plugin table{sizeof(dray_plugin), DRAY_ABI_MAJOR, DRAY_ABI_MINOR, kList,
                    sizeof(kList) / sizeof(kList[0])};
#ifdef VARIANT_small_table
  table.size = 16;
#endif
#ifdef VARIANT_wrong_abi
  table.abi_major = 99;
#endif
#ifdef VARIANT_no_handlers
  table.handler_count = 0;
#endif
#ifdef VARIANT_null_list
  table.handlers = nullptr;
#endif
  return table;
}
[[maybe_unused]] const dray_plugin kTable = make_table();
}  // namespace

#ifndef VARIANT_no_entry
extern "C" __attribute__((visibility("default"))) const dray_plugin* dray_plugin_v1(void);
extern "C" const dray_plugin* dray_plugin_v1(void) {
#ifdef VARIANT_null_table
  return nullptr;
#else
  return &kTable;
#endif
}
#endif
