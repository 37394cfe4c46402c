// Clock: the only place in dray that asks the kernel for the time.
#pragma once

#include "common/base/time.h"

namespace dray {

// mono is CLOCK_BOOTTIME: it goes on while the machine sleeps, so a lease does not outlive a night
// with the lid closed. wall is Unix milliseconds.
Now read_clock();
Time read_mono();  // only that half

}  // namespace dray
