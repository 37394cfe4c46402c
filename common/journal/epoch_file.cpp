// The epoch counter: two slots written in turn, so a torn write can only lose the newer one.
#include "common/journal/epoch_file.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "common/journal/crc32c.h"

namespace dray {
namespace {
constexpr size_t kSlotBytes = 512;  // a sector each
using Image = std::array<char, 2 * kSlotBytes>;

void put_slot(char* slot, uint64_t epoch) {
  std::memcpy(slot, &epoch, sizeof(epoch));
  uint32_t crc = crc32c(0, {slot, sizeof(epoch)});
  std::memcpy(slot + sizeof(epoch), &crc, sizeof(crc));
}

std::optional<uint64_t> get_slot(const char* slot) {
  uint64_t epoch = 0;
  uint32_t crc = 0;
  std::memcpy(&epoch, slot, sizeof(epoch));
  std::memcpy(&crc, slot + sizeof(epoch), sizeof(crc));
  if (crc != crc32c(0, {slot, sizeof(epoch)})) return std::nullopt;
  return epoch;
}

Status put(FileOps& ops, int fd, const char* data, size_t n, uint64_t at, const std::string& path) {
  std::vector<iovec> iov{{const_cast<char*>(data), n}};
  DRAY_TRY(write_all(ops, fd, iov, at, path));
  return sync_file(ops, fd, path);
}
}  // namespace

Status EpochFile::open(FileOps& ops, const std::string& dir, bool may_create) {
  ops_ = &ops;
  dir_ = dir;
  path_ = dir + "/epoch";
  int fd = ops.open(path_, O_RDWR);
  if (fd == -ENOENT && !may_create)
    return make_error(Errc::corrupt, path_ + " is missing beside a log that is not empty");
  if (fd == -ENOENT) return create();
  if (fd < 0) return file_error(fd, "open", path_);
  fd_ = OwnedFd(&ops, fd);
  return {};
}

Status EpochFile::create() {
  std::string fresh = path_ + ".new";
  DRAY_TRY_ASSIGN(fd_, open_file(*ops_, fresh, O_RDWR | O_CREAT | O_TRUNC));
  Image image{};
  put_slot(image.data(), 0);
  DRAY_TRY(put(*ops_, fd_.get(), image.data(), image.size(), 0, fresh));
  int rc = ops_->rename(fresh, path_);
  if (rc < 0) return file_error(rc, "rename", fresh);
  return sync_directory(*ops_, dir_);
}

Result<uint64_t> EpochFile::read() const {
  Image image{};
  DRAY_TRY(read_upto(*ops_, fd_.get(), image.data(), image.size(), 0, path_));
  auto a = get_slot(image.data());
  auto b = get_slot(image.data() + kSlotBytes);
  // All-zero bytes do not pass: the CRC of eight zero bytes is not zero.
  if (!a && !b) return make_error(Errc::corrupt, path_ + ": no valid epoch");
  return std::max(a.value_or(0), b.value_or(0));
}

Result<uint64_t> EpochFile::bump() {
  DRAY_TRY_ASSIGN(uint64_t epoch, read());
  std::array<char, 12> slot{};
  // What we read may be in the page cache only (see FileJournal::rewrite_last_commit). Without this
  // a torn write below could leave both slots behind an epoch that was handed out.
  put_slot(slot.data(), epoch);
  DRAY_TRY(put(*ops_, fd_.get(), slot.data(), slot.size(), (epoch % 2) * kSlotBytes, path_));
  put_slot(slot.data(), ++epoch);
  DRAY_TRY(put(*ops_, fd_.get(), slot.data(), slot.size(), (epoch % 2) * kSlotBytes, path_));
  return epoch;
}

}  // namespace dray
