// Endpoint: which addresses dray may use, and the file system work behind ipc:// ones.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"

namespace dray {

// Until connections carry keys (CURVE), a port speaks only to this machine: ipc:// paths, and
// tcp:// with a literal loopback address. Refused: other addresses, names (also localhost: it means
// what a resolver says), wildcards, and abstract sockets (no file permissions).
Status check_endpoint(std::string_view endpoint);

// For ipc:// : makes missing parent folders (0700) and refuses if a live process listens there,
// because libzmq would unlink that process's socket without asking. A stale file is no obstacle.
Status prepare_listen(const std::string& endpoint);
// For ipc:// : the socket file becomes 0600.
Status restrict_listen(const std::string& endpoint);

}  // namespace dray
