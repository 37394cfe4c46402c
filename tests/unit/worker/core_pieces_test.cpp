// Agent: tasks of a shared handler that start together: how many, which, and what they may take.
#include "tests/unit/worker/core_rig.h"

namespace dray::worker {
namespace {
AgentOptions with_batches(uint32_t slots = 2) {
  AgentOptions options;
  options.slots = slots;
  options.handlers = {"echo", "gpu"};
  options.handler_limits = {0, 1};
  options.offers.resize(2);
  options.offers[1].max_batch_size = 8;
  return options;
}
TaskSpec on_gpu() {
  TaskSpec spec;
  spec.handler = "gpu";
  return spec;
}
}  // namespace

TEST_CASE(
    "tasks of a batch handler start together, one more at each piece while nothing is known") {
  Rig rig(with_batches());
  rig.open();
  rig.dispatch(1, 9, on_gpu());
  CHECK(rig.started.size() == 1);
  rig.finish({1});
  CHECK(rig.started.size() == 3);  // half as many again, and one
  rig.dispatch(10, 1);
  CHECK(rig.started.size() == 4);  // a piece takes one slot, whatever is in it
  rig.finish({2});
  CHECK(rig.started.size() == 4);
  rig.finish({3});
  CHECK(rig.started.size() == 7);
}

TEST_CASE("a task that has failed before, or has a time limit, runs alone") {
  Rig rig(with_batches());
  rig.open();
  rig.dispatch(1, 1, on_gpu());
  rig.finish({1});
  rig.dispatch(2, 1, on_gpu());
  rig.dispatch(3, 1, on_gpu(), 2);
  TaskSpec limited = on_gpu();
  limited.time_limit_ms = 60'000;
  rig.dispatch(4, 1, limited);
  rig.dispatch(5, 1, on_gpu());
  CHECK(rig.started.size() == 2);
  rig.finish({2});
  CHECK(rig.started.size() == 3);
  CHECK(rig.started[2].token.seq == 3);
  rig.finish({3});
  CHECK(rig.started.size() == 4);
  CHECK(rig.started[3].token.seq == 4);
  rig.finish({4});
  CHECK(rig.started.size() == 5);
}

TEST_CASE("a piece has no more bytes than a batch of the handler may have") {
  AgentOptions options = with_batches();
  options.offers[1].max_batch_bytes = 10;  // three tasks of three bytes
  Rig rig(options);
  rig.open();
  uint64_t next = 1;
  size_t finished = 0, most = 0;
  for (int i = 0; i < 6; ++i) {
    rig.dispatch(next, 8, on_gpu());
    next += 8;
    while (finished < rig.started.size()) {
      std::vector<uint64_t> all;
      most = std::max(most, rig.started.size() - finished);
      for (; finished < rig.started.size(); ++finished)
        all.push_back(rig.started[finished].token.seq);
      rig.finish(all, 400'000);
    }
  }
  CHECK(most == 3);
  // One that is larger alone runs alone.
  rig.say(rig.make(next, 2, on_gpu(), 20));
  CHECK(rig.agent.running() == 1);
}

TEST_CASE("tasks that wait for their turn with calls do not hold back others") {
  Rig rig(with_batches());
  rig.open();
  rig.dispatch(1, 6, on_gpu());
  rig.dispatch(7, 1);
  CHECK(rig.started.size() == 2);
  CHECK(rig.started[1].token.seq == 7);
}

TEST_CASE(
    "credit of a batch handler covers the piece after the one that runs, within prefetch_max") {
  const uint32_t prefetch = GENERATE(5u, 4096u);
  AgentOptions options = with_batches(1);
  options.prefetch_max = prefetch;
  Rig rig(options);
  rig.open();
  uint64_t next = 1;
  size_t finished = 0;
  for (int i = 0; i < 6; ++i) {
    rig.dispatch(next, 8, on_gpu());
    next += 8;
    while (finished < rig.started.size()) {
      std::vector<uint64_t> all;
      for (; finished < rig.started.size(); ++finished)
        all.push_back(rig.started[finished].token.seq);
      rig.finish(all, 400'000);
    }
  }
  rig.dispatch(next, 8, on_gpu());
  CHECK(rig.agent.running() == 8);
  if (prefetch > 8)
    CHECK(rig.agent.granted(rig.now()) >= rig.agent.received() + 8);
  else
    CHECK(rig.agent.target(rig.now()) <= 1 + prefetch);
  CHECK(rig.agent.granted(rig.now()) <= rig.agent.received() + 1 + prefetch);
}

}  // namespace dray::worker
