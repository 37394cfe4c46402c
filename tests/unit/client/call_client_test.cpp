// The whole client library against a scripted router on a real socket: every form of a call, from
// several threads and from callbacks, and what shutdown makes of open ones.
// clang-format off
#include "tests/unit/client/fake_router.h"
#include "client/include/dray/client.h"  // after the wire's headers: both have a CallEnd
// clang-format on

using namespace dray;
using namespace std::chrono_literals;
using test::FakeRouter;
using test::fresh_endpoint;
using test::RouterThread;
using test::wait_for;
using End = client_v1::CallEnd;

namespace {

Client connect(const std::string& endpoint) {
  ClientOptions o;
  o.endpoint = endpoint;
  o.stream_window = 1'000;
  return Client::connect(o).value();
}

}  // namespace

TEST_CASE("call, async_call and call_future bring the reply") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  CallOutcome out = c.call("echo", "hello");
  CHECK(out.ok());
  CHECK(out.bytes == "hello");
  CHECK(out.text() == "reply");
  CHECK(out.times.total > 0us);
  CHECK(c.call("fail", "").text() == "failed: app_fatal: no good");
  CHECK(c.call_future("echo", "later").get().bytes == "later");
  std::promise<std::string> told;
  c.async_call("echo", "async", {}, [&](CallOutcome&& o) { told.set_value(o.bytes); });
  CHECK(told.get_future().get() == "async");
  CHECK(wait_for([&] { return c.stats().calls == 4; }));
}

TEST_CASE("bad arguments are refused here and now") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  int told = 0;
  auto refused = [&](CallOutcome&& o) { told += o.end == End::rejected; };
  c.async_call("", "x", {}, refused);
  c.async_call("echo", std::string(5 << 20, 'x'), {}, refused);
  CallOptions long_one;
  long_one.deadline = 2h;
  c.async_call("echo", "x", long_one, refused).cancel();
  CHECK(told == 3);
  CHECK(c.call("echo", std::string(5 << 20, 'x')).code == Code::too_large);
  auto stream = c.call_stream("", "x");
  CHECK(!stream.next());
  CHECK(stream.outcome().code == Code::bad_argument);
  CHECK(router.core.calls == 0);
}

TEST_CASE("a callback starts the next call, ten thousand times; a blocking call fails there") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  std::atomic<int> left{10'000};
  std::atomic<bool> done{false};
  std::atomic<int> blocking{-1};
  std::function<void(CallOutcome &&)> again = [&](CallOutcome&& o) {
    if (!o.ok() || --left == 0) {
      blocking = static_cast<int>(c.call("echo", "x").code);
      done = true;
      return;
    }
    c.async_call("echo", o.bytes, {}, again);
  };
  c.async_call("echo", "ball", {}, again);
  CHECK(wait_for([&] { return done.load(); }));
  CHECK(left == 0);
  CHECK(blocking == static_cast<int>(Code::bad_argument));
}

TEST_CASE("calls that a callback starts together leave together") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  std::atomic<int> ends{0};
  c.async_call("echo", "first", {}, [&](CallOutcome&&) {
    for (int i = 0; i < 100; ++i) c.async_call("echo", "x", {}, [&](CallOutcome&&) { ++ends; });
  });
  CHECK(wait_for([&] { return ends == 100; }));
  CHECK(router.core.messages == 2);
  CHECK(router.core.calls == 101);
}

