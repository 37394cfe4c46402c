// call_client: what the scripts of tests/system do as a client that calls. Every verb prints one
// JSON line; "hold" does so when it holds its streams, and then stays until it is killed.
//
//   load    --rate N [--seconds S | --until FILE] [--handler H] [--witness FILE --us N]
//           [--idempotent PERMILLE] [--deadline MS] [--log FILE]
//           so many calls a second, whatever becomes of them, for S seconds or until there is such
//           a file. With --witness the payload is that of call.witness. The log has a line for each
//           call:
//             <id> <idempotent 0|1> <start, Unix us> <end, Unix us> <end> <code> <attempts>
//   streams --count N --parts N --bytes B [--pause-us N]
//           reads so many streams in turn, one part of each, slowly
//   cancel  --rounds N        how long until the slot of a cancelled stream is free
//   hold    --count N         streams without an end
#include <dray/client.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "tests/system/arguments.h"
#include "tests/system/event_log.h"

using namespace std::chrono_literals;
using namespace storm;
using SteadyClock = std::chrono::steady_clock;

namespace {

constexpr std::string_view kEndless = "999999999:1000";

int64_t us_since(SteadyClock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - start).count();
}

double quantile_ms(std::vector<int64_t>& us, double p) {
  if (us.empty()) return 0;
  const auto at = static_cast<size_t>(p * static_cast<double>(us.size() - 1));
  std::nth_element(us.begin(), us.begin() + static_cast<std::ptrdiff_t>(at), us.end());
  return static_cast<double>(us[at]) / 1000;
}

struct CallLog {
  int64_t start_us = 0, end_us = 0;
  int ends = 0;
  bool idempotent = false;
  dray::CallEnd end = dray::CallEnd::unknown;
  dray::Code code = dray::Code::ok;
  uint32_t attempts = 0;
  std::string text{};  // of what is not a reply
};

