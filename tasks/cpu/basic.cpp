// dray_tasks_basic: echo, noop, sleep and fail, for trying things out.
//
// echo   any bytes -> the same bytes.
// noop   any bytes -> nothing.
// sleep  milliseconds as 1..9 ASCII digits -> the same text, after that time. Cancelled or at its
//        deadline it stops within 2 ms and fails (retryable).
// fail   "N:text", N of 1..9 digits: attempts 1 .. N-1 fail (retryable) with text, later attempts
//        succeed with text; N = 0: every attempt fails. "final:text": fails permanently with text.
#include <dray/worker.h>

#include "payload.h"

namespace {

dray::Outcome echo(dray::Context& ctx) {
  ctx.result(ctx.payload());
  return dray::ok();
}

dray::Outcome noop(dray::Context&) { return dray::ok(); }

dray::Outcome sleep_ms(dray::Context& ctx) {
  const auto ms = dray_tasks::decimal(ctx.payload(), "sleep: the number of milliseconds");
  if (!ctx.sleep_for(std::chrono::milliseconds(ms)))
    return dray::fail(ctx.cancelled() ? "cancelled" : "deadline passed");
  return dray::ok(ctx.payload());
}

dray::Outcome fail_by_attempt(dray::Context& ctx) {
  const std::string_view in = ctx.payload();
  const size_t colon = in.find(':');
  if (colon == std::string_view::npos)
    return dray::fail_final("fail: the payload is not 'N:text' or 'final:text'");
  const std::string text(in.substr(colon + 1));
  if (in.substr(0, colon) == "final") return dray::fail_final(text);
  const auto until = dray_tasks::decimal(in.substr(0, colon), "fail: N");
  if (until == 0 || ctx.attempt() < until) return dray::fail(text);
  return dray::ok(text);
}

}  // namespace

DRAY_HANDLER("echo", dray::HandlerOptions{.idempotent = true}, echo);
DRAY_HANDLER("noop", dray::HandlerOptions{.idempotent = true}, noop);
DRAY_HANDLER("sleep", sleep_ms);
DRAY_HANDLER("fail", fail_by_attempt);
