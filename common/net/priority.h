// Whom the scheduler runs first.
#pragma once

namespace dray {

void be_nice(int nice);  // this thread and those it will start; 0 .. 19

}  // namespace dray
