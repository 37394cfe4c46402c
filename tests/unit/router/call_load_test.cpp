// The call lane under load, on a virtual clock with model workers: goodput under overload and the
// balance between replicas (the models of the design's measurements), and the cost of the core.
#include <catch2/catch.hpp>
#include <chrono>
#include <iostream>

#include "tests/support/call_farm.h"

using namespace dray;
using namespace dray::test;

namespace {
constexpr SessionId kCaller{10};
}  // namespace

TEST_CASE("under overload a replica goes on doing useful work, and who is answered is in time") {
  constexpr Duration kDeadline = 150ms;
  const double load = GENERATE(0.5, 1.1, 1.5, 3.0);
  const size_t replicas = GENERATE(1, 8);
  HandlerOffer offer;
  offer.name = "h";
  offer.max_batch_size = 128;
  offer.max_ongoing = 1;
  const double capacity = static_cast<double>(replicas) * 128 / 0.040;
  Rng rng(static_cast<uint64_t>(load * 10) + replicas);
  const auto trace = poisson(load * capacity, static_cast<size_t>(load * capacity * 6), rng);
  CallFarm farm({replicas, offer, kDeadline, {}},
                [](const std::vector<uint64_t>& calls) -> Duration {
                  return 8ms + static_cast<int64_t>(calls.size()) * Duration(250us);
                });
  const auto ended = farm.run(trace);
  size_t counted = 0, good = 0, answered = 0;
  std::vector<double> took;
  for (size_t i = trace.size() / 6; i < trace.size() * 5 / 6; ++i) {  // without start and end
    ++counted;
    REQUIRE(ended[i].end != CallEnd::part);
    if (ended[i].end != CallEnd::reply) continue;
    ++answered;
    const Duration t = ended[i].at - trace[i].at;
    took.push_back(static_cast<double>(t.count()) / 1e6);
    good += t <= kDeadline;
  }
  const double goodput = static_cast<double>(good) / static_cast<double>(counted);
  INFO("load " << load << " replicas " << replicas << " goodput " << goodput << " p99 "
               << percentile(took, 0.99));
  CHECK(goodput >= 0.97 * std::min(1.0, 1 / load));
  CHECK(percentile(took, 0.99) <= 150);
}

// Between two calls a replica with one slot waits for the router, there and back. At a hop of 200
// us that is 8 % of its time, which the short calls feel against a queue without distance; against
// one with the same distance nothing may be lost.
TEST_CASE("replicas are used as well as one ideal queue would") {
  BalanceCase c;
  c.bimodal = GENERATE(false, true);
  c.seed = GENERATE(3, 4);
  c.hop = GENERATE(Duration(0us), Duration(50us), Duration(200us));
  const Balance b = measure_balance(c);
  INFO("bimodal " << c.bimodal << " hop " << to_us(c.hop) << " us: p99 " << b.all.ours
                  << " ms, ideal " << b.all.ideal << " ms; of short calls " << b.brief.ours
                  << " ms, ideal " << b.brief.ideal << " ms, distant " << b.brief.distant << " ms");
  CHECK(b.all.ours <= 1.15 * b.all.ideal);
  CHECK(b.brief.ours <= 1.15 * (c.hop < 100us ? b.brief.ideal : b.brief.distant));
}

// --- the cost of the core -----------------------------------------------------------------------
namespace {

struct CoreBench {
  CoreBench(size_t workers, uint32_t slots) {
    RouterOptions o;
    o.calls.client_calls = 1'000'000;
    router = std::make_unique<Router>(o);
    open(kCaller, Router::kClients, Role::client);
    for (size_t i = 0; i < workers; ++i) {
      open(SessionId{100 + i}, Router::kWorkers, Role::worker);
      Offer m;
      m.slots = slots;
      m.handlers = {encode_offer([] {
        HandlerOffer h;
        h.name = "echo";
        return h;
      }())};
      send(SessionId{100 + i}, encode(grant(uint64_t{1} << 40), m));
    }
    router->end_turn(now, out);
    out.clear();
  }
  static Envelope grant(uint64_t granted) {
    Envelope e;
    e.granted = granted;
    return e;
  }
  void open(SessionId id, Port port, Role role) {
    SessionInfo info;
    info.id = id;
    info.port = port;
    info.role = role;
    router->on_open(info, now, out);
  }
  void send(SessionId from, Frames frames) {
    auto e = decode_envelope(frames);
    router->on_frames(from, *e, std::move(frames), now, out);
  }
  Frames calls(size_t n) {
    Call m;
    m.handler = "echo";
    RowsBuilder<CallRow> rows;
    for (size_t i = 0; i < n; ++i)
      rows.add({.call = ++number, .deadline_us = 10'000'000, .len = 64});
    m.rows = rows.take();
    m.bytes = Bytes(std::string(64 * n, 'x'));
    return encode(Envelope{}, m);
  }
  static Frames dones(const Run& run) {
    RowsBuilder<DoneRow> rows;
    for (size_t i = 0; i < run.rows.size(); ++i)
      rows.add({.call = run.rows[i].call, .len = 64, .run_us = 1, .status = 1, .flags = 1});
    return encode(grant(uint64_t{1} << 40),
                  Done{rows.take(), Bytes(std::string(64 * rows.size(), 'y'))});
  }
  std::unique_ptr<Router> router;
  RouterOut out;
  Now now{at_ms(1000), 0};
  uint64_t number = 0;
};

// Nanoseconds of the router for one call, with `n` calls a turn. The median over turns, because the
// machine may be busy with other things.
double core_ns(size_t workers, size_t n) {
  using Clock = std::chrono::steady_clock;
  CoreBench b(workers, 64);
  std::vector<std::pair<SessionId, Frames>> in;
  std::vector<double> turns;
  while (turns.size() * n < 400'000) {
    b.now.mono += 10us;
    in.emplace_back(kCaller, b.calls(n));
    const auto start = Clock::now();
    for (auto& [from, frames] : in) b.send(from, std::move(frames));
    b.router->end_turn(b.now, b.out);
    const Duration took = Clock::now() - start;
    turns.push_back(static_cast<double>(took.count()) / static_cast<double>(n));
    in.clear();
    for (Send& s : b.out.now)
      if (const auto* run = std::get_if<Run>(&s.message))
        in.emplace_back(s.to, CoreBench::dones(*run));
    b.out.clear();
  }
  return percentile(turns, 0.5);
}

}  // namespace

TEST_CASE("cost of one call in the router core", "[.bench]") {
  for (const size_t workers : {1, 4, 64})
    for (const size_t n : {1, 8, 64})
      std::cout << workers << " workers, " << n << " calls a message: " << core_ns(workers, n)
                << " ns a call\n";
}
