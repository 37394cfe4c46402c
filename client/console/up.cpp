// `dray up`: starts supervisord for a folder and waits until the cluster takes tasks.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "client/console/cluster.h"
#include "client/console/procs.h"
#include "client/console/routers.h"
#include "common/gpu/fake_gpus.h"

namespace dray::console {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kUpTimeoutMs = 30'000;
constexpr int kExitsMax = 3;  // a service that ended so often will not come up

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string programs_folder() {
  std::error_code ec;
  const char* given = std::getenv("DRAY_BIN");
  const std::string dir = given != nullptr && *given != '\0'
                              ? std::string(given)
                              : fs::read_symlink("/proc/self/exe", ec).parent_path().string();
  for (const char* name :
       {"dray-broker", "dray-aggregator", "dray-balancer", "dray-router", "dray-worker"})
    if (::access((dir + "/" + name).c_str(), X_OK) != 0)
      throw Failure{kUsage, "there is no program " + dir + "/" + name,
                    "build it (scripts/build) or set DRAY_BIN to the folder of the programs"};
  return fs::absolute(dir, ec).string();
}

std::string variable_of(const std::string& key) {
  std::string name = "DRAY_";
  for (const char c : key)
    name += c == '.' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

void set_environment(const ClusterDir& dir, const std::string& programs,
                     const UpSettings& settings) {
  ::setenv("DRAY_DIR", dir.short_path().c_str(), 1);
  ::setenv("DRAY_BIN", programs.c_str(), 1);
  ::setenv("DRAY_WORKERS", std::to_string(settings.workers).c_str(), 1);
  ::setenv("OPENBLAS_NUM_THREADS", "1", 0);  // slots are the parallelism
  for (const auto& set : settings.all_sets()) {
    const size_t equals = set.find('=');
    ::setenv(variable_of(set.substr(0, equals)).c_str(), set.c_str() + equals + 1, 1);
  }
}

pid_t start_supervisor(const ClusterDir& dir) {
  const std::string out = dir.file("log/supervisord.out"), conf = dir.file("supervisord.conf");
  const pid_t pid = ::fork();
  if (pid < 0)
    throw Failure{kTaskFailed, "cannot start a process", "is the machine out of memory?"};
  if (pid > 0) return pid;
  ::setsid();  // Ctrl-C is for the console, which stops the services in order
  const int in_fd = ::open("/dev/null", O_RDONLY);
  const int out_fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::dup2(in_fd, 0);
  ::dup2(out_fd, 1);
  ::dup2(out_fd, 2);
  ::execlp("supervisord", "supervisord", "-n", "-c", conf.c_str(), nullptr);
  ::_exit(127);
}

// Waits until everything of a fresh cluster is ready.
class Starter {
 public:
  Starter(Context& context, const ClusterDir& dir, const Config& config, const UpSettings& settings)
      : context_(context),
        dir_(dir),
        workers_(settings.workers),
        waiting_(dir.services(config, settings)) {
    std::erase_if(waiting_, [](const auto& s) { return s.http.empty(); });
  }

  // Empty: ready. Else what is wrong.
  std::string run(pid_t supervisor, int64_t timeout_ms) {
    const std::string log = dir_.file("log/supervisord.log");
    std::error_code ec;
    const auto log_start = fs::file_size(log, ec);
    log_start_ = ec ? 0 : static_cast<size_t>(log_start);
    const auto until = start_ + std::chrono::milliseconds(timeout_ms);
    bool awake = false;
    while (Clock::now() < until) {
      if (::waitpid(supervisor, nullptr, WNOHANG) == supervisor) return "supervisord ended";
      awake = awake || poke_supervisor(dir_.short_path());
      ask_services();
      if (waiting_.empty() && is_attached()) return "";
      if (const std::string bad = ends_early(log); !bad.empty()) return bad;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return "not ready after " + format_millis(timeout_ms);
  }

  const std::vector<ServiceAddress>& waiting() const { return waiting_; }
  const Json& ready() const { return ready_; }
  double seconds() const { return seconds_since(start_); }

 private:
  void ask_services() {
    std::erase_if(waiting_, [&](const ServiceAddress& s) {
      const HttpAnswer answer = http_get(s.http, "/ready", 1000);
      if (answer.status != 200) return false;
      ready_.push_back({{"name", s.name}, {"ready_after_s", seconds()}});
      if (!context_.json()) std::printf("%-12s ready after %.2f s\n", s.name.c_str(), seconds());
      std::fflush(stdout);
      return true;
    });
  }

  // All workers are known to the broker and to every router, seen as a client sees it.
  bool is_attached() {
    if (!Context::answers(context_.router_endpoint())) return false;
    auto text = context_.client().admin("broker", "workers", {}, Millis{2000});
    if (!text) return false;
    const Json list = Json::parse(*text, nullptr, false);
    if (!list.is_array() || std::count_if(list.begin(), list.end(), [](const Json& w) {
                              return w.value("state", "") == "up";
                            }) < workers_)
      return false;
    const auto routers = ask_routers(context_, "status", Millis{2000});
    return std::all_of(routers.begin(), routers.end(), [&](const RouterAnswer& r) {
      return r.error.empty() && r.doc.value("workers", workers_) >= workers_;
    });
  }

  std::string ends_early(const std::string& log) {
    const auto text = read_file(log, log_start_ + (1 << 20));
    if (!text || text->size() <= log_start_) return "";
    for (const auto& service : waiting_) {
      const std::string mark = "exited: " + service.name + " (";
      int ends = 0;
      for (size_t at = log_start_; (at = text->find(mark, at)) != std::string::npos; ++at) ++ends;
      if (ends >= kExitsMax) return service.name + " ends again and again";
    }
    return "";
  }

  Context& context_;
  const ClusterDir& dir_;
  int workers_;
  std::vector<ServiceAddress> waiting_;
  Json ready_ = Json::array();
  size_t log_start_ = 0;
  Clock::time_point start_ = Clock::now();
};

[[noreturn]] void give_up(const ClusterDir& dir, const Starter& starter, const std::string& why) {
  std::fprintf(stderr, "the cluster did not start: %s\n", why.c_str());
  for (const auto& service : starter.waiting()) {
    const HttpAnswer answer = http_get(service.http, "/ready", 500);
    const Json body = Json::parse(answer.body, nullptr, false);
    const std::string reasons =
        answer.status == 0 ? "does not answer"
                           : (body.is_object() ? body.value("reasons", Json::array()).dump() : "");
    const std::string file = "log/" + service.name + ".log";
    std::fprintf(stderr, "%s: %s; last lines of %s:\n%s", service.name.c_str(),
                 printable(reasons, 300).c_str(), (dir.path() + "/" + file).c_str(),
                 last_lines(dir.file(file), 5, "  ").c_str());
  }
  if (why == "supervisord ended")
    std::fprintf(stderr, "last lines of log/supervisord.out:\n%s",
                 last_lines(dir.file("log/supervisord.out"), 5, "  ").c_str());
  stop_cluster(dir, false, 5000) || stop_cluster(dir, true, 5000);
  throw Failure{kNoCluster, "the cluster did not start; what was started is stopped",
                "read the logs in " + dir.path() + "/log"};
}

int already_up(Context& context, const ClusterDir& dir, const UpOptions& options) {
  const UpSettings saved = dir.saved();
  const std::string endpoint = dir.endpoint();
  if (context.json()) {
    const Json doc = {{"dir", dir.path()}, {"endpoint", endpoint}, {"already_up", true}};
    std::printf("%s\n", doc.dump().c_str());
    return kOk;
  }
  std::printf("already up in %s: %s\n", dir.path().c_str(), endpoint.c_str());
  const size_t routers = std::max<size_t>(saved.routers.size(), 1);
  if (saved.workers != options.workers || saved.sets != options.sets ||
      routers != static_cast<size_t>(options.routers))
    std::printf("its settings stay as they are; to change them: dray down, then dray up\n");
  std::printf("next: dray status\n");
  return kOk;
}

void print_ready(const Context& context, const ClusterDir& dir, const Starter& starter) {
  const std::string endpoint = context.router_endpoint();
  if (context.json()) {
    const Json doc = {{"dir", dir.path()},
                      {"endpoint", endpoint},
                      {"already_up", false},
                      {"seconds", starter.seconds()},
                      {"services", starter.ready()}};
    std::printf("%s\n", doc.dump().c_str());
    return;
  }
  const std::string where = context.dir.empty() ? "" : " --dir " + context.dir;
  std::printf("\ndray is up in %.2f s: %s\n", starter.seconds(), endpoint.c_str());
  if (dir.is_linked())
    std::printf("the path of the folder is long: sockets are reached through %s\n",
                dir.short_path().c_str());
  std::printf("next: dray%s submit echo hello --wait\n      dray%s status\n      dray%s down\n",
              where.c_str(), where.c_str(), where.c_str());
  std::fflush(stdout);
}

std::vector<RouterAddress> plan_routers(const ClusterDir& dir, const UpOptions& options) {
  for (const auto& set : options.sets)
    for (const char* key : {"router.endpoint=", "router.worker_endpoint=", "worker.routers=",
                            "router.name=", "client.endpoint="})
      if (set.starts_with(key))
        throw Failure{kUsage, "--routers and --tcp choose " + set.substr(0, set.find('=')),
                      "leave out --set " + set};
  return dir.plan_routers(options.routers, options.tcp);
}

// One `up` or `down` at a time in a folder.
int lock_folder(const ClusterDir& dir) {
  const int fd = ::open(dir.file("run/up.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  throw Failure{kTaskFailed, "another dray up is at work in " + dir.path(),
                "wait for it, then: dray status"};
}

}  // namespace

int up(Context& context, const UpOptions& options) {
  if (!context.endpoint.empty())
    throw Failure{kUsage, "up starts a cluster in a folder and takes no --endpoint",
                  "dray up --dir DIR"};
  const ClusterDir dir(context.dir);
  UpSettings settings{options.workers, options.sets, {}};
  if (options.test_handlers) settings.sets.push_back("worker.allow_test_handlers=true");
  if (!options.fake_gpus.empty()) {
    if (auto fake = gpu::parse_fake_gpus(options.fake_gpus, "worker"); !fake)
      throw Failure{kUsage, fake.error().detail, "see: dray up --help"};
    settings.sets.push_back("worker.gpus=fake:" + options.fake_gpus);
  }
  if (options.routers > 1 || options.tcp) settings.routers = plan_routers(dir, options);
  const std::string programs = programs_folder();
  const Config config = dir.config(settings.all_sets());
  dir.create();
  const int lock = lock_folder(dir);
  const std::vector<Process> old = find_processes(dir.short_path());
  if (!old.empty() && old[0].name == "supervisord") return already_up(context, dir, options);
  if (!old.empty()) {
    const std::string first = old[0].name + " (pid " + std::to_string(old[0].pid) + ")";
    throw Failure{kTaskFailed,
                  std::to_string(old.size()) + " processes of an earlier cluster still run in " +
                      dir.path() + ", such as " + first,
                  "stop them: dray down --dir " + dir.path()};
  }
  dir.save(settings);
  dir.write_routers(settings.routers);
  set_environment(dir, programs, settings);
  Starter starter(context, dir, config, settings);
  const pid_t supervisor = start_supervisor(dir);
  const std::string bad =
      starter.run(supervisor, context.has_timeout ? context.timeout.count() : kUpTimeoutMs);
  if (!bad.empty()) give_up(dir, starter, bad);
  print_ready(context, dir, starter);
  ::close(lock);
  return options.detach ? kOk : follow_logs(dir, supervisor);
}

}  // namespace dray::console
