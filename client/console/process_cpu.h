// CPU time and memory of the cluster's processes, read from /proc.
#pragma once

#include <map>
#include <string>

namespace dray::console {

struct ProcessUse {
  double cpu_s = 0;  // user + system
  uint64_t rss_bytes = 0;  // resident
};

// By program name ("dray-broker"; workers are added up), for processes started for the folder `dir`
// (all on this machine if empty). This process is "client".
std::map<std::string, ProcessUse> read_process_use(const std::string& dir);

// User and system time of a process, all threads, ended ones too; 0 if there is none.
double cpu_seconds_of(int pid);

// Keeps the CPUs from entering deep idle states while alive (/dev/cpu_dma_latency, needs root).
class KeepAwake {
 public:
  explicit KeepAwake(bool wanted);
  ~KeepAwake();
  KeepAwake(const KeepAwake&) = delete;
  KeepAwake& operator=(const KeepAwake&) = delete;
  bool active() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

}  // namespace dray::console
