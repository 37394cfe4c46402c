// MixedFarm: calls and an endless backlog of tasks of one handler, on workers whose device takes
// L(n) = a + b n for n items and runs one thing at a time. The real router core and the real worker
// cores, on a virtual clock; only the client and the broker are models.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/assert.h"
#include "services/worker/core/worker_core.h"
#include "tests/support/call_farm.h"

namespace dray::test {

struct MixedCase {
  double load = 0.5;  // calls, as a part of what the devices could do with full batches
  bool backlog = true;  // tasks without end
  size_t devices = 1;
  uint64_t seed = 1;
  double seconds = 60;
  double warm_s = 15;  // not counted
  Duration deadline = std::chrono::milliseconds(150);
  Duration hop = std::chrono::microseconds(50);  // router to worker, worker to broker, each way
  double base_us = 8000;
  double item_us = 250;
  uint32_t batch = 128;
  uint32_t floor_percent = 5;
  Duration gather_max = std::chrono::milliseconds(50);
  Duration quantum_max = std::chrono::milliseconds(100);
  double capacity() const {  // items a second of one device
    return batch / (base_us + item_us * batch) * 1e6;
  }
};

struct MixedFigures {
  uint64_t calls = 0;
  uint64_t answered = 0;
  uint64_t refused = 0;  // rejected or expired
  double p50_ms = 0;
  double p99_ms = 0;
  double tasks_per_s = 0;
  double mean_batch = 0;  // of calls
};

class MixedFarm {
 public:
  explicit MixedFarm(const MixedCase& c) : c_(c), rng_(c.seed), router_(wide()) {
    open_router(kCaller, Router::kClients, Role::client);
    for (size_t i = 0; i < c.devices; ++i) add_worker(i);
    settle();
  }

  MixedFigures run() {
    const Time end = now_.mono + seconds(c_.warm_s + c_.seconds);
    counted_from_ = now_.mono + seconds(c_.warm_s);
    arrive();
    while (now_.mono < end) step(end);
    stopped_ = true;
    const Time drained = now_.mono + c_.deadline + std::chrono::seconds(1);
    while (now_.mono < drained) step(drained);
    router_.check();
    MixedFigures f = figures_;
    f.p50_ms = took_.empty() ? 0 : percentile(took_, 0.5);
    f.p99_ms = took_.empty() ? 0 : percentile(took_, 0.99);
    f.tasks_per_s = static_cast<double>(tasks_) / c_.seconds;
    f.mean_batch = batches_ ? static_cast<double>(batched_) / static_cast<double>(batches_) : 0;
    return f;
  }
  const worker::LaneShare& share(size_t device) const { return workers_[device]->core->share(); }

 private:
  static constexpr SessionId kCaller{10};
  static constexpr uint64_t kFirstWorker = 100;
  static constexpr SessionId kRouterSession{1};
  static constexpr SessionId kBrokerSession{2};
  static constexpr Duration kBrokerTurn = std::chrono::milliseconds(2);  // its sync

  struct Device {
    std::unique_ptr<worker::WorkerCore> core;
    worker::WorkerOut out;
    int running = 0;  // on the device: never above 1
    std::deque<std::function<void()>> due{};  // runs once the loop looks
    uint64_t sent = 0;  // tasks, by the broker
    uint64_t granted = 0;
    uint64_t results = 1;
    bool feeding = false;
  };
  struct Event {
    Time at{};
    uint64_t order = 0;
    std::function<void()> f;
    bool operator<(const Event& o) const { return std::tie(at, order) > std::tie(o.at, o.order); }
  };

  static RouterOptions wide() {
    RouterOptions o;
    o.calls.client_calls = o.calls.max_queued = 1'000'000;
    return o;
  }
  static Duration seconds(double s) { return Duration(static_cast<int64_t>(s * 1e9)); }
  void after(Duration d, std::function<void()> f) {
    events_.push({now_.mono + d, ++order_, std::move(f)});
  }

