// MemFs: a FileOps in memory that forgets what was not synced, fails on command and tears writes.
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/journal/file_ops.h"
#include "common/journal/memory_journal.h"  // Rng

namespace dray::test {

class MemFs final : public FileOps {
 public:
  static constexpr uint64_t kSector = 512;
  explicit MemFs(uint64_t seed = 1) : rng_(seed) {}

  // The n-th call from now on (1 = next) fails with `code`; 0 = none.
  void fail_call(uint64_t n, int code) {
    fail_at_ = n == 0 ? 0 : calls_ + n;
    fail_code_ = code;
  }
  bool failed() const { return fired_; }
  void set_capacity(uint64_t bytes) { capacity_ = bytes; }
  void set_short_writes(bool on) { short_writes_ = on; }
  uint64_t syncs() const { return syncs_; }
  uint64_t writes() const { return writes_; }
  uint64_t reads() const { return reads_; }
  void before_next_sync(std::function<void()> f) { before_sync_ = std::move(f); }
  // Power loss: every unsynced sector and every unsynced directory change survives by chance.
  void power_loss() {
    names_ = durable_names_;
    for (const DirOp& op : dir_ops_) {
      if (rng_.below(2) == 0) continue;
      if (!op.from.empty()) names_.erase(op.from);
      if (!op.to.empty()) names_[op.to] = op.inode;
    }
    dir_ops_.clear();
    durable_names_ = names_;
    for (auto& [name, inode] : names_) lose_unsynced(*inode);
    fds_.clear();
    fail_call(0, 0);
  }
  // The process died: files stay as they are, descriptors and locks go.
  void process_exit() {
    fds_.clear();
    fail_call(0, 0);
  }
  std::string* content(const std::string& path) {
    auto it = names_.find(path);
    return it == names_.end() ? nullptr : &it->second->now;
  }
  void put(const std::string& path, std::string bytes) {
    auto inode = std::make_shared<Inode>();
    inode->now = inode->disk = std::move(bytes);
    names_[path] = durable_names_[path] = inode;
  }
  std::vector<std::string> paths(const std::string& part) const {
    std::vector<std::string> out;
    for (const auto& [name, inode] : names_)
      if (name.find(part) != std::string::npos) out.push_back(name);
    return out;
  }

  int make_dir(const std::string&) override { return 0; }
  int list(const std::string& dir, std::vector<std::string>* names) override {
    if (int rc = enter(); rc < 0) return rc;
    for (const auto& [name, inode] : names_)
      if (name.starts_with(dir + "/")) names->push_back(name.substr(dir.size() + 1));
    return 0;
  }
  int open(const std::string& path, int flags) override {
    if (int rc = enter(); rc < 0) return rc;
    auto it = names_.find(path);
    if (it == names_.end()) {
      if ((flags & O_CREAT) == 0) return -ENOENT;
      it = names_.emplace(path, std::make_shared<Inode>()).first;
      dir_ops_.push_back({"", path, it->second});
    } else if ((flags & O_TRUNC) != 0) {
      it->second->now.clear();
    }
    fds_[next_fd_] = it->second;
    return next_fd_++;
  }
  void close(int fd) override {
    auto it = fds_.find(fd);
    if (it == fds_.end()) return;
    if (it->second->locked_by == fd) it->second->locked_by = -1;
    fds_.erase(it);
  }
  int64_t size(int fd) override {
    Inode* f = file(fd);
    return f == nullptr ? -EBADF : static_cast<int64_t>(f->now.size());
  }
  int64_t pread(int fd, char* out, size_t n, uint64_t offset) override {
    ++reads_;
    if (int rc = enter(); rc < 0) return rc;
    Inode* f = file(fd);
    if (f == nullptr) return -EBADF;
    if (offset >= f->now.size()) return 0;
    n = std::min<size_t>(n, f->now.size() - offset);
    std::memcpy(out, f->now.data() + offset, n);
    return static_cast<int64_t>(n);
  }
  int64_t pwritev(int fd, const iovec* iov, size_t count, uint64_t offset) override {
    ++writes_;
    int rc = enter();
    Inode* f = file(fd);
    if (f == nullptr) return -EBADF;
    uint64_t total = 0;
    for (size_t i = 0; i < count; ++i) total += iov[i].iov_len;
    uint64_t limit = total;
    if (rc < 0) limit = rng_.below(total + 1);  // fails, but not before a part is written
    if (rc == 0 && short_writes_) limit = 1 + rng_.below(total);
    uint64_t done = 0;
    for (size_t i = 0; i < count && done < limit; ++i) {
      size_t n = static_cast<size_t>(std::min<uint64_t>(iov[i].iov_len, limit - done));
      write(*f, offset + done, static_cast<const char*>(iov[i].iov_base), n);
      done += n;
    }
    return rc < 0 ? rc : static_cast<int64_t>(done);
  }
  int fallocate(int fd, uint64_t bytes) override {
    if (int rc = enter(); rc < 0) return rc;
    Inode* f = file(fd);
    if (f == nullptr) return -EBADF;
    uint64_t used = 0;
    for (const auto& [name, inode] : names_) used += inode->now.size();
    if (capacity_ != 0 && used + bytes > capacity_) return -ENOSPC;
    f->now.resize(std::max<size_t>(f->now.size(), bytes));
    return 0;
  }
  int truncate(int fd, uint64_t bytes) override {
    if (int rc = enter(); rc < 0) return rc;
    Inode* f = file(fd);
    if (f == nullptr) return -EBADF;
    f->now.resize(bytes);
    return 0;
  }
  int fdatasync(int fd) override {
    ++syncs_;
    if (auto f = std::exchange(before_sync_, nullptr)) f();
    int rc = enter();
    Inode* f = file(fd);
    if (f == nullptr) return -EBADF;
    if (rc < 0) {
      // As Linux does: the pages are clean afterwards, written or not. A retry would lie.
      lose_unsynced(*f, /*only_disk=*/true);
      return rc;
    }
    f->disk.resize(f->now.size());
    for (uint64_t s : f->dirty) copy_sector(*f, s);
    f->dirty.clear();
    return 0;
  }
  int sync_dir(const std::string&) override {
    if (int rc = enter(); rc < 0) return rc;
    durable_names_ = names_;
    dir_ops_.clear();
    return 0;
  }
  int rename(const std::string& from, const std::string& to) override {
    if (int rc = enter(); rc < 0) return rc;
    auto it = names_.find(from);
    if (it == names_.end()) return -ENOENT;
    auto inode = it->second;
    names_.erase(it);
    names_[to] = inode;
    dir_ops_.push_back({from, to, inode});
    return 0;
  }
  int unlink(const std::string& path) override {
    if (int rc = enter(); rc < 0) return rc;
    if (names_.erase(path) == 0) return -ENOENT;
    dir_ops_.push_back({path, "", nullptr});
    return 0;
  }
  int lock(int fd) override {
    Inode* f = file(fd);
    if (f == nullptr) return -EBADF;
    if (f->locked_by >= 0 && fds_.count(f->locked_by) != 0) return -EWOULDBLOCK;
    f->locked_by = fd;
    return 0;
  }
  int64_t free_bytes(const std::string&) override { return free_; }
  void set_free(int64_t bytes) { free_ = bytes; }

