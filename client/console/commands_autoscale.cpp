// autoscale: what the autoscaler would do with a recorded load, in simulated time.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "client/console/cluster_dir.h"
#include "client/console/commands.h"
#include "client/console/deployments.h"
#include "client/console/svg_plot.h"
#include "common/deploy/scale_model.h"
#include "common/deploy/scale_params.h"

namespace dray::console {
namespace {

constexpr size_t kTraceBytesMax = size_t{256} << 20;
constexpr size_t kRowsMax = 40;  // of changes, in a table

struct DryRun {
  std::string trace, plot;
  std::vector<std::string> sets;
  Millis start{30'000};
  int64_t replicas = 0;
  int64_t slots = 5;
};

ScaleParams params_of(const DryRun& o) {
  ScaleParams params;
  params.max_replicas = 100;
  params.max_ongoing_requests = o.slots;
  for (const std::string& set : o.sets) {
    const size_t equals = set.find('=');
    char* end = nullptr;
    const std::string text = equals == std::string::npos ? "" : set.substr(equals + 1);
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0')
      throw Failure{kUsage, "'" + printable(set, 60) + "' is not FIELD=NUMBER",
                    "see: dray autoscale --help"};
    if (const Status ok = set_scale_field(params, set.substr(0, equals), value); !ok)
      throw Failure{kUsage, ok.error().detail, "see: dray autoscale --help"};
  }
  if (const Status ok = check_scale(params); !ok)
    throw Failure{kUsage, ok.error().detail, "see: dray autoscale --help"};
  return params;
}

Json step_json(const ScaleParams& params, const ModelStep& s) {
  Json doc = parse_json(to_json(s.decision.to_doc(params)));
  Json out = {{"time_s", static_cast<double>(s.at_ms) / 1000},
              {"ongoing", s.load.calls},
              {"backlog", s.load.backlog},
              {"ready", s.ready}};
  out.update(doc);
  return out;
}

bool is_change(const ModelStep& s) { return s.decision.desired != s.decision.replicas.current(); }

void write_plot(const DryRun& o, const ScaleParams& params, const ModelResult& result) {
  PlotSeries load{"load / target_ongoing_requests", {}, true, false};
  PlotSeries desired{"desired", {}, false, false};
  PlotSeries ready{"ready", {}, true, false};
  // A step is a horizontal line to the next change and a vertical one there.
  const auto add = [](PlotSeries& series, double x, double y) {
    auto& points = series.points;
    if (points.size() > 1 && points.back().second == y && points[points.size() - 2].second == y)
      points.pop_back();
    if (!points.empty() && points.back().second != y) points.emplace_back(x, points.back().second);
    points.emplace_back(x, y);
  };
  for (const ModelStep& s : result.steps) {
    const double x = static_cast<double>(s.at_ms) / 1000;
    const auto target = static_cast<double>(params.target_ongoing_requests) / 1000;
    load.points.emplace_back(x, static_cast<double>(s.load.calls) / target);
    add(desired, x, static_cast<double>(s.decision.desired));
    add(ready, x, static_cast<double>(s.ready));
  }
  write_file(
      o.plot,
      svg_of({"Replicas for " + o.trace, "time (s)", "replicas", {desired, ready, load}, 0, 0}));
}

int dry_run(Context& context, const DryRun& o) {
  const ScaleParams params = params_of(o);
  const auto text = read_file(o.trace, kTraceBytesMax);
  if (!text)
    throw Failure{kUsage, "cannot read " + printable(o.trace, 200),
                  "give a file of lines "
                  "time_s,ongoing[,backlog]"};
  auto trace = parse_trace(*text);
  if (!trace)
    throw Failure{kUsage, printable(o.trace, 200) + ": " + trace.error().detail,
                  "its lines are time_s,ongoing[,backlog]"};
  ModelOptions model;
  model.length_ms = trace->back().at_ms + kScaleTickMs;
  model.start_ms = o.start.count();
  model.slots = o.slots;
  model.replicas = o.replicas > 0 ? o.replicas : initial_replicas(params);
  const ModelResult result = run_model(params, load_of(std::move(*trace)), model);
  if (!o.plot.empty()) write_plot(o, params, result);
  Json doc = {{"ups", result.ups},
              {"downs", result.downs},
              {"overload_s", static_cast<double>(result.overload_ms) / 1000},
              {"replica_s", static_cast<double>(result.replica_ms) / 1000},
              {"params", parse_json(to_json(scale_doc(params)))},
              {"changes", Json::array()}};
  for (const ModelStep& s : result.steps)
    if (is_change(s)) doc["changes"].push_back(step_json(params, s));
  if (context.json()) return print_json(doc), kOk;
  Table table({"TIME", "ONGOING", "BACKLOG", "READY", "CHANGE", "RULE", "WHY"});
  size_t rows = 0;
  for (const auto& c : doc["changes"]) {
    if (++rows > kRowsMax && !context.wide()) break;
    table.add({format_millis(static_cast<int64_t>(number_of(c, "time_s") * 1000)),
               cell(c, "ongoing"), cell(c, "backlog"), cell(c, "ready"),
               cell(c, "current") + " -> " + cell(c, "desired"), cell(c, "rule"), cell(c, "why")});
  }
  if (!table.empty()) std::fputs(table.text().c_str(), stdout);
  if (rows > kRowsMax && !context.wide())
    std::printf("... and more changes, in all with -o wide\n");
  std::printf("%s%lld ups, %lld downs; more calls than slots for %s; %.0f replica seconds\n",
              table.empty() ? "" : "\n", static_cast<long long>(result.ups),
              static_cast<long long>(result.downs), format_millis(result.overload_ms).c_str(),
              number_of(doc, "replica_s"));
  if (!o.plot.empty()) std::printf("plot: %s\n", o.plot.c_str());
  return kOk;
}

}  // namespace

void add_autoscale_command(CLI::App& app, Context& context) {
  auto* command = app.add_subcommand("autoscale", "What the autoscaler would do with a load");
  auto o = std::make_shared<DryRun>();
  command
      ->add_option("--dry-run", o->trace,
                   "Lines of time_s,ongoing[,backlog]; ongoing: calls "
                   "that run or wait")
      ->required()
      ->type_name("TRACE.csv");
  command->add_option("--set", o->sets, "A parameter of autoscaling_config")
      ->type_name("FIELD=NUMBER")
      ->allow_extra_args(false);
  add_duration(*command, "--start-time", o->start, "Until a replica is ready (default: 30s)");
  command->add_option("--replicas", o->replicas, "At the beginning (default: initial_replicas)")
      ->check(CLI::Range(1, 100'000));
  command->add_option("--max-ongoing-requests", o->slots, "Calls one replica runs (default: 5)")
      ->check(CLI::Range(1, 100'000));
  command->add_option("--plot", o->plot, "Also draw it")->type_name("FILE.svg");
  std::string fields;
  for (const ScaleField& field : scale_fields())
    fields.append(fields.empty() ? "" : fields.size() % 90 > 70 ? ",\n" : ", ").append(field.name);
  command->footer(
      "It is the very function that dray-balancer asks; it changes nothing.\n"
      "Fields: " +
      fields +
      ".\nmax_replicas is 100 here.\n\n"
      "Examples:\n"
      "  dray autoscale --dry-run load.csv\n"
      "  dray autoscale --dry-run load.csv --set target_ongoing_requests=4 "
      "--set max_replicas=20 --plot plan.svg\n");
  command->callback(
      [&context, o] { context.action = [&context, o] { return dry_run(context, *o); }; });
}

}  // namespace dray::console
