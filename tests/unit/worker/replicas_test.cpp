// Replicas: what is started, restarted, given up, offered and reported, on a virtual clock.
#include <random>
#include <set>

#include "tests/unit/worker/replica_rig.h"

namespace dray::worker {
namespace {
using Kind = ProcessEvent::Kind;
using Rig = ReplicaRig;
}  // namespace

TEST_CASE("replicas: PLACE starts them and they are offered when they are ready") {
  Rig r;
  REQUIRE(r.place({spec(1), spec(2)}));
  REQUIRE(r.started.size() == 2);
  CHECK(r.started[0].spec.id == 1);
  CHECK(r.offered().empty());
  CHECK(r.state(1) == ReplicaState::starting);
  r.at += 700ms;
  r.ready(1, {handler("h", 3, 2), handler("g")});
  CHECK(r.state(1) == ReplicaState::ready);
  CHECK(r.status(1).started_ms == 700);
  CHECK(r.status(1).handlers == std::vector<std::string>{"h", "g"});
  REQUIRE(r.offered().size() == 2);
  CHECK(r.offered()[1].offer.name == "h");
  CHECK(r.offered()[1].offer.max_ongoing == 3);
  CHECK(r.offered()[1].places == std::vector<HandlerPlace>{{1, 0, 2}});
  r.ready(2, {handler("h", 5, 4)});
  REQUIRE(r.offered().size() == 2);
  const OfferedHandler both = r.offered()[1];
  CHECK(both.offer.max_ongoing == 8);
  CHECK(both.limit == 6);
  CHECK(both.places == std::vector<HandlerPlace>{{1, 0, 2}, {2, 0, 4}});
  REQUIRE(r.place({spec(1), spec(2)}));  // the same again
  CHECK(r.started.size() == 2);
  CHECK(r.stopped.empty());
}

TEST_CASE("replicas: limits of the deployment go before those of the handler") {
  Rig r;
  ReplicaSpec s = spec(1);
  s.max_ongoing = 2;
  s.max_batch_size = 32;
  s.batch_wait_us = 77;
  REQUIRE(r.place({s}));
  r.ready(1, {handler("h", 0), handler("one", 1)});
  CHECK(r.offered()[0].offer.max_ongoing == 2);
  CHECK(r.offered()[0].offer.max_batch_size == 32);
  CHECK(r.offered()[0].offer.batch_wait_us == 77);
  CHECK(r.offered()[1].offer.max_ongoing == 1);  // what it can bear
}

TEST_CASE("replicas: a crash is followed by a start at once then 1 2 4 s and then it has failed") {
  Rig r;
  REQUIRE(r.place({with_cpu(spec(1), 1)}));
  std::vector<Duration> waits;
  r.ready(1);  // it has worked
  for (uint64_t p = 1; p < kCrashesMax; ++p) {
    const Duration before = r.at;
    r.crash(p);
    while (r.started.size() == p) r.go(100ms);
    waits.push_back(r.at - before);
    REQUIRE(r.started.size() == p + 1);
    CHECK(r.status(1).error == "executor crashed: SIGSEGV");
  }
  CHECK(waits == std::vector<Duration>{0s, 1s, 2s, 4s, 8s, 16s, 32s});
  r.crash(kCrashesMax);
  CHECK(r.state(1) == ReplicaState::failed);
  CHECK(r.status(1).restarts == kCrashesMax);
  r.go(3600s);
  CHECK(r.started.size() == kCrashesMax);
  NodeReport report;
  r.resources.report(report);
  CHECK(report.taken.empty());
  ReplicaSpec changed = with_cpu(spec(1), 1);
  changed.user_config = "other";
  changed.config_version = 1;
  REQUIRE(r.place({changed}));  // worth another try
  CHECK(r.started.size() == kCrashesMax + 1);
}

TEST_CASE("replicas: one that was never ready fails soon") {
  Rig r;
  REQUIRE(r.place({spec(1)}));
  for (uint64_t p = 1; p <= kStartsMax; ++p) {
    r.say(p, Kind::failed, false, "no such model");
    r.say(p, Kind::gone, false, "no such model");
    r.go(1s);
  }
  CHECK(r.state(1) == ReplicaState::failed);
  CHECK(r.status(1).error == "no such model");
  CHECK(r.started.size() == kStartsMax);
}

TEST_CASE("replicas: what runs is reported and numbers of another session are followed") {
  Rig r;
  REQUIRE(r.place({spec(1)}, 50));
  r.ready(1);
  r.core.statuses(false);
  CHECK_FALSE(r.core.has_news());
  ProcessEvent load;
  load.process = 1;
  load.kind = Kind::load;
  load.number = 3;
  r.core.on_events({load}, r.now(), r.out);
  CHECK(r.core.has_news());
  CHECK(r.status(1).ongoing == 3);
  REQUIRE(r.place({}, 40));
  CHECK(r.stopped.empty());
  r.core.on_balancer();
  REQUIRE(r.place({}, 40));
  CHECK(r.stopped.size() == 1);
  CHECK(r.core.goal() == 40);
}

TEST_CASE("replicas: one that was ready for long is forgiven and stays offered for a moment") {
  Rig r;
  REQUIRE(r.place({spec(1)}));
  r.crash(1);
  r.crash(2);
  r.go(1s);
  r.ready(3);
  r.go(400ms);
  r.crash(3);
  REQUIRE(r.offered().size() == 1);
  CHECK(r.offered()[0].places.empty());
  CHECK(r.offered()[0].expected);
  r.go(kKeepOffer - 1ms);
  CHECK(r.offered().size() == 1);
  r.core.take_changed();
  r.go(1ms);
  CHECK(r.core.take_changed());
  CHECK(r.offered().empty());
  r.go(100ms);
  REQUIRE(r.started.size() == 4);
  r.ready(4);
  for (int i = 0; i < 40; ++i) {
    r.go(1s);
    r.say(4, Kind::pong);
  }
  const size_t before = r.started.size();
  r.crash(4);
  CHECK(r.started.size() == before + 1);  // at once again
}

TEST_CASE("replicas: standby ones are started and checked and offered when PLACE says so") {
  Rig r;
  ReplicaSpec next = spec(2);
  next.standby = true;
  next.version = 2;
  REQUIRE(r.place({spec(1), next}));
  r.ready(1);
  r.ready(2);
  CHECK(r.offered()[0].places == std::vector<HandlerPlace>{{1, 0, 0}});
  r.go(1s);
  CHECK(r.pinged == std::vector<uint64_t>{1, 2});
  next.standby = false;
  REQUIRE(r.place({next}));  // 1 vanished
  CHECK(r.stopped == std::vector<uint64_t>{1});
  CHECK(r.state(1) == ReplicaState::stopping);
  CHECK(r.offered()[0].places == std::vector<HandlerPlace>{{2, 0, 0}});
  r.core.statuses(false);
  r.say(1, Kind::gone, true, "executor ended: exit code 0");
  const auto last = r.core.statuses(false);
  REQUIRE(last.size() == 1);
  CHECK(static_cast<ReplicaState>(decode_replica_status(last[0])->state) == ReplicaState::stopped);
  CHECK(r.core.size() == 1);
}

TEST_CASE("replicas: health") {
  Rig r;
  REQUIRE(r.place({spec(1)}));
  r.ready(1);
  r.go(1s);
  CHECK(r.pinged.size() == 1);
  r.say(1, Kind::pong, false, "feels ill");
  CHECK(r.state(1) == ReplicaState::unhealthy);
  CHECK(r.status(1).error == "feels ill");
  CHECK(r.offered().empty());
  r.go(1s);
  r.say(1, Kind::pong);
  CHECK(r.state(1) == ReplicaState::ready);
  CHECK(r.offered().size() == 1);
  r.go(1s);
  r.go(499ms);
  CHECK(r.killed.empty());
  r.go(1ms);
  REQUIRE(r.killed.size() == 1);
  CHECK(r.killed[0].second == "it did not answer a health check");
  r.crash(1);
  CHECK(r.started.size() == 2);
}

TEST_CASE("replicas: one that is not ready in time or does not end in time is killed") {
  Rig r;
  REQUIRE(r.place({spec(1)}));
  r.go(4999ms);
  CHECK(r.killed.empty());
  r.go(1ms);
  REQUIRE(r.killed.size() == 1);
  CHECK(r.killed[0].second == "it was not ready in time");
  r.crash(1);
  r.ready(2);
  REQUIRE(r.place({}));
  r.go(1s + 9999ms);
  CHECK(r.killed.size() == 1);
  r.go(1ms);
  CHECK(r.killed.size() == 2);
  r.say(2, Kind::gone, true);
  CHECK(r.core.size() == 0);
}

TEST_CASE("replicas: resources are held until the last process is gone and then given on") {
  Rig r;
  REQUIRE(r.place({with_cpu(spec(1), 3), with_cpu(spec(2), 2)}));
  CHECK(r.started.size() == 1);
  CHECK(r.status(2).error.find("waits for resources: ") == 0);
  r.ready(1);
  REQUIRE(r.place({with_cpu(spec(2), 2)}));
  r.go(5s);
  CHECK(r.started.size() == 1);  // 1 still ends
  r.say(1, Kind::gone, true);
  r.go(0s);
  REQUIRE(r.started.size() == 2);
  CHECK(r.started[1].spec.id == 2);
  CHECK(r.status(2).error.empty() == false);  // until it is ready
  r.ready(2);
  CHECK(r.status(2).error.empty());
}

TEST_CASE("replicas: user_config reaches running processes and starting ones later") {
  Rig r;
  REQUIRE(r.place({spec(1), spec(2)}));
  r.ready(1);
  ReplicaSpec one = spec(1), two = spec(2);
  one.user_config = two.user_config = "second";
  one.config_version = two.config_version = 2;
  REQUIRE(r.place({one, two}));
  REQUIRE(r.configs.size() == 1);
  CHECK(r.configs[0].process == 1);
  CHECK(r.configs[0].user_config == "second");
  CHECK(r.status(1).config_version == 2);
  r.ready(2);  // it was started with the first
  CHECK(r.configs.size() == 2);
  r.crash(1);
  CHECK(r.started.back().spec.user_config == "second");
  CHECK(r.started.size() == 3);
}

TEST_CASE("replicas: one that has run enough is replaced and that is no crash") {
  Rig r;
  REQUIRE(r.place({spec(1)}));
  r.ready(1);
  r.say(1, Kind::recycle);
  CHECK(r.stopped == std::vector<uint64_t>{1});
  CHECK(r.offered()[0].expected);
  r.say(1, Kind::gone, true);
  REQUIRE(r.started.size() == 2);
  r.ready(2);
  CHECK(r.status(1).restarts == 0);
  CHECK(r.offered()[0].places == std::vector<HandlerPlace>{{2, 0, 0}});
}

TEST_CASE("replicas: names that somebody else has are refused for good") {
  ReplicaOptions options;
  options.handlers = {"echo"};
  Rig r(options);
  REQUIRE(r.place({spec(1, "a"), spec(2, "b"), spec(3, "a")}));
  r.ready(1, {handler("x")});
  r.ready(2, {handler("echo")});
  r.say(2, Kind::gone, false, "executor killed: handler 'echo' is already defined");
  CHECK(r.state(2) == ReplicaState::failed);
  r.ready(3, {handler("x")});
  CHECK(r.state(3) == ReplicaState::ready);
  REQUIRE(r.place({spec(1, "a"), spec(3, "a"), spec(4, "b")}));
  r.ready(4, {handler("x")});
  REQUIRE(r.killed.size() == 2);
  CHECK(r.killed[1].second == "handler 'x' is already defined by deployment a");
}

TEST_CASE("replicas: a PLACE that can not be read or is older changes nothing") {
  Rig r;
  REQUIRE(r.place({spec(1)}, 5));
  Place bad;
  bad.goal = 6;
  bad.replicas = {"nonsense"};
  CHECK_FALSE(r.core.on_place(bad, r.now(), r.out));
  CHECK_FALSE(r.place({spec(1), spec(1)}, 6));
  CHECK_FALSE(r.place({spec(kFixedBit + 1)}, 6));
  ReplicaSpec empty = spec(3);
  empty.code.clear();
  CHECK_FALSE(r.place({empty}, 6));
  std::vector<ReplicaSpec> many;
  for (uint64_t i = 1; i <= kReplicasMax + 1; ++i) many.push_back(spec(i));
  CHECK_FALSE(r.place(many, 6));
  CHECK(r.place({}, 4));  // overtaken
  CHECK(r.core.goal() == 5);
  CHECK(r.core.size() == 1);
  CHECK(r.stopped.empty());
}

TEST_CASE("replicas: fixed ones start by themselves and never fail") {
  ReplicaOptions options;
  options.fixed = {spec(kFixedBit + 1, ""), spec(kFixedBit + 2, "")};
  Rig r(options);
  r.core.begin(r.now(), r.out);
  r.collect();
  REQUIRE(r.started.size() == 2);
  CHECK(r.started[0].fixed);
  CHECK_FALSE(r.core.fixed_ready());
  r.ready(1);
  r.ready(2, {handler("g")});
  CHECK(r.core.fixed_ready());
  CHECK(r.core.statuses(true).empty());  // not the balancer's business
  REQUIRE(r.place({}));
  CHECK(r.stopped.empty());
  for (uint64_t i = 0; i < 20; ++i) {
    r.crash(r.started.back().process);
    r.go(60s);
  }
  CHECK(r.started.size() == 22);
  CHECK(r.core.fixed_problem().find("SIGSEGV") != std::string::npos);
}

TEST_CASE("replicas: nothing is started again once all are stopped") {
  Rig r;
  REQUIRE(r.place({spec(1), spec(2)}));
  r.ready(1);
  r.core.stop_all(r.now(), r.out);
  r.collect();
  CHECK(r.stopped.size() == 2);
  CHECK(r.offered().empty());
  r.crash(1);
  r.say(2, Kind::gone, true);
  r.go(3600s);
  CHECK(r.started.size() == 2);
}

TEST_CASE("replicas: random life") {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    Rig r;
    std::set<uint64_t> alive;
    std::map<uint64_t, uint64_t> process_of;  // by replica: never two at once
    uint64_t next_id = 1;
    std::vector<ReplicaSpec> wanted;
    size_t seen = 0;
    const auto note_starts = [&] {
      for (; seen < r.started.size(); ++seen) {
        const ProcessStart& s = r.started[seen];
        CHECK(process_of.count(s.spec.id) == 0);
        process_of[s.spec.id] = s.process;
        alive.insert(s.process);
      }
      NodeReport report;
      r.resources.report(report);
      for (const auto& [name, taken] : report.taken) CHECK(taken <= 4 * kResourceUnit);
    };
    for (int step = 0; step < 150; ++step) {
      const auto pick =
          alive.empty() ? alive.end() : std::next(alive.begin(), long(random() % alive.size()));
      switch (random() % 8) {
        case 0:
          if (wanted.size() < 6) wanted.push_back(with_cpu(spec(next_id++), random() % 3));
          if (wanted.size() > 3) wanted.erase(wanted.begin() + long(random() % wanted.size()));
          REQUIRE(r.place(wanted));
          break;
        case 1:
          if (!wanted.empty()) wanted[random() % wanted.size()].standby = random() % 2 == 0;
          REQUIRE(r.place(wanted));
          break;
        case 2:
        case 3:
          if (pick != alive.end()) r.ready(*pick);
          break;
        case 4:
          if (pick != alive.end()) {
            const uint64_t p = *pick;
            alive.erase(pick);
            std::erase_if(process_of, [&](const auto& entry) { return entry.second == p; });
            r.crash(p);
          }
          break;
        case 5:
          if (pick != alive.end()) r.say(*pick, Kind::pong, random() % 4 != 0, "ill");
          break;
        case 6:
          if (pick != alive.end()) r.say(*pick, Kind::recycle);
          break;
        default:
          r.go(std::chrono::milliseconds(random() % 3000));
      }
      note_starts();
    }
    REQUIRE(r.place({}));
    for (uint64_t p : std::set<uint64_t>(alive)) r.say(p, Kind::gone, true);
    CHECK(r.core.size() == 0);
    NodeReport report;
    r.resources.report(report);
    CHECK(report.taken.empty());
  }
}

}  // namespace dray::worker
