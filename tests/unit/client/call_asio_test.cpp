// asio.h: outcomes arrive on the handler's executor, which is kept alive until then.
// clang-format off
#include "tests/unit/client/fake_router.h"
#include "client/include/dray/asio.h"  // after the wire's headers: both have a CallEnd
// clang-format on
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

using namespace dray;
using test::fresh_endpoint;
using test::RouterThread;
namespace asio = boost::asio;

namespace {

struct Setup {
  std::string endpoint = fresh_endpoint();
  RouterThread router{endpoint};
  Client client = Client::connect({.endpoint = endpoint}).value();
};

}  // namespace

TEST_CASE("coroutines: each outcome comes back to the thread of the io_context") {
  Setup s;
  asio::io_context io(1);
  int good = 0;
  auto ask = [&](std::string text) -> asio::awaitable<void> {
    for (int i = 0; i < 10; ++i) {
      CallOutcome out = co_await async_call(s.client, "echo", text, asio::use_awaitable);
      good += out.bytes == text && io.get_executor().running_in_this_thread();
    }
  };
  for (int i = 0; i < 3; ++i) asio::co_spawn(io, ask("text " + std::to_string(i)), asio::detached);
  io.run();
  CHECK(good == 30);
}

TEST_CASE("a move-only handler on its own executor; a refusal does not run inside the call") {
  Setup s;
  asio::io_context io(1);
  bool inside = true;
  std::string got;
  Code code = Code::ok;
  auto handler = [&, only = std::make_unique<int>(7)](CallOutcome out) {
    got = out.bytes + std::to_string(*only);
  };
  async_call(s.client, "echo", "x", {}, asio::bind_executor(io, std::move(handler)));
  async_call(s.client, "", "x", {}, asio::bind_executor(io, [&](CallOutcome out) {
               CHECK(!inside);
               code = out.code;
             }));
  inside = false;
  io.run();
  CHECK(got == "x7");
  CHECK(code == Code::bad_argument);
}

TEST_CASE("a future as completion token") {
  Setup s;
  auto future = async_call(s.client, "echo", "soon", asio::use_future);
  CHECK(future.get().bytes == "soon");
}
