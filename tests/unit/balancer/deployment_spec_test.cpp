// What a deployment is: reading, checking, storing.
#include "common/deploy/deployment_spec.h"

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "services/balancer/shell/goal_file.h"
#include "tests/unit/balancer/rig.h"

using namespace dray;

namespace {

Doc everything() {
  Doc doc;
  doc.set("code", "a.so").set("handlers", Doc{Doc::List{Doc("x"), Doc("y")}});
  doc.set("num_replicas", "auto").set("max_ongoing_requests", 7).set("max_batch_size", 64);
  doc.set("batch_wait_ms", 2.5).set("gpus", 0.5).set("gpu_memory", "8GiB").set("cpus", 2);
  doc.set("resources", Doc{}.set("step_a_slot", 1)).set("labels", Doc{Doc::List{Doc("head")}});
  doc.set("strategy", "spread").set("user_config", Doc{}.set("a", 1));
  doc.set("health_check_period_s", 5).set("health_check_timeout_s", 2.5);
  doc.set("graceful_shutdown_timeout_s", 3).set("start_timeout_s", 60);
  doc.set("memory_limit", "2GiB").set("max_surge", "50%");
  doc.set("autoscaling_config", Doc{}.set("min_replicas", 0).set("max_replicas", 9));
  return doc;
}

std::string problem_of(const std::string& field, Doc value) {
  Doc doc = field == "code" ? Doc{Doc::Object{}} : Doc{}.set("code", "a.so");
  doc.set(field, std::move(value));
  return problems_text(parse_spec("app", doc).problems);
}

}  // namespace

