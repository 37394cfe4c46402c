// top: the cluster once a second, in place, with plain terminal codes.
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>

#include "client/console/commands.h"
#include "client/console/deployments.h"
#include "client/console/routers.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> g_leave{false};
void on_signal(int) { g_leave = true; }

// One look at everything.
struct Sample {
  Clock::time_point at;
  Json deployments = Json::array();
  Json broker = Json::object();
  Json workers = Json::array();
  std::string trouble;
};

Json ask_quietly(Context& context, const char* verb, const Json& fallback) {
  auto text = context.client().admin("broker", verb, {}, Millis{1000});
  const Json doc = text ? Json::parse(*text, nullptr, false) : Json();
  return doc.type() == fallback.type() ? doc : fallback;
}

Sample look(Context& context) {
  Sample s;
  s.at = Clock::now();
  for (const auto& r : ask_routers(context, "deployments", Millis{1000})) {
    if (!r.error.empty()) s.trouble = r.name + ": " + r.error;
    for (const auto& d : r.doc.value("deployments", Json::array())) {
      Json row = {{"router", r.name}};
      row.update(d);
      s.deployments.push_back(std::move(row));
    }
  }
  s.broker = ask_quietly(context, "status", Json::object());
  s.workers = ask_quietly(context, "workers", Json::array());
  if (s.broker.empty() && s.trouble.empty()) s.trouble = "the broker does not answer";
  return s;
}

const Json* same_in(const Sample& s, const Json& deployment) {
  for (const auto& d : s.deployments)
    if (d["router"] == deployment["router"] && d.value("name", "") == deployment.value("name", ""))
      return &d;
  return nullptr;
}

double per_second(uint64_t now, uint64_t before, double seconds) {
  return seconds > 0 && now >= before ? static_cast<double>(now - before) / seconds : 0;
}

// Rates and means between two looks.
Json row_of(const Json& d, const Json* old, double seconds) {
  const Json empty = Json::object();
  const Json& o = old ? *old : empty;
  const Json total = part_of(part_of(d, "latency"), "total");
  const Json before = part_of(part_of(o, "latency"), "total");
  const auto calls = [](const Json& x) { return sum_of(ends_of(x)); };
  const double n = number_of(total, "n") - number_of(before, "n");
  const double us = number_of(total, "n") * number_of(total, "mean_us") -
                    number_of(before, "n") * number_of(before, "mean_us");
  return {{"name", cell(d, "name")},
          {"router", cell(d, "router")},
          {"replicas", count_of(d, "replicas")},
          {"queued", count_of(d, "queued")},
          {"running", count_of(d, "ongoing_calls")},
          {"calls", calls(d)},
          {"calls_per_s", old ? per_second(calls(d), calls(o), seconds) : 0},
          {"rejected_per_s",
           old ? per_second(sum_of(part_of(d, "rejected")), sum_of(part_of(o, "rejected")), seconds)
               : 0},
          {"mean_us", n > 0 && us > 0 ? us / n : 0},
          {"p50_us", number_of(total, "p50_us")},
          {"p99_us", number_of(total, "p99_us")},
          {"batch_items", number_of(d, "mean_batch_items")}};
}

Json frame_of(const Sample& before, const Sample& now) {
  const double seconds = std::chrono::duration<double>(now.at - before.at).count();
  Json rows = Json::array();
  for (const auto& d : now.deployments) rows.push_back(row_of(d, same_in(before, d), seconds));
  std::stable_sort(rows.begin(), rows.end(), [](const Json& a, const Json& b) {
    return a["calls_per_s"].get<double>() > b["calls_per_s"].get<double>();
  });
  const Json counters = part_of(now.broker, "counters"), old = part_of(before.broker, "counters");
  Json tasks = {{"ready", count_of(now.broker, "ready")},
                {"waiting", count_of(now.broker, "waiting")},
                {"running", count_of(now.broker, "running")},
                {"submitted_per_s",
                 per_second(count_of(counters, "submitted"), count_of(old, "submitted"), seconds)},
                {"succeeded_per_s",
                 per_second(count_of(counters, "succeeded"), count_of(old, "succeeded"), seconds)}};
  return {{"seconds", seconds},
          {"deployments", std::move(rows)},
          {"tasks", std::move(tasks)},
          {"workers", now.workers},
          {"trouble", now.trouble}};
}

