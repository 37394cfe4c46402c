#include "broker/shell/broker_service.h"

#include <filesystem>

#include "broker/core/broker.h"
#include "broker/shell/journal_durable.h"
#include "common/journal/file_journal.h"
#include "common/service/log.h"
#include "common/service/metrics.h"
#include "common/service/service.h"

namespace dray::broker {
namespace {

BrokerOptions broker_options(const Config& c) {
  BrokerOptions o;
  o.tasks_max = static_cast<uint64_t>(c.integer("broker.tasks_max"));
  o.journal_budget =
      c.size("broker.journal_budget") / 4;  // live payload; history and copies need room
  o.journal_keep = std::min(c.size("broker.journal_keep"), c.size("broker.journal_budget") / 4);
  o.known_ids_max = static_cast<uint64_t>(c.integer("broker.known_ids_max"));
  o.dead_letters_max = static_cast<uint64_t>(c.integer("broker.dead_letters_max"));
  o.lease_ttl = c.duration("broker.lease_ttl");
  o.resume_window = c.duration("broker.resume_window");
  o.beat = c.duration("broker.beat_interval");
  o.seed = random_seed();
  return o;
}

HostOptions host_options(const Config& c, uint64_t epoch) {
  HostOptions o;
  o.link.role = Role::broker;
  o.link.name = "broker";
  o.link.boot = random_boot_id();
  o.link.epoch = epoch;
  o.link.beat = c.duration("broker.beat_interval");
  o.link.liveness = c.duration("broker.lease_ttl");
  o.listen = {{0, c.text("broker.endpoint")}};
  if (c.boolean("balancer.enabled")) o.dial = {{1, c.text("balancer.endpoint"), Role::balancer}};
  o.drain_timeout = 10s;
  return o;
}

void export_metrics(const Broker& core, const Journal& journal, Now now) {
  const BrokerCounters& c = core.counters();
  auto total = [](const char* name, const char* help, uint64_t v) {
    counter(name, help).set_total(v);
  };
  total("dray_broker_tasks_submitted_total", "Tasks accepted.", c.submitted);
  total("dray_broker_submits_rejected_total", "Submits refused.", c.rejected);
  total("dray_broker_tasks_dispatched_total", "Leases given.", c.dispatched);
  total("dray_broker_results_stale_total", "Results refused as stale.", c.stale);
  total("dray_broker_leases_lost_total", "Leases ended by a lost worker.", c.lost_leases);
  total("dray_broker_retries_total", "Attempts that failed and are repeated.", c.retries);
  total("dray_broker_records_total", "Journal records written.", c.records);
  auto ended = [](const char* state, uint64_t v) {
    counter("dray_broker_tasks_finished_total", "Tasks that ended.", {{"state", state}})
        .set_total(v);
  };
  ended("succeeded", c.succeeded);
  ended("failed", c.failed);
  ended("dead", c.dead);
  ended("cancelled", c.cancelled);
  ended("expired", c.expired);
  Doc status = core.status(now);
  auto level = [&](const char* name, const char* help, const char* key) {
    gauge(name, help).set(status[key].as_number());
  };
  level("dray_broker_tasks_live", "Unfinished tasks.", "tasks");
  level("dray_broker_tasks_ready", "Tasks that could start now.", "ready");
  level("dray_broker_tasks_running", "Tasks leased to workers.", "running");
  level("dray_broker_dead_letters", "Dead letters kept.", "dead_letters");
  level("dray_broker_workers", "Connected workers.", "workers");
  level("dray_broker_journal_bytes", "Bytes of records kept.", "journal_bytes");
  JournalHealth h = journal.health();
  total("dray_broker_journal_syncs_total", "Syncs of the journal.", h.syncs);
  gauge("dray_broker_journal_sync_seconds_p99", "99th percentile of the last syncs.")
      .set(static_cast<double>(h.sync_us_p99) / 1e6);
}

}  // namespace

int run_broker(const Config& config) {
  start_log(config, "broker");
  std::error_code ec;
  std::filesystem::create_directories(config.text("broker.journal_dir"), ec);
  FileJournalOptions jo;
  jo.dir = config.text("broker.journal_dir");
  jo.segment_bytes = config.size("broker.segment_bytes");
  jo.cache_bytes = config.size("broker.payload_cache");
  jo.disk_budget_bytes = 0;  // the core refuses work before the budget; results may use the rest
  FileJournal journal(jo);
  Broker core(broker_options(config));
  JournalDurable durable(journal);
  Time begin = read_clock().mono;
  Status recovered = durable.recover(core, read_clock());
  if (!recovered) return report_failure("recover the journal", recovered.error());
  core.check();
  log_event(LogLevel::info, "recovered",
            {{"epoch", core.epoch()},
             {"tasks", core.ledger().live_tasks()},
             {"cut_bytes", journal.tail().cut_bytes},
             {"ms", to_ms(read_clock().mono - begin)}});

  Host<Broker, JournalDurable> host(host_options(config, core.epoch()), core, durable);
  uint64_t min_free = config.size("broker.min_free_disk");
  Time next_look{};
  ServiceHooks<Broker> hooks;
  hooks.state = [](Broker& b, Now now) { return to_json(b.status(now)); };
  hooks.metrics = [&](Broker& b, Now now) { export_metrics(b, journal, now); };
  hooks.poll = [&](Now now, BrokerOut&) {
    if (now.mono < next_look) return;
    next_look = now.mono + 100ms;
    JournalHealth h = journal.health();
    core.set_space_low(!h.writable || h.bytes_free < min_free);
  };
  int code = run_service("broker", config.text("broker.http"), host, std::move(hooks));
  log_event(LogLevel::info, "stopped", {{"code", code}});
  log_flush();
  return code;
}

}  // namespace dray::broker
