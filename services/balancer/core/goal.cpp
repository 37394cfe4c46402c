#include "services/balancer/core/goal.h"

#include <algorithm>

#include "common/base/assert.h"
#include "common/deploy/scale_params.h"

namespace dray {
namespace {

constexpr int64_t kFormat = 1;

Doc texts(const auto& list) {
  Doc doc{Doc::List{}};
  for (const std::string& text : list) doc.push(text);
  return doc;
}

Doc deployment_doc(const DeploymentGoal& d) {
  Doc doc;
  doc.set("name", d.name);
  doc.set("current", d.current);
  doc.set("stable", d.stable);
  doc.set("next_version", d.next_version);
  doc.set("config_version", d.config_version);
  doc.set("desired", d.desired);
  if (d.failed_version != 0) {
    doc.set("failed_version", d.failed_version);
    doc.set("failed_why", d.failed_why);
  }
  if (!d.handlers.empty()) doc.set("handlers", texts(d.handlers));
  Doc versions{Doc::List{}};
  for (const GoalVersion& v : d.versions) {
    Doc entry;
    entry.set("version", v.version);
    entry.set("deployed_at_ms", v.wall_ms);
    entry.set("spec", spec_doc(v.spec));
    // For the day when it is scaled automatically again.
    if (!v.spec.autoscale) entry.set("autoscaling_config", scale_doc(v.spec.scale));
    versions.push(std::move(entry));
  }
  doc.set("versions", std::move(versions));
  return doc;
}

uint64_t number(const Doc& doc, std::string_view key) {
  return static_cast<uint64_t>(std::max<int64_t>(0, doc[key].as_int()));
}

Result<DeploymentGoal> parse_deployment(const Doc& doc) {
  DeploymentGoal d;
  d.name = std::string(doc["name"].as_text());
  const auto bad = [&](const std::string& what) {
    return make_error(Errc::corrupt, "deployment '" + d.name + "': " + what);
  };
  d.current = number(doc, "current");
  d.stable = number(doc, "stable");
  d.next_version = number(doc, "next_version");
  d.config_version = number(doc, "config_version");
  d.desired = doc["desired"].as_int();
  d.failed_version = number(doc, "failed_version");
  d.failed_why = std::string(doc["failed_why"].as_text());
  for (const Doc& handler : doc["handlers"].list()) d.handlers.emplace_back(handler.as_text());
  for (const Doc& entry : doc["versions"].list()) {
    ParsedSpec parsed = parse_spec(d.name, entry["spec"]);
    const uint64_t version = number(entry, "version");
    if (!parsed.problems.empty())
      return bad("version " + std::to_string(version) + ": " + problems_text(parsed.problems));
    if (!parsed.spec.autoscale) {
      auto scale = parse_scale(entry["autoscaling_config"]);
      if (!scale) return bad(scale.error().detail);
      parsed.spec.scale = *scale;
      parsed.spec.scale.max_ongoing_requests = parsed.spec.max_ongoing_requests;
    }
    d.versions.push_back({version, entry["deployed_at_ms"].as_int(), std::move(parsed.spec)});
  }
  if (d.find(d.current) == nullptr) return bad("its current version is missing");
  if (d.stable != 0 && d.find(d.stable) == nullptr) return bad("its stable version is missing");
  for (const GoalVersion& v : d.versions)
    if (v.version >= d.next_version) return bad("next_version is used already");
  return d;
}

}  // namespace

const GoalVersion* DeploymentGoal::find(uint64_t version) const {
  for (const GoalVersion& v : versions)
    if (v.version == version) return &v;
  return nullptr;
}

const DeploymentSpec& DeploymentGoal::spec() const {
  const GoalVersion* v = find(current);
  DRAY_ASSERT(v != nullptr);
  return v->spec;
}

DeploymentSpec& DeploymentGoal::spec() {
  return const_cast<DeploymentSpec&>(static_cast<const DeploymentGoal*>(this)->spec());
}

const std::vector<std::string>& DeploymentGoal::all_handlers() const {
  return spec().handlers.empty() ? handlers : spec().handlers;
}

int64_t DeploymentGoal::replicas() const {
  const DeploymentSpec& s = spec();
  if (!s.autoscale) return s.num_replicas;
  return std::clamp(desired, s.scale.min_replicas,
                    std::max(s.scale.min_replicas, s.scale.max_replicas));
}

void DeploymentGoal::add(DeploymentSpec new_spec, int64_t wall_ms) {
  const bool first = versions.empty();
  const bool was_auto = !first && spec().autoscale;
  const int64_t before = first ? 0 : replicas();
  versions.push_back({next_version, wall_ms, std::move(new_spec)});
  current = next_version++;
  // A deployment that is scaled already keeps its size through a new version.
  if (spec().autoscale && !was_auto)
    desired = first ? initial_replicas(spec().scale) : std::max<int64_t>(before, 0);
  while (versions.size() > kVersionsMax) {
    const auto oldest = std::find_if(versions.begin(), versions.end(), [&](const GoalVersion& v) {
      return v.version != current && v.version != stable;
    });
    versions.erase(oldest);
  }
}

void DeploymentGoal::go_back_to(uint64_t version) {
  const DeploymentSpec now = spec();
  DRAY_ASSERT(find(version) != nullptr);
  current = version;
  spec().autoscale = now.autoscale;
  spec().num_replicas = now.num_replicas;
  spec().scale = now.scale;
  spec().scale.max_ongoing_requests = spec().max_ongoing_requests;
  ++config_version;  // its user_config is another one
}

Doc goal_doc(const Goal& goal) {
  Doc doc;
  doc.set("format", kFormat);
  doc.set("epoch", goal.epoch);
  Doc list{Doc::List{}};
  for (const auto& [name, d] : goal.deployments) list.push(deployment_doc(d));
  doc.set("deployments", std::move(list));
  doc.set("drained", texts(goal.drained));
  return doc;
}

Result<Goal> parse_goal(const Doc& doc) {
  if (doc["format"].as_int() != kFormat)
    return make_error(Errc::corrupt, "goal: format is not " + std::to_string(kFormat) +
                                         ", made by another version?");
  Goal goal;
  goal.epoch = number(doc, "epoch");
  for (const Doc& entry : doc["deployments"].list()) {
    DRAY_TRY_ASSIGN(DeploymentGoal d, parse_deployment(entry));
    const std::string name = d.name;
    goal.deployments.emplace(name, std::move(d));
  }
  for (const Doc& node : doc["drained"].list()) goal.drained.emplace(node.as_text());
  return goal;
}

}  // namespace dray
