// What the balancer tells about itself.
#include <algorithm>
#include <set>

#include "services/balancer/core/balancer.h"

namespace dray {
namespace {

Doc texts(const auto& list) {
  Doc doc{Doc::List{}};
  for (const std::string& text : list) doc.push(text);
  return doc;
}

Doc load_doc(const LoadSum& sum) {
  Doc doc;
  doc.set("ongoing", sum.ongoing).set("waiting", sum.waiting).set("queued_tasks", sum.queued);
  doc.set("arrivals_per_s", sum.arrivals_per_s).set("replies_per_s", sum.replies_per_s);
  doc.set("refusals_per_s", sum.refusals_per_s);
  doc.set("p50_us", sum.p50_us).set("p99_us", sum.p99_us);
  return doc;
}

}  // namespace

Doc Balancer::to_doc(Now now) const {
  Doc doc;
  doc.set("role", "balancer");
  doc.set("epoch", goal_.epoch);
  doc.set("settled", is_settled(now));
  doc.set("nodes", nodes_up());
  doc.set("suspects", make_view().suspects.size());
  doc.set("deployments", goal_.deployments.size());
  doc.set("replicas", replicas_.size());
  doc.set("ready_replicas", ready_replicas());
  doc.set("has_router", loads_.has_router());
  const BalancerCounters& c = counters_;
  Doc counts;
  counts.set("starts", c.starts).set("stops", c.stops).set("failed", c.failed_starts);
  counts.set("rolled_back", c.rolled_back).set("ups", c.ups).set("downs", c.downs);
  counts.set("deaths", c.deaths).set("suspicions", c.suspicions).set("bad", c.bad);
  doc.set("counters", std::move(counts));
  return doc;
}

Doc Balancer::deployments_doc(const std::string& only, Now now) const {
  Doc list{Doc::List{}};
  for (const auto& [name, d] : goal_.deployments)
    if (only.empty() || only == name) list.push(deployment_doc(d, now));
  Doc doc;
  doc.set("deployments", std::move(list));
  return doc;
}

Doc Balancer::deployment_doc(const DeploymentGoal& d, Now now) const {
  const Count c = count(d, now);
  const Work& work = work_.at(d.name);
  const int64_t wanted = d.replicas();
  const bool is_right = c.good >= wanted && c.stale.empty() && c.starting == 0 &&
                        static_cast<int64_t>(c.fresh.size()) == wanted;
  // A roll is over when its version is stable; with no replica wanted there is nothing to prove.
  const bool over = is_right && (d.stable == d.current || wanted == 0);
  std::string state = "starting";
  if (over)
    state = wanted == 0 ? "idle" : "ready";
  else if (work.failures > 0 && work.failing == d.current)
    state = "failing";
  else if (d.stable != 0 && d.stable != d.current)
    state = "rolling";
  else if (is_right)
    state = "proving";
  else if (c.ready > 0)
    state = "scaling";
  Doc doc;
  doc.set("name", d.name).set("state", state);
  doc.set("version", d.current).set("stable_version", d.stable);
  doc.set("ready", c.ready).set("desired", wanted).set("starting", c.starting);
  doc.set("good", c.good).set("old", c.stale.size()).set("leaving", c.leaving.size());
  doc.set("autoscale", d.spec().autoscale);
  std::set<std::string> nodes;
  for (const auto& [id, r] : replicas_)
    if (r.deployment == d.name && !r.leaving) nodes.insert(r.node);
  doc.set("nodes", texts(nodes)).set("handlers", texts(d.all_handlers()));
  doc.set("trouble", over ? std::string() : work.trouble);
  if (d.failed_version != 0)
    doc.set("failed_version", d.failed_version).set("failed_why", d.failed_why);
  doc.set("load", load_doc(loads_.of(d.all_handlers())));
  doc.set("spec", spec_doc(d.spec()));
  return doc;
}

Doc Balancer::explain_doc(const DeploymentGoal& d, Now now) const {
  Doc doc = deployment_doc(d, now);
  const Work& work = work_.at(d.name);
  Doc list{Doc::List{}};
  for (const auto& [id, r] : replicas_) {
    if (r.deployment != d.name) continue;
    Doc entry;
    entry.set("id", id & 0xffff'ffff).set("node", r.node).set("version", r.version);
    entry.set("state", r.leaving ? "leaving" : std::string(replica_state_name(r.state)));
    entry.set("standby", r.standby).set("ongoing", r.status.ongoing);
    entry.set("restarts", r.status.restarts).set("error", r.status.error);
    entry.set("devices", texts(r.status.devices)).set("started_ms", r.status.started_ms);
    if (r.good_since != kNever) entry.set("well_for_ms", to_ms(now.mono - r.good_since));
    list.push(std::move(entry));
  }
  doc.set("replica_list", std::move(list));
  Doc versions{Doc::List{}};
  for (const GoalVersion& v : d.versions) {
    Doc entry;
    entry.set("version", v.version).set("deployed_at_ms", v.wall_ms);
    versions.push(std::move(entry));
  }
  doc.set("versions", std::move(versions));
  if (work.look) doc.set("autoscaler", work.look->to_doc(d.spec().scale));
  if (now.mono < work.retry_at) doc.set("retry_in_ms", to_ms(work.retry_at - now.mono));
  doc.set("failures", work.failures);
  Doc decisions{Doc::List{}};
  for (const Decision& decision : work.decisions) {
    Doc entry;
    entry.set("ago_ms", now.wall_ms - decision.wall_ms);
    entry.set("what", decision.what).set("why", decision.why).set("times", decision.times);
    decisions.push(std::move(entry));
  }
  doc.set("decisions", std::move(decisions));
  return doc;
}

Doc Balancer::nodes_doc(Now now) const {
  Doc list{Doc::List{}};
  for (const auto& [name, node] : nodes_) {
    Doc entry;
    entry.set("name", name);
    entry.set("state", node.session == SessionId::none ? "lost"
                       : !node.reported                ? "connected"
                       : node.suspect                  ? "suspect"
                                                       : "up");
    entry.set("draining", node.draining).set("drained", goal_.drained.count(name) != 0);
    if (node.clock) {
      entry.set("silent_ms", to_ms(node.clock->silence(now.mono)));
      entry.set("phi", node.clock->phi(now.mono));
    }
    entry.set("devices", node.state.devices.size());
    entry.set("free_gpus", static_cast<double>(node.state.free_units()) / kResourceUnit);
    Doc pools{Doc::Object{}};
    for (const PoolState& pool : node.state.pools)
      pools.set(pool.name, static_cast<double>(pool.free()) / kResourceUnit);
    entry.set("free", std::move(pools));
    int64_t there = 0;
    for (const auto& [id, r] : replicas_) there += r.node == name && !r.leaving ? 1 : 0;
    entry.set("replicas", there).set("goal", node.sent).set("goal_reached", node.acked);
    list.push(std::move(entry));
  }
  Doc doc;
  doc.set("nodes", std::move(list));
  return doc;
}

}  // namespace dray
