// status, workers, queues, drain: the cluster as it is.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <thread>

#include "client/console/cluster_dir.h"
#include "client/console/commands.h"
#include "client/console/outcome.h"
#include "client/console/procs.h"
#include "client/console/routers.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t number(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

// --- status --------------------------------------------------------------------------------------

// What this machine shows of the cluster: processes, ready or not and why.
Json local_services(const ClusterDir& dir) {
  const std::vector<Process> processes = find_processes(dir.short_path());
  Json list = Json::array();
  std::vector<ServiceAddress> services = dir.services(dir.config(), dir.saved());
  services.insert(services.begin(), ServiceAddress{"supervisord", ""});
  for (const auto& service : services) {
    const auto found = std::find_if(processes.begin(), processes.end(),
                                    [&](const Process& p) { return p.name == service.name; });
    Json row = {{"name", service.name}, {"state", "down"}};
    if (found != processes.end()) {
      row["state"] = "up";
      row["pid"] = found->pid;
      row["uptime_s"] = found->uptime_s;
      if (!service.http.empty()) {
        const HttpAnswer answer = http_get(service.http, "/ready", 1000);
        row["state"] = answer.status == 200 ? "ready" : answer.status ? "not ready" : "silent";
        const Json body = Json::parse(answer.body, nullptr, false);
        if (body.is_object() && body.contains("reasons")) row["reasons"] = body["reasons"];
        // A drained worker is as it was told to be.
        if (row.value("reasons", Json()) == Json::array({"draining"})) row["state"] = "draining";
      }
    }
    list.push_back(std::move(row));
  }
  return list;
}

std::string reasons_of(const Json& service) {
  std::string out;
  if (service.contains("reasons") && service["reasons"].is_array())
    for (const auto& r : service["reasons"])
      out += (out.empty() ? "" : ", ") + (r.is_string() ? r.get<std::string>() : r.dump());
  if (service["state"] == "down") out = "see its log";
  return out;
}

std::string broker_detail(const Json& d) {
  return "epoch " + cell(d, "epoch") + ", journal " + format_bytes(number(d, "journal_bytes")) +
         (d.value("draining", false) ? ", draining" : "") +
         (d.value("disk_low", false) ? ", DISK LOW" : "");
}

std::string aggregator_detail(const Json& d) {
  return format_count(number(d, "results")) + " results, " + format_bytes(number(d, "bytes")) +
         ", stream at " + cell(d, "stream_pos") + (d.value("stalled", false) ? ", STALLED" : "");
}

std::string router_detail(const Json& d) {
  std::string text = cell(d, "clients") + " clients, ";
  if (d.contains("workers")) text += cell(d, "workers") + " workers, ";
  return text + cell(d, "inflight") + " requests in flight" +
         (d.contains("calls") ? ", " + cell(d, "calls") + " calls" : "") +
         (d.value("draining", false) ? ", draining" : "");
}

void print_status(const Context& context, const Json& doc) {
  std::printf("dray at %s\n\n", cell(doc, "endpoint").c_str());
  Table services({"SERVICE", "STATE", "PID", "UP", "DETAIL"});
  std::vector<std::string> listed;
  const auto detail = [&](const std::string& name) -> std::string {
    const bool is_router = doc["routers"].contains(name);
    if (!is_router && !doc.contains(name)) return "";
    const Json& d = is_router ? doc["routers"][name] : doc[name];
    if (d.contains("error")) return cell(d, "error");
    return is_router          ? router_detail(d)
           : name == "broker" ? broker_detail(d)
                              : aggregator_detail(d);
  };
  for (const auto& s : doc["services"]) {
    const std::string why = reasons_of(s);
    services.add({cell(s, "name"), cell(s, "state"), cell(s, "pid"),
                  s.contains("uptime_s")
                      ? format_millis(static_cast<int64_t>(s["uptime_s"].get<double>() * 1000))
                      : "",
                  why.empty() ? detail(cell(s, "name")) : why});
  }
  if (doc["services"].empty()) {
    for (const char* name : {"broker", "aggregator"})
      services.add({name, doc[name].contains("error") ? "away" : "ready", "", "", detail(name)});
    for (const auto& [name, d] : doc["routers"].items())
      services.add({name, d.contains("error") ? "away" : "ready", "", "", detail(name)});
  }
  std::fputs(services.text().c_str(), stdout);
  const Json broker = doc.value("broker", Json::object());
  if (!broker.contains("tasks")) return;
  Table tasks({"TASKS", "READY", "WAITING", "RUNNING", "DEAD LETTERS", "WORKERS"});
  tasks.add({format_count(number(broker, "tasks")), format_count(number(broker, "ready")),
             format_count(number(broker, "waiting")), format_count(number(broker, "running")),
             format_count(number(broker, "dead_letters")), cell(broker, "workers")});
  std::printf("\n%s", tasks.text().c_str());
  const Json counters = broker.value("counters", Json::object());
  std::string line;
  for (const char* name : {"submitted", "succeeded", "failed", "dead", "cancelled", "expired",
                           "retries", "lost_leases", "rejected"})
    if (context.wide() || number(counters, name) > 0)
      line += (line.empty() ? "" : ", ") + format_count(number(counters, name)) + " " + name;
  if (!line.empty()) std::printf("\nsince the broker's start: %s\n", line.c_str());
}

