// The call lane under load, on a virtual clock with model workers: goodput under overload and the
// balance between replicas (the models of the design's measurements), and the cost of the core.
#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <functional>
#include <iostream>
#include <queue>

#include "common/base/rng.h"
#include "common/wire/offer.h"
#include "services/router/core/router.h"

using namespace dray;

namespace {

constexpr SessionId kCaller{10};

double uniform(Rng& rng) { return (static_cast<double>(rng.below(1u << 30)) + 0.5) / (1u << 30); }
double exponential(Rng& rng, double mean) { return -mean * std::log(uniform(rng)); }

struct Arriving {
  Time at{};
  Duration service{};
};
struct Ended {
  Time at{};
  CallEnd end = CallEnd::part;
};

// One client, some workers that run one batch at a time, and nothing in between.
class Farm {
 public:
  using Cost = std::function<Duration(const std::vector<uint64_t>& calls)>;
  Farm(size_t workers, HandlerOffer offer, Duration deadline, Cost cost)
      : router_(wide()), deadline_(deadline), cost_(std::move(cost)) {
    open(kCaller, Router::kClients, Role::client);
    for (size_t i = 0; i < workers; ++i) {
      const SessionId id{100 + i};
      open(id, Router::kWorkers, Role::worker);
      Offer m;
      m.slots = 1;
      m.handlers = {encode_offer(offer)};
      granted_.push_back(1);
      send(id, m, 1);
    }
    turn();
  }

  std::vector<Ended> run(const std::vector<Arriving>& trace) {
    ended_.assign(trace.size(), {});
    size_t next = 0;
    for (;;) {
      const Time arrival = next < trace.size() ? trace[next].at : kNever;
      const Time done = busy_.empty() ? kNever : busy_.top().at;
      const Time at = std::min({arrival, done, router_.next_deadline()});
      if (at == kNever) break;
      now_.mono = std::max(now_.mono, at);
      if (arrival == at) post(next++);
      if (done == at) finish_batch();
      turn();
    }
    router_.check();
    CHECK(router_.lane().open_calls() == 0);
    return ended_;
  }

 private:
  struct Busy {
    Time at{};
    size_t worker = 0;
    std::vector<uint64_t> numbers;
    Duration took{};
    bool operator<(const Busy& o) const { return at > o.at; }
  };
  static RouterOptions wide() {
    RouterOptions o;
    o.calls.client_calls = o.calls.max_queued = 1'000'000;
    return o;
  }
  void open(SessionId id, Port port, Role role) {
    SessionInfo info;
    info.id = id;
    info.port = port;
    info.role = role;
    router_.on_open(info, now_, out_);
  }
  void send(SessionId from, const Message& m, uint64_t granted = 0) {
    Envelope e;
    e.granted = granted;
    Frames frames = encode(e, m);
    e.kind = decode_envelope(frames)->kind;
    router_.on_frames(from, e, std::move(frames), now_, out_);
  }
  void post(size_t call) {
    Call m;
    m.handler = "h";
    CallRow row;
    row.call = call;
    row.deadline_us = static_cast<uint64_t>(to_us(deadline_));
    row.len = sizeof(uint64_t);
    RowsBuilder<CallRow> rows;
    rows.add(row);
    m.rows = rows.take();
    const uint64_t name = call;
    m.bytes = Bytes(std::string(reinterpret_cast<const char*>(&name), sizeof(name)));
    send(kCaller, m);
  }
  void finish_batch() {
    const Busy b = busy_.top();
    busy_.pop();
    RowsBuilder<DoneRow> rows;
    for (size_t i = 0; i < b.numbers.size(); ++i) {
      DoneRow row;
      row.call = b.numbers[i];
      row.run_us = static_cast<uint32_t>(to_us(b.took));
      row.status = static_cast<uint8_t>(CallEnd::reply);
      row.flags = i + 1 == b.numbers.size() ? kDoneFreesSlot : uint16_t{0};
      rows.add(row);
    }
    send(SessionId{100 + b.worker}, Done{rows.take(), Bytes()}, ++granted_[b.worker]);
  }
  void turn() {
    router_.end_turn(now_, out_);
    for (const Send& s : out_.now) {
      if (const auto* run = std::get_if<Run>(&s.message)) start(s.to, *run);
      if (const auto* reply = std::get_if<Reply>(&s.message))
        for (size_t i = 0; i < reply->rows.size(); ++i) {
          const ReplyRow row = reply->rows[i];
          ended_[row.call] = {now_.mono, static_cast<CallEnd>(row.status)};
        }
    }
    out_.clear();
  }
  void start(SessionId to, const Run& run) {
    Busy b;
    std::vector<uint64_t> calls(run.rows.size());
    for (size_t i = 0; i < run.rows.size(); ++i) {
      DRAY_ASSERT(run.rows[i].batch == 0);  // one slot, one batch
      b.numbers.push_back(run.rows[i].call);
      std::memcpy(&calls[i], run.bytes.data() + i * sizeof(uint64_t), sizeof(uint64_t));
    }
    b.took = cost_(calls);
    b.at = now_.mono + b.took;
    b.worker = static_cast<uint64_t>(to) - 100;
    busy_.push(std::move(b));
  }

