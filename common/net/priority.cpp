#include "common/net/priority.h"

#include <sys/resource.h>

namespace dray {

void be_nice(int nice) {
  // On Linux: of this thread. Who started the process may want it to be nicer still.
  if (nice > ::getpriority(PRIO_PROCESS, 0)) ::setpriority(PRIO_PROCESS, 0, nice);
}

}  // namespace dray
