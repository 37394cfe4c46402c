// A plugin that tells what it was given in calls, for the tests of the executors of calls.
#include <dray/model_cache.h>
#include <dray/worker.h>

#include <atomic>

namespace {

std::string describe(dray::Context& ctx) {
  return "[" + std::string(ctx.payload()) + "] model=" + std::string(ctx.model()) +
         " items=" + std::to_string(ctx.items()) + (ctx.is_call() ? " call" : " task") +
         (ctx.has_deadline() ? " deadline" : "");
}

// "skip": no outcome; "fail" and "final": that one fails; "throw": the whole batch.
void describe_batch(dray::Batch& batch) {
  for (size_t i = 0; i < batch.size(); ++i) {
    const std::string_view in = batch[i].payload();
    if (in == "throw") throw std::runtime_error("broken");
    if (in == "throw_final") throw dray::FinalError("broken for good");
    if (in == "skip") continue;
    if (in == "fail")
      batch.set(i, dray::fail("one"));
    else if (in == "final")
      batch.set(i, dray::fail_final("one for good"));
    else
      batch.set(i, dray::ok(std::to_string(batch.size()) + " " + describe(batch[i])));
  }
}

struct Model {
  std::string name;
};
std::shared_ptr<Model> load(std::string_view key) {
  if (key == "none") throw std::runtime_error("no such model");
  return std::make_shared<Model>(Model{std::string(key)});
}

// Waits until it is stopped, but not longer than 20 s. Returns how long it took to hear of it.
dray::Outcome until_stopped(dray::Context& ctx) {
  if (ctx.sleep_for(std::chrono::seconds(20))) return dray::fail("was not stopped");
  return dray::ok(ctx.cancelled() ? "stopped" : "deadline");
}

std::atomic<int> g_inside{0};
dray::Outcome alone(dray::Context&) {
  const int inside = ++g_inside;
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  --g_inside;
  return inside == 1 ? dray::ok() : dray::fail_final("not alone");
}

}  // namespace

DRAY_HANDLER("call.describe", dray::HandlerOptions{.streams = true},
             [](dray::Context& ctx) { return dray::ok(describe(ctx)); });
DRAY_BATCH_HANDLER("call.batch",
                   dray::HandlerOptions{.idempotent = true,
                                        .max_ongoing = 3,
                                        .max_batch_size = 16,
                                        .max_batch_bytes = 1000,
                                        .batch_wait = std::chrono::milliseconds(2),
                                        .max_models = 2},
                   describe_batch);
DRAY_BATCH_HANDLER(
    "call.model", dray::HandlerOptions{.max_batch_size = 4, .max_models = 2},
    [](const dray::WorkerInfo&) { return std::make_unique<dray::ModelCache<Model>>(2, load); },
    [](dray::Batch& batch, std::unique_ptr<dray::ModelCache<Model>>& models) {
      const auto model = models->get(batch.model());
      for (size_t i = 0; i < batch.size(); ++i)
        batch.set(i, dray::ok(model->name + " " + std::to_string(models->loads())));
    });
DRAY_HANDLER("call.until_stopped", until_stopped);
DRAY_HANDLER("call.alone", dray::HandlerOptions{.max_concurrency = 1}, alone);
DRAY_HANDLER("call.gated", dray::HandlerOptions{.max_concurrency = 1},
             [](dray::Context&) { return dray::ok(); });
DRAY_HANDLER("call.parts_then_fail", [](dray::Context& ctx) {
  ctx.send("lost");
  return dray::fail("after a part");
});
