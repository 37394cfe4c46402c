// Any sequence of messages of routers, and executors that end in any order: the worker's tables of
// calls stay whole, and when the executors are done nothing is held.
#include <cstdint>
#include <cstdlib>
#include <deque>

#include "services/worker/core/call_agent.h"
#include "tests/fuzz/input.h"

using namespace dray;
using namespace dray::worker;

namespace {

constexpr uint64_t kRouters = 2;

class World {
 public:
  World(const uint8_t* data, size_t size) : in_(data, size), agent_(options(in_)) {
    for (uint64_t i = 1; i <= kRouters; ++i) open(SessionId{i});
    end_turn();
  }

  void run() {
    while (!in_.empty()) {
      const uint64_t step = in_.below(24);
      if (step == 0) reopen();
      if (step == 1 && in_.below(8) == 0) agent_.begin_drain(now_, out_);
      if (step == 2 && in_.below(4) == 0) agent_.set_draining(in_.below(2) != 0, now_, out_);
      if (step < 12)
        router_speaks();
      else if (step < 20)
        executor_speaks();
      else
        now_.mono += std::chrono::microseconds(1 << in_.below(24));
      if (now_.mono >= agent_.next_deadline()) agent_.tick(now_, out_);
      if (step % 2 == 0) end_turn();
    }
    settle();
  }

 private:
  static CallAgentOptions options(Input& in) {
    CallAgentOptions o;
    o.slots = static_cast<uint32_t>(1 + in.below(4));
    HandlerOffer one, batch;
    one.name = "one";
    batch.name = "batch";
    batch.max_batch_size = 4;
    batch.max_batch_bytes = 20;
    batch.max_ongoing = 1;
    batch.max_models = 2;
    o.offers = {one, batch};
    return o;
  }
  void open(SessionId id) {
    SessionInfo info;
    info.id = id;
    info.role = Role::router;
    info.name = "router" + std::to_string(static_cast<uint64_t>(id));
    agent_.on_open(info, now_, out_);
  }
  void reopen() {
    const SessionId id{1 + in_.below(kRouters)};
    agent_.on_close(id, static_cast<CloseReason>(in_.below(5)), now_, out_);
    end_turn();
    open(id);
  }

  void router_speaks() {
    const SessionId from{1 + in_.below(kRouters)};
    Envelope e;
    e.req = in_.below(2);
    agent_.on_message(from, e, some_message(from), now_, out_);
  }
  uint64_t some_call() { return in_.number(30); }
  Message some_message(SessionId from) {
    switch (in_.below(8)) {
      case 0:
        return Stop{make_rows<CallIdRow>(std::vector<CallIdRow>{{some_call()}, {some_call()}})};
      case 1:
        return CallCredit{
            make_rows<CallCreditRow>(std::vector<CallCreditRow>{{some_call(), in_.number(200)}})};
      case 2:
        return Drain{in_.below(2) != 0};
      case 3:
        return in_.below(2) ? Message(Reject{}) : Message(Done{});
      default:
        return some_run(from);
    }
  }
  Run some_run(SessionId from) {
    Run m;
    m.first = in_.below(4) ? agent_.received(from) : in_.number(20);
    m.keys = {"", "k"};
    RowsBuilder<RunRow> rows;
    std::string bytes;
    for (uint64_t n = 1 + in_.below(4); n > 0; --n) {
      RunRow row;
      row.call = some_call();
      row.deadline_us = in_.number(50) * 20'000;
      row.window = in_.number(100);
      row.len = static_cast<uint32_t>(in_.below(9));
      row.handler = static_cast<uint16_t>(in_.below(3));
      row.key = static_cast<uint16_t>(in_.below(2));
      row.batch = static_cast<uint16_t>(in_.below(2));
      row.items = static_cast<uint16_t>(in_.below(8) ? 1 : in_.number(5));
      bytes.append(row.len, 'x');
      rows.add(row);
    }
    m.rows = rows.take();
    m.bytes = Bytes(bytes);
    return m;
  }

  void executor_speaks() {
    if (running_.empty()) return;
    const size_t which = in_.below(running_.size());
    if (in_.below(3) == 0)
      return agent_.on_parts({{running_[which].calls[0].call, Bytes("part")}}, now_, out_);
    finish(which);
  }
  void finish(size_t which) {
    const BatchStart start = std::move(running_[which]);
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(which));
    BatchOutcome outcome;
    outcome.batch = start.batch;
    outcome.started = in_.below(8) != 0;
    outcome.run_us = static_cast<uint32_t>(in_.number(200) * 50);
    static constexpr CallEnd kEnds[] = {CallEnd::reply, CallEnd::failed, CallEnd::expired,
                                        CallEnd::cancelled};
    for (const BatchCall& call : start.calls)
      outcome.calls.push_back({call.call, kEnds[in_.below(4)], Errc::ok, Bytes("r")});
    agent_.on_batches({std::move(outcome)}, now_, out_);
  }
  void settle() {
    now_.mono += std::chrono::hours(2);
    agent_.tick(now_, out_);
    end_turn();
    while (!running_.empty()) {
      finish(0);
      end_turn();
    }
    if (agent_.held() != 0 || agent_.running() != 0 || agent_.payload_bytes() != 0) std::abort();
  }

  void end_turn() {
    agent_.end_turn(now_, out_);
    agent_.check();
    for (BatchStart& start : out_.batches) running_.push_back(std::move(start));
    out_.clear();
  }

  Input in_;
  Now now_{at_ms(1000), 1'800'000'000'000};
  CallAgent agent_;
  WorkerOut out_;
  std::deque<BatchStart> running_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  World(data, size).run();
  return 0;
}
