// The real FileOps on Linux, and the loops every caller of a raw system call needs.
#include "common/journal/file_ops.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

namespace dray {
namespace {
int checked(int rc) { return rc < 0 ? -errno : rc; }

class SystemFileOps final : public FileOps {
 public:
  int make_dir(const std::string& path) override {
    std::error_code ec;
    std::filesystem::create_directories(path, ec);
    return ec ? -ec.value() : 0;
  }
  int list(const std::string& dir, std::vector<std::string>* names) override {
    std::error_code ec;
    std::filesystem::directory_iterator it(dir, ec);
    for (; !ec && it != std::filesystem::directory_iterator(); it.increment(ec))
      names->push_back(it->path().filename().string());
    return ec ? -ec.value() : 0;
  }
  int open(const std::string& path, int flags) override {
    return checked(::open(path.c_str(), flags | O_CLOEXEC, 0640));
  }
  void close(int fd) override { ::close(fd); }
  int64_t size(int fd) override {
    struct stat st {};
    if (::fstat(fd, &st) != 0) return -errno;
    return st.st_size;
  }
  int64_t pread(int fd, char* out, size_t n, uint64_t offset) override {
    auto rc = ::pread(fd, out, n, static_cast<off_t>(offset));
    return rc < 0 ? -errno : rc;
  }
  int64_t pwritev(int fd, const iovec* iov, size_t count, uint64_t offset) override {
    auto rc = ::pwritev(fd, iov, static_cast<int>(count), static_cast<off_t>(offset));
    return rc < 0 ? -errno : rc;
  }
  int fallocate(int fd, uint64_t size) override {
    return checked(::fallocate(fd, 0, 0, static_cast<off_t>(size)));
  }
  int truncate(int fd, uint64_t size) override {
    return checked(::ftruncate(fd, static_cast<off_t>(size)));
  }
  int fdatasync(int fd) override { return checked(::fdatasync(fd)); }
  int sync_dir(const std::string& dir) override {
    int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int rc = checked(::fsync(fd));
    ::close(fd);
    return rc;
  }
  int rename(const std::string& from, const std::string& to) override {
    return checked(::rename(from.c_str(), to.c_str()));
  }
  int unlink(const std::string& path) override { return checked(::unlink(path.c_str())); }
  int lock(int fd) override { return checked(::flock(fd, LOCK_EX | LOCK_NB)); }
  int64_t free_bytes(const std::string& dir) override {
    struct statvfs st {};
    if (::statvfs(dir.c_str(), &st) != 0) return -errno;
    return static_cast<int64_t>(st.f_bavail * st.f_frsize);
  }
};

void advance(std::vector<iovec>& iov, size_t* first, size_t written) {
  while (written > 0 && *first < iov.size()) {
    iovec& v = iov[*first];
    size_t step = std::min(written, v.iov_len);
    v.iov_base = static_cast<char*>(v.iov_base) + step;
    v.iov_len -= step;
    written -= step;
    if (v.iov_len == 0) ++*first;
  }
}
}  // namespace

FileOps& system_file_ops() {
  static SystemFileOps ops;
  return ops;
}

Error file_error(int64_t negative_errno, std::string_view what, const std::string& path) {
  int code = static_cast<int>(-negative_errno);
  bool full = code == ENOSPC || code == EDQUOT;
  std::string text(what);
  text += " " + path + ": " + std::generic_category().message(code);
  return make_error(full ? Errc::no_space : Errc::io, std::move(text));
}

Result<OwnedFd> open_file(FileOps& ops, const std::string& path, int flags) {
  int fd = ops.open(path, flags);
  if (fd < 0) return file_error(fd, "open", path);
  return OwnedFd(&ops, fd);
}

Status write_all(FileOps& ops, int fd, std::vector<iovec>& iov, uint64_t offset,
                 const std::string& path) {
  std::erase_if(iov, [](const iovec& v) { return v.iov_len == 0; });
  for (size_t first = 0; first < iov.size();) {
    size_t count = std::min<size_t>(iov.size() - first, IOV_MAX);
    int64_t rc = ops.pwritev(fd, iov.data() + first, count, offset);
    if (rc == -EINTR) continue;
    if (rc == 0) rc = -EIO;  // no progress and no reason: never loop on it
    if (rc < 0) return file_error(rc, "write", path);
    offset += static_cast<uint64_t>(rc);
    advance(iov, &first, static_cast<size_t>(rc));
  }
  return {};
}

Result<size_t> read_upto(FileOps& ops, int fd, char* out, size_t n, uint64_t offset,
                         const std::string& path) {
  size_t done = 0;
  while (done < n) {
    int64_t rc = ops.pread(fd, out + done, n - done, offset + done);
    if (rc == -EINTR) continue;
    if (rc < 0) return file_error(rc, "read", path);
    if (rc == 0) break;
    done += static_cast<size_t>(rc);
  }
  return done;
}

Status sync_file(FileOps& ops, int fd, const std::string& path) {
  // A failed sync may have thrown the dirty pages away, so it is never repeated, EINTR included.
  int rc = ops.fdatasync(fd);
  if (rc < 0) return file_error(rc, "sync", path);
  return {};
}

Status sync_directory(FileOps& ops, const std::string& dir) {
  int rc = ops.sync_dir(dir);
  if (rc < 0) return file_error(rc, "sync", dir);
  return {};
}

}  // namespace dray
