// submit, wait, result: run tasks and get their ends.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "client/console/commands.h"
#include "client/console/outcome.h"
#include "common/resources/request.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Millis kNoLimit{std::chrono::hours(24 * 365)};
constexpr size_t kPayloadMax = 64 << 20;  // the broker's own limit is lower and says so
constexpr size_t kShownFailures = 10;

struct SubmitOptions {
  std::string handler, payload, id;
  std::string gpus, gpu_memory, strategy;
  std::vector<std::string> resources;
  TaskOptions task;
  uint64_t count = 1;
  bool wait = false;
  bool raw = false;
};

Millis wait_limit(const Context& context) {
  return context.has_timeout ? context.timeout : kNoLimit;
}

std::string read_all(std::istream& in, const std::string& name) {
  std::string bytes;
  char buffer[65536];
  while (in.read(buffer, sizeof buffer) || in.gcount() > 0) {
    bytes.append(buffer, static_cast<size_t>(in.gcount()));
    if (bytes.size() > kPayloadMax)
      throw Failure{kUsage, name + " is larger than a payload may be",
                    "put the data in a file and submit its name"};
  }
  return bytes;
}

// Checked here, before anybody is asked.
void set_needs(const SubmitOptions& o, TaskOptions& task) {
  VariantText text{o.gpus, o.gpu_memory, {}, task.labels};
  for (const auto& given : o.resources) {
    const size_t equals = given.find('=');
    if (equals == 0 || equals == std::string::npos)
      throw Failure{kUsage,
                    "'" + printable(given, 60) + "' is no resource such as cpu=1 or step_slot=0.5",
                    "see: dray submit --help"};
    text.resources.emplace_back(given.substr(0, equals), given.substr(equals + 1));
  }
  const auto request = parse_request({text}, o.strategy);
  if (!request) throw Failure{kUsage, request.error().detail, "see: dray submit --help"};
  const Variant& v = request->variants[0];
  for (const auto& [name, amount] : text.resources) {
    if (v.pools.get(name) == 0)
      throw Failure{kUsage, "resources." + name + ": must be more than 0", "leave it out"};
    task.resources[name] = static_cast<double>(v.pools.get(name)) / kResourceUnit;
  }
  task.gpus = static_cast<double>(v.gpus) / kResourceUnit;
  task.gpu_memory_mib = v.gpu_memory_mib;
  task.strategy = static_cast<GpuStrategy>(request->strategy);
}

int submit_one(Context& context, const SubmitOptions& o, const std::string& payload) {
  const Task task = need(context.client().submit(o.handler, payload, o.task, context.timeout));
  const std::string id = task.id().hex();
  if (!o.wait) {
    if (task.ready()) {  // over already, or refused one by one, such as a conflict
      const TaskOutcome outcome = task.get(Millis{0});
      if (!outcome.is_over())
        throw to_failure({outcome.code, "task " + id + ": " + printable(outcome.bytes)});
    }
    if (context.json())
      print_json(Json::array({{{"id", id}, {"state", "queued"}}}));
    else
      std::printf("%s\n", id.c_str());
    return kOk;
  }
  const TaskOutcome outcome = task.get(wait_limit(context));
  if (!outcome.is_over()) {
    Failure failure = to_failure({outcome.code, "task " + id + ": " + printable(outcome.bytes)});
    if (outcome.code == Code::timeout) failure.next = "wait for it: dray wait " + id;
    throw failure;
  }
  if (!context.json()) return print_bytes(outcome, o.raw);
  print_outcomes(context, std::span(&outcome, 1));
  return exit_code_of(std::span(&outcome, 1));
}

// Counts ends as they come in, on the client's thread.
struct Tally {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t over = 0, succeeded = 0;
  std::set<Id> refused_ids;
  std::vector<TaskOutcome> failures;  // the first few

  void take(std::span<const ResultView> results) {
    std::lock_guard lock(mutex);
    for (const auto& r : results) {
      ++over;
      succeeded += r.state == State::succeeded;
      if (r.state == State::unknown) refused_ids.insert(r.id);
      if (r.state != State::succeeded && failures.size() < kShownFailures)
        failures.push_back({r.id, r.state, r.code, r.attempt, std::chrono::microseconds(r.exec_us),
                            std::string(r.bytes)});
    }
    changed.notify_all();
  }
};

