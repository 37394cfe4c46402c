#include "services/aggregator/shell/aggregator_service.h"

#include <filesystem>

#include "common/service/log.h"
#include "common/service/metrics.h"
#include "common/service/service.h"
#include "services/aggregator/shell/store_durable.h"
#include "services/aggregator/store/rocks_store.h"

namespace dray {
namespace {

AggregatorOptions aggregator_options(const Config& c) {
  AggregatorOptions o;
  o.result_ttl_ms = to_ms(c.duration("aggregator.result_ttl"));
  o.size_budget = c.size("aggregator.size_budget");
  o.waiters_max = static_cast<uint64_t>(c.integer("aggregator.waiters_max"));
  o.groups.done_ttl_ms = o.result_ttl_ms;
  return o;
}

HostOptions host_options(const Config& c) {
  HostOptions o;
  o.link.role = Role::aggregator;
  o.link.name = "aggregator";
  o.link.boot = random_boot_id();
  o.listen = {{Aggregator::kRouters, c.text("aggregator.endpoint")}};
  o.dial = {{Aggregator::kBroker, c.text("broker.endpoint"), Role::broker}};
  o.drain_timeout = 5s;
  return o;
}

std::vector<std::string> not_ready(Aggregator& core) {
  std::vector<std::string> reasons;
  if (!core.has_broker()) reasons.push_back("no broker");
  if (core.stalled()) reasons.push_back("the disk is full");
  if (core.refused()) reasons.push_back("the broker does not know our stream position");
  return reasons;
}

void export_metrics(const Aggregator& core, const ResultStore& store) {
  const AggregatorCounters& c = core.counters();
  export_total("dray_aggregator_records_total", "Finished records taken.", c.records);
  export_total("dray_aggregator_results_total", "Results taken.", c.results);
  export_total("dray_aggregator_duplicates_total", "Records that came again.", c.duplicates);
  export_total("dray_aggregator_holes_total", "Records that did not continue the stream.", c.holes);
  export_total("dray_aggregator_gaps_total", "Holes that were skipped.", c.gaps);
  export_total("dray_aggregator_stalls_total", "Turns that found the disk full.", c.stalls);
  export_total("dray_aggregator_swept_total", "Results dropped by age or size.", c.swept);
  export_total("dray_aggregator_rejected_total", "Requests refused.", c.rejected);
  export_total("dray_aggregator_read_errors_total", "Reads of the store that failed.",
               c.read_errors);
  export_level("dray_aggregator_stream_pos", "Last record that is durable.", core.position().pos);
  export_level("dray_aggregator_waiters", "Ids that somebody waits for.", core.waits().ids());
  export_level("dray_aggregator_groups", "Groups.", core.groups().size());
  const StoreHealth h = store.health();
  export_level("dray_aggregator_store_results", "Results kept.", h.results);
  export_level("dray_aggregator_store_bytes", "Bytes of results kept.", h.bytes);
  export_level("dray_aggregator_store_bytes_free", "Free space of the file system.", h.bytes_free);
  export_total("dray_aggregator_commits_total", "Commits of the store.", h.commits);
  gauge("dray_aggregator_commit_seconds_p99", "99th percentile of commits.")
      .set(static_cast<double>(h.sync_us_p99) / 1e6);
}

}  // namespace

int run_aggregator(const Config& config) {
  start_log(config, "aggregator");
  const Time begin = read_clock().mono;
  RocksOptions rocks;
  rocks.path = config.text("aggregator.store_dir");
  rocks.min_free_bytes = config.size("aggregator.min_free_disk");
  std::error_code ec;
  std::filesystem::create_directories(rocks.path, ec);  // an error shows when it is opened
  auto store = open_rocks_store(rocks);
  if (!store) return report_failure("open the result store", store.error());
  auto owner = (*store)->acquire();
  if (!owner) return report_failure("acquire the result store", owner.error());
  Aggregator core(**store, aggregator_options(config));
  if (Status started = core.start(); !started)
    return report_failure("load groups", started.error());
  core.check();
  log_event(LogLevel::info, "recovered",
            {{"owner", *owner},
             {"stream_pos", core.position().pos},
             {"groups", core.groups().size()},
             {"results", (*store)->health().results},
             {"ms", to_ms(read_clock().mono - begin)}});

  StoreDurable durable(core, **store);
  Host<Aggregator, StoreDurable> host(host_options(config), core, durable);
  ServiceHooks<Aggregator> hooks;
  hooks.not_ready = not_ready;
  hooks.state = [](Aggregator& a, Now) { return to_json(a.to_doc()); };
  hooks.metrics = [&](Aggregator& a, Now) { export_metrics(a, **store); };
  const int code =
      run_service("aggregator", config.text("aggregator.http"), host, std::move(hooks));
  log_event(LogLevel::info, "stopped", {{"code", code}});
  log_flush();
  return code;
}

}  // namespace dray
