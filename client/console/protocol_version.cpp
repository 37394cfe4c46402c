// Reads the version from the wire's headers.
#include "client/console/protocol_version.h"

#include "common/wire/message.h"

namespace dray::console {

std::string protocol_version() {
  return std::to_string(kProtocolMajor) + "." + std::to_string(kProtocolMinor);
}

}  // namespace dray::console