TEST_CASE("many threads and callbacks call at once; each call is sent once") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  std::atomic<int> good{0};
  std::atomic<int> async{0};
  auto count = [&async](CallOutcome&& o) { async += o.ok(); };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 300; ++i) {
        std::string text = std::to_string(t) + "/" + std::to_string(i);
        good += c.call("echo", text).bytes == text;
        c.async_call("echo", text, {}, [&, text](CallOutcome&& o) {
          async += o.bytes == text;
          c.async_call("echo", text, {}, count);
        });
      }
    });
  for (auto& t : threads) t.join();
  CHECK(good == 1'200);
  CHECK(wait_for([&] { return async == 2'400; }));
  CHECK(router.core.calls == 3'600);
}

TEST_CASE("cancel from any thread and from a callback") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  std::atomic<int> cancelled{0};
  auto count = [&](CallOutcome&& o) { cancelled += o.end == End::cancelled; };
  PendingCall a = c.async_call("hold", "", {}, count);
  CHECK(wait_for([&] { return router.core.calls == 1; }));
  a.cancel();
  a.cancel();
  CHECK(wait_for([&] { return cancelled == 1; }));
  PendingCall b = c.async_call("hold", "", {}, count);
  c.async_call("echo", "", {}, [&](CallOutcome&&) {
    b.cancel();
    c.async_call("hold", "", {}, count).cancel();
  });
  CHECK(wait_for([&] { return cancelled == 3; }));
  CHECK(router.core.calls == 3);  // the last one was never sent
  a.cancel();
  PendingCall{}.cancel();
}

TEST_CASE("ends that callbacks cause are told without a pause") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  std::atomic<int> left{200};
  std::function<void(CallOutcome &&)> again = [&](CallOutcome&&) {
    if (--left > 0) c.async_call("hold", "", {}, again).cancel();
  };
  c.async_call("echo", "", {}, again);
  CHECK(wait_for([&] { return left == 0; }));
  CHECK(router.core.calls == 1);
}

TEST_CASE("the deadline ends a call that nobody answers") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  CallOptions o;
  o.deadline = 30ms;
  CallOutcome out = c.call("hold", "", o);
  CHECK(out.end == End::unknown);
  CHECK(out.code == Code::outcome_unknown);
  CHECK(out.times.total >= 30ms);
  CHECK(out.times.total < 2s);
}

TEST_CASE("a stream brings its parts in order and holds the writer back") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  CallStream stream = c.call_stream("stream", "200");
  CHECK(wait_for([&] { return router.core.unread == 1'000; }));
  std::this_thread::sleep_for(50ms);
  CHECK(router.core.unread == 1'000);  // a window, and no more while nobody reads
  size_t n = 200;
  while (auto part = stream.next()) {
    REQUIRE(part->size() == FakeRouter::kPart);
    CHECK((*part)[0] == static_cast<char>('a' + n-- % 26));
  }
  CHECK(n == 0);
  CHECK(stream.outcome().ok());
  CHECK(stream.outcome().bytes == "end");
  CHECK(!stream.next());
}

TEST_CASE("a stream that is dropped is cancelled") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  Client c = connect(endpoint);
  {
    CallStream stream = c.call_stream("stream", "200");
    CHECK(stream.next());
  }
  CHECK(wait_for([&] { return router.core.cancels == 1; }));
}

TEST_CASE("two routers: one that leaves or is gone does not matter") {
  std::string one = fresh_endpoint(), two = fresh_endpoint();
  RouterThread a(one, 1);
  Client c = connect(one + " , " + two + "," + one);
  CHECK(c.call("echo", "x").ok());
  RouterThread b(two, 2);
  CHECK(wait_for([&] { return c.call("echo", "x").ok() && b.core.calls > 0; }));
  CallOutcome refused = c.call("leave", "", {.deadline = 200ms});
  CHECK(refused.code == Code::expired);  // both leave, and no third one comes
  CHECK(c.stats().calls_resent == 2);  // by either one's refusal
  a.stop();
  CallOptions o;
  o.idempotent = true;
  for (int i = 0; i < 20; ++i) CHECK(c.call("echo", "x", o).ok());
  CHECK(c.connected());
}

TEST_CASE("shutdown ends every open call once, as closed") {
  std::string endpoint = fresh_endpoint();
  RouterThread router(endpoint);
  std::atomic<int> closed{0}, again{0};
  std::atomic<bool> first{true};
  auto c = std::make_unique<Client>(connect(endpoint));
  Client* raw = c.get();
  CallStream stream = c->call_stream("hold", "");
  for (int i = 0; i < 50; ++i)
    c->async_call("hold", "", {}, [&](CallOutcome&& o) {
      closed += o.code == Code::closed && o.end == End::unknown;
      if (first.exchange(false))
        raw->async_call("echo", "", {},
                        [&](CallOutcome&& late) { again += late.code == Code::closed; });
    });
  PendingCall pending = c->async_call("hold", "", {}, [](CallOutcome&&) {});
  std::thread blocked([&] { closed += raw->call("hold", "").code == Code::closed; });
  CHECK(wait_for([&] { return router.core.calls == 53; }));
  std::thread reader([&] { closed += !stream.next() && stream.outcome().code == Code::closed; });
  c.reset();
  blocked.join();
  reader.join();
  CHECK(closed == 52);
  CHECK(again == 1);
  pending.cancel();
}

TEST_CASE("without a router connect says so; endpoints are checked") {
  ClientOptions o;
  o.endpoint = fresh_endpoint();
  o.timeout = 20ms;
  CHECK(Client::connect(o).error().code == Code::unavailable);
  o.endpoint = " , ";
  CHECK(Client::connect(o).error().code == Code::bad_argument);
}