// "router" is the first one's; "routers" has all by name.
void add_routers(Context& context, bool answers, Json& doc) {
  doc["routers"] = Json::object();
  if (answers)
    for (const auto& r : ask_routers(context, "status", context.timeout))
      doc["routers"][r.name] = r.error.empty() ? r.doc : Json{{"error", r.error}};
  if (doc["routers"].empty()) doc["routers"]["router"] = {{"error", "unavailable: no router"}};
  doc["router"] = doc["routers"].begin().value();
}

int status(Context& context) {
  Json doc;
  bool all_well = true;
  doc["services"] = Json::array();
  if (context.endpoint.empty()) {
    const ClusterDir dir(context.dir);
    doc["dir"] = dir.path();
    if (dir.exists()) doc["services"] = local_services(dir);
  }
  doc["endpoint"] = context.router_endpoint();
  const bool answers = Context::answers(context.router_endpoint());
  const bool any_up = std::any_of(doc["services"].begin(), doc["services"].end(),
                                  [](const Json& s) { return s.value("state", "down") != "down"; });
  if (!answers && !any_up) context.client();  // throws: no cluster
  for (const char* name : {"broker", "aggregator"}) {
    auto text = answers ? context.client().admin(name, "status", {}, context.timeout)
                        : Expected<std::string>(ClientError{Code::unavailable, "no router"});
    doc[name] = text ? parse_json(*text) : Json{{"error", text.error().text()}};
    all_well = all_well && text.has_value();
  }
  add_routers(context, answers, doc);
  for (const auto& r : doc["routers"]) all_well = all_well && !r.contains("error");
  for (const auto& s : doc["services"])
    all_well = all_well && s["state"] != "not ready" && s["state"] != "silent";
  if (context.json())
    print_json(doc);
  else
    print_status(context, doc);
  if (!all_well) std::fprintf(stderr, "dray: not everything is well; logs are in DIR/log\n");
  return all_well ? kOk : kNoCluster;
}

// --- workers, queues -----------------------------------------------------------------------------

std::string joined(const Json& list) {
  std::string out;
  if (list.is_array())
    for (const auto& item : list)
      out += (out.empty() ? "" : ",") + (item.is_string() ? item.get<std::string>() : item.dump());
  if (list.is_object())
    for (const auto& [key, value] : list.items())
      out += (out.empty() ? "" : " ") + key + "=" +
             (value.is_string() ? value.get<std::string>() : value.dump());
  return out;
}

int workers(Context& context) {
  const Json list = parse_json(context.admin("broker", "workers"));
  if (context.json()) return print_json(list), kOk;
  std::vector<std::string> head{"NAME", "STATE", "SLOTS", "LEASES", "DONE", "HANDLERS", "FREE"};
  if (context.wide()) head.insert(head.end(), {"CREDIT", "LABELS", "BOOT"});
  Table table(head);
  for (const auto& w : list) {
    std::string handlers = joined(w.value("handler_names", Json::array()));
    if (!context.wide() || handlers.empty()) handlers = cell(w, "handlers");
    std::vector<std::string> row{cell(w, "name"),
                                 cell(w, "state"),
                                 cell(w, "slots"),
                                 cell(w, "leases"),
                                 cell(w, "done"),
                                 handlers,
                                 joined(w.value("resources", Json::object()))};
    if (context.wide())
      row.insert(row.end(),
                 {cell(w, "credit"), joined(w.value("labels", Json::array())), cell(w, "boot")});
    table.add(row);
  }
  if (table.empty())
    std::printf("no worker is connected; look at: dray status\n");
  else
    std::fputs(table.text().c_str(), stdout);
  return kOk;
}

int list_queues(Context& context) {
  const Json list = parse_json(context.admin("broker", "queues"));
  if (context.json()) return print_json(list), kOk;
  Table table({"QUEUE", "READY", "WAITING", "RUNNING", "DEAD LETTERS", "STATE"});
  for (const auto& q : list)
    table.add({cell(q, "queue"), cell(q, "ready"), cell(q, "waiting"), cell(q, "running"),
               cell(q, "dead_letters"), q.value("paused", false) ? "paused" : "open"});
  if (table.empty())
    std::printf("no queue has tasks; submit one: dray submit echo hello\n");
  else
    std::fputs(table.text().c_str(), stdout);
  return kOk;
}

