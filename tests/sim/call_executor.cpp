// The model of the call threads: hand-over, time, parts, stop flags.
#include "tests/sim/call_executor.h"

namespace dray::sim {
namespace {
uint64_t dice(uint64_t id, uint64_t salt) { return mix64(id * 977 ^ mix64(salt)); }
}  // namespace

void CallExecutor::died() {
  for (auto& [number, b] : batches_)
    for (Run& r : b.calls)
      if (r.execution != 0) oracle_.dies(r.execution);
  batches_.clear();
  queue_.clear();
  outcomes_.clear();
  parts_.clear();
  busy_ = 0;
  looks_again_ = false;
  shortest_ = Duration::max();
}

void CallExecutor::tell(worker::WorkerCore& core, Now now, worker::WorkerOut& out) {
  if (!parts_.empty()) core.calls().on_parts(std::exchange(parts_, {}), now, out);
  if (!outcomes_.empty()) core.calls().on_batches(std::exchange(outcomes_, {}), now, out);
}

void CallExecutor::take(Now now, worker::WorkerOut& out) {
  for (const worker::BatchStart& start : out.batches) push(start, now);
  out.batches.clear();
  for (uint64_t call : std::exchange(out.stop_calls, {})) stop(call);
  for (const worker::CallGrant& g : std::exchange(out.part_grants, {})) grant(g);
  start_waiting();
}

void CallExecutor::push(const worker::BatchStart& start, Now now) {
  if (batches_.count(start.batch) != 0) violate("P5", "a batch is handed out twice");
  if (start.calls.empty()) violate("P5", "a batch without calls is handed out");
  Batch& b = batches_[start.batch];
  b.number = start.batch;
  b.handler = start.handler;
  b.key = start.key;
  b.pushed = world_.now();
  for (const worker::BatchCall& c : start.calls) {
    if (c.deadline <= now.mono) violate("P5", "a call is handed out after its deadline");
    Run r;
    r.call = c.call;
    r.id = oracle_.id_of(c.payload.view());
    r.deadline = world_.now() + (c.deadline - now.mono);
    r.window = r.granted = c.window;
    b.items += c.items;
    b.calls.push_back(r);
  }
  check_batch(b);
  queue_.push_back(start.batch);
}

uint64_t CallExecutor::abandoned() const {
  uint64_t n = 0;
  for (const auto& [number, b] : batches_)
    n += std::all_of(b.calls.begin(), b.calls.end(), [](const Run& r) { return r.stopped; });
  return n;
}

size_t CallExecutor::ongoing(const std::string& handler) const {
  size_t n = 0;
  for (const auto& [number, b] : batches_) n += offer_of(b.handler).name == handler;
  return n;
}

void CallExecutor::check_batch(const Batch& b) const {
  const HandlerOffer& offer = offer_of(b.handler);
  uint64_t bytes = 0;
  for (const Run& r : b.calls) bytes += std::max<size_t>(oracle_.call(r.id).order.size, 16);
  if (b.items > offer.max_batch_size) violate("P5", "a batch has too many items");
  if (offer.max_batch_bytes != 0 && bytes > offer.max_batch_bytes)
    violate("P5", "a batch has too many bytes");
  uint64_t ongoing = 0;
  for (const auto& [number, other] : batches_) ongoing += other.handler == b.handler;
  if (offer.max_ongoing != 0 && ongoing > offer.max_ongoing)
    violate("P5", "more batches than max_ongoing run at once");
  if (b.calls.size() > 1) world_.reach("batches of several calls");
}

void CallExecutor::start_waiting() {
  for (size_t i = 0; busy_ < threads_ && i < queue_.size();) {
    Batch& b = batches_.at(queue_[i]);
    const bool late = std::all_of(b.calls.begin(), b.calls.end(), [&](const Run& r) {
      return r.stopped || r.deadline <= world_.now();
    });
    const auto way = processes_->way(b.handler);
    if (way == ModelProcesses::Way::expected && !late) {
      ++i;
      if (!std::exchange(looks_again_, true)) {
        const uint64_t life = node_.life();
        world_.after(20ms, [this, life] {
          if (node_.life() != life) return;
          looks_again_ = false;
          if (node_.alive()) start_waiting();
        });
      }
      continue;
    }
    queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
    if (way == ModelProcesses::Way::closed && !late)
      refuse(b);
    else
      begin(b);
    i = 0;
  }
}

// Nobody runs its handler any more.
void CallExecutor::refuse(Batch& b) {
  worker::BatchOutcome o;
  o.batch = b.number;
  o.started = false;
  for (const Run& r : b.calls)
    o.calls.push_back({r.call, CallEnd::rejected, Errc::unavailable, {}});
  world_.reach("calls of a handler that is gone");
  outcomes_.push_back(std::move(o));
  batches_.erase(b.number);
  node_.wake(world_.now());
}

void CallExecutor::lose(uint32_t handler) {
  std::vector<uint64_t> lost;
  for (const auto& [number, b] : batches_)
    if (b.running && b.handler == handler) lost.push_back(number);
  for (const uint64_t number : lost) {
    Batch& b = batches_.at(number);
    worker::BatchOutcome o;
    o.batch = number;
    for (const Run& r : b.calls) {
      const bool begun = r.execution != 0;
      if (begun) oracle_.dies(r.execution);
      const CallEnd end = begun       ? CallEnd::unknown
                          : r.stopped ? CallEnd::cancelled
                                      : CallEnd::expired;
      o.calls.push_back({r.call, end, begun ? Errc::outcome_unknown : Errc::expired, {}});
    }
    world_.reach("calls lost with their process");
    outcomes_.push_back(std::move(o));
    batches_.erase(number);
    --busy_;
    node_.wake(world_.now());
  }
}

Duration CallExecutor::time_of(const Batch& b) const {
  for (const CallHandler& h : knobs_.handlers) {
    if (h.offer.name != offer_of(b.handler).name) continue;
    const Duration exact = h.base + h.each * static_cast<int64_t>(b.items);
    const uint64_t d = dice(b.calls[0].id, 1);
    if (h.steady) return exact;
    if (d % 100 < knobs_.lasting)
      return 500ms + Duration(static_cast<int64_t>(d / 100 % 20'000'000'000));
    return exact / 2 + exact * static_cast<int64_t>(d / 100 % 100) / 100;
  }
  return 1ms;
}

void CallExecutor::begin(Batch& b) {
  b.running = true;
  b.begun = world_.now();
  ++busy_;
  const HandlerOffer& offer = offer_of(b.handler);
  bool any = false;
  for (Run& r : b.calls) {
    if (r.stopped || r.deadline <= world_.now()) continue;
    r.execution = oracle_.begins(r.id, offer.name, b.key, node_);
    if (r.window != 0 && (offer.flags & kOfferStreams) != 0)
      r.total = 1 + dice(r.execution, 2) % (4 * r.window);
    any = true;
  }
  if (!any) return finish(b);
  plan_step(b, time_of(b));
}

void CallExecutor::plan_step(Batch& b, Duration delay) {
  const uint64_t number = b.number, step_no = ++b.step_no, life = node_.life();
  world_.after(delay, [this, number, step_no, life] { step(number, step_no, life); });
}

void CallExecutor::step(uint64_t number, uint64_t step_no, uint64_t life) {
  if (!node_.alive() || node_.life() != life) return;
  auto it = batches_.find(number);
  if (it == batches_.end() || it->second.step_no != step_no) return;
  Batch& b = it->second;
  if (node_.paused()) return plan_step(b, node_.paused_until() - world_.now());
  for (const Run& r : b.calls)
    if (!node_.stable() && !r.stopped && dice(r.id, 3) % 100 < knobs_.poison) {
      world_.reach("calls that kill their worker");
      return node_.die();
    }
  if (b.blocked) oracle_.blocks(b.calls[b.at].execution, false);
  b.blocked = false;
  if (send_part(b)) return;
  finish(b);
}

// Waits for half a window at least, as the real executors do. False: no more parts.
bool CallExecutor::send_part(Batch& b) {
  for (; b.at < b.calls.size(); ++b.at) {
    Run& r = b.calls[b.at];
    if (r.execution == 0 || r.stopped || r.deadline <= world_.now() || r.sent == r.total) continue;
    const uint64_t piece = std::min(r.total - r.sent, 1 + r.window * 2 / 3);
    const uint64_t enough = std::min(piece, std::max<uint64_t>(r.window / 2, 1));
    const uint64_t room = r.granted - r.sent;
    if (room < enough) {
      b.blocked = true;
      oracle_.blocks(r.execution, true);
      world_.reach("stream parts blocked by window");
      plan_step(b, r.deadline - world_.now());
      return true;
    }
    const uint64_t n = std::min(piece, room);
    parts_.push_back({r.call, Bytes(CallOracle::stream_bytes(r.execution, r.sent, n))});
    r.sent += n;
    oracle_.sends(r.execution, n);
    node_.wake(world_.now());
    plan_step(b, 1us + world_.skewed(5ms));
    return true;
  }
  return false;
}

void CallExecutor::finish(Batch& b) {
  worker::BatchOutcome o;
  o.batch = b.number;
  o.started = false;
  o.wait_us = static_cast<uint32_t>(to_us(b.begun - b.pushed));
  o.run_us = static_cast<uint32_t>(to_us(world_.now() - b.begun));
  for (const Run& r : b.calls) {
    worker::CallOutcome end{r.call, CallEnd::reply, Errc::ok, {}};
    if (r.execution == 0) {
      end.end = r.stopped ? CallEnd::cancelled : CallEnd::expired;
      end.code = r.stopped ? Errc::cancelled : Errc::expired;
    } else {
      o.started = true;
      const bool ok = r.sent == r.total && dice(r.execution, 4) % 100 >= knobs_.fail;
      end.end = ok ? CallEnd::reply : CallEnd::failed;
      end.code = ok ? Errc::ok : Errc::app_error;
      end.bytes = Bytes(oracle_.returns(r.execution, ok));
    }
    o.calls.push_back(std::move(end));
  }
  if (o.started) shortest_ = std::min(shortest_, world_.now() - b.begun);
  outcomes_.push_back(std::move(o));
  batches_.erase(b.number);
  --busy_;
  node_.wake(world_.now());
  start_waiting();
}

CallExecutor::Run* CallExecutor::find(uint64_t call, Batch*& batch) {
  for (auto& [number, b] : batches_)
    for (Run& r : b.calls)
      if (r.call == call) {
        batch = &b;
        return &r;
      }
  return nullptr;
}

void CallExecutor::stop(uint64_t call) {
  Batch* b = nullptr;
  Run* r = find(call, b);
  if (r == nullptr) return;
  r->stopped = true;
  if (r->execution == 0) return;
  oracle_.stops(r->execution);
  if (b->blocked && &b->calls[b->at] == r) return plan_step(*b, 1us);
  for (const Run& other : b->calls)
    if (other.execution != 0 && !other.stopped) return;
  const uint64_t d = dice(r->id, 5);
  if (d % 100 < knobs_.deaf) {
    world_.reach("calls that do not listen");
    return;
  }
  plan_step(*b, world_.skewed(d % 4 == 0 ? Duration(3s) : Duration(5ms)));
}

void CallExecutor::grant(const worker::CallGrant& g) {
  Batch* b = nullptr;
  Run* r = find(g.call, b);
  if (r == nullptr) return;
  r->granted = std::max(r->granted, g.granted);
  if (b->blocked && &b->calls[b->at] == r) plan_step(*b, 1us);
}

}  // namespace dray::sim
