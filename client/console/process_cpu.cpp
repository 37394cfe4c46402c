#include "client/console/process_cpu.h"

#include <fcntl.h>
#include <unistd.h>

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

ProcessUse use_of(const std::string& proc) {
  ProcessUse use;
  std::string stat = read_all(proc + "/stat");
  size_t after_name = stat.rfind(')');
  if (after_name == std::string::npos) return use;
  std::istringstream fields(stat.substr(after_name + 2));
  std::string skip;
  for (int i = 0; i < 11; ++i) fields >> skip;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  use.cpu_s = (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  std::istringstream statm(read_all(proc + "/statm"));
  uint64_t pages = 0;
  statm >> skip >> pages;
  use.rss_bytes = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return use;
}

}  // namespace

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
    ProcessUse use = use_of(proc);
    out[name].cpu_s += use.cpu_s;
    out[name].rss_bytes += use.rss_bytes;
  }
  out["client"] = use_of("/proc/self");
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