  void add_worker(size_t i) {
    worker::AgentOptions o;
    o.slots = 1;
    o.handlers = {"h"};
    o.handler_limits = {1};
    HandlerOffer offer;
    offer.name = "h";
    offer.max_ongoing = 1;
    offer.max_batch_size = c_.batch;
    o.offers = {offer};
    o.task_floor_percent = c_.floor_percent;
    o.gather_max = c_.gather_max;
    o.quantum_max = c_.quantum_max;
    workers_.push_back(std::make_unique<Device>());
    workers_[i]->core = std::make_unique<worker::WorkerCore>(o);
    open_router(SessionId{kFirstWorker + i}, Router::kWorkers, Role::worker);
    Device& d = *workers_[i];
    SessionInfo info;
    info.id = kRouterSession;
    info.role = Role::router;
    d.core->on_open(info, now_, d.out);
    if (c_.backlog) {
      info.id = kBrokerSession;
      info.role = Role::broker;
      info.epoch = 1;
      d.core->on_open(info, now_, d.out);
    }
  }
  void open_router(SessionId id, Port port, Role role) {
    SessionInfo info;
    info.id = id;
    info.port = port;
    info.role = role;
    router_.on_open(info, now_, router_out_);
  }
  void to_router(SessionId from, const Message& m, uint64_t granted) {
    Envelope e;
    e.granted = granted;
    Frames frames = encode(e, m);
    e.kind = decode_envelope(frames)->kind;
    router_.on_frames(from, e, std::move(frames), now_, router_out_);
  }

  void step(Time until) {
    Time at =
        std::min({until, events_.empty() ? kNever : events_.top().at, router_.next_deadline()});
    for (auto& w : workers_) at = std::min(at, w->core->next_deadline());
    now_.mono = std::max(now_.mono, at);
    if (!events_.empty() && events_.top().at <= now_.mono) {
      const Event e = events_.top();
      events_.pop();
      e.f();
    }
    settle();
  }
  void settle() {
    router_turn();
    for (size_t i = 0; i < workers_.size(); ++i) worker_turn(i);
  }

  void router_turn() {
    router_.end_turn(now_, router_out_);
    for (Send& s : router_out_.now) {
      if (const auto* reply = std::get_if<Reply>(&s.message)) take_reply(*reply);
      if (static_cast<uint64_t>(s.to) < kFirstWorker) continue;
      const size_t i = static_cast<uint64_t>(s.to) - kFirstWorker;
      after(c_.hop, [this, i, m = std::move(s.message)]() mutable {
        workers_[i]->core->on_message(kRouterSession, {}, std::move(m), now_, workers_[i]->out);
      });
    }
    router_out_.clear();
  }
  void worker_turn(size_t i) {
    Device& d = *workers_[i];
    if (now_.mono >= d.core->next_deadline()) d.core->tick(now_, d.out);
    d.core->end_turn(now_, d.out);
    d.core->check();
    for (Send& s : d.out.now) {
      if (s.to == kRouterSession)
        after(c_.hop, [this, i, g = s.granted, m = std::move(s.message)] {
          to_router(SessionId{kFirstWorker + i}, m, g);
        });
      else
        after(c_.hop, [this, i, g = s.granted, m = std::move(s.message)] { broker(i, g, m); });
    }
    for (worker::Start& s : d.out.start) run_piece(i, std::move(s));
    for (worker::BatchStart& b : d.out.batches) run_batch(i, std::move(b));
    d.out.clear();
  }

  // --- device ---
  Duration cost(size_t items) const {
    return Duration(
        static_cast<int64_t>(1000 * (c_.base_us + c_.item_us * static_cast<double>(items))));
  }
  void occupy(size_t i) {
    DRAY_ASSERT(++workers_[i]->running == 1);  // one thing at a time, always
  }
  void run_piece(size_t i, worker::Start start) {
    occupy(i);
    const size_t n = 1 + start.more.size();
    const Duration took = cost(n);
    after(took, [this, i, n, took, start = std::move(start)] {
      --workers_[i]->running;
      std::vector<worker::Outcome> outcomes;
      const auto add = [&](const worker::Start& s) {
        worker::Outcome o;
        o.id = s.id;
        o.token = s.token;
        o.piece_us = static_cast<uint32_t>(to_us(took));
        o.exec_us = static_cast<uint32_t>(to_us(took) / static_cast<int64_t>(n));
        outcomes.push_back(std::move(o));
      };
      add(start);
      for (const worker::Start& s : start.more) add(s);
      if (now_.mono >= counted_from_ && !stopped_) tasks_ += n;
      workers_[i]->core->tasks().on_outcomes(std::move(outcomes), now_, workers_[i]->out);
    });
  }
  void run_batch(size_t i, worker::BatchStart batch) {
    occupy(i);
    const Duration took = cost(batch.calls.size());
    ++batches_;
    batched_ += batch.calls.size();
    after(took, [this, i, took, batch = std::move(batch)] {
      --workers_[i]->running;
      worker::BatchOutcome o;
      o.batch = batch.batch;
      o.run_us = static_cast<uint32_t>(to_us(took));
      for (const worker::BatchCall& call : batch.calls)
        o.calls.push_back({call.call, CallEnd::reply, Errc::ok, {}});
      std::vector<worker::BatchOutcome> all;
      all.push_back(std::move(o));
      workers_[i]->core->calls().on_batches(std::move(all), now_, workers_[i]->out);
    });
  }

