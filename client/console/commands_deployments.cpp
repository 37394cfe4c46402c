// deployments, latency: what can be called, how busy it is and where the time goes.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>

#include "client/console/commands.h"
#include "client/console/deployments.h"

namespace dray::console {
namespace {

constexpr const char* kNothing =
    "no handler can be called; workers offer theirs when they connect: dray workers\n";

bool has_several_routers(const Json& list) {
  std::set<std::string> names;
  for (const auto& d : list) names.insert(cell(d, "router"));
  return names.size() > 1;
}

std::string percent_us(const Json& latency, const char* key) {
  if (count_of(latency, "n") == 0) return "";
  return format_micros(static_cast<int64_t>(number_of(latency, key)));
}

std::string batch_text(const Json& d) {
  if (number_of(d, "max_batch_size") <= 1) return "1";
  char text[64];
  std::snprintf(text, sizeof text, "%.1f (aims at %.0f, max %.0f)",
                number_of(d, "mean_batch_items"), number_of(d, "target_items"),
                number_of(d, "max_batch_size"));
  return text;
}

std::string replicas_text(const Json& d) {
  const uint64_t draining = count_of(d, "draining_replicas");
  return cell(d, "replicas") + (draining ? " (" + std::to_string(draining) + " draining)" : "");
}

void print_table(const Context& context, const Json& list) {
  const bool several = has_several_routers(list);
  std::vector<std::string> head{"NAME",    "REPLICAS", "QUEUED", "RUNNING", "BATCH", "COSTS",
                                "REPLIES", "REJECTED", "OTHER",  "P50",     "P99"};
  if (several) head.insert(head.begin() + 1, "ROUTER");
  if (context.wide()) head.insert(head.end(), {"RETRIES", "HEDGES", "IDEMPOTENT", "BATCH WAIT"});
  Table table(head);
  for (const auto& d : list) {
    Json outcomes = ends_of(d);
    const Json total = part_of(part_of(d, "latency"), "total");
    const uint64_t replies = count_of(outcomes, "reply");
    outcomes.erase("reply");
    outcomes.erase("rejected");
    std::vector<std::string> row{cell(d, "name"),
                                 replicas_text(d),
                                 cell(d, "queued"),
                                 cell(d, "ongoing_calls"),
                                 batch_text(d),
                                 line_text(d),
                                 format_count(replies),
                                 largest(part_of(d, "rejected")),
                                 largest(outcomes),
                                 percent_us(total, "p50_us"),
                                 percent_us(total, "p99_us")};
    if (several) row.insert(row.begin() + 1, cell(d, "router"));
    if (context.wide())
      row.insert(row.end(), {cell(d, "retries"), cell(d, "hedges"), cell(d, "idempotent"),
                             format_micros(static_cast<int64_t>(number_of(d, "batch_wait_us")))});
    table.add(row);
  }
  std::fputs(table.text().c_str(), stdout);
}

void print_details(const Json& d) {
  const Json line = part_of(d, "line");
  std::printf("\n%s at %s\n", printable(cell(d, "name")).c_str(),
              printable(cell(d, "router")).c_str());
  std::printf("costs: %s; prediction within %.0f %% after %.0f batches\n", line_text(d).c_str(),
              number_of(line, "sigma") * 100, number_of(line, "batches"));
  std::printf("outcomes: %s\n", largest(ends_of(d), 20).c_str());
  if (const std::string why = largest(part_of(d, "rejected"), 20); !why.empty())
    std::printf("rejected: %s\n", why.c_str());
  Table table({"WORKER", "RUNNING", "OF", "CREDIT", "STATE", "MODELS"});
  for (const auto& r : d.value("replica_list", Json::array())) {
    std::string models;
    for (const auto& m : r.value("models", Json::array()))
      models += (models.empty() ? "" : ",") + (m.is_string() ? m.get<std::string>() : m.dump());
    table.add({cell(r, "worker"), cell(r, "ongoing"), cell(r, "max_ongoing"), cell(r, "credit"),
               r.value("draining", false) ? "draining" : "open", models});
  }
  if (!table.empty()) std::fputs(table.text().c_str(), stdout);
}

// What the balancer keeps; empty without one.
Json fetch_goals(Context& context) {
  const auto text = context.client().admin("balancer", "deployments", {}, context.timeout);
  if (!text) return Json::array();
  return parse_json(*text).value("deployments", Json::array());
}

void print_goals(const Json& goals) {
  Table table({"DEPLOYMENT", "STATE", "VERSION", "READY", "NODES", "HANDLERS", "CALLS/S", "BUSY",
               "TROUBLE"});
  const auto joined = [](const Json& list) {
    std::string out;
    for (const auto& item : list)
      out += (out.empty() ? "" : ",") + (item.is_string() ? item.get<std::string>() : item.dump());
    return out.size() > 40 ? out.substr(0, 37) + "..." : out;
  };
  for (const auto& d : goals) {
    const Json load = part_of(d, "load");
    char rate[32];
    std::snprintf(rate, sizeof rate, "%.1f", number_of(load, "replies_per_s"));
    table.add(
        {cell(d, "name"), cell(d, "state"), cell(d, "version"),
         cell(d, "ready") + "/" + cell(d, "desired") + (d.value("autoscale", false) ? " auto" : ""),
         joined(d.value("nodes", Json::array())), joined(d.value("handlers", Json::array())), rate,
         std::to_string(count_of(load, "ongoing") + count_of(load, "waiting")),
         printable(cell(d, "trouble"), 60)});
  }
  std::fputs(table.text().c_str(), stdout);
}

int deployments(Context& context, const std::string& name) {
  Json goals = Json::array();
  for (const auto& d : fetch_goals(context)) {
    const Json handlers = d.value("handlers", Json::array());
    const bool has = std::find(handlers.begin(), handlers.end(), Json(name)) != handlers.end();
    if (name.empty() || cell(d, "name") == name || has) goals.push_back(d);
  }
  const bool is_goal = !name.empty() && !goals.empty();
  Json list = Json::array();
  // The name of a deployment is not the name of a handler; then its handlers are shown.
  for (const auto& h : fetch_deployments(context, is_goal ? "" : name)) {
    const bool shown = std::any_of(goals.begin(), goals.end(), [&](const Json& d) {
      const Json handlers = d.value("handlers", Json::array());
      return std::find(handlers.begin(), handlers.end(), Json(cell(h, "name"))) != handlers.end();
    });
    if (!is_goal || (shown && (cell(h, "name") == name || cell(goals[0], "name") == name)))
      list.push_back(h);
  }
  if (context.json()) {
    for (auto& row : list)
      for (const auto& d : goals)
        for (const auto& h : d.value("handlers", Json::array()))
          if (h == row["name"]) row["deployment"] = d;
    return print_json(list), kOk;
  }
  if (!goals.empty()) print_goals(goals);
  if (list.empty()) return goals.empty() ? std::fputs(kNothing, stdout) : 0, kOk;
  if (!goals.empty()) std::printf("\n");
  print_table(context, list);
  if (!name.empty())
    for (const auto& d : list) print_details(d);
  return kOk;
}

// --- latency -------------------------------------------------------------------------------------

int latency(Context& context, const std::string& name) {
  const Json list = fetch_deployments(context, name);
  if (context.json()) {
    Json out = Json::array();
    for (const auto& d : list)
      out.push_back({{"router", cell(d, "router")},
                     {"name", cell(d, "name")},
                     {"latency", part_of(d, "latency")}});
    return print_json(out), kOk;
  }
  if (list.empty()) return std::fputs(kNothing, stdout), kOk;
  double longest = 0;
  for (const auto& d : list)
    for (const auto& part : part_of(d, "latency"))
      longest = std::max(longest, number_of(part, "p999_us"));
  const bool several = has_several_routers(list);
  Table table({"NAME", "PART", "CALLS", "MEAN", "P50", "P95", "P99", "P99.9", "DISTRIBUTION"});
  for (const auto& d : list) {
    const std::string who = cell(d, "name") + (several ? " @" + cell(d, "router") : "");
    for (const char* part : kLatencyParts) {
      const Json l = part_of(part_of(d, "latency"), part);
      if (count_of(l, "n") == 0 && (name.empty() || part != std::string("total"))) continue;
      table.add({who, part, format_count(count_of(l, "n")), percent_us(l, "mean_us"),
                 percent_us(l, "p50_us"), percent_us(l, "p95_us"), percent_us(l, "p99_us"),
                 percent_us(l, "p999_us"), latency_bar(l, longest)});
    }
  }
  if (table.empty()) {
    std::printf("nothing was called yet; try: dray call echo hello\n");
    return kOk;
  }
  std::fputs(table.text().c_str(), stdout);
  std::printf(
      "\ntotal: in the router, from request to reply. queue: until it left for a replica; gather: "
      "of\n"
      "that, for company. wire: to the worker and back; wait: there for a slot; run: the handler.\n"
      "Bars: # p50  = p95  - p99  . p99.9, logarithmic, up to %s. Since the router's start.\n",
      format_micros(static_cast<int64_t>(longest)).c_str());
  return kOk;
}

}  // namespace

void add_deployment_commands(CLI::App& app, Context& context) {
  auto* list = app.add_subcommand("deployments", "What can be called: replicas, queues, outcomes");
  auto name = std::make_shared<std::string>();
  list->add_option("name", *name, "One handler, with its replicas");
  list->footer(
      "Examples:\n  dray deployments\n  dray deployments echo\n  dray deployments -o wide\n");
  list->callback([&context, name] {
    context.action = [&context, name] { return deployments(context, *name); };
  });

  auto* times = app.add_subcommand("latency", "Where the time of calls goes, by part");
  auto which = std::make_shared<std::string>();
  times->add_option("name", *which, "One handler (default: all)");
  times->footer("Examples:\n  dray latency\n  dray latency echo -o json\n");
  times->callback([&context, which] {
    context.action = [&context, which] { return latency(context, *which); };
  });
}

}  // namespace dray::console
