// Plugins in plain ABI style, each broken in the one way its VARIANT names, for the loader's tests.
#define DRAY_WORKER_ABI_ONLY
#include <dray/worker.h>

namespace {
#ifdef VARIANT_raw_throw
void run(const dray_handler*, void*, const dray_task*) { throw 7; }
#else
[[maybe_unused]] void run(const dray_handler*, void*, const dray_task*) {}
#endif

// Every second one fails; a task's payload comes back.
[[maybe_unused]] void run_batch(const dray_handler*, void*, const dray_task* const* tasks,
                                size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (i % 2 == 0)
      tasks[i]->host->set_result(tasks[i], tasks[i]->payload.data, tasks[i]->payload.size);
    else
      tasks[i]->host->set_error(tasks[i], DRAY_FAIL, "odd", 3);
}

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
#ifdef VARIANT_abi_1_0  // what a plugin of 1.0 has there is not ours
  handler.size = offsetof(dray_handler, max_batch_size);
  handler.flags = DRAY_HANDLER_IDEMPOTENT | DRAY_HANDLER_STREAMS;
  handler.max_batch_size = handler.max_ongoing = handler.max_models = 0xdeadbeef;
  handler.max_batch_bytes = 0xdeadbeefdeadbeef;
  handler.batch_wait_us = 0xdeadbeef;
#endif
#ifdef VARIANT_batch_only
  handler.run = nullptr;
  handler.run_batch = run_batch;
  handler.max_batch_size = 8;
#endif
#ifdef VARIANT_batch_without_run
  handler.max_batch_size = 8;
#endif
  return handler;
}

[[maybe_unused]] const dray_handler kHandler = make_handler();
#ifdef VARIANT_null_handler
const dray_handler* const kList[] = {&kHandler, nullptr};
#else
[[maybe_unused]] const dray_handler* const kList[] = {&kHandler};
#endif

#ifdef VARIANT_abi_1_0
[[maybe_unused]] constexpr uint32_t kMinor = 0;
#else
[[maybe_unused]] constexpr uint32_t kMinor = DRAY_ABI_MINOR;
#endif

dray_plugin make_table() {
  dray_plugin table{sizeof(dray_plugin), DRAY_ABI_MAJOR, kMinor, kList,
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