  // --- broker: has always more ---
  void broker(size_t i, uint64_t granted, const Message& m) {
    Device& d = *workers_[i];
    d.granted = std::max(d.granted, granted);
    if (const auto* results = std::get_if<Results>(&m)) {
      d.results = std::max(d.results, results->first + results->rows.size());
      answer(i, ResultsAck{d.results, {}});
    }
    if (const auto* back = std::get_if<GiveBack>(&m)) given_back_ += back->rows.size();
    if (d.feeding || d.sent >= d.granted) return;
    d.feeding = true;
    after(kBrokerTurn, [this, i] { feed(i); });
  }
  void answer(size_t i, Message m) {
    after(c_.hop, [this, i, m = std::move(m)]() mutable {
      workers_[i]->core->on_message(kBrokerSession, {}, std::move(m), now_, workers_[i]->out);
    });
  }
  void feed(size_t i) {
    Device& d = *workers_[i];
    d.feeding = false;
    Dispatch m;
    m.epoch = 1;
    m.first = d.sent;
    TaskSpec spec;
    spec.handler = "h";
    m.specs = {encode_spec(spec)};
    RowsBuilder<DispatchRow> rows;
    for (size_t n = 0; d.sent < d.granted && n < 1024; ++n, ++d.sent) {
      ++seq_;
      rows.add({TaskId{7, seq_}, seq_, 0, 1, 0});
    }
    m.rows = rows.take();
    answer(i, std::move(m));
  }

  // --- client ---
  void arrive() {
    if (c_.load <= 0) return;
    const double per_s = c_.load * c_.capacity() * static_cast<double>(c_.devices);
    after(seconds(exponential(rng_, 1 / per_s)), [this] {
      if (stopped_) return;
      post();
      arrive();
    });
  }
  void post() {
    Call m;
    m.handler = "h";
    CallRow row;
    row.call = ++calls_;
    row.deadline_us = static_cast<uint64_t>(to_us(c_.deadline));
    RowsBuilder<CallRow> rows;
    rows.add(row);
    m.rows = rows.take();
    posted_[calls_] = now_.mono;
    to_router(kCaller, m, 0);
  }
  void take_reply(const Reply& reply) {
    for (size_t k = 0; k < reply.rows.size(); ++k) {
      const ReplyRow row = reply.rows[k];
      const auto posted = posted_.find(row.call);
      DRAY_ASSERT(posted != posted_.end());
      if (posted->second >= counted_from_) {
        ++figures_.calls;
        if (static_cast<CallEnd>(row.status) == CallEnd::reply) {
          ++figures_.answered;
          took_.push_back(static_cast<double>((now_.mono - posted->second).count()) / 1e6);
        } else {
          ++figures_.refused;
        }
      }
      posted_.erase(posted);
    }
  }

  MixedCase c_;
  Rng rng_;
  Router router_;
  RouterOut router_out_;
  Now now_{Time(std::chrono::seconds(1)), 0};
  std::vector<std::unique_ptr<Device>> workers_;
  std::priority_queue<Event> events_;
  uint64_t order_ = 0;
  uint64_t seq_ = 0;
  uint64_t calls_ = 0;
  std::map<uint64_t, Time> posted_;
  std::vector<double> took_;
  Time counted_from_{};
  bool stopped_ = false;
  MixedFigures figures_;
  uint64_t tasks_ = 0;
  uint64_t batches_ = 0, batched_ = 0;
  uint64_t given_back_ = 0;
};

}  // namespace dray::test
