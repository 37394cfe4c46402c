// FileOps: the system calls the file journal makes, as a seam where tests inject faults.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.h"

namespace dray {

// Every call returns a negative errno on failure.
class FileOps {
 public:
  virtual ~FileOps() = default;
  virtual int make_dir(const std::string& path) = 0;  // parents too; ok when it exists
  virtual int list(const std::string& dir, std::vector<std::string>* names) = 0;
  virtual int open(const std::string& path, int flags) = 0;
  virtual void close(int fd) = 0;
  virtual int64_t size(int fd) = 0;
  virtual int64_t pread(int fd, char* out, size_t n, uint64_t offset) = 0;
  virtual int64_t pwritev(int fd, const iovec* iov, size_t count, uint64_t offset) = 0;
  virtual int fallocate(int fd, uint64_t size) = 0;
  virtual int truncate(int fd, uint64_t size) = 0;
  virtual int fdatasync(int fd) = 0;
  virtual int sync_dir(const std::string& dir) = 0;
  virtual int rename(const std::string& from, const std::string& to) = 0;
  virtual int unlink(const std::string& path) = 0;
  virtual int lock(int fd) = 0;  // exclusive, does not wait; -EWOULDBLOCK if another holds it
  virtual int64_t free_bytes(const std::string& dir) = 0;
};

FileOps& system_file_ops();

// An open file that closes itself.
class OwnedFd {
 public:
  OwnedFd() = default;
  OwnedFd(FileOps* ops, int fd) : ops_(ops), fd_(fd) {}
  OwnedFd(OwnedFd&& o) noexcept : ops_(o.ops_), fd_(std::exchange(o.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& o) noexcept {
    if (this != &o) {
      reset();
      ops_ = o.ops_;
      fd_ = std::exchange(o.fd_, -1);
    }
    return *this;
  }
  ~OwnedFd() { reset(); }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) ops_->close(fd_);
    fd_ = -1;
  }

 private:
  FileOps* ops_ = nullptr;
  int fd_ = -1;
};

// "write 0001.seg: Input/output error"; ENOSPC and EDQUOT become no_space, all else io.
Error file_error(int64_t negative_errno, std::string_view what, const std::string& path);
Result<OwnedFd> open_file(FileOps& ops, const std::string& path, int flags);
// Writes everything, over short writes, EINTR and IOV_MAX. Changes `iov`.
Status write_all(FileOps& ops, int fd, std::vector<iovec>& iov, uint64_t offset,
                 const std::string& path);
// Reads up to n bytes; fewer only at the end of the file.
Result<size_t> read_upto(FileOps& ops, int fd, char* out, size_t n, uint64_t offset,
                         const std::string& path);
Status sync_file(FileOps& ops, int fd, const std::string& path);
Status sync_directory(FileOps& ops, const std::string& dir);

}  // namespace dray