std::string fixed(const char* format, double value) {
  char text[48];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string us_cell(const Json& row, const char* key) {
  const double us = number_of(row, key);
  return us > 0 ? format_micros(static_cast<int64_t>(us)) : "";
}

std::string text_of(const Json& f, const std::string& endpoint) {
  char clock[16];
  const std::time_t wall = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&wall, &local);
  std::strftime(clock, sizeof clock, "%H:%M:%S", &local);
  std::string out = "dray top  " + std::string(clock) + "  " + endpoint + "\n\n";
  Table calls({"CALLS OF", "ROUTER", "REPLICAS", "QUEUED", "RUNNING", "CALLS/S", "REJECTED/S",
               "MEAN NOW", "P50", "P99", "BATCH"});
  size_t idle = 0;
  for (const auto& r : f["deployments"]) {
    if (count_of(r, "calls") + count_of(r, "queued") + count_of(r, "running") == 0) {
      ++idle;
      continue;
    }
    calls.add({cell(r, "name"), cell(r, "router"), cell(r, "replicas"), cell(r, "queued"),
               cell(r, "running"), fixed("%.0f", number_of(r, "calls_per_s")),
               fixed("%.0f", number_of(r, "rejected_per_s")), us_cell(r, "mean_us"),
               us_cell(r, "p50_us"), us_cell(r, "p99_us"),
               fixed("%.1f", number_of(r, "batch_items"))});
  }
  if (!calls.empty()) out += calls.text();
  if (idle > 0) out += "and " + std::to_string(idle) + " that nobody called: dray deployments\n";
  const Json& t = f["tasks"];
  Table tasks({"TASKS READY", "WAITING", "RUNNING", "SUBMITTED/S", "SUCCEEDED/S"});
  tasks.add({format_count(count_of(t, "ready")), format_count(count_of(t, "waiting")),
             format_count(count_of(t, "running")), fixed("%.0f", number_of(t, "submitted_per_s")),
             fixed("%.0f", number_of(t, "succeeded_per_s"))});
  out += "\n" + tasks.text();
  Table workers({"WORKER", "STATE", "SLOTS", "LEASES", "DONE"});
  for (const auto& w : f["workers"])
    workers.add(
        {cell(w, "name"), cell(w, "state"), cell(w, "slots"), cell(w, "leases"), cell(w, "done")});
  if (!workers.empty()) out += "\n" + workers.text();
  if (const std::string trouble = cell(f, "trouble"); !trouble.empty())
    out += "\nnot well: " + printable(trouble, 300) + "; see: dray status\n";
  return out;
}

// The alternate screen without echo, until it is destroyed.
class Screen {
 public:
  Screen() {
    struct sigaction action {};
    action.sa_handler = on_signal;
    for (const int s : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(s, &action, nullptr);
    if (::tcgetattr(STDIN_FILENO, &old_) == 0) {
      termios raw = old_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      is_raw_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    std::fputs("\033[?1049h\033[?25l\033[2J", stdout);
  }
  ~Screen() {
    std::fputs("\033[?25h\033[?1049l", stdout);
    std::fflush(stdout);
    if (is_raw_) ::tcsetattr(STDIN_FILENO, TCSANOW, &old_);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  void show(const std::string& text) const {
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1;
    size_t rows = known ? size.ws_row : 24u;
    const size_t columns = known && size.ws_col > 0 ? size.ws_col : 80u;
    std::string out = "\033[H";
    for (size_t at = 0; at < text.size() && rows-- > 1;) {
      const size_t end = std::min(text.find('\n', at), text.size());
      out += printable(text.substr(at, end - at)).substr(0, columns) + "\033[K\r\n";
      at = end + 1;
    }
    out += "\033[Jq leaves";
    std::fputs(out.c_str(), stdout);
    std::fflush(stdout);
  }

  // True when the person wants to leave.
  bool wait(Clock::time_point until) const {
    while (!g_leave) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      if (left <= 0) return false;
      pollfd p{STDIN_FILENO, POLLIN, 0};
      if (::poll(&p, 1, static_cast<int>(left)) <= 0) continue;
      char c = 0;
      if (::read(STDIN_FILENO, &c, 1) <= 0 || c == 'q' || c == 'Q' || c == 3) return true;
    }
    return true;
  }

 private:
  termios old_{};
  bool is_raw_ = false;
};

int top(Context& context, bool once, Millis interval) {
  Sample before = look(context);
  if (once || context.json()) {
    ::usleep(static_cast<useconds_t>(interval.count() * 1000));
    const Json frame = frame_of(before, look(context));
    if (context.json())
      print_json(frame);
    else
      std::fputs(text_of(frame, context.router_endpoint()).c_str(), stdout);
    return kOk;
  }
  if (!::isatty(STDOUT_FILENO) || !::isatty(STDIN_FILENO))
    throw Failure{kUsage, "top needs a terminal", "for scripts: dray top --once"};
  const Screen screen;
  screen.show(text_of(frame_of(before, before), context.router_endpoint()));
  while (!screen.wait(before.at + interval)) {
    Sample now = look(context);
    screen.show(text_of(frame_of(before, now), context.router_endpoint()));
    before = std::move(now);
  }
  return kOk;
}

}  // namespace

void add_top_command(CLI::App& app, Context& context) {
  auto* cmd = app.add_subcommand("top", "Queues, calls, latency and workers, live");
  auto once = std::make_shared<bool>(false);
  auto interval = std::make_shared<Millis>(1000);
  cmd->add_flag("--once", *once, "Print one interval as text and leave");
  add_duration(*cmd, "--interval", *interval, "Time between two looks (default: 1s)");
  cmd->footer(
      "q or Ctrl-C leaves. MEAN NOW is of the last interval, P50 and P99 since the router's "
      "start.\n"
      "\nExamples:\n  dray top\n  dray top --once --interval 5s\n  dray top -o json\n");
  cmd->callback([&context, once, interval] {
    context.action = [&context, once, interval] {
      return top(context, *once, std::clamp(*interval, Millis{100}, Millis{600'000}));
    };
  });
}

}  // namespace dray::console