int report_bulk(const Context& context, Tally& tally, uint64_t total, double seconds) {
  std::lock_guard lock(tally.mutex);
  const uint64_t refused = tally.refused_ids.size();
  const uint64_t failed = tally.over - tally.succeeded - refused;
  const double rate = seconds > 0 ? static_cast<double>(tally.over) / seconds : 0;
  if (context.json()) {
    Json list = Json::array();
    for (const auto& o : tally.failures) list.push_back(outcome_json(o));
    print_json({{"total", total},
                {"over", tally.over},
                {"succeeded", tally.succeeded},
                {"failed", failed},
                {"refused", refused},
                {"seconds", seconds},
                {"tasks_per_second", rate},
                {"failures", std::move(list)}});
  } else {
    std::printf("%s tasks: %s succeeded, %s failed, %s refused, %s not over; %.2f s, %s tasks/s\n",
                format_count(total).c_str(), format_count(tally.succeeded).c_str(),
                format_count(failed).c_str(), format_count(refused).c_str(),
                format_count(total - tally.over).c_str(), seconds,
                format_count(static_cast<uint64_t>(rate)).c_str());
    if (!tally.failures.empty()) print_outcomes(context, tally.failures);
  }
  if (failed) return kTaskFailed;
  if (tally.over < total) return kTimeout;
  return refused ? exit_code_of(tally.failures) : kOk;
}

void print_accepted(const Context& context, const std::vector<Id>& ids,
                    const std::set<Id>& refused) {
  Json list = Json::array();
  for (const Id& id : ids) {
    if (refused.contains(id)) continue;
    if (context.json())
      list.push_back({{"id", id.hex()}, {"state", "queued"}});
    else
      std::printf("%s\n", id.hex().c_str());
  }
  if (context.json()) print_json(list);
}

