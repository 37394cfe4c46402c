// Affinity of every thread, by /proc.
#include "client/console/pinning.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace dray::console {
namespace {

std::vector<pid_t> threads_of(pid_t pid) {
  std::vector<pid_t> list;
  std::error_code ec;
  const std::string folder = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& entry : std::filesystem::directory_iterator(folder, ec))
    list.push_back(std::atoi(entry.path().filename().c_str()));
  return list;
}

}  // namespace

bool OneCpu::pin(const std::vector<pid_t>& others) {
  cpu_set_t own;
  if (::sched_getaffinity(0, sizeof own, &own) != 0) return false;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &own)) cpu_ = i;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu_, &one);
  std::vector<pid_t> pids = others;
  pids.push_back(::getpid());
  bool ok = true;
  for (const pid_t pid : pids) {
    for (const pid_t thread : threads_of(pid)) {
      cpu_set_t old;
      if (::sched_getaffinity(thread, sizeof old, &old) != 0) continue;  // ended
      before_[thread] = old;
      if (thread == pid) process_before_[pid] = old;
      ok = ::sched_setaffinity(thread, sizeof one, &one) == 0 && ok;
    }
  }
  return ok;
}

void OneCpu::restore() {
  for (const auto& [pid, set] : process_before_) {
    for (const pid_t thread : threads_of(pid)) {
      const auto found = before_.find(thread);
      const cpu_set_t& old = found == before_.end() ? set : found->second;
      ::sched_setaffinity(thread, sizeof old, &old);
    }
  }
  before_.clear();
  process_before_.clear();
}

}  // namespace dray::console
