// Ends of calls as text, JSON and exit codes; the waterfall of one.
#include "client/console/call_text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace dray::console {
namespace {

struct Part {
  const char* name;
  double us;
  const char* where;
};

// In the order in which they happen. Of the ways there and back only the sum is known.
std::vector<Part> ordered(const CallParts& p) {
  const double client = std::max(0.0, p.total - p.queue - p.worker) / 2;
  const double wire = std::max(0.0, p.worker - p.wait - p.run) / 2;
  return {{"to router", client, "client, wire"},
          {"queue", std::max(0.0, p.queue - p.gather), "router: waits for a replica"},
          {"gather", p.gather, "router: waits for company in the batch"},
          {"to worker", wire, "router, wire"},
          {"wait", p.wait, "worker: waits for a slot"},
          {"run", p.run, "handler"},
          {"from worker", wire, "wire, router"},
          {"to client", client, "wire, client"}};
}

std::string hint_for(const std::string& handler, const CallOutcome& o) {
  const std::string soon =
      o.retry_after.count() > 0 ? " in " + format_millis(o.retry_after.count()) : " later";
  switch (o.code) {
    case Code::unknown_handler:
      return "what can be called: dray deployments";
    case Code::no_replica:
      return "try again" + soon + "; who is there: dray workers";
    case Code::infeasible:
      return "give it more time: --deadline; what it takes: dray latency " + handler;
    case Code::overloaded:
    case Code::draining:
      return "try again" + soon + "; see: dray deployments " + handler;
    case Code::unavailable:
    case Code::closed:
      return "look at the services: dray status";
    case Code::too_large:
    case Code::bad_argument:
      return "see: dray call --help";
    default:
      break;
  }
  if (o.end == CallEnd::expired)
    return "give it more time: --deadline; where the time goes: dray latency " + handler;
  if (o.end == CallEnd::unknown)
    return "it may have run; if it may run twice: --idempotent; see: dray status";
  return o.end == CallEnd::failed ? "the handler said so; its log: DIR/log/worker-N.log" : "";
}

}  // namespace

CallParts parts_of(const CallTimes& t) { return parts_of(t, t.batch_items, 1); }

CallParts parts_of(const CallTimes& t, uint64_t batch_items, uint64_t count) {
  const double n = static_cast<double>(std::max<uint64_t>(count, 1));
  const auto mean = [n](std::chrono::microseconds us) {
    return static_cast<double>(us.count()) / n;
  };
  return {static_cast<double>(count),
          mean(t.total),
          mean(t.queue),
          mean(t.gather),
          mean(t.worker),
          mean(t.wait),
          mean(t.run),
          static_cast<double>(batch_items) / n,
          static_cast<double>(t.attempts) / n};
}

std::string waterfall(const CallParts& p) {
  constexpr double kWidth = 40;
  char line[160];
  std::snprintf(line, sizeof line, "total %12.0f us   %s%.3g in its batch, sent to %.3g\n", p.total,
                p.count > 1 ? "mean of all replies; " : "", p.batch_items, p.attempts);
  std::string out = line;
  double at = 0;
  for (const Part& part : ordered(p)) {
    const double scale = p.total > 0 ? kWidth / p.total : 0;
    const auto from = static_cast<size_t>(std::min(at * scale, kWidth - 1));
    const auto to = static_cast<size_t>(std::min(std::ceil((at + part.us) * scale), kWidth));
    std::string bar(from, ' ');
    if (part.us > 0) bar.append(std::max<size_t>(to > from ? to - from : 1, 1), '#');
    bar.resize(static_cast<size_t>(kWidth), ' ');
    std::snprintf(line, sizeof line, "%-11s %6.0f us  |%s|  %s\n", part.name, part.us, bar.c_str(),
                  part.where);
    out += line;
    at += part.us;
  }
  return out;
}

Json parts_json(const CallParts& p) {
  Json doc = {{"total_us", p.total},          {"queue_us", p.queue},   {"gather_us", p.gather},
              {"worker_us", p.worker},        {"wait_us", p.wait},     {"run_us", p.run},
              {"batch_items", p.batch_items}, {"attempts", p.attempts}};
  for (const Part& part : ordered(p)) doc["waterfall"][part.name] = part.us;
  return doc;
}

Json call_json(const std::string& handler, const CallOutcome& o) {
  Json doc = {{"handler", handler}, {"end", call_end_text(o.end)}, {"code", code_name(o.code)}};
  const std::string key = o.ok() ? "reply" : "error";
  if (is_utf8(o.bytes))
    doc[key] = o.bytes;
  else
    doc[key + "_base64"] = base64(o.bytes);
  if (o.end == CallEnd::rejected)
    doc.update({{"retry_after_ms", o.retry_after.count()}, {"limit", o.limit}, {"value", o.value}});
  const Json parts = parts_json(parts_of(o.times));
  doc["times"] = parts;
  return doc;
}

int exit_code_of(const CallOutcome& o) {
  switch (o.end) {
    case CallEnd::reply:
      return kOk;
    case CallEnd::rejected: {
      const int code = exit_code_of(o.code);
      return code == kTaskFailed || code == kOk ? kRejected : code;
    }
    case CallEnd::expired:
      return kTimeout;
    case CallEnd::unknown:
      return o.code == Code::unavailable || o.code == Code::closed ? kNoCluster : kTimeout;
    default:
      return kTaskFailed;
  }
}

Failure to_failure(const std::string& handler, const CallOutcome& o) {
  return {exit_code_of(o), "call of " + handler + ": " + o.text(), hint_for(handler, o)};
}

}  // namespace dray::console
