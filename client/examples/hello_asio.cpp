// Calls from a program on Boost.Asio: coroutines on one thread, several calls at once.
#include <dray/asio.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>

using boost::asio::awaitable;
using boost::asio::use_awaitable;

namespace {

awaitable<void> ask(dray::Client& client, int n) {
  for (int i = 0; i < 3; ++i) {
    const std::string text = "question " + std::to_string(n) + "." + std::to_string(i);
    dray::CallOutcome out = co_await dray::async_call(client, "echo", text, use_awaitable);
    std::printf("%s: %s\n", out.text().c_str(), out.bytes.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* endpoint = argc > 1 ? argv[1] : "ipc:///run/dray/router.sock";
  auto client = dray::Client::connect({.endpoint = endpoint});
  if (!client) return std::fprintf(stderr, "%s\n", client.error().text().c_str()), 1;
  boost::asio::io_context io(1);
  for (int n = 0; n < 3; ++n) co_spawn(io, ask(*client, n), boost::asio::detached);
  io.run();  // returns when every call has ended
  return 0;
}
