// Processes of a local cluster: who they are, whether they are ready, and their supervisor.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace dray::console {

struct Process {
  pid_t pid = 0;
  std::string name;  // "supervisord", "broker", "worker-0"
  double uptime_s = 0;
};

// Every process that was started for the folder, found by its command line. Supervisord first.
std::vector<Process> find_processes(const std::string& dir);

bool is_supervised(const std::string& dir);  // a supervisord runs there

struct HttpAnswer {
  int status = 0;  // 0: nobody answered
  std::string body;
};
// GET from an http address as in the config ("unix:/path", "127.0.0.1:port").
HttpAnswer http_get(const std::string& address, const std::string& path, int timeout_ms);

// Supervisord looks at its children once a second or on input: this is the input. False: it does
// not listen.
bool poke_supervisor(const std::string& dir);

}  // namespace dray::console
