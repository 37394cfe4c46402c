// Reads /proc, the CPU clocks of processes, and holds /dev/cpu_dma_latency.
#include "client/console/process_cpu.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace dray::console {
namespace {

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

ProcessUse use_of(const std::string& proc, int pid) {
  ProcessUse use;
  use.cpu_s = cpu_seconds_of(pid);
  std::istringstream statm(read_all(proc + "/statm"));
  uint64_t pages = 0;
  std::string skip;
  statm >> skip >> pages;
  use.rss_bytes = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return use;
}

}  // namespace

double cpu_seconds_of(int pid) {
  clockid_t clock{};
  timespec t{};
  // Nanoseconds; /proc has ticks of 10 ms.
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &t) != 0) return 0;
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

std::map<std::string, ProcessUse> read_process_use(const std::string& dir) {
  std::map<std::string, ProcessUse> out;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
    std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    std::string proc = entry.path();
    std::string name = read_all(proc + "/comm");
    if (!name.empty()) name.pop_back();
    if (name.rfind("dray-", 0) != 0) continue;
    if (!dir.empty() && read_all(proc + "/cmdline").find(dir) == std::string::npos) continue;
    ProcessUse use = use_of(proc, std::atoi(pid.c_str()));
    out[name].cpu_s += use.cpu_s;
    out[name].rss_bytes += use.rss_bytes;
  }
  out["client"] = use_of("/proc/self", ::getpid());
  return out;
}

KeepAwake::KeepAwake(bool wanted) {
  if (!wanted) return;
  fd_ = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
  int32_t latency_us = 0;
  if (fd_ >= 0 && write(fd_, &latency_us, sizeof latency_us) != sizeof latency_us) {
    close(fd_);
    fd_ = -1;
  }
}

KeepAwake::~KeepAwake() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace dray::console
