// kill_storm: the client of the kill storm. It submits a mix of tasks at an even pace while
// somebody else kills the services, and writes what it did and what it was told to an append-only
// log that check_storm.py judges.
//
//   kill_storm run   --endpoint E --log FILE --witness FILE --tasks N --seconds T --seed S
//   kill_storm fetch --endpoint E --log FILE --out FILE      (stored state of every id of the log)
//
// Lines of the log (id: 32 hex):
//   P <id> <kind> <number> <round>     handed to post_many          A <round>   that round's flush
//   S <id> <kind> <number>             submit with an id of its own B <id>      it was accepted
//   R|T <id> <state> <code> <attempt> <bytes>   the one result; T: told to the second client
//   C <id> <state>                     answer to a cancel           D <id>      second submit
//   accepted X <id>                             other payload under the same id was refused as a
//   conflict E <text>                           something the client did not expect
#include <dray/client.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "tests/system/event_log.h"

using namespace std::chrono_literals;
using namespace storm;
using SteadyClock = std::chrono::steady_clock;
using dray::Client;
using dray::Id;

namespace {

constexpr int kPosters = 3;
constexpr int kSingles = 4;
constexpr auto kPatience = 300s;  // for one request
constexpr auto kNoNews = 90s;  // without any result: give up

struct Settings {
  std::string endpoint, log, witness, out;
  uint64_t tasks = 20'000, seed = 1;
  double seconds = 20;
};

using Random = std::mt19937_64;
uint64_t below(Random& r, uint64_t n) { return r() % n; }

// What a task is told to do; the checker knows the kinds by these letters.
struct Kind {
  char letter;
  uint32_t weight;
  const char* handler;
};
constexpr Kind kKinds[] = {
    {'w', 80, "witness"},  // sleeps 0..20 ms, then succeeds with its number
    {'f', 6, "fail"},  // fails once, then succeeds with its number
    {'p', 3, "fail"},  // fails for good
    {'d', 3, "fail"},  // fails its only attempt: dead
    {'e', 4, "witness"},  // expires soon
    {'l', 4, "witness"},  // starts later
};

const Kind& pick_kind(Random& r) {
  uint64_t at = below(r, 100);
  for (const Kind& k : kKinds) {
    if (at < k.weight) return k;
    at -= k.weight;
  }
  return kKinds[0];
}

dray::TaskOptions options_of(const Kind& kind, Random& r) {
  dray::TaskOptions o;
  o.max_lost = 1000;  // no number of kills makes a task dead
  o.max_failures = kind.letter == 'd' ? 1 : 1000;
  o.backoff = 10ms;
  o.priority = static_cast<int>(below(r, 10));
  o.queue = below(r, 2) ? "storm" : "default";
  if (kind.letter == 'e') o.expires = dray::Millis(1 + static_cast<int>(below(r, 40)));
  if (kind.letter == 'l') o.delay = dray::Millis(static_cast<int>(below(r, 500)));
  return o;
}

class Storm {
 public:
  explicit Storm(Settings s) : settings_(std::move(s)), log_(settings_.log) {}

  int run() {
    start_ = SteadyClock::now();
    news_ = start_.time_since_epoch().count();
    std::vector<std::thread> threads;
    const uint64_t single = settings_.tasks / 20;
    const uint64_t bulk = settings_.tasks - single;
    for (uint64_t i = 0; i < kPosters; ++i)
      threads.emplace_back([=, this] { post(i, share(bulk, kPosters, i)); });
    Client own = connect("single"), twin = connect("twin");
    for (uint64_t i = 0; i < kSingles; ++i)
      threads.emplace_back([&, i] { submit_singles(i, share(single, kSingles, i), own, twin); });
    for (std::thread& t : threads) t.join();
    await();
    std::printf("submitted %lu, expected ends %lu, told %lu, unexpected %lu, %.1f s\n",
                submitted_.load(), expected_.load(), told_.load(), odd_.load(), elapsed());
    return told_ == expected_ && odd_ == 0 ? 0 : 1;
  }

 private:
  static uint64_t share(uint64_t n, uint64_t parts, uint64_t i) {
    return n / parts + (i < n % parts);
  }
  double elapsed() const {
    return std::chrono::duration<double>(SteadyClock::now() - start_).count();
  }

  Client connect(const std::string& name) {
    for (;;) {
      auto c = Client::connect({.endpoint = settings_.endpoint, .name = name});
      if (c) return std::move(c).value();
      std::this_thread::sleep_for(100ms);
    }
  }

  void odd(const std::string& text) {
    ++odd_;
    log_.add("E " + text + '\n');
    std::fprintf(stderr, "kill_storm: %s\n", text.c_str());
  }

