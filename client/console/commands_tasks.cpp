// tasks, task, cancel, retry, dlq: single tasks and dead letters.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <type_traits>

#include "client/console/commands.h"
#include "client/console/outcome.h"

namespace dray::console {
namespace {

constexpr int64_t kPage = 1000;  // rows the broker gives or changes at once

Table task_table(const Context& context) {
  std::vector<std::string> head{"ID", "STATE", "HANDLER", "QUEUE", "ATTEMPT", "WORKER"};
  if (context.wide()) head.insert(head.end(), {"PRIORITY", "FAILURES", "LOST", "BYTES"});
  head.push_back("NOTE");
  return Table(head);
}

std::string note_of(const Json& t) {
  if (t.contains("errors") && !t["errors"].empty())
    return preview(t["errors"].back().is_string() ? t["errors"].back().get<std::string>()
                                                  : t["errors"].back().dump(),
                   80);
  if (t.contains("starts_in_ms"))
    return "starts in " + format_millis(t["starts_in_ms"].get<int64_t>());
  if (t.contains("progress"))
    return std::to_string(static_cast<int>(t.value("progress", 0.0) * 100)) + "% " +
           preview(cell(t, "progress_text"), 60);
  return "";
}

void add_row(const Context& context, Table& table, const Json& t) {
  std::vector<std::string> row{cell(t, "id"),    cell(t, "state"),   cell(t, "handler"),
                               cell(t, "queue"), cell(t, "attempt"), cell(t, "worker")};
  if (context.wide())
    row.insert(row.end(), {cell(t, "priority"), cell(t, "failures"), cell(t, "lost"),
                           cell(t, "payload_bytes")});
  row.push_back(note_of(t));
  table.add(row);
}

struct ListOptions {
  std::string queue, state;
  int64_t limit = 50;
};

int list_tasks(Context& context, const ListOptions& o) {
  Json rows = Json::array();
  int64_t after = 0;
  bool more = true;
  while (more && static_cast<int64_t>(rows.size()) < o.limit) {
    const int64_t limit = std::min(kPage, o.limit - static_cast<int64_t>(rows.size()));
    const Json page = parse_json(context.admin(
        "broker", "tasks",
        {{"state", o.state}, {"queue", o.queue}, {"limit", limit}, {"after", after}}));
    for (const auto& t : page.value("tasks", Json::array())) rows.push_back(t);
    more = page.contains("next");
    if (more) after = page["next"].get<int64_t>();
  }
  if (context.json()) return print_json(rows), kOk;
  Table table = task_table(context);
  for (const auto& t : rows) add_row(context, table, t);
  if (table.empty())
    std::printf("no unfinished task matches; results of finished ones: dray result ID\n");
  else
    std::fputs(table.text().c_str(), stdout);
  if (more && !rows.empty())
    std::fprintf(stderr, "there are more: dray tasks -n %lld\n",
                 static_cast<long long>(o.limit * 10));
  return kOk;
}

void print_object(const Json& doc) {
  size_t width = 0;
  for (const auto& [key, value] : doc.items()) width = std::max(width, key.size());
  for (const auto& [key, value] : doc.items()) {
    if (value.is_array()) {
      std::printf("%s:\n", key.c_str());
      for (const auto& item : value)
        std::printf(
            "  - %s\n",
            preview(item.is_string() ? item.get<std::string>() : item.dump(), 2000).c_str());
    } else {
      std::printf("%-*s  %s\n", static_cast<int>(width + 1), (key + ":").c_str(),
                  preview(cell(doc, key.c_str()), 2000).c_str());
    }
  }
}

// A live task from the broker; one that has ended from the results.
int show_task(Context& context, const std::string& text, const std::string& verb) {
  const Id id = parse_id(text);
  auto answer = context.client().admin("broker", verb, {{"id", id.hex()}}, context.timeout);
  if (answer) {
    const Json doc = parse_json(*answer);
    context.json() ? print_json(doc) : print_object(doc);
    return kOk;
  }
  if (answer.error().code != Code::not_found) throw to_failure(answer.error());
  const auto stored = need(context.client().fetch(std::span(&id, 1), context.timeout));
  if (stored.empty() || !stored[0].is_over()) throw to_failure(answer.error());
  Json doc = outcome_json(stored[0]);
  if (verb == "explain") doc["why"] = Json::array({"it has ended; dray result " + id.hex()});
  context.json() ? print_json(doc) : print_object(doc);
  return kOk;
}

int cancel(Context& context, const std::vector<std::string>& texts) {
  const std::vector<Id> ids = parse_ids(texts);
  const auto infos = need(context.client().cancel(ids, context.timeout));
  Json list = Json::array();
  Table table({"ID", "STATE"});
  bool unknown = false;
  for (const auto& info : infos) {
    unknown |= info.state == State::unknown;
    list.push_back({{"id", info.id.hex()},
                    {"state", state_text(info.state)},
                    {"code", code_name(info.code)},
                    {"attempt", info.attempt}});
    table.add({info.id.hex(), info.state == State::leased ? "running (told to stop)"
                                                          : std::string(state_text(info.state))});
  }
  if (context.json())
    print_json(list);
  else
    std::fputs(table.text().c_str(), stdout);
  if (unknown) std::fprintf(stderr, "dray: some ids are unknown; what there is: dray tasks\n");
  return unknown ? kNotFound : kOk;
}

// --- dead letters --------------------------------------------------------------------------------

struct DeadOptions {
  std::vector<std::string> ids;
  bool all = false, yes = false;
  int64_t limit = 50;
  std::optional<uint64_t> expect;
};

template <class Arg>
void add_ids(Client::Args& args, const std::vector<std::string>& ids) {
  if constexpr (std::is_constructible_v<Arg, std::vector<std::string>>) {
    args.emplace_back("ids", Arg(ids));
  } else {
    std::string text;
    for (const auto& id : ids) text += (text.empty() ? "" : " ") + id;
    args.emplace_back("ids", text);
  }
}

uint64_t count_dead(Context& context) {
  const Json doc = parse_json(context.admin("broker", "dlq.list", {{"limit", int64_t{1}}}));
  return doc.value("total", uint64_t{0});
}

int list_dead(Context& context, const DeadOptions& o) {
  const Json doc = parse_json(context.admin("broker", "dlq.list", {{"limit", o.limit}}));
  if (context.json()) return print_json(doc), kOk;
  Table table = task_table(context);
  for (const auto& t : doc.value("dead_letters", Json::array())) add_row(context, table, t);
  if (table.empty()) {
    std::printf("no dead letters\n");
    return kOk;
  }
  std::printf("%s\n%s dead letters; next: dray dlq show ID, dray dlq replay ID\n",
              table.text().c_str(), cell(doc, "total").c_str());
  return kOk;
}

// Runs `verb` over the chosen letters, all of them page by page. `take` sees every answer and tells
// how many letters it was about.
template <class Take>
void for_dead(Context& context, const std::string& verb, const DeadOptions& o, Take take) {
  if (!o.all) {
    for (const Id& id : parse_ids(o.ids)) (void)id;
    Client::Args args;
    add_ids<Client::Arg>(args, o.ids);
    take(parse_json(context.admin("broker", verb, args)));
    return;
  }
  // What dies while we are at it is left for the next time.
  for (uint64_t left = count_dead(context); left > 0;) {
    const auto limit = std::min(kPage, static_cast<int64_t>(left));
    auto answer =
        context.client().admin("broker", verb, {{"all", true}, {"limit", limit}}, context.timeout);
    if (!answer && answer.error().code == Code::not_found) return;
    const uint64_t n = take(parse_json(need(std::move(answer))));
    if (n == 0) return;
    left -= std::min(left, n);
  }
}

void need_choice(const DeadOptions& o, const std::string& command) {
  if (o.all == o.ids.empty()) return;
  throw Failure{kUsage, o.all ? "name ids or --all, not both" : "name ids, or --all",
                "see: dray " + command + " --help"};
}

int replay(Context& context, const DeadOptions& o, const std::string& command) {
  need_choice(o, command);
  Json made = Json::array();
  for_dead(context, "dlq.replay", o, [&](const Json& doc) -> uint64_t {
    const Json rows = doc.value("replayed", Json::array());
    for (const auto& row : rows) made.push_back(row);
    return rows.size();
  });
  if (context.json()) {
    print_json({{"replayed", made}});
  } else {
    Table table({"DEAD LETTER", "NEW TASK"});
    for (const auto& row : made) table.add({cell(row, "old"), cell(row, "id")});
    std::fputs(table.empty() ? "no dead letters\n" : table.text().c_str(), stdout);
  }
  return !o.all && made.size() < o.ids.size() ? kNotFound : kOk;
}

int purge(Context& context, const DeadOptions& o) {
  need_choice(o, "dlq purge");
  if (o.all) {
    const uint64_t total = count_dead(context);
    if (o.expect && *o.expect != total)
      throw Failure{kUsage,
                    "there are " + std::to_string(total) + " dead letters, not " +
                        std::to_string(*o.expect) + "; nothing was purged",
                    "look at them: dray dlq list"};
    if (!o.yes) {
      const Failure unsure{kUsage, "purging " + std::to_string(total) + " dead letters is for ever",
                           "say so: dray dlq purge --all --yes --expect " + std::to_string(total)};
      if (!::isatty(STDIN_FILENO)) throw unsure;
      std::fprintf(stderr, "Purge %llu dead letters for ever? Type yes: ",
                   static_cast<unsigned long long>(total));
      std::string line;
      if (!std::getline(std::cin, line) || line != "yes") throw unsure;
    }
  }
  uint64_t purged = 0;
  for_dead(context, "dlq.purge", o, [&](const Json& doc) {
    const auto n = doc.value("purged", uint64_t{0});
    purged += n;
    return n;
  });
  if (context.json())
    print_json({{"purged", purged}});
  else
    std::printf("purged %llu dead letters\n", static_cast<unsigned long long>(purged));
  return !o.all && purged < o.ids.size() ? kNotFound : kOk;
}

void add_dead_letters(CLI::App& app, Context& context) {
  auto* dlq = app.add_subcommand("dlq", "Dead letters: tasks that failed too often");
  dlq->require_subcommand(1, 1);
  dlq->footer("Examples:\n  dray dlq list\n  dray dlq replay --all\n");
  auto o = std::make_shared<DeadOptions>();
  auto* list = dlq->add_subcommand("list", "The oldest dead letters");
  list->add_option("-n,--limit", o->limit, "So many (default: 50)")->check(CLI::Range(1, 1000));
  list->footer("Example:\n  dray dlq list -n 100 -o wide\n");
  list->callback(
      [&context, o] { context.action = [&context, o] { return list_dead(context, *o); }; });

  auto* show = dlq->add_subcommand("show", "One dead letter with its errors");
  show->add_option("id", o->ids, "Task id")->required()->expected(1);
  show->footer("Example:\n  dray dlq show 0190b0d3c5a07a3f8d2f6e0c4b1a9e77\n");
  show->callback([&context, o] {
    context.action = [&context, o] { return show_task(context, o->ids[0], "task"); };
  });

  auto* again = dlq->add_subcommand("replay", "Make new tasks of dead letters");
  again->add_option("id", o->ids, "Task ids");
  again->add_flag("--all", o->all, "Every dead letter");
  again->footer(
      "Examples:\n  dray dlq replay 0190b0d3c5a07a3f8d2f6e0c4b1a9e77\n  dray dlq replay --all\n");
  again->callback([&context, o] {
    context.action = [&context, o] { return replay(context, *o, "dlq replay"); };
  });

  auto* drop = dlq->add_subcommand("purge", "Throw dead letters away");
  drop->add_option("id", o->ids, "Task ids");
  drop->add_flag("--all", o->all, "Every dead letter");
  drop->add_flag("--yes,-y", o->yes, "Do not ask");
  drop->add_option_function<uint64_t>(
      "--expect", [o](const uint64_t& n) { o->expect = n; }, "Only if there are exactly so many");
  drop->footer(
      "Examples:\n  dray dlq purge 0190b0d3c5a07a3f8d2f6e0c4b1a9e77\n"
      "  dray dlq purge --all --yes --expect 12\n");
  drop->callback([&context, o] { context.action = [&context, o] { return purge(context, *o); }; });
}

void add_list(CLI::App& app, Context& context) {
  auto* tasks = app.add_subcommand("tasks", "Unfinished tasks and dead letters");
  auto o = std::make_shared<ListOptions>();
  tasks->add_option("-q,--queue", o->queue, "Only of this queue");
  tasks->add_option("-s,--state", o->state, "Only in this state")
      ->check(CLI::IsMember({"queued", "running", "dead", "failed"}));
  tasks->add_option("-n,--limit", o->limit, "So many (default: 50)")->check(CLI::Range(1, 1000000));
  tasks->footer("Examples:\n  dray tasks -s running\n  dray tasks -q fast -n 200 -o json\n");
  tasks->callback(
      [&context, o] { context.action = [&context, o] { return list_tasks(context, *o); }; });
}

}  // namespace

void add_task_commands(CLI::App& app, Context& context) {
  add_list(app, context);

  auto* task = app.add_subcommand("task", "One task");
  task->require_subcommand(1, 1);
  task->footer("Examples:\n  dray task show ID\n  dray task explain ID\n");
  auto id = std::make_shared<std::string>();
  auto* show = task->add_subcommand("show", "All that is known about it");
  auto* why = task->add_subcommand("explain", "Why does it not run?");
  for (auto* cmd : {show, why}) {
    cmd->add_option("id", *id, "Task id")->required();
    cmd->footer("Example:\n  dray task " + cmd->get_name() + " 0190b0d3c5a07a3f8d2f6e0c4b1a9e77\n");
    const std::string verb = cmd == show ? "task" : "explain";
    cmd->callback([&context, id, verb] {
      context.action = [&context, id, verb] { return show_task(context, *id, verb); };
    });
  }

  auto ids = std::make_shared<std::vector<std::string>>();
  auto* stop = app.add_subcommand("cancel", "Cancel tasks; a running one stops when it notices");
  stop->add_option("id", *ids, "Task ids")->required();
  stop->footer("Examples:\n  dray cancel 0190b0d3c5a07a3f8d2f6e0c4b1a9e77\n");
  stop->callback(
      [&context, ids] { context.action = [&context, ids] { return cancel(context, *ids); }; });

  auto o = std::make_shared<DeadOptions>();
  auto* again = app.add_subcommand("retry", "Make new tasks of dead ones (dlq replay)");
  again->add_option("id", o->ids, "Task ids")->required();
  again->footer("Examples:\n  dray retry 0190b0d3c5a07a3f8d2f6e0c4b1a9e77\n");
  again->callback(
      [&context, o] { context.action = [&context, o] { return replay(context, *o, "retry"); }; });

  add_dead_letters(app, context);
}

}  // namespace dray::console
