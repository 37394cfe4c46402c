// Replicas whose device is lost.
#include "tests/unit/worker/replica_rig.h"

namespace dray::worker {
namespace {
using Kind = ProcessEvent::Kind;
using Rig = ReplicaRig;
}  // namespace

TEST_CASE("replicas: what is on a lost device ends and has failed") {
  Rig r;
  REQUIRE(r.place({with_gpu(spec(1), kResourceUnit), with_gpu(spec(2), kResourceUnit)}));
  REQUIRE(r.started.size() == 2);
  CHECK(r.started[1].environment[1] ==
        std::pair<std::string, std::string>{"CUDA_VISIBLE_DEVICES", "GPU-1"});
  CHECK(decode_device(r.node.device_blobs()[1])->taken_units == kResourceUnit);
  r.ready(1);
  r.ready(2);
  for (int i = 0; i < 40; ++i) {  // long enough to be forgiven an ordinary crash
    r.go(1s);
    for (uint64_t p : std::exchange(r.pinged, {})) r.say(p, Kind::pong);
  }
  REQUIRE(r.node.set_devices(two_gpus(true)));
  r.core.on_devices(r.now(), r.out);
  r.collect();
  REQUIRE(r.killed.size() == 1);
  CHECK(r.killed[0].first == r.started[1].process);
  CHECK(r.killed[0].second == "GPU-1 is lost: XID 79");
  r.core.on_devices(r.now(), r.out);  // the next reading, before it is gone
  r.collect();
  CHECK(r.killed.size() == 1);
  r.crash(r.started[1].process);
  CHECK(r.state(2) == ReplicaState::failed);
  CHECK(r.state(1) == ReplicaState::ready);
  CHECK(r.node.grants() == 1);
  r.go(120s);
  CHECK(r.started.size() == 2);

  // One that waits for its next start holds its device as well.
  REQUIRE(r.place({spec(1), with_gpu(spec(3), kResourceUnit)}));
  CHECK(r.started.size() == 2);
  CHECK(r.status(3).error.find("waits for resources: ") == 0);
}

TEST_CASE("replicas: one between two starts fails at once if its device is lost") {
  Rig r;
  REQUIRE(r.place({with_gpu(spec(1), kResourceUnit), with_gpu(spec(2), kResourceUnit)}));
  r.crash(r.started[1].process);  // it starts again at once
  r.crash(r.started[2].process);  // and after a second
  REQUIRE(r.started.size() == 3);
  REQUIRE(r.node.set_devices(two_gpus(true)));
  r.core.on_devices(r.now(), r.out);
  r.collect();
  CHECK(r.state(2) == ReplicaState::failed);
  CHECK(r.status(2).error == "GPU-1 is lost: XID 79");
  r.go(10s);
  CHECK(r.started.size() == 3);
}

}  // namespace dray::worker
