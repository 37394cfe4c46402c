// `dray down` and the foreground part of `dray up`: following logs, ending processes.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "client/console/cluster.h"
#include "client/console/procs.h"

namespace dray::console {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kDownTimeoutMs = 60'000;

std::atomic<int> g_signals{0};
void on_signal(int) { ++g_signals; }

std::string list_of(const std::vector<Process>& processes) {
  std::string out;
  for (const auto& p : processes)
    out += (out.empty() ? "" : ", ") + p.name + " (pid " + std::to_string(p.pid) + ")";
  return out;
}

// Prints what a log file got since the last look, each line with the service's name.
class LogFollower {
 public:
  explicit LogFollower(std::string folder) : folder_(std::move(folder)) { look(false); }
  void look(bool print = true) {
    std::error_code ec;
    for (const auto& entry : fs::directory_iterator(folder_, ec)) {
      if (entry.path().extension() != ".log") continue;
      const std::string path = entry.path(), name = entry.path().stem();
      const auto size = fs::file_size(path, ec);
      if (ec || name == "supervisord") continue;
      auto& seen = seen_[path];
      if (size < seen) seen = 0;  // rotated
      if (print && size > seen) seen += print_from(path, name, seen);
      if (!print) seen = size;
    }
    std::fflush(stdout);
  }

 private:
  static uintmax_t print_from(const std::string& path, const std::string& name, uintmax_t from) {
    std::ifstream in(path, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(from));
    std::string line;
    uintmax_t taken = 0;
    while (std::getline(in, line) && !in.eof()) {
      taken += line.size() + 1;
      std::printf("%-12s %s\n", name.c_str(), printable(line, 2000).c_str());
    }
    return taken;
  }

  std::string folder_;
  std::map<std::string, uintmax_t> seen_;
};

}  // namespace

std::string last_lines(const std::string& file, size_t lines, const std::string& indent) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return indent + "(no such file)\n";
  const auto size = static_cast<int64_t>(in.tellg());
  in.seekg(std::max<int64_t>(0, size - 16'384));
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) all.push_back(line);
  std::string out;
  for (size_t i = all.size() > lines ? all.size() - lines : 0; i < all.size(); ++i)
    out += indent + printable(all[i], 400) + "\n";
  return out.empty() ? indent + "(empty)\n" : out;
}

bool stop_cluster(const ClusterDir& dir, bool force, int64_t timeout_ms) {
  const auto until = Clock::now() + std::chrono::milliseconds(timeout_ms);
  std::set<pid_t> told;
  for (;;) {
    const std::vector<Process> left = find_processes(dir.short_path());
    if (left.empty()) return true;
    if (Clock::now() >= until) return false;
    const bool supervised = left[0].name == "supervisord";
    for (const auto& process : left) {
      // The supervisor ends the others in order; without it each is told.
      if (supervised && !force && process.name != "supervisord") continue;
      if (told.insert(process.pid).second) ::kill(process.pid, force ? SIGKILL : SIGTERM);
    }
    if (supervised && !force) poke_supervisor(dir.short_path());
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

int down(Context& context, bool force) {
  const ClusterDir dir(context.dir);
  const auto start = Clock::now();
  const std::vector<Process> running = find_processes(dir.short_path());
  const auto report = [&](const std::string& text) {
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const nlohmann::ordered_json doc = {
        {"dir", dir.path()}, {"stopped", running.size()}, {"seconds", seconds}};
    std::printf("%s\n", context.json() ? doc.dump().c_str() : text.c_str());
    return kOk;
  };
  if (running.empty())
    return report("no dray cluster runs in " + dir.path() + "; start one: dray up");
  const int64_t timeout = context.has_timeout ? context.timeout.count() : kDownTimeoutMs;
  if (!stop_cluster(dir, force, timeout))
    throw Failure{kTimeout,
                  "still running after " + format_millis(timeout) + ": " +
                      list_of(find_processes(dir.short_path())),
                  "wait for their tasks: dray down; or end them at once: dray down --force"};
  std::error_code ec;
  fs::remove(dir.file("run/cluster"), ec);
  if (dir.is_linked()) fs::remove(dir.short_path(), ec);
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
  return report("stopped " + std::to_string(running.size()) + " processes in " + format_millis(ms) +
                "; data stay in " + dir.path() + "/data");
}

int follow_logs(const ClusterDir& dir, pid_t supervisor) {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGHUP, &action, nullptr);
  std::printf("Ctrl-C stops the cluster. Its logs:\n");
  LogFollower logs(dir.file("log"));
  while (g_signals == 0) {
    logs.look();
    if (::waitpid(supervisor, nullptr, WNOHANG) == supervisor) {
      logs.look();
      std::printf("the cluster was stopped by somebody else\n");
      return kOk;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  std::printf("stopping; Ctrl-C once more ends everything at once\n");
  std::fflush(stdout);
  bool stopped = false;
  for (int64_t waited = 0; !stopped && waited < kDownTimeoutMs && g_signals < 2; waited += 500) {
    stopped = stop_cluster(dir, false, 500);
    logs.look();
  }
  if (!stopped) stopped = stop_cluster(dir, true, 5000);
  std::error_code ec;
  fs::remove(dir.file("run/cluster"), ec);
  if (dir.is_linked()) fs::remove(dir.short_path(), ec);
  std::printf(stopped ? "stopped\n" : "some processes do not end: dray down --force\n");
  return stopped ? kOk : kTaskFailed;
}

}  // namespace dray::console