TEST_CASE("every field of a deployment is read and written as it was") {
  const ParsedSpec parsed = parse_spec("app", everything());
  CHECK(problems_text(parsed.problems).empty());
  const DeploymentSpec& s = parsed.spec;
  CHECK(s.batch_wait_us == 2'500);
  CHECK(s.health_check_timeout_ms == 2'500);
  CHECK(s.memory_limit_mib == 2'048);
  CHECK(s.max_surge.of(10) == 5);
  CHECK(s.scale.max_replicas == 9);
  CHECK(s.scale.max_ongoing_requests == 7);
  CHECK(s.request.variants[0].gpus == 5'000);
  CHECK(s.request.variants[0].pools.get("cpu") == 20'000);
  const ParsedSpec again = parse_spec("app", spec_doc(s));
  CHECK(problems_text(again.problems).empty());
  CHECK(again.spec == s);
  // As admin arguments carry it.
  Doc flat;
  for (auto& [name, value] : flatten(spec_doc(s))) flat.set(name, std::move(value));
  CHECK(parse_spec("app", unflatten(flat)).spec == s);
  const ReplicaSpec r = replica_spec(s, 3, 4);
  CHECK(r.deployment == "app");
  CHECK(r.max_ongoing == 7);
  CHECK(decode_need(r.needs[0]).value().gpu_memory_mib == 8'192);
}

TEST_CASE("variants are read and written in their order") {
  Doc doc;
  doc.set("code", "a.so");
  doc.set("variants", Doc{Doc::List{Doc{}.set("gpus", 1), Doc{}.set("cpus", 8)}});
  const ParsedSpec parsed = parse_spec("app", doc);
  REQUIRE(parsed.problems.empty());
  CHECK(parsed.spec.request.variants.size() == 2);
  Doc flat;
  for (auto& [name, value] : flatten(spec_doc(parsed.spec))) flat.set(name, std::move(value));
  CHECK(parse_spec("app", unflatten(flat)).spec == parsed.spec);
  doc.set("gpus", 1);
  CHECK(parse_spec("app", doc).problems.at(0).text == "belongs into each of the variants");
}

TEST_CASE("what is wrong is said with the field") {
  const std::pair<std::string, Doc> bad[] = {{"code", Doc(5)},
                                             {"handlers", Doc("x")},
                                             {"handlers", Doc{Doc::List{Doc("x"), Doc("x")}}},
                                             {"num_replicas", Doc("many")},
                                             {"num_replicas", Doc(1.5)},
                                             {"num_replicas", Doc(-1)},
                                             {"max_ongoing_requests", Doc(0)},
                                             {"max_batch_size", Doc(100'000)},
                                             {"gpus", Doc("x")},
                                             {"gpus", Doc(-0.5)},
                                             {"gpus", Doc(0.00001)},
                                             {"gpu_memory", Doc(8)},
                                             {"cpus", Doc("two")},
                                             {"labels", Doc(1)},
                                             {"strategy", Doc("best")},
                                             {"max_surge", Doc("150%")},
                                             {"max_surge", Doc(0)},
                                             {"memory_limit", Doc(5)},
                                             {"health_check_period_s", Doc(-1)},
                                             {"user_config", Doc(std::string(10'000, 'x'))},
                                             {"autoscaling_config", Doc(1)},
                                             {"nonsense", Doc(1)}};
  for (const auto& [field, value] : bad) {
    INFO(field << " " << to_json(value));
    CHECK(problem_of(field, value).find(field + ": ") != std::string::npos);
  }
  CHECK(problem_of("resources", Doc{}.set("a.b", 1)).find("resources: 'a.b' has a dot") == 0);
  CHECK(problem_of("autoscaling_config", Doc{}.set("min_replicas", "x")) ==
        "autoscaling_config.min_replicas: must be a number");
  CHECK_FALSE(parse_spec("a b", everything()).problems.empty());
  CHECK_FALSE(parse_spec("", everything()).problems.empty());
  CHECK(problems_text(parse_spec("app", Doc{Doc::Object{}}).problems) ==
        "code: is missing; it names the plugin file");
  Doc both = everything();
  Doc fixed;
  for (const auto& [name, value] : both.object())
    fixed.set(name, name == "num_replicas" ? Doc(2) : value);
  CHECK(problems_text(parse_spec("app", fixed).problems).find("num_replicas: must be \"auto\"") ==
        0);
}

TEST_CASE("auto without a configuration is Ray's: one to a hundred") {
  const ParsedSpec parsed = parse_spec("app", Doc{}.set("code", "a").set("num_replicas", "auto"));
  CHECK(parsed.spec.autoscale);
  CHECK(parsed.spec.scale.min_replicas == 1);
  CHECK(parsed.spec.scale.max_replicas == 100);
}

TEST_CASE("arguments of any shape make a document and no trouble") {
  Doc flat;
  flat.set("", 1).set(".", 2).set("a..b", 3).set("a", 4).set("x.0.y", 5).set("x.7", 6);
  flat.set("0.0.0.0.0.0.0.0.0.0.0.0", 7);
  CHECK(unflatten(flat).is_object());
  CHECK(unflatten(Doc(5)).is_object());
}

// --- the goal file -----------------------------------------------------------------------------

namespace {
struct Folder {
  Folder() {
    char name[] = "/tmp/dray-goal-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};
}  // namespace

TEST_CASE("the goal is on disk as it was and one process has the folder") {
  Folder folder;
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  rig.deploy("app", everything());
  rig.deploy("other", app(3));
  rig.scale("other", 2);
  rig.ask("drain", Doc{}.set("node", "a"));
  {
    GoalFile file(folder.path + "/deep/er");
    REQUIRE(file.open());
    CHECK(file.load().value().deployments.empty());
    GoalFile second(folder.path + "/deep/er");
    CHECK(second.open().error().code == Errc::fenced);
    GoalDurable durable(*rig.core, file);
    BalancerOut out;
    REQUIRE(durable.persist(out));
    CHECK(durable.saves() == 0);  // nothing changed
    out.goal_changed = true;
    REQUIRE(durable.persist(out));
    CHECK(durable.saves() == 1);
  }
  GoalFile file(folder.path + "/deep/er");
  REQUIRE(file.open());
  auto goal = file.load();
  REQUIRE(goal);
  CHECK(to_json(goal_doc(*goal)) == to_json(goal_doc(rig.core->goal())));
  CHECK(goal->drained.count("a") == 1);
  CHECK(goal->deployments.at("app").spec() == rig.core->goal().deployments.at("app").spec());
}

TEST_CASE("a damaged goal is an error that names the file and is left as it is") {
  Folder folder;
  GoalFile file(folder.path);
  REQUIRE(file.open());
  const char* bad[] = {
      "{",
      "[]",
      "{\"format\": 2}",
      R"({"format": 1, "deployments": [{"name": "x", "current": 1, "versions": []}]})",
      R"({"format": 1, "deployments": [{"name": "x", "current": 1, "next_version": 2,
          "versions": [{"version": 1, "spec": {"code": 5}}]}]})",
      R"({"format": 1, "deployments": [{"name": "x", "current": 1, "next_version": 1,
          "versions": [{"version": 1, "spec": {"code": "a"}}]}]})",
      R"({"format": 1, "deployments": [{"name": "x", "current": 1, "stable": 7, "next_version": 2,
          "versions": [{"version": 1, "spec": {"code": "a"}}]}]})"};
  for (const char* text : bad) {
    std::ofstream(file.path()) << text;
    auto goal = file.load();
    REQUIRE_FALSE(goal);
    CHECK(goal.error().code == Errc::corrupt);
    CHECK(goal.error().detail.find(file.path()) == 0);
  }
}

TEST_CASE("only so many versions are kept and those that matter always") {
  BalancerRig rig;
  rig.add("a");
  rig.run(2'000);
  rig.deploy("app", app(1, "first.so"));
  rig.run(6'000);
  for (int i = 0; i < 12; ++i) rig.deploy("app", app(1, "v" + std::to_string(i) + ".so"));
  const DeploymentGoal& d = rig.disk.deployments.at("app");
  CHECK(d.versions.size() == DeploymentGoal::kVersionsMax);
  CHECK(d.stable == 1);
  CHECK(d.find(1) != nullptr);
  CHECK(d.current == 13);
}
