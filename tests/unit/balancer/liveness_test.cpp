// Who is alive: suspicion by gaps, death by limits, and what comes back.
#include <tuple>

#include "common/service/turn.h"
#include "tests/unit/balancer/rig.h"

using namespace dray;

namespace {
bool is_suspect(const BalancerRig& rig, const std::string& name) {
  const auto& list = rig.views.at(BalancerRig::kRouter).suspects;
  return std::find(list.begin(), list.end(), name) != list.end();
}
}  // namespace

TEST_CASE("gaps of a beat are no suspicion, two seconds are") {
  GapClock clock(at_ms(0));
  for (int i = 1; i <= 50; ++i) clock.heard(at_ms(i * 1'100));
  CHECK(clock.phi(at_ms(55'000 + 1'400)) == 0);
  CHECK_FALSE(clock.is_suspect(at_ms(55'000 + 1'600)));
  CHECK(clock.is_suspect(at_ms(55'000 + 2'000)));
  clock.heard(at_ms(57'500));
  CHECK_FALSE(clock.is_suspect(at_ms(57'600)));
  CHECK(clock.silence(at_ms(57'600)) == 100ms);
}

TEST_CASE("phi grows with silence and is slow for those whose gaps vary") {
  GapClock steady(at_ms(0)), varying(at_ms(0));
  int64_t t = 0;
  for (int i = 0; i < 40; ++i) {
    t += i % 2 == 0 ? 300 : 1'900;
    varying.heard(at_ms(t));
    steady.heard(at_ms((i + 1) * 1'000));
  }
  CHECK(steady.phi(at_ms(40'000 + 1'900)) > kSuspectPhi);
  CHECK(varying.phi(at_ms(t + 1'900)) < 1.5);
  CHECK(steady.phi(at_ms(40'000 + 1'700)) < steady.phi(at_ms(40'000 + 1'900)));
  CHECK(steady.phi(at_ms(400'000)) == 30);
}

TEST_CASE("a peer that speaks often may be silent for a beat and a half") {
  GapClock clock(at_ms(0));
  for (int i = 1; i <= 100; ++i) clock.heard(at_ms(i * 50));
  CHECK_FALSE(clock.is_suspect(at_ms(5'000 + 1'500)));
  CHECK(clock.is_suspect(at_ms(5'000 + 1'501)));
}

TEST_CASE("before ten gaps only the limit speaks and old news changes nothing") {
  GapClock clock(at_ms(10'000));
  for (int i = 1; i <= 9; ++i) clock.heard(at_ms(10'000 + i * 10));
  clock.heard(at_ms(10'000));
  CHECK(clock.phi(at_ms(11'950)) == 0);
  CHECK(clock.is_suspect(at_ms(12'090)));
  clock.forgive(1s);
  CHECK_FALSE(clock.is_suspect(at_ms(13'000)));
  CHECK(clock.is_suspect(at_ms(13'090)));
}

TEST_CASE(
    "a silent worker becomes suspect, gets nothing new, and is trusted again when it speaks") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.add("b");
  rig.run(15'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  a.silent = true;
  rig.run(3'500);
  CHECK(is_suspect(rig, "a"));
  CHECK_FALSE(is_suspect(rig, "b"));
  CHECK(rig.core->counters().suspicions == 1);
  rig.scale("app", 6);
  rig.run(1'000);
  CHECK(a.alive() == 1);
  CHECK(rig.workers.at("b").alive() == 5);
  a.silent = false;
  rig.run(1'500);
  CHECK_FALSE(is_suspect(rig, "a"));
  CHECK(rig.core->counters().deaths == 0);
}

TEST_CASE("what a worker had is started elsewhere when it is dead") {
  for (const CloseReason reason : {CloseReason::timeout, CloseReason::bye}) {
    BalancerRig rig;
    rig.add("a");
    rig.add("b");
    rig.run(2'000);
    rig.deploy("app", app(2));
    rig.run(6'000);
    REQUIRE(rig.workers.at("b").alive() == 1);
    rig.lose("a", reason);
    CHECK(rig.workers.at("b").alive() == 2);  // at once
    CHECK(rig.core->counters().deaths == 1);
    rig.run(6'000);
    CHECK(rig.state("app") == "ready");
  }
}

TEST_CASE("a lost connection has a second to come back") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.add("b");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  rig.lose("a", CloseReason::unreachable);
  rig.run(700);
  CHECK(rig.workers.at("b").alive() == 1);
  rig.connect(a);
  rig.run(3'000);
  CHECK(rig.core->counters().deaths == 0);
  CHECK(rig.ready() == 2);
  rig.lose("a", CloseReason::unreachable);
  rig.run(1'500);
  CHECK(rig.core->counters().deaths == 1);
  CHECK(rig.workers.at("b").alive() == 2);
}

TEST_CASE("a worker that was given up comes back and one of each pair is stopped") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.add("b");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  rig.lose("a", CloseReason::timeout);
  rig.run(3'000);
  CHECK(rig.workers.at("b").alive() == 2);
  rig.connect(a);
  rig.run(3'000);
  CHECK(rig.alive() == 2);
  CHECK(rig.ready() == 2);
}

TEST_CASE("another process under the name of a worker has none of its replicas") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(1));
  rig.run(6'000);
  rig.lose("a", CloseReason::unreachable);
  a.boot = {99, 99};
  a.runs.clear();
  rig.connect(a);
  rig.run(3'000);
  CHECK(rig.core->counters().deaths == 1);
  CHECK(rig.ready() == 1);
}

TEST_CASE("after a restart the balancer finds what runs and touches nothing") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  PlayedWorker& b = rig.add("b");
  rig.run(2'000);
  rig.deploy("app", app(4));
  rig.run(6'000);
  std::set<uint64_t> ids;
  for (const auto* w : {&a, &b})
    for (const auto& [id, run] : w->runs) ids.insert(id);
  const uint64_t goal = a.goal;
  rig.restart(rig.stored());
  rig.run(6'000);
  std::set<uint64_t> after;
  for (const auto* w : {&a, &b})
    for (const auto& [id, run] : w->runs) after.insert(id);
  CHECK(after == ids);
  CHECK(a.goal > goal);  // numbers of goals go on
  CHECK(rig.core->counters().starts == 0);
  CHECK(rig.core->counters().stops == 0);
  CHECK(rig.state("app") == "ready");
  // New ids are new.
  rig.scale("app", 5);
  rig.run(3'000);
  size_t fresh = 0;
  for (const auto* w : {&a, &b})
    for (const auto& [id, run] : w->runs) fresh += ids.count(id) == 0 ? 1 : 0;
  CHECK(fresh == 1);
  CHECK(rig.ready() == 5);
}

TEST_CASE("a roll goes on after a restart") {
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(3));
  rig.run(6'000);
  rig.deploy("app", app(3, "b.so"));
  rig.run(2'500);
  rig.restart(rig.stored());
  rig.run(40'000);
  CHECK(rig.ready(2) == 3);
  CHECK(rig.alive() == 3);
  CHECK(rig.state("app") == "ready");
}

TEST_CASE("replicas of a deployment that was dropped while their worker was away are stopped") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  rig.lose("a", CloseReason::timeout);
  rig.ask("undeploy", Doc{}.set("name", "app"));
  rig.connect(a);
  rig.run(3'000);
  CHECK(a.runs.empty());
}

TEST_CASE("a node that is drained is emptied when its replicas run elsewhere") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.add("b");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  rig.ask("drain", Doc{}.set("node", "a"));
  size_t least = 99;
  for (int i = 0; i < 100; ++i) {
    rig.run(50);
    least = std::min(least, rig.ready());
  }
  CHECK(least == 2);
  CHECK(a.runs.empty());
  CHECK(rig.workers.at("b").ready() == 2);
  // It is remembered.
  rig.restart(rig.stored());
  rig.run(3'000);
  rig.scale("app", 4);
  rig.run(3'000);
  CHECK(a.runs.empty());
  rig.ask("drain", Doc{}.set("node", "a").set("on", false));
  rig.scale("app", 6);
  rig.run(3'000);
  CHECK(a.alive() == 2);
  rig.ask("drain", Doc{}.set("node", "nobody"));
  CHECK(rig.refusal.code == static_cast<uint8_t>(Errc::not_found));
}

TEST_CASE("a worker that says it drains gets nothing and loses its replicas to others") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.add("b");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  a.draining = a.changed = true;
  rig.run(3'000);
  CHECK(a.runs.empty());
  CHECK(rig.workers.at("b").ready() == 2);
}

TEST_CASE("words that make no sense are dropped and counted") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(1));
  rig.run(3'000);
  NodeReport m = a.report();
  m.replicas.push_back("nonsense");
  m.devices.push_back("nonsense");
  DeviceInfo twice;
  twice.uuid = "GPU-0";
  twice.units = kResourceUnit;
  m.devices = {encode_device(twice), encode_device(twice)};
  rig.say(a.session, m);
  rig.say(BalancerRig::kRouter, Load{{"nonsense"}});
  rig.say(BalancerRig::kRouter, Place{});
  rig.say(a.session, Load{});
  rig.say(BalancerRig::kBroker, Admin{});
  rig.turn();
  CHECK(rig.core->counters().bad == 6);
  // A replica that another worker is said to have changes nothing for this one.
  PlayedWorker& b = rig.add("b");
  rig.run(1'000);
  NodeReport stolen = a.report();
  stolen.goal = b.goal;
  rig.say(b.session, stolen);
  rig.run(3'000);
  CHECK(rig.ready() == 1);
}

TEST_CASE("clients do not get in") {
  BalancerRig rig;
  rig.open(SessionId{77}, Role::client, "eve");
  CHECK(rig.out.close == std::vector<SessionId>{SessionId{77}});
}

// --- with real links ---------------------------------------------------------------------------

namespace {

// The balancer behind its links, and workers that are links alone, packets carried by hand.
struct LinkedFleet {
  static LinkOptions link(Role role, const std::string& name, uint64_t boot) {
    LinkOptions o;
    o.role = role;
    o.name = name;
    o.boot = {boot, boot};
    return o;
  }
  struct Far {
    explicit Far(LinkOptions o) : links(std::move(o)) { links.dial(0, Role::balancer); }
    Links links;
    SessionId session = SessionId::none;
    std::vector<Packet> inbox;
  };

  explicit LinkedFleet(size_t n)
      : core(Goal{}, BalancerOptions{}),
        links(link(Role::balancer, "balancer", 1)),
        turn(core, links, durable) {
    links.listen(Balancer::kPeers);
    for (size_t i = 0; i < n; ++i)
      far.push_back(std::make_unique<Far>(link(Role::worker, "w" + std::to_string(i), i + 2)));
  }

  void step(Duration by, bool balancer_runs) {
    now.mono += by;
    for (size_t i = 0; i < far.size(); ++i) {
      Far& f = *far[i];
      for (Packet& p : f.inbox) f.links.on_packet(std::move(p), now.mono);
      f.inbox.clear();
      f.links.tick(now.mono, true);
      for (LinkEvent& e : f.links.events) {
        if (e.type == LinkEvent::Type::opened)
          f.links.send(e.session.id, {}, NodeReport{}, now.mono);
      }
      f.links.events.clear();
      for (Packet& p : f.links.packets)
        queue.push_back({Balancer::kPeers, i + 1, std::move(p.frames)});
      f.links.packets.clear();
      f.links.resets.clear();
    }
    if (balancer_runs) run_turn();
  }

  // As the host does: at most 256 packets a turn, and silence is judged when everything was read.
  void run_turn() {
    for (const SessionId id : core.worker_sessions()) core.on_heard(id, links.heard(id));
    const size_t n = std::min<size_t>(queue.size(), 256);
    for (size_t i = 0; i < n; ++i) turn.feed(std::move(queue[i]), now);
    queue.erase(queue.begin(), queue.begin() + static_cast<long>(n));
    REQUIRE(turn.finish(now, queue.empty()));
    for (Packet& p : links.packets)
      if (p.peer <= far.size()) far.at(p.peer - 1)->inbox.push_back({0, 0, std::move(p.frames)});
    links.packets.clear();
  }

  struct Nothing {
    Status persist(Balancer::Out&) { return {}; }
    Status load(Send&) { return {}; }
  } durable;
  Balancer core;
  Links links;
  Turn<Balancer, Nothing> turn;
  Now now{at_ms(1'000'000), 1'700'000'000'000};
  std::vector<std::unique_ptr<Far>> far;
  std::vector<Packet> queue;
};

}  // namespace

TEST_CASE("two hundred workers join in one second and nobody is suspected or dead") {
  LinkedFleet fleet(200);
  for (int i = 0; i < 200; ++i) fleet.step(50ms, true);
  CHECK(fleet.core.nodes_up() == 200);
  CHECK(fleet.core.counters().deaths == 0);
  CHECK(fleet.core.counters().suspicions == 0);
  CHECK(fleet.core.counters().reports == 200);
}

TEST_CASE("a balancer that stood still for five seconds suspects and buries nobody") {
  LinkedFleet fleet(200);
  for (int i = 0; i < 300; ++i) fleet.step(50ms, true);
  REQUIRE(fleet.core.nodes_up() == 200);
  for (int i = 0; i < 100; ++i) fleet.step(50ms, false);  // 5 s of beats wait to be read
  for (int i = 0; i < 200; ++i) fleet.step(50ms, true);
  CHECK(fleet.core.nodes_up() == 200);
  CHECK(fleet.core.counters().deaths == 0);
  CHECK(fleet.core.counters().suspicions == 0);
  // And shorter pauses, which the links do not give back.
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 28; ++i) fleet.step(50ms, false);
    for (int i = 0; i < 40; ++i) fleet.step(50ms, true);
  }
  CHECK(fleet.core.counters().deaths == 0);
  CHECK(fleet.core.counters().suspicions == 0);
}

TEST_CASE("a worker that stops is suspect within two and a half seconds and dead after five") {
  LinkedFleet fleet(3);
  for (int i = 0; i < 400; ++i) fleet.step(50ms, true);
  fleet.far.pop_back();
  int suspect_ms = 0, dead_ms = 0;
  for (int i = 1; i <= 200; ++i) {
    fleet.step(50ms, true);
    if (suspect_ms == 0 && fleet.core.counters().suspicions > 0) suspect_ms = i * 50;
    if (dead_ms == 0 && fleet.core.counters().deaths > 0) dead_ms = i * 50;
  }
  CHECK(suspect_ms > 500);
  CHECK(suspect_ms <= 2'500);
  CHECK(dead_ms >= 4'000);
  CHECK(dead_ms <= 6'500);
  CHECK(fleet.core.nodes_up() == 2);
}
