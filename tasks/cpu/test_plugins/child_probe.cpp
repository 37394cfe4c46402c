// A plugin that misbehaves in every way a process can, for the tests of executors. What happens at
// its start is in its user_config: "slow:ms", "throw", "exit", "segv"; "slow_end"
// makes it hang at its end, "ill" and "hang" spoil its health checks.
#include <dray/worker.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

// Whatever a sanitizer would like to do about it.
void crash(int number) {
  signal(number, SIG_DFL);
  raise(number);
}

struct State {
  ~State() {
    if (config == "slow_end") sleep(60);
  }
  std::mutex mutex;
  std::string config;
};
using Shared = std::unique_ptr<State>;

Shared start(const dray::WorkerInfo& worker) {
  auto state = std::make_unique<State>();
  state->config = worker.user_config();
  const std::string& config = state->config;
  if (config.rfind("slow:", 0) == 0)
    usleep(1000 * static_cast<unsigned>(std::stoi(config.substr(5))));
  if (config == "throw") throw std::runtime_error("no such model");
  if (config == "exit") _exit(9);
  if (config == "segv") crash(SIGSEGV);
  return state;
}

void hog() {
  for (int i = 0; i < 64; ++i) {
    const size_t size = size_t{32} << 20;
    char* memory = static_cast<char*>(std::malloc(size));
    for (size_t at = 0; at < size; at += 4096) static_cast<volatile char*>(memory)[at] = 1;
    usleep(20'000);
  }
}

// A frame of the executor's own protocol, about its first run.
void forge(uint8_t type, uint16_t index, const std::string& body) {
  std::string frame(16, '\0');
  const auto size = static_cast<uint32_t>(body.size());
  const uint64_t id = 1;
  std::memcpy(&frame[0], &size, sizeof size);
  frame[4] = static_cast<char>(type);
  std::memcpy(&frame[6], &index, sizeof index);
  std::memcpy(&frame[8], &id, sizeof id);
  frame += body;
  for (size_t at = 0; at < frame.size();) {
    const ssize_t n = write(3, frame.data() + at, frame.size() - at);
    if (n <= 0) return;
    at += static_cast<size_t>(n);
  }
}

void spam() {
  for (int i = 0; i < 200'000; ++i) std::printf("line %d of very many\n", i);
}

dray::Outcome act(dray::Context& ctx, Shared& state) {
  const std::string in(ctx.payload());
  if (in == "segv") crash(SIGSEGV);
  if (in == "abort") crash(SIGABRT);
  if (in == "kill") raise(SIGKILL);
  if (in == "exit0") std::exit(0);
  if (in == "hog") hog();
  if (in == "spam") spam();
  if (in == "fork" && fork() == 0) {
    sleep(30);  // keeps the socket and the pipes
    _exit(0);
  }
  if (in == "fork") crash(SIGSEGV);
  if (in == "nonsense") {
    const char bytes[64] = {'?', '?', '?', '?', '?', '?', '?', '?'};
    if (write(3, bytes, sizeof bytes) < 0) return dray::fail("no socket");
  }
  if (in == "hangup") close(3);
  if (in == "empty_part") forge(18, 0, {});
  if (in == "print") {
    std::printf("out of the handler\n");
    std::fprintf(stderr, "err of the handler\n");
    ctx.log(DRAY_LOG_WARN, "log of the handler");
  }
  if (in == "block") {
    for (;;) usleep(1000);
  }
  if (in == "config") {
    std::lock_guard lock(state->mutex);
    return dray::ok(state->config);
  }
  if (in == "env") {
    const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
    return dray::ok(std::string(value != nullptr ? value : "none"));
  }
  if (in == "pid") return dray::ok(std::to_string(getpid()));
  return dray::ok(in);
}

dray::Outcome part_after_part(dray::Context& ctx) {
  const std::string part(100'000, 'p');
  for (int i = 0; i < 100; ++i)
    if (!ctx.send(part)) return dray::fail("stopped after " + std::to_string(i));
  return dray::ok("end");
}

dray::Outcome tell(dray::Context& ctx) {
  for (int i = 1; i <= 10; ++i) {
    ctx.progress(i / 10.0, "step " + std::to_string(i));
    ctx.sleep_for(std::chrono::milliseconds(20));
  }
  return dray::ok();
}

}  // namespace

DRAY_HANDLER("child.act", dray::HandlerOptions{.idempotent = true, .max_ongoing = 7}, start, act);
DRAY_HANDLER("child.parts", dray::HandlerOptions{.streams = true}, part_after_part);
DRAY_HANDLER("child.tell", tell);
DRAY_HANDLER("child.alone", dray::HandlerOptions{.max_concurrency = 1},
             [](dray::Context& ctx) { return dray::ok(ctx.payload()); });
DRAY_BATCH_HANDLER("child.batch", dray::HandlerOptions{.max_batch_size = 4096},
                   [](dray::Batch& batch) {
                     if (batch[0].payload() == "flood")
                       for (uint16_t i = 0; i < 20'000; ++i) forge(19, i % 2, std::string(8, '\0'));
                     for (size_t i = 0; i < batch.size(); ++i)
                       batch.set(i, i % 3 == 2 ? dray::fail("third")
                                               : dray::ok(std::string(batch[i].payload())));
                   });
DRAY_RECONFIGURE("child.act", [](Shared& state, std::string_view config) {
  if (config == "bad") throw std::runtime_error("bad config");
  std::lock_guard lock(state->mutex);
  state->config = config;
});
DRAY_HEALTH("child.act", [](Shared& state) {
  std::lock_guard lock(state->mutex);
  if (state->config == "hang") sleep(60);
  if (state->config == "ill") throw std::runtime_error("feels ill");
});
