// The smallest client: submit one task, wait for its result, print it.
#include <dray/client.h>

#include <cstdio>

using namespace std::chrono_literals;

int main(int argc, char** argv) {
  const char* endpoint = argc > 1 ? argv[1] : "ipc:///run/dray/router.sock";
  auto client = dray::Client::connect({.endpoint = endpoint, .timeout = 10s});
  if (!client) return std::fprintf(stderr, "%s\n", client.error().text().c_str()), 1;
  auto task = client->submit("echo", "hello, queue", {.priority = 7, .time_limit = 5s});
  if (!task) return std::fprintf(stderr, "%s\n", task.error().text().c_str()), 1;
  dray::TaskOutcome out = task->get(10s);
  std::printf("%s %s: %s\n", out.id.hex().c_str(), dray::state_text(out.state).data(),
              out.bytes.c_str());
  return out.ok() ? 0 : 1;
}
