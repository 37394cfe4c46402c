// The balancer core: starting, scaling, rolling, losing and finding again.
#include "tests/unit/balancer/rig.h"

using namespace dray;

namespace {

Doc automatic(int64_t min, int64_t max) {
  Doc doc = app();
  Doc config;
  config.set("min_replicas", min).set("max_replicas", max);
  Doc out;
  out.set("code", "a.so").set("handlers", Doc{Doc::List{Doc("h")}});
  out.set("num_replicas", "auto").set("autoscaling_config", std::move(config));
  return out;
}

}  // namespace

TEST_CASE("a deployment starts where there is room and is told to routers") {
  BalancerRig rig;
  rig.add("a");
  rig.add("b");
  rig.run(2'000);
  const Doc reply = rig.deploy("app", app(4));
  CHECK(reply["action"].as_text() == "new");
  CHECK(reply["version"].as_int() == 1);
  rig.run(3'000);
  CHECK(rig.ready() == 4);
  CHECK(rig.workers.at("a").ready() == 2);  // without GPUs they spread
  CHECK(rig.view().at("h").replicas == 4);
  CHECK(rig.view().at("h").deployment == "app");
  CHECK(rig.view().at("h").start_ms == 1'000);
  CHECK(rig.state("app") == "proving");
  rig.run(4'000);
  CHECK(rig.state("app") == "ready");
  CHECK(rig.disk.deployments.at("app").stable == 1);
}

TEST_CASE("nothing is placed before workers had time to report") {
  BalancerOptions o = BalancerRig::quick();
  o.settle = 5s;
  BalancerRig rig(o);
  rig.add("a");
  rig.deploy("app", app(1));
  rig.run(4'000);
  CHECK(rig.alive() == 0);
  rig.run(2'000);
  CHECK(rig.alive() == 1);
}

TEST_CASE("replicas go to nodes with the resources and wait when there are none") {
  BalancerRig rig;
  rig.add("a", 4, 1);
  rig.run(2'000);
  Doc spec = app(3);
  spec.set("gpus", 0.5);
  rig.deploy("app", spec);
  rig.run(3'000);
  CHECK(rig.ready() == 2);
  const Doc doc = rig.about("app");
  CHECK(doc["trouble"].as_text().find("no room: gpu") == 0);
  CHECK(doc["starting"].as_int() == 0);
  rig.add("b", 4, 1);
  rig.run(3'000);
  CHECK(rig.ready() == 3);
  CHECK(rig.about("app")["trouble"].as_text().empty());
}

TEST_CASE("what was placed and is not reported yet takes room") {
  BalancerRig rig;
  rig.add("a", 2);
  rig.run(2'000);
  Doc spec = app(5);
  spec.set("cpus", 1);
  rig.deploy("app", spec);
  CHECK(rig.workers.at("a").alive() == 2);  // in one turn, before any report
  rig.run(3'000);
  CHECK(rig.alive() == 2);
}

TEST_CASE("the same list is not said again and a lost connection is told everything again") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(5'000);
  const uint64_t places = a.places;
  rig.run(10'000);
  CHECK(a.places == places);
  rig.lose("a", CloseReason::reset);
  rig.connect(a);
  rig.run(2'000);
  CHECK(a.places == places + 1);
  CHECK(rig.ready() == 2);
  CHECK(rig.core->counters().deaths == 0);
}

TEST_CASE("scaling changes the number and keeps the busiest") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(3));
  rig.run(6'000);
  std::vector<uint64_t> ids;
  for (auto& [id, run] : a.runs) {
    ids.push_back(id);
    run.status.ongoing = ids.size() == 2 ? 5 : 0;
  }
  a.changed = true;
  rig.run(500);
  rig.scale("app", 1);
  CHECK(rig.answer["before"].as_int() == 3);
  rig.run(3'000);
  REQUIRE(a.runs.size() == 1);
  CHECK(a.runs.begin()->first == ids[1]);
  CHECK(rig.disk.deployments.at("app").current == 1);  // no new version
  rig.scale("app", 0);
  rig.run(3'000);
  CHECK(rig.alive() == 0);
  CHECK(rig.state("app") == "idle");
  CHECK_FALSE(rig.view().at("h").held);
  rig.scale("app", -1);
  CHECK(rig.refusal.code == static_cast<uint8_t>(Errc::bad_argument));
  rig.scale("none", 1);
  CHECK(rig.refusal.code == static_cast<uint8_t>(Errc::not_found));
}

TEST_CASE("undeploy stops everything and forgets the deployment") {
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(3'000);
  CHECK(rig.ask("undeploy", Doc{}.set("name", "app"))["stopped"].as_int() == 2);
  rig.run(3'000);
  CHECK(rig.alive() == 0);
  CHECK(rig.core->replicas() == 0);
  CHECK(rig.views.at(BalancerRig::kRouter).handlers.empty());
  CHECK(rig.disk.deployments.empty());
}

// --- zero --------------------------------------------------------------------------------------

TEST_CASE("a call that waits starts the first replica at once") {
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  rig.deploy("app", automatic(0, 5));
  rig.run(3'000);
  CHECK(rig.alive() == 0);
  CHECK(rig.view().at("h").held);
  CHECK(rig.view().at("h").replicas == 0);
  rig.load("h", 0, 1);
  rig.turn();
  CHECK(rig.workers.at("a").alive() == 1);
  CHECK(rig.view().at("h").starting == 1);
  rig.run(2'000);
  CHECK(rig.view().at("h").replicas == 1);
  CHECK(rig.disk.deployments.at("app").desired == 1);
}

TEST_CASE("queued tasks alone start the first replica too") {
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  rig.deploy("app", automatic(0, 5));
  rig.run(500);
  rig.say(BalancerRig::kBroker, Backlog{{{"h", 3}}, {}});
  rig.run(3'000);
  CHECK(rig.alive() >= 1);
}

TEST_CASE("load scales up and without a router nothing is scaled") {
  BalancerRig rig;
  rig.add("a", 64);
  rig.run(2'000);
  rig.deploy("app", automatic(1, 10));
  rig.run(3'000);
  rig.run_with_load(8'000, "h", 30);
  CHECK(rig.disk.deployments.at("app").desired == 10);
  CHECK(rig.about("app")["autoscaler"]["rule"].as_text() == "bound");
  rig.core->on_close(BalancerRig::kRouter, CloseReason::timeout, rig.now, rig.out);
  rig.run(1'500'000);
  CHECK(rig.disk.deployments.at("app").desired == 10);
  rig.open(BalancerRig::kRouter, Role::router, "router");
  rig.run_with_load(1'500'000, "h", 0);
  CHECK(rig.disk.deployments.at("app").desired == 1);
  CHECK(rig.decided("scaled from 10 to 5"));
}

// --- rolls -------------------------------------------------------------------------------------

TEST_CASE(
    "a roll offers new replicas when they are ready and stops old ones when those are proved") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(4));
  rig.run(6'000);
  REQUIRE(rig.state("app") == "ready");
  CHECK(rig.deploy("app", app(4, "b.so"))["action"].as_text() == "rolls");
  CHECK(a.alive() == 5);  // a surge of one
  size_t standbys = 0;
  for (const auto& [id, run] : a.runs) standbys += run.spec.standby ? 1 : 0;
  CHECK(standbys == 1);
  rig.run(1'500);
  CHECK(rig.ready(2) == 1);  // ready, so offered
  CHECK(rig.ready(1) == 4);  // and no old one has gone yet
  CHECK(rig.state("app") == "rolling");
  rig.run(3'500);
  CHECK(rig.ready(1) == 3);
  size_t least = 99;
  for (int i = 0; i < 400; ++i) {
    rig.run(50);
    least = std::min(least, rig.ready());
  }
  CHECK(least >= 4);
  CHECK(rig.ready(2) == 4);
  CHECK(rig.alive() == 4);
  CHECK(rig.state("app") == "ready");
  CHECK(rig.disk.deployments.at("app").stable == 2);
}

TEST_CASE("a version that does not start is rolled back and the old one serves all the time") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  a.broken = {2};
  rig.deploy("app", app(2, "b.so"));
  for (int i = 0; i < 300; ++i) {
    rig.run(50);
    CHECK(rig.ready(1) == 2);
  }
  const Doc doc = rig.about("app");
  CHECK(doc["version"].as_int() == 1);
  CHECK(doc["failed_version"].as_int() == 2);
  CHECK(doc["failed_why"].as_text() == "boom");
  CHECK(doc["state"].as_text() == "ready");
  CHECK(rig.core->counters().rolled_back == 1);
  CHECK(rig.core->counters().failed_starts == 3);
  CHECK(rig.alive() == 2);
  // The next attempt has a number of its own.
  CHECK(rig.deploy("app", app(2, "c.so"))["version"].as_int() == 3);
}

TEST_CASE("a version that turns unhealthy is rolled back although it started") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(2));
  rig.run(6'000);
  rig.deploy("app", app(2, "b.so"));
  for (int i = 0; i < 8; ++i) {
    a.ill = i % 2 == 0 ? std::set<uint64_t>{} : std::set<uint64_t>{2};
    rig.run(1'500);
  }
  CHECK(rig.core->counters().rolled_back == 1);
  CHECK(rig.about("app")["failed_why"].as_text() == "unhealthy: check says no");
  a.ill.clear();
  rig.run(10'000);
  CHECK(rig.ready(1) == 2);
  CHECK(rig.alive() == 2);
}

TEST_CASE("a first version that does not start is tried again later and later") {
  BalancerRig rig;
  rig.add("a").broken = {1};
  rig.run(2'000);
  rig.deploy("app", app(1));
  rig.run(20'000);
  CHECK(rig.core->counters().rolled_back == 0);
  const uint64_t failed = rig.core->counters().failed_starts;
  CHECK(failed >= 3);
  CHECK(failed <= 5);
  const Doc doc = rig.about("app");
  CHECK(doc["state"].as_text() == "failing");
  CHECK(doc["trouble"].as_text() == "boom");
  CHECK(doc["retry_in_ms"].as_int() > 0);
  rig.workers.at("a").broken.clear();
  rig.run(40'000);
  CHECK(rig.state("app") == "ready");
}

TEST_CASE("after a failed start another node is tried") {
  BalancerRig rig;
  rig.add("a").broken = {1};
  rig.add("b");
  rig.run(2'000);
  rig.deploy("app", app(1));
  rig.run(6'000);
  CHECK(rig.workers.at("b").ready() == 1);
  CHECK(rig.core->counters().failed_starts == 1);
}

TEST_CASE("a full fleet is rolled by letting one old replica go first but not at once") {
  BalancerRig rig;
  rig.add("a", 2);
  rig.run(2'000);
  Doc spec = app(2);
  spec.set("cpus", 1);
  rig.deploy("app", spec);
  rig.run(6'000);
  spec = app(2, "b.so");
  spec.set("cpus", 1);
  rig.deploy("app", spec);
  rig.run(8'000);
  CHECK(rig.ready(1) == 2);
  size_t least = 99;
  for (int i = 0; i < 1200; ++i) {
    rig.run(50);
    least = std::min(least, rig.ready());
  }
  CHECK(least == 1);
  CHECK(rig.ready(2) == 2);
  CHECK(rig.decided("first"));
}

TEST_CASE("changes of number or user_config restart nothing") {
  BalancerRig rig;
  PlayedWorker& a = rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(1));
  rig.run(6'000);
  const uint64_t id = a.runs.begin()->first;
  Doc spec = app(1);
  spec.set("user_config", Doc{}.set("threshold", 3));
  CHECK(rig.deploy("app", spec)["action"].as_text() == "in place");
  rig.run(1'000);
  REQUIRE(a.runs.size() == 1);
  CHECK(a.runs.begin()->first == id);
  CHECK(a.runs.begin()->second.spec.user_config == "{\"threshold\":3}");
  CHECK(a.runs.begin()->second.spec.config_version == 2);
  CHECK(rig.deploy("app", spec)["action"].as_text() == "unchanged");
}

TEST_CASE("an operator rolls back to the version before and to any that is kept") {
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  rig.ask("rollback", Doc{}.set("name", "app"));
  CHECK(rig.refusal.code == static_cast<uint8_t>(Errc::not_found));
  rig.deploy("app", app(2));
  rig.run(6'000);
  rig.ask("rollback", Doc{}.set("name", "app"));
  CHECK(rig.refusal.detail == "there is no other version of 'app'");
  rig.deploy("app", app(2, "b.so"));
  rig.run(30'000);
  rig.scale("app", 3);
  CHECK(rig.ask("rollback", Doc{}.set("name", "app"))["version"].as_int() == 1);
  rig.run(40'000);
  CHECK(rig.ready(1) == 3);  // the number is kept
  CHECK(rig.alive() == 3);
  rig.ask("rollback", Doc{}.set("name", "app").set("version", 9));
  CHECK(rig.refusal.detail == "version 9 is not kept; there are 1, 2");
  rig.ask("rollback", Doc{}.set("name", "app").set("version", 2));
  rig.run(40'000);
  CHECK(rig.ready(2) == 3);
}

TEST_CASE("a dry run changes nothing and warns of what no node could run") {
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  Doc spec = app(1);
  spec.set("gpus", 1);
  const Doc reply = rig.deploy("app", spec, true);
  CHECK(reply["action"].as_text() == "new");
  CHECK(reply["warning"].as_text() == "none of the 1 nodes could run it, even if it were idle");
  CHECK(rig.core->goal().deployments.empty());
}

TEST_CASE("what is wrong with a deployment is said field by field") {
  BalancerRig rig;
  Doc spec = app(1);
  spec.set("gpus", -1).set("what", 1);
  rig.deploy("app", spec);
  CHECK(rig.refusal.code == static_cast<uint8_t>(Errc::bad_argument));
  CHECK(rig.refusal.detail.find("what: unknown field") == 0);
  CHECK(rig.refusal.detail.find("gpus: ") != std::string::npos);
  rig.deploy("app", app(1));
  rig.deploy("other", app(1));
  CHECK(rig.refusal.detail == "handlers: 'h' belongs to deployment 'app'");
  Doc zero;
  zero.set("code", "z.so").set("autoscaling_config", Doc{}.set("min_replicas", 0));
  rig.deploy("zero", zero);
  CHECK(rig.refusal.detail.find("handlers: must be listed") == 0);
  rig.ask("nonsense");
  CHECK(rig.refusal.detail.find("balancer knows: status, deployments") == 0);
}
