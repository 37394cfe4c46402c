// Metrics of the call lane.
#pragma once

#include "services/router/core/call_lane.h"

namespace dray {
void export_call_metrics(const CallLane& lane);
}
