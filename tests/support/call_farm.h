// CallFarm: the real router core with one client and model workers that run one batch at a time, on
// a virtual clock, for traces of calls; and an ideal central queue to compare it with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "common/base/assert.h"
#include "common/base/rng.h"
#include "common/wire/offer.h"
#include "services/router/core/router.h"

namespace dray::test {

inline double uniform(Rng& rng) {
  return (static_cast<double>(rng.below(1u << 30)) + 0.5) / (1u << 30);
}
inline double exponential(Rng& rng, double mean) { return -mean * std::log(uniform(rng)); }

struct Arriving {
  Time at{};
  Duration service{};
};
struct Ended {
  Time at{};
  CallEnd end = CallEnd::part;
};

inline double percentile(std::vector<double>& values, double q) {
  std::sort(values.begin(), values.end());
  return values.at(static_cast<size_t>(q * static_cast<double>(values.size() - 1)));
}

inline std::vector<Arriving> poisson(double per_second, size_t n, Rng& rng) {
  std::vector<Arriving> trace(n);
  double at = 1.0;
  for (Arriving& a : trace) {
    at += exponential(rng, 1 / per_second);
    a.at = Time(Duration(static_cast<int64_t>(at * 1e9)));
  }
  return trace;
}

// `hop` passes between the router and a worker, each way: a worker that is done is told of its next
// call two hops later.
class CallFarm {
 public:
  using Cost = std::function<Duration(const std::vector<uint64_t>& calls)>;
  struct Shape {
    size_t workers = 1;
    HandlerOffer offer{};
    Duration deadline{};
    Duration hop{};
  };
  CallFarm(Shape shape, Cost cost)
      : router_(wide()), shape_(std::move(shape)), cost_(std::move(cost)) {
    open(kCaller, Router::kClients, Role::client);
    for (size_t i = 0; i < shape_.workers; ++i) {
      const SessionId id{kFirstWorker + i};
      open(id, Router::kWorkers, Role::worker);
      Offer m;
      m.slots = 1;
      m.handlers = {encode_offer(shape_.offer)};
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
    DRAY_ASSERT(router_.lane().open_calls() == 0);
    return ended_;
  }

 private:
  static constexpr SessionId kCaller{10};
  static constexpr uint64_t kFirstWorker = 100;
  struct Busy {
    Time at{};  // its DONE is at the router
    size_t worker = 0;
    std::vector<uint64_t> numbers{};
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
    row.deadline_us = static_cast<uint64_t>(to_us(shape_.deadline));
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
    send(SessionId{kFirstWorker + b.worker}, Done{rows.take(), Bytes()}, ++granted_[b.worker]);
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
    b.at = now_.mono + 2 * shape_.hop + b.took;
    b.worker = static_cast<uint64_t>(to) - kFirstWorker;
    busy_.push(std::move(b));
  }

  Router router_;
  RouterOut out_;
  Now now_{Time(std::chrono::seconds(1)), 0};
  Shape shape_;
  Cost cost_;
  std::vector<uint64_t> granted_;
  std::priority_queue<Busy> busy_;
  std::vector<Ended> ended_;
};

// The best that any policy without preemption can do on average: one queue, first come first
// served. `gap` passes between the end of a call and the start of the next at the same server:
// there and back over the network, for any queue that does not guess when a server will be free.
inline std::vector<double> ideal_queue(const std::vector<Arriving>& trace, size_t servers,
                                       Duration gap) {
  std::priority_queue<Time, std::vector<Time>, std::greater<>> free;
  for (size_t i = 0; i < servers; ++i) free.push(Time{});
  std::vector<double> took;
  for (const Arriving& a : trace) {
    const Time start = std::max(a.at, free.top());
    free.pop();
    free.push(start + a.service + gap);
    took.push_back(static_cast<double>((start + a.service + gap - a.at).count()));
  }
  return took;
}

// 16 replicas, calls of 5 ms on average, 80 % load: 99th percentiles in milliseconds.
struct Balance {
  struct Part {
    double ours = 0;
    double ideal = 0;  // of a queue to which distance is nothing
    double distant = 0;  // of one that is as far from its servers as ours
  };
  Part all, brief;  // brief: the short calls only
};
struct BalanceCase {
  bool bimodal = false;  // 95 % short, 5 % twenty times longer; else exponential
  uint64_t seed = 1;
  size_t calls = 200'000;
  Duration hop{};
};

inline Balance measure_balance(const BalanceCase& c) {
  constexpr size_t kReplicas = 16;
  constexpr double kShortMs = 5.0 / (0.95 + 0.05 * 20);
  Rng rng(c.seed);
  auto trace = poisson(0.8 * kReplicas / 0.005, c.calls, rng);
  for (Arriving& a : trace) {
    const double ms = c.bimodal ? kShortMs * (rng.below(100) < 5 ? 20 : 1) : exponential(rng, 5);
    a.service = Duration(static_cast<int64_t>(ms * 1e6));
  }
  HandlerOffer offer;
  offer.name = "h";
  offer.max_ongoing = 1;
  CallFarm farm({kReplicas, offer, std::chrono::hours(1), c.hop},
                [&](const std::vector<uint64_t>& calls) { return trace[calls.at(0)].service; });
  const auto ended = farm.run(trace);
  std::vector<double> ours(trace.size());
  for (size_t i = 0; i < trace.size(); ++i) {
    DRAY_ASSERT(ended[i].end == CallEnd::reply);
    ours[i] = static_cast<double>((ended[i].at - trace[i].at).count());
  }
  // Short: of the two kinds the one, of an exponential what is below its median.
  const Duration brief = c.bimodal ? Duration(std::chrono::milliseconds(5))
                                   : Duration(std::chrono::microseconds(3'466));
  auto p99 = [&](const std::vector<double>& took, bool all) {
    std::vector<double> some;
    for (size_t i = 0; i < trace.size(); ++i)
      if (all || trace[i].service < brief) some.push_back(took[i]);
    return percentile(some, 0.99) / 1e6;
  };
  const auto ideal = ideal_queue(trace, kReplicas, Duration{0});
  const auto distant = ideal_queue(trace, kReplicas, 2 * c.hop);
  return {{p99(ours, true), p99(ideal, true), p99(distant, true)},
          {p99(ours, false), p99(ideal, false), p99(distant, false)}};
}

}  // namespace dray::test