int pause_queue(Context& context, const std::string& verb, const std::string& queue) {
  const Json doc = parse_json(context.admin("broker", verb, {{"queue", queue}}));
  if (context.json()) return print_json(doc), kOk;
  if (verb == "pause")
    std::printf("queue %s is paused: it takes tasks and starts none; next: dray queues resume %s\n",
                printable(queue).c_str(), printable(queue).c_str());
  else
    std::printf("queue %s is open\n", printable(queue).c_str());
  return kOk;
}

// --- drain ---------------------------------------------------------------------------------------

// Gone, or idle and told to stay so.
bool is_drained(const Json& workers, const Json& names) {
  return std::all_of(names.begin(), names.end(), [&](const Json& name) {
    return std::none_of(workers.begin(), workers.end(), [&](const Json& w) {
      return w.value("name", "") == name &&
             (w.value("state", "") == "up" || number(w, "leases") > 0);
    });
  });
}

int drain(Context& context, const std::string& name, bool off, bool wait) {
  const Json doc = parse_json(context.admin("broker", "drain", {{"worker", name}, {"on", !off}}));
  const Json names = doc.value("workers", Json::array());
  if (!context.json())
    std::printf("%s: %s\n", off ? "takes tasks again" : "drains: takes no new task",
                joined(names).c_str());
  if (off || !wait) {
    if (context.json()) print_json(doc);
    return kOk;
  }
  const auto until =
      Clock::now() + (context.has_timeout ? context.timeout : Millis{std::chrono::hours(24)});
  while (!is_drained(parse_json(context.admin("broker", "workers")), names)) {
    if (Clock::now() >= until)
      throw Failure{kTimeout, "tasks are still running", "see them: dray tasks -s running"};
    std::this_thread::sleep_for(Millis{50});
  }
  if (context.json())
    print_json(doc);
  else
    std::printf("drained: nothing runs there; take tasks again: dray drain %s --off\n",
                printable(name).c_str());
  return kOk;
}

void add_queues(CLI::App& app, Context& context) {
  auto* queues = app.add_subcommand("queues", "List, pause and resume queues");
  queues->require_subcommand(0, 1);
  queues->footer("Examples:\n  dray queues\n  dray queues pause default\n");
  queues->callback([&context] {
    if (!context.action) context.action = [&context] { return list_queues(context); };
  });
  auto* list = queues->add_subcommand("list", "Depth and state of every queue (the default)");
  list->footer("Example:\n  dray queues list -o json\n");
  list->callback([&context] { context.action = [&context] { return list_queues(context); }; });
  for (const char* verb : {"pause", "resume"}) {
    auto* cmd = queues->add_subcommand(
        verb, verb == std::string("pause") ? "Accept tasks but start none" : "Start tasks again");
    auto name = std::make_shared<std::string>();
    cmd->add_option("queue", *name, "Name of the queue")->required();
    cmd->footer(std::string("Example:\n  dray queues ") + verb + " default\n");
    cmd->callback([&context, name, verb] {
      context.action = [&context, name, verb] { return pause_queue(context, verb, *name); };
    });
  }
}

}  // namespace

void add_look_commands(CLI::App& app, Context& context) {
  auto* st = app.add_subcommand("status", "Services, tasks and counters at a glance");
  st->footer("Examples:\n  dray status\n  dray status -o json | jq .broker.counters\n");
  st->callback([&context] { context.action = [&context] { return status(context); }; });

  auto* list = app.add_subcommand("workers", "Connected workers, what they have and do");
  list->footer("Examples:\n  dray workers\n  dray workers -o wide\n");
  list->callback([&context] { context.action = [&context] { return workers(context); }; });

  add_queues(app, context);

  auto* cmd = app.add_subcommand("drain", "Let a worker finish its tasks and take no more");
  auto name = std::make_shared<std::string>();
  auto off = std::make_shared<bool>(false), wait = std::make_shared<bool>(false);
  cmd->add_option("worker", *name, "Name of the worker, or all")->required();
  cmd->add_flag("--off", *off, "Take tasks again");
  cmd->add_flag("--wait,-w", *wait, "Wait until nothing runs there");
  cmd->footer(
      "Without --timeout --wait has no limit.\n\nExamples:\n  dray drain worker-0 --wait\n  dray "
      "drain worker-0 --off\n");
  cmd->callback([&context, name, off, wait] {
    context.action = [&context, name, off, wait] { return drain(context, *name, *off, *wait); };
  });
}

}  // namespace dray::console