  std::string payload(const Kind& kind, uint64_t number, Random& r) {
    const std::string n = std::to_string(number);
    switch (kind.letter) {
      case 'f':
        return "2:" + n;
      case 'p':
        return "final:" + n;
      case 'd':
        return "0:" + n;
      default:
        return settings_.witness + '\n' + std::to_string(below(r, 21)) + '\n' + n;
    }
  }

  // Tasks are spread over the whole time: the n-th of `quota` is not sent before its moment.
  void keep_pace(uint64_t done, uint64_t quota) {
    const double at = settings_.seconds * static_cast<double>(done) / static_cast<double>(quota);
    std::this_thread::sleep_until(start_ + std::chrono::duration_cast<SteadyClock::duration>(
                                               std::chrono::duration<double>(at)));
  }

  void told(uint64_t n) {
    told_ += n;
    news_ = SteadyClock::now().time_since_epoch().count();
  }

  // --- bulk -------------------------------------------------------------------------------------

  void post(uint64_t thread, uint64_t quota) {
    Random r(settings_.seed * 1000 + thread);
    Client client = connect("poster-" + std::to_string(thread));
    client.on_results([this](std::span<const dray::ResultView> views) {
      std::string lines;
      for (const auto& v : views)
        lines += result_line('R', v.id, v.state, v.code, v.attempt, v.bytes);
      log_.add(lines);
      told(views.size());
    });
    std::vector<Id> round;
    for (uint64_t done = 0, n = 0; done < quota; ++n) {
      const std::string label = std::to_string(n * kPosters + thread);
      round.clear();
      for (uint64_t batches = 1 + below(r, 6); batches > 0 && done < quota; --batches) {
        keep_pace(done, quota);
        uint64_t size = std::min(quota - done, 1 + (below(r, 4) ? below(r, 40) : below(r, 800)));
        done += size;
        post_batch(client, size, label, r, round);
      }
      // Some wishes come before the acceptance is known, some after.
      if (below(r, 2)) cancel_some(client, round, r);
      if (auto all = client.flush(kPatience); !all) odd("flush: " + all.error().text());
      log_.add("A " + label + '\n');
      if (below(r, 2)) cancel_some(client, round, r);
    }
    await();
  }

  void post_batch(Client& client, uint64_t size, const std::string& label, Random& r,
                  std::vector<Id>& round) {
    const Kind& kind = pick_kind(r);
    const uint64_t first = submitted_.fetch_add(size);
    std::vector<std::string> texts;
    for (uint64_t i = 0; i < size; ++i) texts.push_back(payload(kind, first + i, r));
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    expected_ += size;
    auto ids = client.post_many(kind.handler, views, options_of(kind, r), kPatience);
    if (!ids) return odd("post_many: " + ids.error().text());
    std::string lines;
    for (uint64_t i = 0; i < size; ++i)
      lines += std::string("P ") + (*ids)[i].hex() + ' ' + kind.letter + ' ' +
               std::to_string(first + i) + ' ' + label + '\n';
    log_.add(lines);
    round.insert(round.end(), ids->begin(), ids->end());
  }

  void cancel_some(Client& client, const std::vector<Id>& ids, Random& r) {
    std::vector<Id> chosen;
    for (uint64_t n = below(r, 12); n > 0 && !ids.empty(); --n)
      chosen.push_back(ids[below(r, ids.size())]);
    if (chosen.empty()) return;
    cancel(client, chosen);
  }

  void cancel(Client& client, const std::vector<Id>& ids) {
    auto states = client.cancel(ids, kPatience);
    if (!states) return odd("cancel: " + states.error().text());
    std::string lines;
    for (const auto& s : *states)
      lines += "C " + s.id.hex() + ' ' + std::to_string(int{static_cast<uint8_t>(s.state)}) + '\n';
    log_.add(lines);
  }

  // --- one by one, with ids of their own --------------------------------------------------------

  void submit_singles(uint64_t thread, uint64_t quota, Client& own, Client& twin) {
    Random r(settings_.seed * 1000 + 100 + thread);
    for (uint64_t done = 0; done < quota; ++done) {
      keep_pace(done, quota);
      submit_single(own, twin, r);
    }
  }

  void submit_single(Client& own, Client& twin, Random& r) {
    const Kind& kind = pick_kind(r);
    const uint64_t number = submitted_.fetch_add(1);
    dray::TaskOptions options = options_of(kind, r);
    options.id = {static_cast<uint64_t>(unix_us() / 1000) << 16 | (r() & 0xffff), r()};
    const std::string text = payload(kind, number, r);
    log_.add("S " + options.id.hex() + ' ' + kind.letter + ' ' + std::to_string(number) + '\n');
    ++expected_;
    if (!insist(own, kind, text, options, r, 'B', 'R')) return;
    if (below(r, 5) == 0) {
      ++expected_;
      insist(twin, kind, text, options, r, 'D', 'T');
    }
    if (below(r, 8) == 0) contradict(twin, kind, text, options);
    if (below(r, 12) == 0) cancel(twin, {options.id});
  }

