// Calls in all four forms: blocking, with a callback, as a future and as a stream of parts.
#include <dray/client.h>

#include <cstdio>
#include <future>

using namespace std::chrono_literals;

int main(int argc, char** argv) {
  const char* endpoint = argc > 1 ? argv[1] : "ipc:///run/dray/router.sock";
  auto client = dray::Client::connect({.endpoint = endpoint, .timeout = 10s});
  if (!client) return std::fprintf(stderr, "%s\n", client.error().text().c_str()), 1;

  // An answer within 200 ms, or the reason why not. `idempotent`: may run again if a worker dies.
  const dray::CallOptions quick{.deadline = 200ms, .idempotent = true};
  dray::CallOutcome out = client->call("echo", "hello, call", quick);
  std::printf("%s: %s (%lld us)\n", out.text().c_str(), out.bytes.c_str(),
              static_cast<long long>(out.times.total.count()));
  if (!out.ok()) return 1;

  std::promise<void> told;
  client->async_call("echo", "hello, callback", quick, [&](dray::CallOutcome&& o) {
    std::printf("%s: %s\n", o.text().c_str(), o.bytes.c_str());
    told.set_value();
  });
  told.get_future().wait();

  std::future<dray::CallOutcome> later = client->call_future("echo", "hello, future", quick);
  std::printf("%s\n", later.get().bytes.c_str());

  dray::CallStream stream = client->call_stream("stream.count", "5 10");  // 5 parts of 10 bytes
  while (auto part = stream.next()) std::printf("part of %zu bytes\n", part->size());
  std::printf("%s\n", stream.outcome().text().c_str());
  return 0;
}
