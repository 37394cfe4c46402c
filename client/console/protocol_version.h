// The version of the wire protocol, away from its names, some of which are the client's too.
#pragma once

#include <string>

namespace dray::console {
std::string protocol_version();  // "1.0"
}
