// The balance of the call lane against an ideal queue, printed for people.
#pragma once

namespace dray::sim {

void print_balance();

}  // namespace dray::sim
