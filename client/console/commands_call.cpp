// call: one request, its reply and where the time went; or many.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "client/console/call_load.h"
#include "client/console/call_text.h"
#include "client/console/commands.h"

namespace dray::console {
namespace {

struct CallCommand {
  std::string handler, payload;
  Millis deadline{0};
  CallOptions options;
  uint64_t count = 1;
  uint32_t concurrency = 1;
  bool trace = false;
  bool raw = false;
  bool stream = false;
};

void put(const std::string& bytes, bool raw) {
  if (!raw && !is_text(bytes)) {
    std::printf("%s\n", preview(bytes, 128).c_str());
  } else {
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    if (!raw && !bytes.empty() && bytes.back() != '\n') std::fputc('\n', stdout);
  }
  std::fflush(stdout);
}

// The reply goes to stdout and nothing else: the trace is for people.
void put_trace(const CallParts& parts) {
  std::fflush(stdout);
  std::fputs(waterfall(parts).c_str(), stderr);
}

int report(const Context& context, const CallCommand& c, const CallOutcome& outcome) {
  if (context.json()) return print_json(call_json(c.handler, outcome)), exit_code_of(outcome);
  if (outcome.ok()) put(outcome.bytes, c.raw);
  if (outcome.ok() && !c.raw && !is_text(outcome.bytes))
    std::fprintf(stderr, "the reply is not text; all of it: dray call %s ... --raw > FILE\n",
                 printable(c.handler).c_str());
  if (c.trace) put_trace(parts_of(outcome.times));
  if (!outcome.ok()) throw to_failure(c.handler, outcome);
  return kOk;
}

int call_stream(Context& context, const CallCommand& c, const std::string& payload) {
  CallStream stream = context.client().call_stream(c.handler, payload, c.options);
  Json parts = Json::array();
  while (auto part = stream.next()) {
    if (!context.json())
      put(*part, c.raw);
    else
      parts.push_back(is_utf8(*part) ? *part : base64(*part));
  }
  const CallOutcome& outcome = stream.outcome();
  if (!context.json()) return report(context, c, outcome);
  Json doc = call_json(c.handler, outcome);
  doc["parts"] = std::move(parts);
  print_json(doc);
  return exit_code_of(outcome);
}

Json tally_json(const CallCommand& c, const CallTally& t) {
  const auto us = [&](double p) { return static_cast<double>(percentile(t.reply_ns, p)) / 1000; };
  Json doc = {{"handler", c.handler}, {"calls", t.total()},       {"replies", t.replies()},
              {"seconds", t.seconds}, {"p50_us", us(0.5)},        {"p99_us", us(0.99)},
              {"p999_us", us(0.999)}, {"reasons", Json::object()}};
  doc["calls_per_s"] = t.seconds > 0 ? static_cast<double>(t.total()) / t.seconds : 0;
  for (const auto& [reason, n] : t.reasons) doc["reasons"][reason] = n;
  doc["times"] = parts_json(parts_of(t.sums, t.batch_items, t.replies()));
  return doc;
}

int call_many(Context& context, const CallCommand& c, const std::string& payload) {
  const CallLoad load{c.handler, payload, c.options, c.concurrency, c.count, {}};
  const CallTally t = run_calls(context.client(), load);
  const Json doc = tally_json(c, t);
  if (context.json()) {
    print_json(doc);
  } else {
    std::printf("%s calls: %s replies", format_count(t.total()).c_str(),
                format_count(t.replies()).c_str());
    for (const auto& [reason, n] : t.reasons)
      std::printf(", %s %s", format_count(n).c_str(), printable(reason).c_str());
    std::printf("; %.2f s, %.0f calls/s; p50 %.0f us, p99 %.0f us\n", t.seconds,
                doc["calls_per_s"].get<double>(), doc["p50_us"].get<double>(),
                doc["p99_us"].get<double>());
    if (c.trace && t.replies() > 0) put_trace(parts_of(t.sums, t.batch_items, t.replies()));
  }
  if (!t.first_bad) return kOk;
  if (context.json()) return exit_code_of(*t.first_bad);
  throw to_failure(c.handler, *t.first_bad);
}

int call(Context& context, CallCommand c) {
  const std::string payload = payload_of(c.payload);
  if (c.stream && c.count > 1)
    throw Failure{kUsage, "--stream shows one reply and --count makes several", "leave one out"};
  if (c.deadline.count() == 0) c.deadline = context.timeout;
  c.options.deadline = c.deadline;
  if (c.stream) return call_stream(context, c, payload);
  if (c.count > 1) return call_many(context, c, payload);
  return report(context, c, context.client().call(c.handler, payload, c.options));
}

}  // namespace

void add_call_commands(CLI::App& app, Context& context) {
  auto* cmd = app.add_subcommand("call", "Call a handler and print its reply, or many times");
  auto c = std::make_shared<CallCommand>();
  cmd->add_option("handler", c->handler, "Whom, such as echo")->required();
  cmd->add_option("payload", c->payload, "Its input; - reads stdin, @FILE a file");
  add_duration(*cmd, "--deadline", c->deadline,
               "The reply comes so soon or not at all (default: "
               "--timeout)");
  cmd->add_option("--model", c->options.model, "Prefer replicas that have this model loaded")
      ->type_name("KEY");
  cmd->add_option("--items", c->options.items, "How much of a batch it fills (default: 1)")
      ->check(CLI::Range(1, 65'535));
  cmd->add_flag("--idempotent", c->options.idempotent,
                "It may run twice: then a lost worker or router is made up for");
  cmd->add_flag("--hedge", c->options.hedge, "With --idempotent: a late call goes to a second one");
  cmd->add_flag("--trace", c->trace, "Show where the time went, on stderr");
  cmd->add_flag("--raw", c->raw, "The reply's bytes as they are");
  cmd->add_flag("--stream", c->stream, "Print the parts of a reply as they come");
  cmd->add_option("--count,-n", c->count, "So many calls; prints rates, not replies")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1'000'000'000}));
  cmd->add_option("--concurrency,-c", c->concurrency, "Calls open at once, with --count")
      ->check(CLI::Range(1, 65'536));
  cmd->footer(
      "Nothing of a call is kept on disk. Exit codes: 0 reply, 1 failed or cancelled, 2 usage,\n"
      "3 unknown handler, 4 expired or unknown (it may have run), 5 no cluster, 6 rejected "
      "(surely\n"
      "not run; try again later).\n\n"
      "Examples:\n"
      "  dray call echo hello\n"
      "  dray call echo hello --deadline 150ms --trace\n"
      "  dray call stream.count 10:100 --stream\n"
      "  dray call echo hello --count 10000 --concurrency 16 -o json\n"
      "  dray call text.hash_embed @input.bin --raw > vectors.bin\n");
  cmd->callback([&context, c] { context.action = [&context, c] { return call(context, *c); }; });
}

}  // namespace dray::console
