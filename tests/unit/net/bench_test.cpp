// Not run by default (unit_net "[.bench]"): round trip and rate through hosts next to raw ZeroMQ.
#include <catch2/catch.hpp>
#include <cstdio>
#include <vector>

#include "common/net/floor.h"
#include "tests/unit/net/net_support.h"

using namespace dray;
using namespace dray::test;

namespace {
void bench(const char* what, const std::string& endpoint, uint64_t window, uint64_t count,
           Duration spin) {
  HostOptions listening;
  listening.link = link_options(Role::broker, 1);
  listening.listen = {{1, endpoint}};
  listening.spin = spin;
  Runner server(listening);
  REQUIRE(server.start());
  HostOptions dialing;
  dialing.link = link_options(Role::client, 2);
  dialing.dial = {{1, server.host.endpoint(1), Role::broker}};
  dialing.spin = spin;
  Runner client(dialing);
  std::vector<Time> sent(count + window);
  std::vector<int64_t> trips;
  trips.reserve(count);
  std::atomic<bool> done{false};
  Time begin{};
  Time end{};
  client.core.on_opened = [&](SessionId id, Lanes& out) {
    begin = read_clock().mono;
    for (uint64_t i = 0; i < window; ++i) {
      sent[i] = read_clock().mono;
      out.now.push_back(query(id, i));
    }
  };
  client.core.on_answer = [&](SessionId from, const Envelope& e, Message&, Lanes& out) {
    Time now = read_clock().mono;
    trips.push_back((now - sent[e.req]).count());
    if (e.req + window < count) {
      sent[e.req + window] = now;
      out.now.push_back(query(from, e.req + window));
    } else if (trips.size() == count) {
      end = now;
      done = true;
    }
  };
  REQUIRE(client.start());
  REQUIRE(wait_for([&] { return done.load(); }, 60s));
  std::sort(trips.begin(), trips.end());
  auto us = [&](size_t i) { return static_cast<double>(trips[i]) / 1000; };
  double seconds = std::chrono::duration<double>(end - begin).count();
  std::printf("%-28s window %5llu: %9.0f round trips/s, p50 %7.1f us, p99 %7.1f us\n", what,
              static_cast<unsigned long long>(window), static_cast<double>(count) / seconds,
              us(trips.size() / 2), us(trips.size() * 99 / 100));
}

void raw(const char* what, const std::string& folder, size_t window) {
  auto r = measure_forwarder_floor({folder, 0, 1, window, 1s});
  REQUIRE(r);
  std::printf("%-28s window %5zu: %9.0f round trips/s, p50 %7.1f us, p99 %7.1f us\n", what, window,
              r->msgs_per_s, r->p50_us, r->p99_us);
}
}  // namespace

TEST_CASE("bench: hosts and raw", "[.bench]") {
  for (int round = 0; round < 2; ++round) {
    bench("host echo ipc", fresh_ipc(), 1, 20'000, {});
    bench("host echo tcp", "tcp://127.0.0.1:0", 1, 20'000, {});
    bench("host echo ipc spin 50us", fresh_ipc(), 1, 20'000, 50us);
    bench("host echo ipc", fresh_ipc(), 1000, 500'000, {});
    raw("raw forwarder (2 hops) ipc", "/tmp", 1);
    raw("raw forwarder (2 hops) tcp", "", 1);
    raw("raw forwarder (2 hops) ipc", "/tmp", 1000);
  }
}
