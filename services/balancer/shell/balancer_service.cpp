#include "services/balancer/shell/balancer_service.h"

#include <algorithm>

#include "common/service/log.h"
#include "common/service/metrics.h"
#include "common/service/service.h"
#include "services/balancer/shell/goal_file.h"

namespace dray {
namespace {

constexpr Duration kLookEvery = 100ms;  // at the links' signs of life

BalancerOptions balancer_options(const Config& c) {
  BalancerOptions o;
  o.settle = c.duration("balancer.settle");
  o.prove = c.duration("balancer.prove_time");
  o.beat = c.duration("broker.beat_interval");
  o.roll_failures = static_cast<int>(c.integer("balancer.roll_failures"));
  return o;
}

HostOptions host_options(const Config& c) {
  HostOptions o;
  o.link.role = Role::balancer;
  o.link.name = "balancer";
  o.link.boot = random_boot_id();
  // Who dials takes over this beat, so it is the one of the broker and its workers.
  o.link.beat = c.duration("broker.beat_interval");
  o.link.liveness = std::max<Duration>(5s, 4 * o.link.beat);
  o.listen = {{Balancer::kPeers, c.text("balancer.endpoint")}};
  o.drain_timeout = 5s;
  return o;
}

std::vector<std::string> not_ready(Balancer& core) {
  std::vector<std::string> reasons;
  if (!core.has_router()) reasons.push_back("no router");
  return reasons;
}

void export_metrics(const Balancer& core, const GoalDurable& durable) {
  const BalancerCounters& c = core.counters();
  export_total("dray_balancer_reports_total", "Reports of workers.", c.reports);
  export_total("dray_balancer_loads_total", "Loads told by routers.", c.loads);
  export_total("dray_balancer_places_total", "Lists of replicas sent to workers.", c.places);
  export_total("dray_balancer_starts_total", "Replicas placed.", c.starts);
  export_total("dray_balancer_stops_total", "Replicas told to stop.", c.stops);
  export_total("dray_balancer_failures_total", "Replicas that failed or turned unhealthy.",
               c.failed_starts);
  export_total("dray_balancer_rolled_back_total", "Versions given up.", c.rolled_back);
  export_total("dray_balancer_scaled_up_total", "Decisions for more replicas.", c.ups);
  export_total("dray_balancer_scaled_down_total", "Decisions for fewer replicas.", c.downs);
  export_total("dray_balancer_deaths_total", "Workers declared dead.", c.deaths);
  export_total("dray_balancer_suspicions_total", "Workers that became suspect.", c.suspicions);
  export_total("dray_balancer_bad_total", "Messages and parts that make no sense.", c.bad);
  export_total("dray_balancer_rejected_total", "Admin requests refused.", c.rejected);
  export_total("dray_balancer_goal_saves_total", "Times the goal was written.", durable.saves());
  export_level("dray_balancer_nodes", "Connected workers.", core.nodes_up());
  export_level("dray_balancer_suspects", "Workers that get no new work.", core.suspects());
  export_level("dray_balancer_deployments", "Deployments.", core.goal().deployments.size());
  export_level("dray_balancer_replicas", "Replicas, those that leave included.", core.replicas());
  export_level("dray_balancer_ready_replicas", "Replicas that serve.", core.ready_replicas());
  for (const auto& [name, d] : core.goal().deployments)
    gauge("dray_balancer_desired_replicas", "Replicas wanted.", {{"deployment", name}})
        .set(static_cast<double>(d.replicas()));
}

}  // namespace

int run_balancer(const Config& config) {
  start_log(config, "balancer");
  GoalFile file(config.text("balancer.data_dir"));
  if (Status opened = file.open(); !opened)
    return report_failure("open the data folder", opened.error());
  auto goal = file.load();
  if (!goal) return report_failure("read the goal", goal.error());
  Balancer core(std::move(*goal), balancer_options(config));
  log_event(LogLevel::info, "recovered",
            {{"epoch", core.goal().epoch}, {"deployments", core.goal().deployments.size()}});
  GoalDurable durable(core, file);
  Host<Balancer, GoalDurable> host(host_options(config), core, durable);
  ServiceHooks<Balancer> hooks;
  hooks.not_ready = not_ready;
  hooks.state = [](Balancer& b, Now now) { return to_json(b.to_doc(now)); };
  hooks.metrics = [&](Balancer& b, Now) { export_metrics(b, durable); };
  hooks.poll = [&, next = Time{}](Now now, BalancerOut&) mutable {
    if (now.mono < next) return;
    next = now.mono + kLookEvery;
    for (const SessionId id : core.worker_sessions()) core.on_heard(id, host.links().heard(id));
  };
  const int code = run_service("balancer", config.text("balancer.http"), host, std::move(hooks));
  log_event(LogLevel::info, "stopped", {{"code", code}});
  log_flush();
  return code;
}

}  // namespace dray
