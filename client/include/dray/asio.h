// asio.h: calls for programs on Boost.Asio: a completion-token form of Client::async_call.
//
//   dray::CallOutcome out = co_await dray::async_call(client, "echo", "hello", use_awaitable);
//
// The signature is void(dray::CallOutcome). The handler runs on its associated executor, which is
// kept busy until then. Needs Boost 1.74 or newer. Options for a co_await should be a variable of
// their own: g++ 12 destroys a braced temporary in such an expression twice.
#pragma once

// clang-format off
#include <utility>  // before asio: Boost 1.74 uses std::exchange without it
// clang-format on
#include <atomic>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "client.h"

namespace dray {
inline namespace client_v1 {
namespace asio_detail {

// A handler that may be move-only, behind a callback that must be copyable.
template <class Handler>
struct Waiting {
  using Executor = boost::asio::associated_executor_t<Handler>;
  explicit Waiting(Handler&& h)
      : handler(std::move(h)), work(boost::asio::get_associated_executor(handler)) {}

  Handler handler;
  boost::asio::executor_work_guard<Executor> work;
  std::atomic<bool> initiated{false};  // the initiating function has returned
};

template <class Handler>
void complete(std::shared_ptr<Waiting<Handler>> waiting, CallOutcome&& outcome) {
  auto executor = waiting->work.get_executor();
  bool elsewhere = waiting->initiated.load();
  auto run = [waiting = std::move(waiting), outcome = std::move(outcome)]() mutable {
    Handler handler = std::move(waiting->handler);
    waiting.reset();  // its work and memory are free before the handler runs
    std::move(handler)(std::move(outcome));
  };
  // A refusal comes at once; a handler must not run inside of the function that was given it.
  if (elsewhere)
    boost::asio::dispatch(executor, std::move(run));
  else
    boost::asio::post(executor, std::move(run));
}

struct Initiate {
  template <class Handler>
  void operator()(Handler&& handler, Client* client, const std::string& name,
                  const std::string& payload, const CallOptions& options) const {
    using H = std::decay_t<Handler>;
    auto waiting = std::make_shared<Waiting<H>>(H(std::forward<Handler>(handler)));
    client->async_call(name, payload, options, [waiting](CallOutcome&& outcome) {
      complete<H>(waiting, std::move(outcome));
    });
    waiting->initiated.store(true);
  }
};

}  // namespace asio_detail

template <class Token>
auto async_call(Client& client, std::string_view handler, std::string_view payload,
                const CallOptions& options, Token&& token) {
  return boost::asio::async_initiate<Token, void(CallOutcome)>(
      asio_detail::Initiate{}, token, &client, std::string(handler), std::string(payload), options);
}

template <class Token>
auto async_call(Client& client, std::string_view handler, std::string_view payload, Token&& token) {
  return async_call(client, handler, payload, CallOptions{}, std::forward<Token>(token));
}

}  // namespace client_v1
}  // namespace dray