class Load {
 public:
  Load(dray::Client& client, const Arguments& a)
      : client_(client),
        handler_(a.text("handler", a.has("witness") ? "call.witness" : "echo")),
        rate_(a.real("rate", 1000)),
        seconds_(a.real("seconds", 3600)),
        until_(a.text("until")),
        permille_(a.number("idempotent", 0)),
        deadline_(a.number("deadline", 10'000)),
        log_(a.text("log")) {
    if (a.has("witness"))
      prefix_ = a.text("witness") + '\n' + std::to_string(a.number("us", 2000)) + '\n';
  }

  int run() {
    const auto start = SteadyClock::now();
    // What was missed while this process did not run is made up for in steps, not in one heap.
    const uint64_t total = static_cast<uint64_t>(rate_ * seconds_);
    const uint64_t step_max = 1 + static_cast<uint64_t>(rate_ / 50);
    for (uint64_t sent = 0; sent < total && !told_to_stop(); std::this_thread::sleep_for(1ms)) {
      const double due = rate_ * static_cast<double>(us_since(start)) / 1e6;
      const uint64_t upto = std::min({total, static_cast<uint64_t>(due), sent + step_max});
      for (; sent < upto; ++sent) call(sent);
    }
    std::unique_lock lock(mutex_);
    done_.wait_for(lock, deadline_ + 15s, [&] { return ended_ == calls_.size(); });
    return report();
  }

 private:
  bool told_to_stop() const { return !until_.empty() && ::access(until_.c_str(), F_OK) == 0; }
  void call(uint64_t id) {
    // Spread over the ids, so that neighbours differ.
    const bool idempotent = id * 7919 % 1000 < permille_;
    {
      std::lock_guard lock(mutex_);
      calls_.push_back({.start_us = unix_us(), .idempotent = idempotent});
    }
    const dray::CallOptions options{.deadline = deadline_, .idempotent = idempotent};
    client_.async_call(handler_, prefix_ + std::to_string(id), options,
                       [this, id](dray::CallOutcome&& o) { ended(id, std::move(o)); });
  }
  void ended(uint64_t id, dray::CallOutcome&& o) {
    std::lock_guard lock(mutex_);
    CallLog& c = calls_[id];
    if (++c.ends > 1) return;
    c.end_us = unix_us();
    c.end = o.end;
    c.code = o.code;
    c.attempts = o.times.attempts;
    if (!o.ok()) c.text = o.text().substr(0, 200);
    if (o.ok() && o.bytes != (handler_ == "echo" ? prefix_ : "") + std::to_string(id)) ++wrong_;
    if (++ended_ == calls_.size()) done_.notify_one();
  }

  int report() {
    std::map<std::string, uint64_t> ends, idempotent;
    std::string first_bad;
    std::vector<int64_t> us;
    uint64_t twice = 0;
    for (const CallLog& c : calls_) {
      twice += c.ends > 1;
      if (c.ends == 0) continue;
      ++(c.idempotent ? idempotent : ends)[std::string(dray::call_end_text(c.end))];
      if (c.end == dray::CallEnd::reply) us.push_back(c.end_us - c.start_us);
      if (first_bad.empty()) first_bad = c.text;
    }
    write_log();
    JsonLine json;
    json.add("calls", uint64_t{calls_.size()}).add("without_end", calls_.size() - ended_);
    json.add("ended_twice", twice).add("wrong_replies", wrong_);
    json.add("ends", ends).add("idempotent", idempotent).add("first_bad", first_bad);
    json.add("p50_ms", quantile_ms(us, 0.5)).add("p99_ms", quantile_ms(us, 0.99));
    json.add("max_ms", quantile_ms(us, 1)).add("resent", client_.stats().calls_resent).print();
    return ended_ == calls_.size() && twice == 0 && wrong_ == 0 ? 0 : 1;
  }
  void write_log() const {
    if (log_.empty()) return;
    EventLog log(log_);
    for (size_t id = 0; id < calls_.size(); ++id) {
      const CallLog& c = calls_[id];
      log.add(std::to_string(id) + (c.idempotent ? " 1 " : " 0 ") + std::to_string(c.start_us) +
              ' ' + std::to_string(c.end_us) + ' ' +
              (c.ends == 0 ? "none" : std::string(dray::call_end_text(c.end))) + ' ' +
              std::string(dray::code_name(c.code)) + ' ' + std::to_string(c.attempts) + '\n');
    }
  }

  dray::Client& client_;
  std::string handler_, prefix_;
  double rate_, seconds_;
  std::string until_;
  uint64_t permille_;
  dray::Millis deadline_;
  std::string log_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::deque<CallLog> calls_;  // by id
  uint64_t ended_ = 0, wrong_ = 0;
};

// --- streams
// ---------------------------------------------------------------------------------------

struct Reading {
  dray::CallStream stream;
  uint64_t parts = 0;
  bool wrong = false;
  bool over = false;
};

void read_part(Reading& r, uint64_t bytes) {
  const auto part = r.stream.next();
  if (!part) {
    r.over = true;
    return;
  }
  const std::string digits = std::to_string(r.parts++);
  const std::string begin = std::string(10 - digits.size(), '0') + digits;
  r.wrong = r.wrong || part->size() != bytes || !part->starts_with(begin);
}

int streams(dray::Client& client, const Arguments& a) {
  const uint64_t count = a.number("count", 200), parts = a.number("parts", 50);
  const uint64_t bytes = a.number("bytes", 1000);
  const auto pause = std::chrono::microseconds(a.number("pause-us", 0));
  const std::string wish = std::to_string(parts) + ':' + std::to_string(bytes);
  std::deque<Reading> all;
  for (uint64_t i = 0; i < count; ++i)
    all.push_back({client.call_stream("stream.count", wish, {.deadline = 600s})});
  uint64_t left = count, good = 0, got = 0, wrong = 0;
  std::string first_bad;
  const auto start = SteadyClock::now();
  while (left > 0) {
    for (Reading& r : all) {
      if (r.over) continue;
      read_part(r, bytes);
      std::this_thread::sleep_for(pause);
      left -= r.over;
    }
  }
  for (Reading& r : all) {
    const dray::CallOutcome& o = r.stream.outcome();
    const bool whole = o.ok() && o.bytes == std::to_string(parts) && r.parts == parts && !r.wrong;
    good += whole;
    got += r.parts;
    wrong += r.wrong;
    if (!whole && first_bad.empty()) first_bad = o.text();
  }
  JsonLine json;
  json.add("streams", count).add("good", good).add("parts", got).add("out_of_order", wrong);
  json.add("first_bad", first_bad)
      .add("seconds", static_cast<double>(us_since(start)) / 1e6)
      .print();
  return good == count ? 0 : 1;
}

std::vector<dray::CallStream> open_endless(dray::Client& client, uint64_t count) {
  std::vector<dray::CallStream> all;
  for (uint64_t i = 0; i < count; ++i)
    all.push_back(client.call_stream("stream.count", kEndless, {.deadline = 600s}));
  return all;
}

// Batches of stream.count that the router knows to be at workers.
bool has_ongoing(dray::Client& client) {
  const auto text = client.admin("router", "deployments");
  if (!text) return true;
  const size_t at = text->find("\"stream.count\"");
  const std::string field = "\"ongoing_batches\":";
  const size_t value = at == std::string::npos ? at : text->find(field, at);
  return value == std::string::npos || (*text)[value + field.size()] != '0';
}

int cancel(dray::Client& client, const Arguments& a) {
  std::vector<int64_t> us;
  for (uint64_t n = a.number("rounds", 20); n > 0; --n) {
    auto all = open_endless(client, 1);
    if (!all[0].next() || !has_ongoing(client)) return 1;
    const auto start = SteadyClock::now();
    all[0].cancel();
    while (has_ongoing(client) && us_since(start) < 20'000'000) std::this_thread::sleep_for(500us);
    us.push_back(us_since(start));
  }
  JsonLine json;
  json.add("rounds", uint64_t{us.size()}).add("min_ms", quantile_ms(us, 0));
  json.add("p50_ms", quantile_ms(us, 0.5)).add("max_ms", quantile_ms(us, 1)).print();
  return 0;
}

int hold(dray::Client& client, const Arguments& a) {
  auto all = open_endless(client, a.number("count", 10));
  for (auto& stream : all)
    if (!stream.next()) return 1;
  JsonLine json;
  json.add("holds", uint64_t{all.size()}).print();
  for (;;) std::this_thread::sleep_for(1s);
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments a(argc, argv);
  const std::string verb = argc > 1 ? argv[1] : "";
  auto client = dray::Client::connect(
      {.endpoint = a.text("endpoint"), .stream_window = a.number("window", size_t{64} << 10)});
  if (!client) return std::fprintf(stderr, "%s\n", client.error().text().c_str()), 2;
  if (verb == "load") return Load(*client, a).run();
  if (verb == "streams") return streams(*client, a);
  if (verb == "cancel") return cancel(*client, a);
  if (verb == "hold") return hold(*client, a);
  return std::fprintf(stderr, "call_client: unknown verb '%s'\n", verb.c_str()), 64;
}
