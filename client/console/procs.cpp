// /proc, and HTTP over sockets.
#include "client/console/procs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "client/console/cluster_dir.h"

namespace dray::console {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kAnswerMax = 4 << 20;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::vector<std::string> command_line(const std::string& pid) {
  const auto text = read_file("/proc/" + pid + "/cmdline", 64 << 10);
  std::vector<std::string> words;
  for (size_t at = 0; text && at < text->size();) {
    words.emplace_back(text->c_str() + at);
    at += words.back().size() + 1;
  }
  return words;
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// The name of the cluster's process with this command line, or empty for a stranger.
std::string name_of(const std::vector<std::string>& words, const std::string& dir) {
  const auto follows = [&](std::string_view option, const std::string& value) {
    for (size_t i = 0; i + 1 < words.size(); ++i)
      if (words[i] == option && words[i + 1] == value) return true;
    return false;
  };
  if (words.empty()) return "";
  const bool is_supervisor =
      std::any_of(words.begin(), words.begin() + std::min<long>(3, static_cast<long>(words.size())),
                  [](const auto& w) { return base_name(w) == "supervisord"; });
  if (is_supervisor) return follows("-c", dir + "/supervisord.conf") ? "supervisord" : "";
  const std::string program = base_name(words[0]);
  if (!program.starts_with("dray-") || !follows("--dir", dir)) return "";
  for (const auto& word : words)
    for (const char* key : {"worker.name=", "router.name="})
      if (word.starts_with(key)) return word.substr(std::strlen(key));
  return program.substr(5);
}

double uptime_of(const std::string& pid) {
  const auto stat = read_file("/proc/" + pid + "/stat", 4096);
  const auto up = read_file("/proc/uptime", 256);
  if (!stat || !up) return 0;
  // Field 22 is the start time; the name (field 2) ends at the last ')'.
  const char* at = std::strrchr(stat->c_str(), ')');
  for (int field = 2; at != nullptr && field < 22; ++field) {
    at = std::strchr(at, ' ');
    if (at != nullptr) ++at;
  }
  if (at == nullptr) return 0;
  const double ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  return std::max(0.0, std::atof(up->c_str()) - std::atof(at) / ticks);
}

int connect_to(const std::string& address) {
  if (address.starts_with("unix:")) {
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    const std::string path = address.substr(5);
    if (path.size() >= sizeof a.sun_path) return -1;
    std::memcpy(a.sun_path, path.data(), path.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0) return fd;
    if (fd >= 0) ::close(fd);
    return -1;
  }
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return -1;
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  if (::inet_pton(AF_INET, address.substr(0, colon).c_str(), &a.sin_addr) != 1) return -1;
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0) return fd;
  if (fd >= 0) ::close(fd);
  return -1;
}

// True when `text` holds a whole answer: head and, where a length is told, that much body.
bool is_complete(const std::string& text) {
  const size_t head = text.find("\r\n\r\n");
  if (head == std::string::npos) return false;
  std::string lower = text.substr(0, head);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  const size_t at = lower.find("content-length:");
  if (at == std::string::npos) return false;
  return text.size() >= head + 4 + std::strtoul(lower.c_str() + at + 15, nullptr, 10);
}

}  // namespace

std::vector<Process> find_processes(const std::string& dir) {
  std::vector<Process> list;
  DIR* proc = ::opendir("/proc");
  if (proc == nullptr) return list;
  while (const dirent* entry = ::readdir(proc)) {
    const std::string pid = entry->d_name;
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    struct stat st {};
    if (::stat(("/proc/" + pid).c_str(), &st) != 0 || st.st_uid != ::getuid()) continue;
    std::string name = name_of(command_line(pid), dir);
    if (name.empty()) continue;
    list.push_back({static_cast<pid_t>(std::atoi(pid.c_str())), std::move(name), uptime_of(pid)});
  }
  ::closedir(proc);
  std::stable_partition(list.begin(), list.end(),
                        [](const Process& p) { return p.name == "supervisord"; });
  return list;
}

bool is_supervised(const std::string& dir) {
  const auto pid = read_file(dir + "/run/supervisord.pid", 32);
  if (!pid) return false;
  return name_of(command_line(std::to_string(std::atoi(pid->c_str()))), dir) == "supervisord";
}

HttpAnswer http_get(const std::string& address, const std::string& path, int timeout_ms) {
  const std::string request =
      "GET " + path + " HTTP/1.1\r\nHost: dray\r\nConnection: close\r\n\r\n";
  const Fd fd(connect_to(address));
  if (fd.get() < 0) return {};
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size()))
    return {};
  const auto until = Clock::now() + std::chrono::milliseconds(timeout_ms);
  std::string text;
  while (!is_complete(text) && text.size() < kAnswerMax) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    pollfd p{fd.get(), POLLIN, 0};
    if (left <= 0 || ::poll(&p, 1, static_cast<int>(left)) <= 0) return {};
    char buffer[16384];
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0) return {};
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  if (!text.starts_with("HTTP/1.") || text.size() < 12) return {};
  const size_t head = text.find("\r\n\r\n");
  return {std::atoi(text.c_str() + 9), head == std::string::npos ? "" : text.substr(head + 4)};
}

bool poke_supervisor(const std::string& dir) {
  const Fd fd(connect_to("unix:" + dir + "/run/supervisor.sock"));
  return fd.get() >= 0;
}

}  // namespace dray::console
