// system_client: what the scripts of tests/system do as a client, through the client library. Every
// verb prints one JSON line; exit code 0: it was accepted (and succeeded), 1: not.
//
//   submit --handler H [--payload P | --payload-bytes N] [--id HEX] [--queue Q] [--timeout MS]
//          [--wait MS] [--resource NAME] [--amount X] [--label L] [--max-lost N] [--max-failures N]
//          [--time-limit MS]
//   bulk   --handler H --count N --bytes B [--payload P] [--queue Q] [--wait S]
//          N tasks in large messages; with --wait also their ends
//   ping   --seconds S        one echo after the other; how many, slowest, failed
//   fetch  ID...              stored outcomes
//   admin  --target T --verb V [key=value...]
#include <dray/client.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/system/arguments.h"

using namespace std::chrono_literals;
using namespace storm;
using SteadyClock = std::chrono::steady_clock;

namespace {

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

void add_error(JsonLine& json, const dray::ClientError& e) {
  json.add("error", code_name(e.code)).add("detail", e.detail);
  json.add("retry_after_ms", static_cast<uint64_t>(e.retry_after.count())).add("limit", e.limit);
}

void add_outcome(JsonLine& json, const dray::TaskOutcome& o) {
  json.add("state", state_text(o.state)).add("code", code_name(o.code));
  json.add("attempt", uint64_t{o.attempt}).add("bytes", o.bytes.substr(0, 200));
}

dray::TaskOptions options_of(const Arguments& a) {
  dray::TaskOptions o;
  o.queue = a.text("queue", "default");
  o.max_lost = static_cast<uint32_t>(a.number("max-lost", 3));
  o.max_failures = static_cast<uint32_t>(a.number("max-failures", 3));
  o.backoff = 50ms;
  o.time_limit = dray::Millis(a.number("time-limit", 0));
  if (a.has("resource")) o.resources[a.text("resource")] = a.real("amount", 1);
  if (a.has("label")) o.labels.push_back(a.text("label"));
  if (auto id = dray::Id::from_hex(a.text("id"))) o.id = *id;
  return o;
}

int submit(dray::Client& client, const Arguments& a) {
  const std::string payload =
      a.has("payload-bytes") ? std::string(a.number("payload-bytes", 0), 'x') : a.text("payload");
  auto task = client.submit(a.text("handler"), payload, options_of(a),
                            dray::Millis(a.number("timeout", 30'000)));
  JsonLine json;
  json.add("accepted", task.has_value());
  if (!task) {
    add_error(json, task.error());
    return json.print(), 1;
  }
  json.add("id", task->id().hex());
  bool good = true;
  if (a.has("wait")) {
    const dray::TaskOutcome out = task->get(dray::Millis(a.number("wait", 30'000)));
    add_outcome(json, out);
    good = out.ok();
  }
  json.print();
  return good ? 0 : 1;
}

int bulk(dray::Client& client, const Arguments& a) {
  const uint64_t count = a.number("count", 1000), wait = a.number("wait", 0);
  std::atomic<uint64_t> ends{0}, good{0}, refused{0};
  client.on_results([&](std::span<const dray::ResultView> views) {
    for (const auto& v : views) {
      good += v.state == dray::State::succeeded;
      refused += v.state == dray::State::unknown;
    }
    ends += views.size();
  });
  const auto start = SteadyClock::now();
  std::string text = a.text("payload");
  text.resize(std::max(text.size(), size_t{a.number("bytes", 0)}), 'x');
  std::vector<std::string_view> views(10'000, text);
  JsonLine json;
  uint64_t sent = 0;
  for (; sent < count; sent += views.size()) {
    views.resize(std::min<uint64_t>(views.size(), count - sent));
    if (auto ids = client.post_many(a.text("handler"), views, options_of(a), 300s); !ids) {
      add_error(json, ids.error());
      break;
    }
  }
  auto flushed = client.flush(300s);
  json.add("sent", sent).add("flushed", flushed.has_value());
  json.add("submit_s", seconds_since(start));
  while (ends < count && seconds_since(start) < static_cast<double>(wait))
    std::this_thread::sleep_for(2ms);
  json.add("refused", refused.load()).add("ends", ends.load()).add("succeeded", good.load());
  json.add("seconds", seconds_since(start)).print();
  const bool done = wait == 0 ? refused == 0 : good == count;
  return flushed && sent == count && done ? 0 : 1;
}

int ping(dray::Client& client, const Arguments& a) {
  const auto start = SteadyClock::now();
  uint64_t good = 0, failed = 0;
  double slowest = 0;
  std::string last;
  while (seconds_since(start) < a.real("seconds", 5)) {
    const auto begin = SteadyClock::now();
    auto task = client.submit("echo", "ping", {}, 20s);
    const dray::TaskOutcome out = task ? task->get(20s) : dray::TaskOutcome{};
    if (out.ok() && out.bytes == "ping") {
      ++good;
    } else {
      ++failed;
      last = task ? out.bytes : task.error().text();
    }
    slowest = std::max(slowest, seconds_since(begin));
    std::this_thread::sleep_for(20ms);
  }
  JsonLine json;
  json.add("good", good).add("failed", failed).add("slowest_s", slowest).add("last_error", last);
  json.print();
  return failed == 0 && good > 0 ? 0 : 1;
}

int fetch(dray::Client& client, const Arguments& a) {
  std::vector<dray::Id> ids;
  for (const std::string& word : a.words)
    if (auto id = dray::Id::from_hex(word)) ids.push_back(*id);
  auto all = client.fetch(ids);
  JsonLine json;
  if (!all) {
    add_error(json, all.error());
    return json.print(), 1;
  }
  std::string list;
  for (const auto& o : *all) {
    JsonLine one;
    add_outcome(one.add("id", o.id.hex()), o);
    list += (list.empty() ? "" : ", ") + one.text();
  }
  json.raw("tasks", "[" + list + "]").print();
  return 0;
}

int admin(dray::Client& client, const Arguments& a) {
  dray::Client::Args args;
  for (const std::string& word : a.words) {
    const size_t at = word.find('=');
    const std::string value = word.substr(at + 1);
    if (value == "True" || value == "False")
      args.emplace_back(word.substr(0, at), value == "True");
    else
      args.emplace_back(word.substr(0, at), value);
  }
  auto answer = client.admin(a.text("target", "broker"), a.text("verb"), args, 10s);
  if (answer) return std::printf("%s\n", answer->c_str()), 0;
  JsonLine json;
  add_error(json, answer.error());
  return json.print(), 1;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments a(argc, argv);
  const std::string verb = argc > 1 ? argv[1] : "";
  auto client = dray::Client::connect({.endpoint = a.text("endpoint")});
  if (!client) {
    JsonLine json;
    add_error(json.add("accepted", false), client.error());
    return json.print(), 1;
  }
  if (verb == "submit") return submit(*client, a);
  if (verb == "bulk") return bulk(*client, a);
  if (verb == "ping") return ping(*client, a);
  if (verb == "fetch") return fetch(*client, a);
  if (verb == "admin") return admin(*client, a);
  return std::fprintf(stderr, "system_client: unknown verb '%s'\n", verb.c_str()), 64;
}
