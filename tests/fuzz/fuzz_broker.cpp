// Any sequence of messages from any kind of peer: the broker's indexes stay whole and a replay of
// its records gives the same state.
#include <cstdint>
#include <cstdlib>

#include "broker/core/broker.h"
#include "tests/fuzz/input.h"

using namespace dray;
using namespace dray::broker;

namespace {

constexpr int64_t kWall = 1'800'000'000'000;
TaskId some_id(Input& in) { return {uint64_t{kWall} << 16, 1 + in.below(40)}; }
TokenRow some_token(Input& in) { return {some_id(in), {1 + in.below(2), 1 + in.below(60)}}; }

Message some_have(Input& in) {
  Have m;
  m.received = in.below(30);
  m.complete = in.below(2);
  m.rows = make_rows<TokenRow>(std::vector<TokenRow>{some_token(in), some_token(in)});
  return m;
}

Message some_message(Input& in) {
  switch (in.below(10)) {
    case 0: {
      Submit m;
      TaskSpec spec;
      spec.handler = in.below(2) ? "a" : "b";
      spec.max_failures = static_cast<uint32_t>(1 + in.below(2));
      spec.max_lost = static_cast<uint32_t>(1 + in.below(2));
      spec.delay_ms = in.below(3) * 100;
      spec.expires_ms = in.below(3) * 150;
      m.specs = {encode_spec(spec)};
      m.watch = in.below(2);
      RowsBuilder<SubmitRow> rows;
      std::string bytes;
      for (uint64_t n = in.below(5); n > 0; --n) {
        rows.add({some_id(in), 1, 0, 0});
        bytes += static_cast<char>(in.below(2));
      }
      m.rows = rows.take();
      m.bytes = Bytes(bytes);
      return m;
    }
    case 1:
      return Cancel{make_rows<IdRow>(std::vector<IdRow>{{some_id(in)}, {some_id(in)}})};
    case 2: {
      Attach m;
      m.slots = 2;
      m.handlers = {"a"};
      if (in.below(2)) m.handlers.push_back("b");
      m.results_from = in.below(3);
      return m;
    }
    case 3: {
      Results m;
      m.first = in.below(20);
      RowsBuilder<ResultRow> rows;
      for (uint64_t n = in.below(4); n > 0; --n) {
        TokenRow t = some_token(in);
        rows.add({t.id, t.token, 0, 0, 0, 0, static_cast<uint8_t>(in.below(4)), 0});
      }
      m.rows = rows.take();
      return m;
    }
    case 4:
      return some_have(in);
    case 5: {
      GiveBack m;
      m.code = static_cast<uint8_t>(in.below(20));
      m.rows = make_rows<TokenRow>(std::vector<TokenRow>{some_token(in), some_token(in)});
      return m;
    }
    case 6:
      return FinishedAck{in.below(60)};
    case 7:
      return AttachStream{in.below(60)};
    case 8:
      return Drain{in.below(2) != 0};
    default: {
      const char* verbs[] = {"status",     "workers",   "queues", "tasks",  "dlq.list",
                             "dlq.replay", "dlq.purge", "pause",  "resume", "drain"};
      Doc args{Doc::Object{}};
      args.set("all", true).set("queue", "default").set("worker", "all");
      return Admin{3, verbs[in.below(10)], args};
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  BrokerOptions options;
  options.tasks_max = 50;
  options.journal_keep = 500;
  options.dead_letters_max = 5;
  Broker broker(options);
  Now now{at_ms(1000), kWall};
  broker.begin_replay(1);
  broker.start(1, now);
  BrokerOut out;
  const Role roles[] = {Role::router, Role::worker, Role::worker, Role::aggregator};
  for (uint64_t i = 0; i < 4; ++i)
    broker.on_open({SessionId{i + 1}, 0, roles[i], "peer" + std::to_string(i), {1, i + 1}, 0, 0},
                   now, out);
  while (!in.empty()) {
    SessionId from{1 + in.below(4)};
    Envelope e;
    e.granted = in.below(40);
    broker.on_message(from, e, some_message(in), now, out);
    uint64_t step = in.below(8);
    if (step == 0) {
      broker.on_close(from, static_cast<CloseReason>(in.below(5)), now, out);
      auto i = static_cast<uint64_t>(from) - 1;
      broker.on_open(
          {from, 0, roles[i], "peer" + std::to_string(i), {1 + in.below(2), i + 1}, 0, 0}, now,
          out);
    }
    if (step < 3) {
      now.mono += std::chrono::milliseconds(50 * (1 + in.below(100)));
      now.wall_ms += 50;
    }
    if (now.mono >= broker.next_deadline()) broker.tick(now, out);
    broker.end_turn(now, out);
    broker.check();
    out.clear();
  }
  return 0;
}