int submit_bulk(Context& context, const SubmitOptions& o, const std::string& payload) {
  Client& client = context.client();
  auto tally = std::make_shared<Tally>();
  client.on_results([tally](std::span<const ResultView> results) { tally->take(results); });
  const auto start = Clock::now();
  const auto until = start + wait_limit(context);
  Progress progress(context, o.count);
  const uint64_t chunk = std::clamp<uint64_t>((16 << 20) / (payload.size() + 64), 1, 8192);
  std::vector<Id> ids;
  for (uint64_t sent = 0; sent < o.count;) {
    const std::vector<std::string_view> views(std::min(chunk, o.count - sent), payload);
    const std::vector<Id> made = need(client.post_many(o.handler, views, o.task, context.timeout));
    sent += views.size();
    if (o.wait) {
      std::lock_guard lock(tally->mutex);
      progress.show(tally->over, tally->over - tally->succeeded);
      continue;
    }
    ids.insert(ids.end(), made.begin(), made.end());
  }
  need(client.flush(std::max(context.timeout, Millis{60'000})));
  std::unique_lock lock(tally->mutex);
  if (!o.wait) {
    print_accepted(context, ids, tally->refused_ids);
    if (tally->refused_ids.empty()) return kOk;
    const auto first = std::find_if(tally->failures.begin(), tally->failures.end(),
                                    [](const auto& f) { return f.state == State::unknown; });
    const Code code = first == tally->failures.end() ? Code::overloaded : first->code;
    std::fprintf(stderr, "dray: %zu tasks were refused: %s; see: dray status\n",
                 tally->refused_ids.size(), std::string(code_name(code)).c_str());
    return exit_code_of(code);
  }
  while (tally->over < o.count && Clock::now() < until) {
    tally->changed.wait_for(lock, std::min<Clock::duration>(until - Clock::now(), Millis{100}));
    progress.show(tally->over, tally->over - tally->succeeded);
  }
  lock.unlock();
  progress.end();
  return report_bulk(context, *tally, o.count,
                     std::chrono::duration<double>(Clock::now() - start).count());
}

int submit(Context& context, SubmitOptions o) {
  const std::string payload = payload_of(o.payload);
  set_needs(o, o.task);
  if (!o.id.empty()) o.task.id = parse_id(o.id);
  if (!o.id.empty() && o.count > 1)
    throw Failure{kUsage, "--id names one task and --count makes several", "leave one of them out"};
  return o.count == 1 ? submit_one(context, o, payload) : submit_bulk(context, o, payload);
}

// --- wait and result -----------------------------------------------------------------------------

std::vector<TaskOutcome> fetch(Context& context, std::span<const Id> ids) {
  return need(context.client().fetch(ids, context.timeout));
}

// Ids that neither the broker nor the aggregator knows would never be over. The broker is asked
// first: what ends in between has a result by then.
void check_known(Context& context, std::span<const Id> ids) {
  const auto infos = need(context.client().query(ids, context.timeout));
  const auto stored = fetch(context, ids);
  for (size_t i = 0; i < ids.size() && i < infos.size() && i < stored.size(); ++i)
    if (infos[i].state == State::unknown && !stored[i].is_over())
      throw Failure{kNotFound, "nobody knows task " + ids[i].hex() + " (its result may be gone)",
                    "what there is: dray tasks"};
}

int wait_for(Context& context, const std::vector<std::string>& texts, size_t n_ready) {
  std::vector<Id> rest = parse_ids(texts);
  const auto until = Clock::now() + wait_limit(context);
  if (n_ready == 0 || n_ready > rest.size()) n_ready = rest.size();
  std::vector<TaskOutcome> over;
  Progress progress(context, n_ready);
  auto pause = Millis{5};
  bool checked = false;
  for (;;) {
    std::vector<Id> open;
    for (auto& outcome : fetch(context, rest)) {
      if (outcome.is_over())
        over.push_back(std::move(outcome));
      else
        open.push_back(outcome.id);
    }
    rest = std::move(open);
    progress.show(over.size());
    if (over.size() >= n_ready || Clock::now() >= until) break;
    if (!checked) check_known(context, rest);
    checked = true;
    if (rest.size() == 1) {  // told by the aggregator at once
      const auto left = std::chrono::duration_cast<Millis>(until - Clock::now());
      if (auto outcome = context.client().result(rest[0], std::max(left, Millis{1}))) continue;
    } else {
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 3 / 2 + Millis{1}, Millis{200});
    }
  }
  progress.end();
  if (context.json() || !over.empty()) print_outcomes(context, over);
  if (over.size() >= n_ready) return exit_code_of(over);
  std::fprintf(stderr,
               "dray: %zu of %zu tasks are over; why not the others: dray task explain %s\n",
               over.size(), over.size() + rest.size(), rest[0].hex().c_str());
  return kTimeout;
}

int show_result(Context& context, const std::string& text, bool raw) {
  const Id id = parse_id(text);
  const std::vector<TaskOutcome> stored = fetch(context, std::span(&id, 1));
  if (stored.empty() || !stored[0].is_over()) {
    check_known(context, std::span(&id, 1));
    throw Failure{kTimeout, "task " + id.hex() + " is not over",
                  "wait for it: dray wait " + id.hex() + "; why: dray task explain " + id.hex()};
  }
  if (!context.json()) return print_bytes(stored[0], raw);
  print_json(outcome_json(stored[0]));
  return exit_code_of(stored);
}

void add_submit(CLI::App& app, Context& context) {
  auto* cmd = app.add_subcommand("submit", "Submit a task, or many");
  auto o = std::make_shared<SubmitOptions>();
  TaskOptions& t = o->task;
  cmd->add_option("handler", o->handler, "What shall run, such as echo")->required();
  cmd->add_option("payload", o->payload, "Its input; - reads stdin, @FILE a file");
  cmd->add_option("--queue,-q", t.queue, "Queue (default: default)");
  cmd->add_option("--priority", t.priority, "0 lowest .. 9 highest (default: 5)")
      ->check(CLI::Range(0, 9));
  add_duration(*cmd, "--delay", t.delay, "Do not start before");
  add_duration(*cmd, "--expires", t.expires, "Give up when not started after");
  add_duration(*cmd, "--time-limit", t.time_limit, "Limit of one attempt");
  cmd->add_option("--max-failures", t.max_failures, "Attempts that may fail (default: 3)")
      ->check(CLI::Range(1, 1000));
  cmd->add_option("--max-lost", t.max_lost, "Attempts whose worker may vanish (default: 3)")
      ->check(CLI::Range(1, 1000));
  add_duration(*cmd, "--backoff", t.backoff, "Base of the wait before a retry (default: 1s)");
  cmd->add_option("--gpus", o->gpus, "GPUs: 0.5 is half of one, 2.5 two whole and half of a third")
      ->type_name("AMOUNT");
  cmd->add_option("--gpu-memory", o->gpu_memory, "Memory on each GPU it uses, such as 8GiB")
      ->type_name("SIZE");
  cmd->add_option("--strategy", o->strategy,
                  "pack, spread or strict choice of GPUs (default: pack)");
  cmd->add_option("--resource", o->resources, "Needs, such as cpu=1")
      ->type_name("NAME=AMOUNT")
      ->allow_extra_args(false);
  cmd->add_option("--label", t.labels, "A label the worker must have")->allow_extra_args(false);
  add_duration(*cmd, "--ttl", t.result_ttl, "Keep the result for");
  cmd->add_option("--header", t.header, "Text stored with the task, up to 4096 bytes");
  cmd->add_option("--id", o->id, "Your own task id; the same again never makes a second task");
  cmd->add_option("--count", o->count, "So many tasks with the same payload")
      ->check(CLI::Range(uint64_t{1}, uint64_t{100'000'000}));
  cmd->add_flag("--wait,-w", o->wait,
                "Wait for the end and print the result (no limit of time "
                "but --timeout)");
  cmd->add_flag("--raw", o->raw, "With --wait: the result's bytes as they are");
  cmd->footer(
      "Examples:\n"
      "  dray submit echo hello --wait\n"
      "  dray submit text.hash_embed @input.bin --wait --raw > vectors.bin\n"
      "  dray submit sleep 100 --count 1000 --wait\n"
      "  dray submit sleep 100 --gpus 0.5 --gpu-memory 8GiB --resource step_a_slot=1 --label "
      "node:a\n");
  cmd->callback([&context, o] { context.action = [&context, o] { return submit(context, *o); }; });
}

}  // namespace

std::string payload_of(const std::string& given) {
  if (given == "-") return read_all(std::cin, "standard input");
  if (!given.starts_with('@')) return given;
  const std::string path = given.substr(1);
  std::ifstream in(path, std::ios::binary);
  std::string bytes = in ? read_all(in, path) : "";
  if (!in.eof())  // not opened, or a folder
    throw Failure{kUsage, "cannot read " + path,
                  "a payload that begins with @ can come from stdin: dray submit HANDLER -"};
  return bytes;
}

void add_run_commands(CLI::App& app, Context& context) {
  add_submit(app, context);

  auto* wait = app.add_subcommand("wait", "Wait until tasks are over");
  auto ids = std::make_shared<std::vector<std::string>>();
  auto n_ready = std::make_shared<size_t>(0);
  wait->add_option("id", *ids, "Task ids")->required();
  wait->add_option("--n-ready", *n_ready, "Return when so many are over (default: all)");
  wait->footer(
      "Without --timeout there is no limit.\n\n"
      "Examples:\n"
      "  dray wait 0190b0d3c5a07a3f8d2f6e0c4b1a9e77 --timeout 1m\n"
      "  dray submit echo x --count 10 | xargs dray wait\n");
  wait->callback([&context, ids, n_ready] {
    context.action = [&context, ids, n_ready] { return wait_for(context, *ids, *n_ready); };
  });

  auto* result = app.add_subcommand("result", "Print the result of a task");
  auto id = std::make_shared<std::string>();
  auto raw = std::make_shared<bool>(false);
  result->add_option("id", *id, "Task id")->required();
  result->add_flag("--raw", *raw, "The bytes as they are");
  result->footer(
      "Examples:\n"
      "  dray result 0190b0d3c5a07a3f8d2f6e0c4b1a9e77\n"
      "  dray result 0190b0d3c5a07a3f8d2f6e0c4b1a9e77 --raw > result.bin\n");
  result->callback([&context, id, raw] {
    context.action = [&context, id, raw] { return show_result(context, *id, *raw); };
  });
}

}  // namespace dray::console
