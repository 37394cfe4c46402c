// dray_tasks_test: crash, witness and call.witness, which only a worker that allows test handlers
// loads.
//
// crash    payload "mode" or "mode:ms" (1..9 digits):
//          abort          calls abort()
//          segv           writes to address 0
//          exit           calls _exit(3)
//          throw          throws an int
//          hang           sleeps until cancelled, ignoring its deadline; after ms, if given, it
//                         succeeds with "hang"
//          block          as ignore_cancel, but sleeps; succeeds with "block"
//          ignore_cancel  burns CPU, ignoring cancellation and deadline, for ever or ms, then
//                         succeeds with "ignore_cancel"
// witness  payload "path\nms\nrest". Appends the line
//            start <task id, 32 hex> <attempt> <epoch>:<seq> <pid> <Unix microseconds>
//          to the file at path (made if missing), sleeps ms, appends the same with the word "end"
//          and returns rest. Cancelled or at its deadline it appends "stop" instead and fails
//          (retryable). Each line is one write() with O_APPEND.
// call.witness  payload "path\nus\nid". Appends the line "<id> <pid>" to the file at path, waits us
//          microseconds and returns id: how often each call was executed.
#include <dray/worker.h>
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "payload.h"

namespace {

using Clock = std::chrono::steady_clock;

Clock::time_point end_of(std::string_view ms) {
  if (ms.empty()) return Clock::time_point::max();
  return Clock::now() + std::chrono::milliseconds(dray_tasks::decimal(ms, "crash: ms"));
}

dray::Outcome crash(dray::Context& ctx) {
  const std::string_view in = ctx.payload();
  const size_t colon = in.find(':');
  const std::string_view mode = in.substr(0, colon);
  const auto end = end_of(colon == std::string_view::npos ? "" : in.substr(colon + 1));
  if (mode == "abort") std::abort();
  if (mode == "segv") {
    std::signal(SIGSEGV, SIG_DFL);
    volatile int* volatile nowhere = nullptr;
    *nowhere = 1;
  }
  if (mode == "exit") _exit(3);
  if (mode == "throw") throw 42;
  if (mode == "hang") {
    while (Clock::now() < end) {
      if (ctx.cancelled()) return dray::fail("cancelled");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return dray::ok(mode);
  }
  if (mode == "block") {
    while (Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return dray::ok(mode);
  }
  if (mode == "ignore_cancel") {
    while (Clock::now() < end) {
    }
    return dray::ok(mode);
  }
  return dray::fail_final("crash: unknown mode");
}

void append(const std::string& path, const std::string& line) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) throw std::runtime_error("witness: can not open " + path);
  const ssize_t written = write(fd, line.data(), line.size());
  close(fd);
  if (written != static_cast<ssize_t>(line.size()))
    throw std::runtime_error("witness: can not write to " + path);
}

void append_moment(dray::Context& ctx, const std::string& path, const char* word) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count();
  const auto token = ctx.token();
  append(path, std::string(word) + ' ' + ctx.task_hex() + ' ' + std::to_string(ctx.attempt()) +
                   ' ' + std::to_string(token.epoch) + ':' + std::to_string(token.seq) + ' ' +
                   std::to_string(getpid()) + ' ' + std::to_string(us) + '\n');
}

struct Ask {  // "path\ntime\nrest"
  std::string path;
  uint64_t time = 0;
  std::string_view rest;
};

Ask parse(std::string_view in) {
  const size_t first = in.find('\n');
  const size_t second = first == std::string_view::npos ? first : in.find('\n', first + 1);
  if (second == std::string_view::npos)
    throw dray::FinalError("witness: the payload is not 'path\\ntime\\nrest'");
  return {std::string(in.substr(0, first)),
          dray_tasks::decimal(in.substr(first + 1, second - first - 1), "witness: time"),
          in.substr(second + 1)};
}

dray::Outcome witness(dray::Context& ctx) {
  const Ask ask = parse(ctx.payload());
  append_moment(ctx, ask.path, "start");
  if (!ctx.sleep_for(std::chrono::milliseconds(ask.time))) {
    append_moment(ctx, ask.path, "stop");
    return dray::fail("stopped");
  }
  append_moment(ctx, ask.path, "end");
  return dray::ok(ask.rest);
}

dray::Outcome witness_call(dray::Context& ctx) {
  const Ask ask = parse(ctx.payload());
  append(ask.path, std::string(ask.rest) + ' ' + std::to_string(getpid()) + '\n');
  ctx.sleep_for(std::chrono::microseconds(ask.time));
  return dray::ok(ask.rest);
}

}  // namespace

DRAY_HANDLER("crash", dray::HandlerOptions{.test_only = true}, crash);
DRAY_HANDLER("witness", dray::HandlerOptions{.test_only = true}, witness);
DRAY_HANDLER("call.witness", dray::HandlerOptions{.test_only = true}, witness_call);
