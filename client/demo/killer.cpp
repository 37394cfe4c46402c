#include "client/demo/killer.h"

#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace dray::demo {
namespace {
std::string read_all(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(in)), {});
}
}  // namespace

int kill_one(const std::string& program, const std::string& dir) {
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
    std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (read_all(entry.path() / "comm") != program + "\n") continue;
    if (read_all(entry.path() / "cmdline").find(dir) == std::string::npos) continue;
    int id = std::stoi(pid);
    if (kill(id, SIGKILL) == 0) return id;
  }
  return 0;
}

}  // namespace dray::demo
