// A plugin that tells what it was given, for the tests of the worker's side of the ABI.
#include <dray/worker.h>

#include <atomic>

namespace {

struct Counter {
  explicit Counter(std::string name) : worker(std::move(name)) {}
  std::string worker;
  std::atomic<int> runs{0};
};

std::string describe(dray::Context& ctx) {
  const auto token = ctx.token();
  return ctx.task_hex() + " " + std::to_string(token.epoch) + ":" + std::to_string(token.seq) +
         " " + std::to_string(ctx.attempt()) + " " + std::string(ctx.handler()) + " [" +
         std::string(ctx.payload()) + "] [" + std::string(ctx.user_header()) + "] " +
         std::string(ctx.worker().name()) + " " + std::string(ctx.worker().data_dir()) +
         (ctx.cancelled() ? " cancelled" : "") + (ctx.has_deadline() ? " deadline" : "");
}

}  // namespace

DRAY_HANDLER("probe.describe", [](dray::Context& ctx) { return dray::ok(describe(ctx)); });
DRAY_HANDLER(
    "probe.count", dray::HandlerOptions{.test_only = false, .max_concurrency = 2},
    [](const dray::WorkerInfo& worker) {
      return std::make_unique<Counter>(std::string(worker.name()));
    },
    [](dray::Context&, std::unique_ptr<Counter>& counter) {
      return dray::ok(counter->worker + " " + std::to_string(++counter->runs));
    });
DRAY_HANDLER("probe.remaining_ms", [](dray::Context& ctx) {
  return dray::ok(std::to_string(
      std::chrono::duration_cast<std::chrono::milliseconds>(ctx.remaining()).count()));
});
DRAY_HANDLER("probe.throw", [](dray::Context& ctx) -> dray::Outcome {
  if (ctx.payload() == "final") throw dray::FinalError("no way");
  if (ctx.payload() == "int") throw 1;
  throw std::runtime_error("try again\nlater");
});
DRAY_HANDLER("probe.size", [](dray::Context& ctx) {
  return dray::ok(std::string(std::stoul(std::string(ctx.payload())), 'x'));
});
DRAY_HANDLER("probe.result", [](dray::Context& ctx) {
  ctx.result("an earlier one");
  ctx.result(std::string(std::stoul(std::string(ctx.payload())), 'x'));
  return dray::ok();
});
DRAY_HANDLER("probe.buffer", [](dray::Context& ctx) {
  ctx.result_buffer(std::stoul(std::string(ctx.payload())));
  return dray::ok();
});
DRAY_HANDLER("probe.buffer_then_fail", [](dray::Context& ctx) {
  ctx.result_buffer(8);
  return dray::fail("");
});
DRAY_HANDLER("probe.long_error", [](dray::Context&) { return dray::fail(std::string(9999, 'e')); });
DRAY_HANDLER("probe.progress", [](dray::Context& ctx) {
  ctx.progress(0.25, "quarter");
  ctx.progress(7);
  ctx.log(DRAY_LOG_WARN, "careful");
  return dray::ok();
});