  // The same id, payload and options until the broker has them.
  bool insist(Client& client, const Kind& kind, const std::string& text,
              const dray::TaskOptions& options, Random& r, char accepted, char result) {
    const auto until = SteadyClock::now() + kPatience;
    while (SteadyClock::now() < until) {
      const dray::Millis timeout(5 + static_cast<int>(below(r, 500)));
      auto task = client.submit(kind.handler, text, options, timeout);
      if (task) {
        log_.add(std::string{accepted, ' '} + options.id.hex() + '\n');
        task->on_done([this, result](const dray::TaskOutcome& o) {
          log_.add(result_line(result, o.id, o.state, o.code, o.attempt, o.bytes));
          told(1);
        });
        return true;
      }
      const dray::Code code = task.error().code;
      if (code != dray::Code::timeout && code != dray::Code::unavailable &&
          code != dray::Code::overloaded && code != dray::Code::draining) {
        odd("submit " + options.id.hex() + ": " + task.error().text());
        return false;
      }
    }
    odd("submit " + options.id.hex() + ": never accepted");
    return false;
  }

  void contradict(Client& client, const Kind& kind, const std::string& text,
                  const dray::TaskOptions& options) {
    auto task = client.submit(kind.handler, text + "!", options, kPatience);
    // The refusal of one task is its outcome, not an error of the call.
    dray::TaskOutcome out;
    if (task)
      out = task->get(10s);
    else
      out.code = task.error().code;
    if (out.code == dray::Code::bad_argument) return;  // the twin still waits for that id
    if (out.code != dray::Code::conflict)
      return odd("conflict " + options.id.hex() + " got " + std::string(code_name(out.code)));
    log_.add("X " + options.id.hex() + '\n');
  }

  // Until every end was told, or nothing happens any more.
  void await() {
    const auto quiet = [&] {
      return SteadyClock::now().time_since_epoch().count() - news_.load() >
             SteadyClock::duration(kNoNews).count();
    };
    while ((told_ < expected_ || elapsed() < settings_.seconds) && !quiet())
      std::this_thread::sleep_for(5ms);
  }

  Settings settings_;
  EventLog log_;
  SteadyClock::time_point start_;
  std::atomic<int64_t> news_{0};
  std::atomic<uint64_t> submitted_{0}, expected_{0}, told_{0}, odd_{0};
};

// Asks the aggregator, through a client that knows nothing, for every id of the log.
int fetch_all(const Settings& s) {
  auto client = Client::connect({.endpoint = s.endpoint, .name = "auditor"});
  if (!client) return std::fprintf(stderr, "%s\n", client.error().text().c_str()), 2;
  EventLog out(s.out);
  std::ifstream log(s.log);
  std::vector<Id> ids;
  const auto ask = [&] {
    auto got = client->fetch(ids, 60s);
    if (!got) return std::fprintf(stderr, "fetch: %s\n", got.error().text().c_str()), false;
    std::string lines;
    for (const auto& o : *got) lines += result_line('F', o.id, o.state, o.code, o.attempt, o.bytes);
    out.add(lines);
    ids.clear();
    return true;
  };
  std::string line;
  while (std::getline(log, line)) {
    if (line.size() < 34 || (line[0] != 'P' && line[0] != 'S')) continue;
    if (auto id = Id::from_hex(line.substr(2, 32))) ids.push_back(*id);
    if (ids.size() == 4096 && !ask()) return 1;
  }
  return ids.empty() || ask() ? 0 : 1;
}

bool parse(int argc, char** argv, Settings& s) {
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--endpoint")
      s.endpoint = value;
    else if (key == "--log")
      s.log = value;
    else if (key == "--out")
      s.out = value;
    else if (key == "--witness")
      s.witness = value;
    else if (key == "--tasks")
      s.tasks = std::stoull(value);
    else if (key == "--seed")
      s.seed = std::stoull(value);
    else if (key == "--seconds")
      s.seconds = std::stod(value);
    else
      return false;
  }
  return !s.endpoint.empty() && !s.log.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  const std::string verb = argc > 1 ? argv[1] : "";
  if ((verb != "run" && verb != "fetch") || !parse(argc, argv, s)) {
    std::fprintf(stderr, "usage: kill_storm run|fetch --endpoint E --log FILE ...\n");
    return 64;
  }
  return verb == "run" ? Storm(s).run() : fetch_all(s);
}
