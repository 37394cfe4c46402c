// A handler plugin of your own: build it as a shared object and name it in the worker's `plugins`.
#include <dray/worker.h>

#include <algorithm>
#include <chrono>

// Fits a call and a queued task alike: bytes in, bytes out.
DRAY_HANDLER("hello.reverse", [](dray::Context& ctx) -> dray::Outcome {
  std::string text(ctx.payload());
  if (text.empty()) return dray::fail_final("give me some text");
  std::reverse(text.begin(), text.end());
  return dray::ok(std::move(text));
});

// Long work looks up now and then: is it still wanted?
DRAY_HANDLER("hello.count", [](dray::Context& ctx) -> dray::Outcome {
  for (int i = 1; i <= 10; ++i) {
    if (!ctx.sleep_for(std::chrono::milliseconds(100))) return dray::fail("stopped");
    ctx.progress(i / 10.0);
  }
  return dray::ok("counted to ten");
});