  Router router_;
  RouterOut out_;
  Now now_{at_ms(1000), 0};
  Duration deadline_;
  Cost cost_;
  std::vector<uint64_t> granted_;
  std::priority_queue<Busy> busy_;
  std::vector<Ended> ended_;
};

double percentile(std::vector<double>& values, double q) {
  std::sort(values.begin(), values.end());
  return values.at(static_cast<size_t>(q * static_cast<double>(values.size() - 1)));
}

std::vector<Arriving> poisson(double per_second, size_t n, Rng& rng) {
  std::vector<Arriving> trace(n);
  double at = 1.0;
  for (Arriving& a : trace) {
    at += exponential(rng, 1 / per_second);
    a.at = Time(Duration(static_cast<int64_t>(at * 1e9)));
  }
  return trace;
}

// The best that any policy without preemption can do on average: one queue, first come first
// served.
std::vector<double> ideal_queue(const std::vector<Arriving>& trace, size_t servers) {
  std::priority_queue<Time, std::vector<Time>, std::greater<>> free;
  for (size_t i = 0; i < servers; ++i) free.push(Time{});
  std::vector<double> took;
  for (const Arriving& a : trace) {
    const Time start = std::max(a.at, free.top());
    free.pop();
    free.push(start + a.service);
    took.push_back(static_cast<double>((start + a.service - a.at).count()));
  }
  return took;
}

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
  Farm farm(replicas, offer, kDeadline, [](const std::vector<uint64_t>& calls) -> Duration {
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

TEST_CASE("replicas are used as well as one ideal queue would") {
  constexpr size_t kReplicas = 16;
  const bool bimodal = GENERATE(false, true);
  Rng rng(bimodal ? 3 : 4);
  auto trace = poisson(0.8 * kReplicas / 0.005, 100'000, rng);
  for (Arriving& a : trace) {
    // 95 % short and 5 % twenty times longer; 5 ms on average, as the others.
    const double ms = bimodal ? (rng.below(100) < 5 ? 51.3 : 2.564) : exponential(rng, 5);
    a.service = Duration(static_cast<int64_t>(ms * 1e6));
  }
  HandlerOffer offer;
  offer.name = "h";
  offer.max_ongoing = 1;
  Farm farm(kReplicas, offer, 3600s,
            [&](const std::vector<uint64_t>& calls) { return trace[calls.at(0)].service; });
  const auto ended = farm.run(trace);
  std::vector<double> took;
  for (size_t i = 0; i < trace.size(); ++i) {
    REQUIRE(ended[i].end == CallEnd::reply);
    took.push_back(static_cast<double>((ended[i].at - trace[i].at).count()));
  }
  auto ideal = ideal_queue(trace, kReplicas);
  const double ours = percentile(took, 0.99), best = percentile(ideal, 0.99);
  INFO("p99 " << ours / 1e6 << " ms, ideal " << best / 1e6 << " ms");
  CHECK(ours <= 1.15 * best);
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
