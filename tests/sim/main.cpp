// dray_sim: runs seeds of the simulation, in several processes; checks that what matters was
// reached; hunts mutants when it is built with them.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "common/base/assert.h"
#include "common/base/mutant.h"
#include "tests/sim/balance.h"
#include "tests/sim/mixed.h"
#include "tests/sim/simulation.h"

namespace dray {
// A failed assertion of a core is a broken oracle, not the end of the whole campaign.
void assert_failed(const char* expr, const char* file, int line) {
  throw sim::Violation{"assert", std::string(expr) + " at " + file + ":" + std::to_string(line)};
}
}  // namespace dray

namespace dray::sim {
namespace {

struct Args {
  uint64_t first = 1;
  uint64_t seeds = 0;
  uint64_t seed = 0;
  uint64_t jobs = 2;
  bool verbose = false;
  bool all_mutants = false;
  bool list_mutants = false;
  bool balance = false;
  bool mixed = false;
  bool json = false;
  bool any_reach = false;  // do not insist on everything being reached
  std::string mutant;
};

// What has to be non-zero over a campaign of so many seeds or more.
constexpr uint64_t kReachSeeds = 10'000;
constexpr uint64_t kReachCallSeeds = 2'000;
constexpr const char* kMustReachCalls[] = {"calls: reply",
                                           "calls: failed",
                                           "calls: rejected",
                                           "calls: expired",
                                           "calls: cancelled",
                                           "calls: unknown",
                                           "calls cancelled running",
                                           "calls expired queued",
                                           "calls expired at a worker",
                                           "calls refused: draining",
                                           "calls refused: unknown_handler",
                                           "calls refused: no_replica",
                                           "calls refused: client_bytes",
                                           "calls refused: call_bytes",
                                           "calls refused: max_queued",
                                           "calls refused: batch_items",
                                           "calls refused: batch_bytes",
                                           "calls refused: infeasible",
                                           "calls refused: too_late",
                                           "batches of several calls",
                                           "batches repeated",
                                           "calls retried",
                                           "calls executed three times",
                                           "retry budget used up",
                                           "calls hedged",
                                           "hedges that won",
                                           "hedge budget used up",
                                           "calls of a second router",
                                           "calls moved to another router",
                                           "calls repeated by the client",
                                           "calls not repeated for want of budget",
                                           "ends of calls that are over",
                                           "parts of streams",
                                           "stream parts blocked by window",
                                           "calls wait for a model that is being loaded",
                                           "calls wait for a replica with their model",
                                           "calls lost with their client",
                                           "calls lost with their worker",
                                           "routers lost with calls",
                                           "workers leave with calls",
                                           "routers leave with calls",
                                           "calls stopped",
                                           "calls that do not listen",
                                           "calls that kill their worker",
                                           "outcomes that nobody waits for",
                                           "stuck call threads",
                                           "crowds sent away at the door",
                                           "tasks that start together",
                                           "shared places given to routers",
                                           "shared places not used",
                                           "tasks that go before calls",
                                           "last words of who is out of reach"};
constexpr const char* kMustReach[] = {"broker crashes",
                                      "worker crashes",
                                      "service crashes",
                                      "pauses",
                                      "resets",
                                      "holes",
                                      "partitions",
                                      "wall clock jumps",
                                      "journal disk full",
                                      "SIGTERM",
                                      "graceful exits",
                                      "torn commits: part survived",
                                      "torn commits: rest lost",
                                      "crashes during recovery",
                                      "broker restarts",
                                      "restarts with live tasks",
                                      "workers resume with leases",
                                      "stale results refused",
                                      "returned leases",
                                      "tasks given back",
                                      "requeues of lost leases",
                                      "retries after failure",
                                      "duplicates",
                                      "known ends",
                                      "conflicts",
                                      "id expired",
                                      "overloaded",
                                      "expired",
                                      "cancelled",
                                      "cancelled running",
                                      "dead",
                                      "failed",
                                      "succeeded",
                                      "carried forward",
                                      "dead letters dropped",
                                      "journal space released",
                                      "waits",
                                      "watch lost told",
                                      "results repeated",
                                      "requests sent again",
                                      "requests with unknown outcome",
                                      "tasks longer than the lease",
                                      "tasks that kill their worker",
                                      "tasks revoked",
                                      "outcomes of void tasks",
                                      "results sent again",
                                      "time limits",
                                      "recalls",
                                      "second attempts",
                                      "two executions at a time (excused)",
                                      "executions lost with their process",
                                      "processes of handlers that crash",
                                      "tasks lost with their process",
                                      "calls lost with their process",
                                      "handlers withdrawn",
                                      "handlers offered again",
                                      "stream records repeated",
                                      "result store full",
                                      "late packets of an old connection",
                                      "replays compared",
                                      "tasks with GPUs",
                                      "GPUs lost",
                                      "tasks that lost their GPU",
                                      "submits rejected"};

struct Tally {
  uint64_t runs = 0;
  uint64_t seconds = 0;  // simulated
  uint64_t events = 0;
  uint64_t failed_seed = 0;
  std::string oracle, text;
  std::map<std::string, uint64_t, std::less<>> reached;