 private:
  struct Inode {
    std::string now;  // what processes see
    std::string disk;  // what survives power loss
    std::set<uint64_t> dirty;
    int locked_by = -1;
  };
  struct DirOp {
    std::string from, to;
    std::shared_ptr<Inode> inode;
  };
  int enter() {
    ++calls_;
    if (fail_at_ == 0 || calls_ != fail_at_) return 0;
    fired_ = true;
    return -fail_code_;
  }
  Inode* file(int fd) {
    auto it = fds_.find(fd);
    return it == fds_.end() ? nullptr : it->second.get();
  }
  static void write(Inode& f, uint64_t offset, const char* data, size_t n) {
    if (f.now.size() < offset + n) f.now.resize(offset + n);
    std::memcpy(f.now.data() + offset, data, n);
    if (n == 0) return;
    for (uint64_t s = offset / kSector; s <= (offset + n - 1) / kSector; ++s) f.dirty.insert(s);
  }
  static void copy_sector(Inode& f, uint64_t s) {
    uint64_t at = s * kSector;
    if (at >= f.now.size()) return;
    size_t n = std::min<size_t>(kSector, f.now.size() - at);
    if (f.disk.size() < at + n) f.disk.resize(at + n);
    std::memcpy(f.disk.data() + at, f.now.data() + at, n);
  }
  void lose_unsynced(Inode& f, bool only_disk = false) {
    if (rng_.below(2) == 0) f.disk.resize(f.now.size());
    for (uint64_t s : f.dirty)
      if (rng_.below(2) == 0) copy_sector(f, s);
    f.dirty.clear();
    if (!only_disk) f.now = f.disk;
  }

  Rng rng_;
  std::map<std::string, std::shared_ptr<Inode>> names_, durable_names_;
  std::vector<DirOp> dir_ops_;
  std::map<int, std::shared_ptr<Inode>> fds_;
  int next_fd_ = 3;
  uint64_t calls_ = 0, fail_at_ = 0, capacity_ = 0, syncs_ = 0, writes_ = 0, reads_ = 0;
  int64_t free_ = int64_t{1} << 40;
  int fail_code_ = 0;
  std::function<void()> before_sync_;
  bool fired_ = false;
  bool short_writes_ = false;
};

}  // namespace dray::test
