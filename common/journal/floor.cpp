// The raw loop: pwrite into preallocated blocks, fdatasync, repeat.
#include "common/journal/floor.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "common/journal/file_ops.h"

namespace dray {
namespace {
using Clock = std::chrono::steady_clock;
constexpr uint64_t kFileBytes = 64 * 1024 * 1024;

Status put(FileOps& ops, int fd, std::string& data, uint64_t at, const std::string& path) {
  std::vector<iovec> iov{{data.data(), data.size()}};
  return write_all(ops, fd, iov, at, path);
}

Result<JournalFloor> loop(FileOps& ops, int fd, const std::string& path, uint64_t per_commit,
                          uint64_t commit_bytes, Duration length) {
  uint64_t file_bytes = std::max(kFileBytes, commit_bytes);
  std::string zeros(std::min<uint64_t>(file_bytes, 1 << 20), '\0');
  for (uint64_t at = 0; at < file_bytes; at += zeros.size())
    DRAY_TRY(put(ops, fd, zeros, at, path));
  DRAY_TRY(sync_file(ops, fd, path));
  std::string data(commit_bytes, 'x');
  std::vector<double> us;
  uint64_t at = 0;
  auto begin = Clock::now();
  for (auto now = begin; us.empty() || now - begin < length;) {
    if (at + commit_bytes > file_bytes) at = 0;
    DRAY_TRY(put(ops, fd, data, at, path));
    DRAY_TRY(sync_file(ops, fd, path));
    at += commit_bytes;
    auto end = Clock::now();
    us.push_back(std::chrono::duration<double, std::micro>(end - now).count());
    now = end;
  }
  double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::sort(us.begin(), us.end());
  JournalFloor r;
  r.records_per_s = static_cast<double>(us.size() * per_commit) / seconds;
  r.p50_us = us[us.size() / 2];
  r.p99_us = us[us.size() * 99 / 100];
  return r;
}
}  // namespace

Result<JournalFloor> measure_journal_floor(const std::string& dir, uint64_t record_bytes,
                                           uint64_t records_per_commit, Duration length) {
  constexpr uint64_t kCommitMax = uint64_t{1} << 30;
  if (record_bytes == 0 || records_per_commit == 0 || record_bytes > kCommitMax ||
      records_per_commit > kCommitMax / record_bytes)
    return make_error(Errc::bad_argument, "record and commit size must be in 1 B .. 1 GiB");
  FileOps& ops = system_file_ops();
  int rc = ops.make_dir(dir);
  if (rc < 0) return file_error(rc, "create", dir);
  std::string path = dir + "/floor-" + std::to_string(::getpid());
  DRAY_TRY_ASSIGN(OwnedFd fd, open_file(ops, path, O_RDWR | O_CREAT | O_TRUNC));
  ops.unlink(path);  // gone with the descriptor, whatever happens
  return loop(ops, fd.get(), path, records_per_commit, record_bytes * records_per_commit, length);
}

}  // namespace dray
