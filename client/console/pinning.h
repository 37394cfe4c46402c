// Where processes may run.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <map>
#include <vector>

namespace dray::console {

// Keeps this process and others, with all their threads, on one CPU while alive.
class OneCpu {
 public:
  OneCpu() = default;
  ~OneCpu() { restore(); }
  OneCpu(const OneCpu&) = delete;
  OneCpu& operator=(const OneCpu&) = delete;
  // The last CPU that this process may use. False: not allowed for one of them.
  bool pin(const std::vector<pid_t>& others);
  void restore();
  int cpu() const { return cpu_; }

 private:
  int cpu_ = -1;
  std::map<pid_t, cpu_set_t> before_;  // by thread
  std::map<pid_t, cpu_set_t> process_before_;  // for threads that came later
};

}  // namespace dray::console
