// dray-executor: runs handlers in a process of their own. A dray-worker starts it and talks to it
// through a socket on a fixed descriptor; it is of no use alone.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "services/worker/executor/child.h"

int main(int argc, char** argv) {
  if (argc != 3 || std::string_view(argv[1]) != "--parent") {
    std::fputs("dray-executor is started by dray-worker (worker.isolate, or a deployment)\n",
               stderr);
    return 64;
  }
  // It must not outlive its worker: the worker's leases are lost with it, and others run the tasks.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != std::atoi(argv[2])) return 0;
  ::fcntl(dray::worker::kChildFd, F_SETFD, FD_CLOEXEC);
  ::signal(SIGPIPE, SIG_IGN);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what it printed before a crash is what matters
  dray::worker::Child child(dray::worker::kChildFd);
  const int code = child.run();
  std::fflush(nullptr);
  ::_exit(code < 0 ? 0 : code);  // threads of handlers may still run
}
