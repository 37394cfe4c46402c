// Admin verbs: what operators want. Whatever changes the goal is answered when it is durable.
#include <algorithm>

#include "services/balancer/core/balancer.h"

namespace dray {
namespace {

constexpr size_t kDeploymentsMax = 1024;
constexpr int64_t kReplicasMax = 100'000;

std::string known_verbs() {
  return "balancer knows: status, deployments, explain, nodes, deploy, scale, rollback, undeploy, "
         "drain";
}

}  // namespace

void Balancer::on_admin(SessionId from, const Envelope& e, const Admin& m, Now now, Out& out) {
  auto reply = admin(m, now, out);
  if (!reply) ++counters_.rejected;
  Message message = reply ? Message(AdminReply{std::move(reply).value()})
                          : make_reject(reply.error().code, reply.error().detail);
  out.after_sync.push_back(reply_to(from, e, std::move(message)));
}

Result<Doc> Balancer::admin(const Admin& m, Now now, Out& out) {
  if (m.verb == "status") return to_doc(now);
  if (m.verb == "deployments") return deployments_doc(std::string(m.args["name"].as_text()), now);
  if (m.verb == "nodes") return nodes_doc(now);
  if (m.verb == "deploy") return deploy(unflatten(m.args), now, out);
  if (m.verb == "scale") return set_scale(m.args, now, out);
  if (m.verb == "rollback") return rollback(m.args, now, out);
  if (m.verb == "undeploy") return undeploy(m.args, now, out);
  if (m.verb == "drain") return drain(m.args, now, out);
  if (m.verb != "explain") return make_error(Errc::bad_argument, known_verbs());
  DRAY_TRY_ASSIGN(DeploymentGoal * d, find_deployment(m.args));
  return explain_doc(*d, now);
}

Result<DeploymentGoal*> Balancer::find_deployment(const Doc& args) {
  const std::string name(args["name"].as_text());
  if (name.empty()) return make_error(Errc::bad_argument, "name is missing");
  const auto it = goal_.deployments.find(name);
  if (it == goal_.deployments.end())
    return make_error(Errc::not_found, "no deployment '" + name.substr(0, 60) + "'");
  return &it->second;
}

// A handler has one deployment, or its load and its replicas could not be told apart.
Status Balancer::check_handlers(const DeploymentSpec& spec) const {
  for (const auto& [name, d] : goal_.deployments) {
    if (name == spec.name) continue;
    for (const std::string& theirs : d.all_handlers())
      if (std::find(spec.handlers.begin(), spec.handlers.end(), theirs) != spec.handlers.end())
        return make_error(Errc::conflict,
                          "handlers: '" + theirs + "' belongs to deployment '" + name + "'");
  }
  return {};
}

// Empty, or why no node that is here could ever run it.
std::string Balancer::find_room(const DeploymentSpec& spec) const {
  size_t reported = 0;
  for (const auto& [name, node] : nodes_) {
    if (!node.reported) continue;
    ++reported;
    if (could_serve_when_idle(node.state, spec.request)) return {};
  }
  if (reported == 0) return "no worker reports to the balancer yet";
  return "none of the " + std::to_string(reported) + " nodes could run it, even if it were idle";
}

Result<Doc> Balancer::deploy(const Doc& args, Now now, Out& out) {
  const std::string name(args["name"].as_text());
  ParsedSpec parsed = parse_spec(name, args["spec"]);
  if (parsed.problems.empty()) parsed.problems = fresh_problems(parsed.spec);
  if (!parsed.problems.empty())
    return make_error(Errc::bad_argument, problems_text(parsed.problems));
  DRAY_TRY(check_handlers(parsed.spec));
  const auto it = goal_.deployments.find(name);
  const bool is_new = it == goal_.deployments.end();
  if (is_new && goal_.deployments.size() >= kDeploymentsMax)
    return make_error(Errc::overloaded, "there are 1024 deployments; undeploy one first");
  const bool is_same = !is_new && it->second.spec() == parsed.spec;
  const bool in_place = !is_new && it->second.spec().same_replicas(parsed.spec);
  Doc reply;
  reply.set("name", name);
  reply.set("action", is_new ? "new" : is_same ? "unchanged" : in_place ? "in place" : "rolls");
  if (const std::string why = find_room(parsed.spec); !why.empty()) reply.set("warning", why);
  if (!args["dry_run"].as_bool() && !is_same) {
    DeploymentGoal& d = goal_.deployments[name];
    Work& work = work_[name];
    d.name = name;
    if (in_place) {
      const bool was_auto = d.spec().autoscale;
      const int64_t before = d.replicas();
      if (d.spec().user_config != parsed.spec.user_config) ++d.config_version;
      d.spec() = std::move(parsed.spec);
      if (d.spec().autoscale && !was_auto) d.desired = before;
    } else {
      d.add(std::move(parsed.spec), now.wall_ms);
      work.failures = 0;
      work.retry_at = {};
      work.avoid.clear();
      work.trouble.clear();
    }
    decide(work, now, out, name, "deployed version " + std::to_string(d.current),
           in_place ? "in place"
           : is_new ? "new"
                    : "a roll begins");
    goal_dirty_ = dirty_ = true;
  }
  const auto after = goal_.deployments.find(name);
  reply.set("version", after == goal_.deployments.end() ? 0 : after->second.current);
  reply.set("dry_run", args["dry_run"].as_bool());
  return reply;
}

Result<Doc> Balancer::set_scale(const Doc& args, Now now, Out& out) {
  DRAY_TRY_ASSIGN(DeploymentGoal * d, find_deployment(args));
  const Doc& replicas = args["replicas"];
  const int64_t n = replicas.as_int(-1);
  const bool is_auto = replicas.as_text() == "auto";
  if (!is_auto && (n < 0 || n > kReplicasMax))
    return make_error(Errc::bad_argument, "replicas must be 0 to 100000, or \"auto\"");
  DeploymentSpec& spec = d->spec();
  const int64_t before = d->replicas();
  if (is_auto && !spec.autoscale) {
    if (spec.scale == [&] {
          ScaleParams plain;
          plain.max_ongoing_requests = spec.scale.max_ongoing_requests;
          return plain;
        }())
      spec.scale.max_replicas = 100;  // never said: as "auto" says it
    spec.autoscale = true;
    d->desired = std::max<int64_t>(before, spec.scale.min_replicas);
  } else if (!is_auto) {
    spec.autoscale = false;
    spec.num_replicas = n;
  }
  decide(work_[d->name], now, out, d->name,
         is_auto ? std::string("scaled automatically from now on")
                 : "scaled from " + std::to_string(before) + " to " + std::to_string(n),
         "an operator said so");
  goal_dirty_ = dirty_ = true;
  Doc reply;
  reply.set("name", d->name).set("before", before).set("replicas", d->replicas());
  reply.set("autoscale", spec.autoscale).set("version", d->current);
  return reply;
}

Result<Doc> Balancer::rollback(const Doc& args, Now now, Out& out) {
  DRAY_TRY_ASSIGN(DeploymentGoal * d, find_deployment(args));
  uint64_t to = static_cast<uint64_t>(std::max<int64_t>(0, args["version"].as_int()));
  if (to == 0 && d->stable != d->current) to = d->stable;  // a roll that goes on
  if (to == 0)
    for (const GoalVersion& v : d->versions)
      if (v.version != d->current && v.version != d->failed_version) to = v.version;
  if (to == 0) return make_error(Errc::not_found, "there is no other version of '" + d->name + "'");
  if (d->find(to) == nullptr) {
    std::string known;
    for (const GoalVersion& v : d->versions)
      known += (known.empty() ? "" : ", ") + std::to_string(v.version);
    return make_error(Errc::not_found,
                      "version " + std::to_string(to) + " is not kept; there are " + known);
  }
  const uint64_t from = d->current;
  if (from != to) {
    d->go_back_to(to);
    Work& work = work_[d->name];
    work.failures = 0;
    work.retry_at = {};
    work.avoid.clear();
    decide(work, now, out, d->name,
           "goes back from version " + std::to_string(from) + " to " + std::to_string(to),
           "an operator said so");
    goal_dirty_ = dirty_ = true;
  }
  Doc reply;
  reply.set("name", d->name).set("from", from).set("version", to);
  return reply;
}

Result<Doc> Balancer::undeploy(const Doc& args, Now, Out&) {
  DRAY_TRY_ASSIGN(DeploymentGoal * d, find_deployment(args));
  const std::string name = d->name;
  int64_t stopped = 0;
  for (auto& [id, r] : replicas_)
    if (r.deployment == name && !r.leaving) {
      stop(r);
      ++stopped;
    }
  goal_.deployments.erase(name);
  work_.erase(name);
  goal_dirty_ = dirty_ = true;
  Doc reply;
  reply.set("name", name).set("stopped", stopped);
  return reply;
}

Result<Doc> Balancer::drain(const Doc& args, Now, Out& out) {
  const std::string node(args["node"].as_text());
  const bool on = args["on"].as_bool(true);
  if (on && nodes_.count(node) == 0)
    return make_error(Errc::not_found, "no node '" + node.substr(0, 60) + "'; see: dray nodes");
  if (on)
    goal_.drained.insert(node);
  else
    goal_.drained.erase(node);
  out.note("drain", "node=" + node + " on=" + (on ? "true" : "false"));
  goal_dirty_ = dirty_ = true;
  int64_t there = 0;
  for (const auto& [id, r] : replicas_) there += r.node == node ? 1 : 0;
  Doc reply;
  reply.set("node", node).set("drained", on).set("replicas", there);
  return reply;
}

}  // namespace dray