  void add(uint64_t seed, const RunResult& r) {
    ++runs;
    seconds += static_cast<uint64_t>(r.simulated.count()) / 1'000'000'000;
    events += r.events;
    for (const auto& [k, v] : r.reached) reached[k] += v;
    if (r.violation && (failed_seed == 0 || seed < failed_seed)) {
      failed_seed = seed;
      oracle = r.violation->oracle;
      text = r.violation->text;
    }
  }
  void add(const Tally& o) {
    runs += o.runs;
    seconds += o.seconds;
    events += o.events;
    for (const auto& [k, v] : o.reached) reached[k] += v;
    if (o.failed_seed && (failed_seed == 0 || o.failed_seed < failed_seed)) {
      failed_seed = o.failed_seed;
      oracle = o.oracle;
      text = o.text;
    }
  }
};

// Every 64th seed runs twice: the same seed is the same run.
RunResult run_checked(uint64_t seed) {
  RunResult r = run_seed(seed, false);
  if (r.violation || seed % 64 != 0) return r;
  RunResult again = run_seed(seed, false);
  if (again.hash != r.hash) r.violation = Violation{"determinism", "the same seed ran differently"};
  return r;
}

Tally run_job(uint64_t first, uint64_t count, uint64_t job, uint64_t jobs) {
  Tally t;
  for (uint64_t i = job; i < count && t.failed_seed == 0; i += jobs)
    t.add(first + i, run_checked(first + i));
  return t;
}

void write_tally(FILE* f, const Tally& t) {
  std::fprintf(f, "=\t%lu\t%lu\t%lu\t%lu\t%s\t%s\n", t.runs, t.seconds, t.events, t.failed_seed,
               t.oracle.c_str(), t.text.c_str());
  for (const auto& [k, v] : t.reached) std::fprintf(f, "+\t%s\t%lu\n", k.c_str(), v);
}

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> out(1);
  for (char c : line) {
    if (c == '\t')
      out.emplace_back();
    else if (c != '\n')
      out.back() += c;
  }
  return out;
}

Tally read_tally(FILE* f) {
  Tally t;
  char* line = nullptr;
  size_t size = 0;
  bool complete = false;
  while (::getline(&line, &size, f) > 0) {
    auto p = split(line);
    if (p[0] == "=" && p.size() >= 7) {
      complete = true;
      t.runs = std::stoul(p[1]);
      t.seconds = std::stoul(p[2]);
      t.events = std::stoul(p[3]);
      t.failed_seed = std::stoul(p[4]);
      t.oracle = p[5];
      t.text = p[6];
    } else if (p.size() >= 3) {
      t.reached[p[1]] += std::stoul(p[2]);
    }
  }
  std::free(line);
  if (!complete) {
    t.failed_seed = UINT64_MAX;
    t.oracle = "process";
    t.text = "a job of the simulator died";
  }
  return t;
}

Tally run_jobs(uint64_t first, uint64_t count, uint64_t jobs) {
  if (jobs <= 1) return run_job(first, count, 0, 1);
  std::vector<FILE*> pipes;
  std::vector<pid_t> children;
  std::fflush(stdout);
  for (uint64_t j = 0; j < jobs; ++j) {
    int fds[2];
    if (::pipe(fds) != 0) std::exit(2);
    pid_t pid = ::fork();
    if (pid < 0) std::exit(2);
    if (pid == 0) {
      ::close(fds[0]);
      FILE* f = ::fdopen(fds[1], "w");
      write_tally(f, run_job(first, count, j, jobs));
      std::fclose(f);
      ::_exit(0);
    }
    ::close(fds[1]);
    pipes.push_back(::fdopen(fds[0], "r"));
    children.push_back(pid);
  }
  Tally total;
  for (FILE* f : pipes) {
    total.add(read_tally(f));
    std::fclose(f);
  }
  for (pid_t pid : children) ::waitpid(pid, nullptr, 0);
  return total;
}

// --- mutants -------------------------------------------------------------------------------------

struct MutantInfo {
  const char* name;
  const char* what;
};
std::vector<MutantInfo> mutants() {
  std::vector<MutantInfo> list;
#ifdef DRAY_MUTANTS
#define DRAY_MUTANT_ROW(name, what) list.push_back({#name, what});
  DRAY_MUTANT_LIST(DRAY_MUTANT_ROW)
#undef DRAY_MUTANT_ROW
#endif
  return list;
}

bool choose_mutant([[maybe_unused]] const std::string& name) {
#ifdef DRAY_MUTANTS
  auto list = mutants();
  for (size_t i = 0; i < list.size(); ++i)
    if (name == list[i].name) {
      g_mutant = static_cast<Mutant>(i + 1);
      return true;
    }
#endif
  std::fprintf(stderr, "no mutant '%s' in this program; see --list-mutants\n", name.c_str());
  return false;
}

int hunt_mutants(const Args& args) {
  uint64_t seeds = args.seeds ? args.seeds : 1000;
  int alive = 0;
  std::printf("%-26s %10s  %-10s %s\n", "mutant", "first seed", "oracle", "what is wrong");
  for (const MutantInfo& m : mutants()) {
    choose_mutant(m.name);
    // In small steps, so that a mutant found early costs little.
    Tally t;
    for (uint64_t at = 0; at < seeds && t.failed_seed == 0; at += 50)
      t.add(run_jobs(args.first + at, std::min<uint64_t>(50, seeds - at), args.jobs));
    if (t.failed_seed == 0) ++alive;
    std::printf("%-26s %10s  %-10s %s\n", m.name,
                t.failed_seed ? std::to_string(t.failed_seed).c_str() : "SURVIVES",
                t.oracle.c_str(), m.what);
    std::fflush(stdout);
  }
  std::printf("%zu mutants, %d survive %lu seeds\n", mutants().size(), alive, seeds);
  return alive == 0 ? 0 : 1;
}

// --- commands ------------------------------------------------------------------------------------

void print_failure(const Args& args, const Tally& t) {
  std::printf("FAILED: seed %lu breaks %s: %s\n", t.failed_seed, t.oracle.c_str(), t.text.c_str());
  std::printf("  %s --seed %lu --verbose%s%s\n",
              args.mutant.empty() ? "dray_sim" : "dray_sim_mutants", t.failed_seed,
              args.mutant.empty() ? "" : " --mutant ", args.mutant.c_str());
}

int run_campaign(const Args& args) {
  Tally t = run_jobs(args.first, args.seeds, args.jobs);
  std::printf("%lu seeds, %lu s simulated, %lu events\n", t.runs, t.seconds, t.events);
  for (const auto& [k, v] : t.reached) std::printf("  %-40s %12lu\n", k.c_str(), v);
  int missing = 0;
  auto need = [&](const char* what, uint64_t seeds) {
    if (t.reached.count(what)) return;
    std::printf("  never reached: %s\n", what);
    if (args.seeds >= seeds) ++missing;
  };
  for (const char* what : kMustReach) need(what, kReachSeeds);
  for (const char* what : kMustReachCalls) need(what, kReachCallSeeds);
  if (t.failed_seed) {
    print_failure(args, t);
    return 1;
  }
  if (missing && !args.any_reach) {
    std::printf("FAILED: %d things were never reached\n", missing);
    return 1;
  }
  std::printf("ok\n");
  return 0;
}

int run_one(const Args& args) {
  RunResult r = run_seed(args.seed, args.verbose);
  std::printf("seed %lu: hash %016lx, %.1f s simulated, %lu events\n", args.seed, r.hash,
              static_cast<double>(r.simulated.count()) / 1e9, r.events);
  if (!r.violation) return 0;
  Tally t;
  t.add(args.seed, r);
  print_failure(args, t);
  return 1;
}

int usage() {
  std::printf(
      "usage: dray_sim [--seeds N] [--first S] [--jobs J]    run N seeds from S on\n"
      "       dray_sim --seed S [--verbose]                  run one, print what happens\n"
      "       dray_sim --balance                             replicas against one ideal queue\n"
      "       dray_sim --mixed [--json]                      calls and tasks on one device\n"
      "       dray_sim_mutants --mutant NAME ...             with that planted bug\n"
      "       dray_sim_mutants --all [--seeds N]             hunt every planted bug\n"
      "       dray_sim_mutants --list-mutants\n");
  return 2;
}

bool parse(int argc, char** argv, Args& a) {
  for (int i = 1; i < argc; ++i) {
    std::string s = argv[i];
    auto number = [&](uint64_t& to) {
      if (i + 1 >= argc) return false;
      char* end = nullptr;
      to = std::strtoull(argv[++i], &end, 10);
      return *end == 0;
    };
    bool ok = true;
    if (s == "--seeds") {
      ok = number(a.seeds);
    } else if (s == "--first") {
      ok = number(a.first);
    } else if (s == "--seed") {
      ok = number(a.seed);
    } else if (s == "--jobs") {
      ok = number(a.jobs);
    } else if (s == "--verbose") {
      a.verbose = true;
    } else if (s == "--balance") {
      a.balance = true;
    } else if (s == "--mixed") {
      a.mixed = true;
    } else if (s == "--json") {
      a.json = true;
    } else if (s == "--all") {
      a.all_mutants = true;
    } else if (s == "--list-mutants") {
      a.list_mutants = true;
    } else if (s == "--mutant" && i + 1 < argc) {
      a.mutant = argv[++i];
    } else {
      ok = false;
    }
    if (!ok) return false;
  }
  return true;
}

}  // namespace

int main_of(int argc, char** argv) {
  Args args;
  if (!parse(argc, argv, args)) return usage();
  if (args.list_mutants) {
    for (const MutantInfo& m : mutants()) std::printf("%-26s %s\n", m.name, m.what);
    return 0;
  }
  if (args.balance) {
    print_balance();
    return 0;
  }
  if (args.mixed) {
    print_mixed(args.json);
    return 0;
  }
  if (args.all_mutants) return hunt_mutants(args);
  if (!args.mutant.empty() && !choose_mutant(args.mutant)) return 2;
  if (args.seed) return run_one(args);
  if (args.seeds == 0) args.seeds = 200;
  return run_campaign(args);
}

}  // namespace dray::sim

int main(int argc, char** argv) { return dray::sim::main_of(argc, argv); }
