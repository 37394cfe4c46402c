// Endpoint: checks addresses and prepares ipc:// paths.
#include "common/net/endpoint.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace dray {
namespace {
constexpr std::string_view kIpc = "ipc://";
constexpr std::string_view kTcp = "tcp://";

Error refuse(std::string_view endpoint, std::string_view why) {
  return make_error(Errc::config, "endpoint '" + std::string(endpoint) + "': " + std::string(why));
}
Error system_error(const std::string& what) {
  return make_error(Errc::io, what + ": " + std::strerror(errno));
}

bool is_port(std::string_view text) {
  unsigned value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value <= 65535;
}

bool is_loopback(std::string_view host) {
  if (host == "[::1]") return true;
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(host).c_str(), &address) != 1) return false;
  return ntohl(address.s_addr) >> 24 == 127;
}

// True if somebody accepts connections at this path.
bool has_listener(const std::string& path) {
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  int rc = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  bool alive = rc == 0 || errno == EAGAIN;  // EAGAIN: alive, its backlog is full
  ::close(fd);
  return alive;
}

Status make_parents(const std::string& path) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
    std::string folder = path.substr(0, at);
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
      return system_error("mkdir " + folder);
  }
  return {};
}
}  // namespace

Status check_endpoint(std::string_view endpoint) {
  if (endpoint.starts_with(kIpc)) {
    std::string_view path = endpoint.substr(kIpc.size());
    if (path.empty() || path == "*") return refuse(endpoint, "ipc:// needs a path");
    if (path[0] == '@') return refuse(endpoint, "abstract sockets have no file permissions");
    if (path.find('\0') != path.npos) return refuse(endpoint, "path with a zero byte");
    if (path.size() >= sizeof(sockaddr_un::sun_path))
      return refuse(endpoint, "path longer than 107 bytes; use a shorter or relative one");
    return {};
  }
  if (!endpoint.starts_with(kTcp))
    return refuse(endpoint, "only ipc://PATH and tcp://127.0.0.1:PORT are allowed");
  std::string_view rest = endpoint.substr(kTcp.size());
  size_t colon = rest.rfind(':');
  if (colon == rest.npos || !is_port(rest.substr(colon + 1)))
    return refuse(endpoint, "no port number 0..65535");
  if (!is_loopback(rest.substr(0, colon)))
    return refuse(endpoint, "not a literal loopback address (127.x.x.x or [::1])");
  return {};
}

Status prepare_listen(const std::string& endpoint) {
  DRAY_TRY(check_endpoint(endpoint));
  if (!endpoint.starts_with(kIpc)) return {};
  std::string path = endpoint.substr(kIpc.size());
  DRAY_TRY(make_parents(path));
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return {};
  if (!S_ISSOCK(info.st_mode)) return refuse(endpoint, "exists and is not a socket");
  if (has_listener(path)) return refuse(endpoint, "another process listens there");
  return {};
}

Status restrict_listen(const std::string& endpoint) {
  if (!endpoint.starts_with(kIpc)) return {};
  std::string path = endpoint.substr(kIpc.size());
  if (::chmod(path.c_str(), 0600) != 0) return system_error("chmod " + path);
  return {};
}

}  // namespace dray
