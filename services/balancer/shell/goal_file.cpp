#include "services/balancer/shell/goal_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace dray {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kFileBytesMax = 64 * 1024 * 1024;

Error io(const std::string& what, const std::string& path) {
  return make_error(errno == ENOSPC ? Errc::no_space : Errc::io,
                    what + " " + path + ": " + std::strerror(errno));
}

Doc to_doc(const Json& json) {
  if (json.is_boolean()) return Doc(json.get<bool>());
  if (json.is_number_integer()) return Doc(json.get<int64_t>());
  if (json.is_number()) return Doc(json.get<double>());
  if (json.is_string()) return Doc(json.get<std::string>());
  if (json.is_array()) {
    Doc list{Doc::List{}};
    for (const auto& item : json) list.push(to_doc(item));
    return list;
  }
  if (!json.is_object()) return {};
  Doc object{Doc::Object{}};
  for (const auto& [name, value] : json.items()) object.set(name, to_doc(value));
  return object;
}

// Writes everything and syncs it.
Status write_synced(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return io("open", path);
  Status status;
  for (size_t at = 0; at < text.size() && status;) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    if (n > 0)
      at += static_cast<size_t>(n);
    else if (errno != EINTR)
      status = io("write", path);
  }
  if (status && ::fsync(fd) != 0) status = io("sync", path);
  ::close(fd);
  return status;
}

Status sync_folder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return io("open", path);
  Status status;
  if (::fsync(fd) != 0) status = io("sync", path);
  ::close(fd);
  return status;
}

}  // namespace

GoalFile::~GoalFile() {
  if (lock_ >= 0) ::close(lock_);
}

Status GoalFile::open() {
  std::error_code ec;
  fs::create_directories(dir_, ec);  // an error shows in what follows
  const std::string path = dir_ + "/lock";
  lock_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) return io("open", path);
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0)
    return make_error(Errc::fenced, "another balancer uses " + dir_);
  return {};
}

Result<Goal> GoalFile::load() const {
  std::error_code ec;
  if (!fs::exists(path(), ec) && !ec) return Goal{};
  const auto size = fs::file_size(path(), ec);
  if (ec) return make_error(Errc::io, path() + ": " + ec.message());
  if (size > kFileBytesMax) return make_error(Errc::corrupt, path() + ": larger than 64 MiB");
  std::ifstream in(path(), std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return make_error(Errc::corrupt, path() + ": is no JSON");
  auto goal = parse_goal(to_doc(json));
  if (!goal) return make_error(goal.error().code, path() + ": " + goal.error().detail);
  return goal;
}

Status GoalFile::save(const Goal& goal) {
  const Json json = Json::parse(to_json(goal_doc(goal)), nullptr, false);
  const std::string fresh = path() + ".new";
  DRAY_TRY(write_synced(fresh, json.dump(1) + "\n"));
  if (::rename(fresh.c_str(), path().c_str()) != 0) return io("rename", fresh);
  return sync_folder(dir_);
}

}  // namespace dray
