// The rows of --mixed: how the window and the quantum divide a device between the lanes.
#include "tests/sim/mixed.h"

#include <cstdio>

#include "tests/support/mixed_farm.h"

namespace dray::sim {
namespace {

using test::MixedCase;
using test::MixedFarm;
using test::MixedFigures;

struct Row {
  const char* name;
  double load;
  size_t devices;
  int64_t gather_ms;  // at most
  int64_t quantum_ms;  // at most
  uint32_t floor_percent;
};

constexpr Row kRows[] = {
    {"greedy: no window", 0.2, 1, 0, 40, 0},    {"greedy: no window", 0.5, 1, 0, 40, 0},
    {"window 10 ms", 0.2, 1, 10, 40, 0},        {"window 10 ms", 0.5, 1, 10, 40, 0},
    {"short quantum", 0.2, 1, 25, 16, 0},       {"short quantum", 0.5, 1, 25, 16, 0},
    {"as shipped", 0.2, 1, 50, 100, 5},         {"as shipped", 0.5, 1, 50, 100, 5},
    {"as shipped", 0.8, 1, 50, 100, 5},         {"as shipped", 1.2, 1, 50, 100, 5},
    {"as shipped, 4 GPUs", 0.2, 4, 50, 100, 5}, {"as shipped, 4 GPUs", 0.5, 4, 50, 100, 5},
};

MixedFigures figures(const Row& row, bool backlog) {
  MixedCase c;
  c.load = row.load;
  c.backlog = backlog;
  c.devices = row.devices;
  c.gather_max = std::chrono::milliseconds(row.gather_ms);
  c.quantum_max = std::chrono::milliseconds(row.quantum_ms);
  c.floor_percent = row.floor_percent;
  return MixedFarm(c).run();
}

}  // namespace

void print_mixed(bool json) {
  MixedCase alone;
  alone.load = 0;
  const double queued_only = MixedFarm(alone).run().tasks_per_s;
  if (!json)
    std::printf(
        "Calls (deadline 150 ms) and an endless backlog of tasks of one handler; a device takes "
        "8 + 0.25 n ms\nfor n items, 128 at most, one thing at a time. Queued work alone: %.0f "
        "tasks/s a device.\n\n%-20s %5s | %8s %8s %8s %8s | %8s %6s\n",
        queued_only, "", "load", "calls/s", "p50 ms", "p99 ms", "late %", "tasks/s", "share");
  std::string out;
  for (const Row& row : kRows) {
    const MixedFigures f = figures(row, true);
    const double share = f.tasks_per_s / queued_only / static_cast<double>(row.devices);
    const double late =
        f.calls ? 100 * static_cast<double>(f.refused) / static_cast<double>(f.calls) : 0;
    char line[256];
    if (json)
      std::snprintf(
          line, sizeof line,
          "{\"name\":\"%s\",\"load\":%.2f,\"devices\":%zu,\"p50_ms\":%.1f,\"p99_ms\":%.1f,"
          "\"refused_percent\":%.2f,\"tasks_per_s\":%.0f,\"share\":%.3f}",
          row.name, row.load, row.devices, f.p50_ms, f.p99_ms, late, f.tasks_per_s, share);
    else
      std::snprintf(line, sizeof line, "%-20s %4.0f%% | %8.0f %8.1f %8.1f %8.2f | %8.0f %5.0f%%\n",
                    row.name, 100 * row.load, static_cast<double>(f.calls) / 60, f.p50_ms, f.p99_ms,
                    late, f.tasks_per_s, 100 * share);
    if (json)
      out += (out.empty() ? "[" : ",\n") + std::string(line);
    else
      std::fputs(line, stdout);
  }
  if (json) std::printf("%s]\n", out.c_str());
}

}  // namespace dray::sim
