// dray_sim --mixed: calls and an endless backlog of tasks on one device, as a table.
#pragma once

namespace dray::sim {

void print_mixed(bool json);

}  // namespace dray::sim
