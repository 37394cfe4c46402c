#include "services/router/shell/router_service.h"

#include <algorithm>

#include "common/service/log.h"
#include "common/service/metrics.h"
#include "common/service/service.h"
#include "services/router/core/router.h"
#include "services/router/shell/call_metrics.h"

namespace dray {
namespace {

// Workers look for a router that went away at least every 1.6 s.
constexpr Duration kSettle = 3s;

RouterOptions router_options(const Config& c) {
  RouterOptions o;
  o.client_credit = static_cast<uint64_t>(c.integer("router.client_credit"));
  o.client_bytes = c.size("router.client_bytes");
  o.inflight_bytes = c.size("router.inflight_bytes");
  o.calls.client_calls = static_cast<uint64_t>(c.integer("router.client_calls"));
  o.calls.client_bytes = o.client_bytes;
  o.calls.call_bytes = c.size("router.call_bytes");
  o.calls.max_queued = static_cast<uint64_t>(c.integer("router.max_queued"));
  o.calls.settle = kSettle;
  o.calls.default_deadline = c.duration("router.call_deadline");
  return o;
}

HostOptions host_options(const Config& c) {
  HostOptions o;
  o.link.role = Role::router;
  o.link.name = c.text("router.name");
  o.link.boot = random_boot_id();
  o.listen = {{Router::kClients, c.text("router.endpoint")},
              {Router::kWorkers, c.text("router.worker_endpoint")}};
  o.dial = {{Router::kBroker, c.text("broker.endpoint"), Role::broker},
            {Router::kAggregator, c.text("aggregator.endpoint"), Role::aggregator}};
  if (c.boolean("balancer.enabled"))
    o.dial.push_back({Router::kBalancer, c.text("balancer.endpoint"), Role::balancer});
  o.spin = c.duration("router.spin");
  o.drain_timeout = std::max<Duration>(5s, c.duration("router.call_deadline"));
  return o;
}

std::vector<std::string> not_ready(Router& core) {
  std::vector<std::string> reasons;
  if (!core.has_broker()) reasons.push_back("no broker");
  if (!core.has_aggregator()) reasons.push_back("no aggregator");
  return reasons;
}

void export_metrics(const Router& core) {
  const RouterCounters& c = core.counters();
  for (const auto& [kind, n] : c.requests)
    counter("dray_router_requests_total", "Requests passed on or answered.",
            {{"kind", std::string(kind_name(kind))}})
        .set_total(n);
  for (const auto& [kind, n] : c.answers)
    counter("dray_router_answers_total", "Answers passed on to clients.",
            {{"kind", std::string(kind_name(kind))}})
        .set_total(n);
  for (size_t i = 0; i < kRefusals; ++i)
    counter("dray_router_refused_total", "Requests refused.",
            {{"reason", refusal_name(static_cast<Refusal>(i))}})
        .set_total(c.refused[i]);
  export_total("dray_router_unknown_route_total", "Answers for clients that left.",
               c.unknown_route);
  export_total("dray_router_late_answers_total", "Answers that nothing waits for.", c.late);
  export_total("dray_router_watch_lost_total", "Clients told that pushes may be missing.",
               c.watch_lost);
  export_level("dray_router_clients", "Connected clients.", core.clients());
  export_level("dray_router_inflight", "Requests in flight.", core.inflight());
  export_level("dray_router_inflight_bytes", "Bytes of requests in flight.", core.inflight_bytes());
  export_call_metrics(core.lane());
}

}  // namespace

int run_router(const Config& config) {
  start_log(config, config.text("router.name"));
  Router core(router_options(config));
  NoDurable durable;
  Host<Router, NoDurable> host(host_options(config), core, durable);
  ServiceHooks<Router> hooks;
  hooks.not_ready = not_ready;
  hooks.state = [](Router& r, Now) { return to_json(r.to_doc()); };
  hooks.metrics = [](Router& r, Now) { export_metrics(r); };
  const int code = run_service("router", config.text("router.http"), host, std::move(hooks));
  log_event(LogLevel::info, "stopped", {{"code", code}});
  log_flush();
  return code;
}

}  // namespace dray
