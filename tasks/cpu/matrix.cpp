// MatrixCache: path rules, mapping and row lengths.
#include "matrix.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>

#include "payload.h"

namespace dray_tasks {
namespace {

constexpr size_t kHeadBytes = 20;
constexpr uint32_t kDimMax = 65536;

// Relative, no empty, "." or ".." part, no NUL. Symbolic links are the operator's business.
void check_path(std::string_view path) {
  if (path.empty() || path.find('\0') != std::string_view::npos)
    throw dray::FinalError("vec.topk: bad matrix path");
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string_view part = path.substr(start, end - start);
    if (part.empty() || part == "." || part == "..")
      throw dray::FinalError("vec.topk: the matrix path must be relative, without '.' or '..'");
    start = end + 1;
  }
}

struct File {
  int fd = -1;
  ~File() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

float inverse_norm(const float* values, size_t count) {
  double square = 0;
  for (size_t i = 0; i < count; ++i) square += double{values[i]} * double{values[i]};
  const double inverse = 1 / std::sqrt(square);
  return square > 0 && std::isfinite(square) ? static_cast<float>(inverse) : 0.0f;
}

Matrix::Matrix(int fd, size_t size, const std::string& name) : map_size_(size) {
  const auto bad = [&](const char* why) {
    return dray::FinalError("vec.topk: " + name + " is not a matrix file: " + why);
  };
  if (size < kHeadBytes) throw bad("too short");
  map_ = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (map_ == MAP_FAILED) throw std::runtime_error("vec.topk: can not map " + name);
  const char* bytes = static_cast<const char*>(map_);
  std::memcpy(&dim_, bytes + 8, sizeof(dim_));
  std::memcpy(&rows_, bytes + 12, sizeof(rows_));
  const char* why = nullptr;
  if (std::memcmp(bytes, "DRAYMAT1", 8) != 0) {
    why = "wrong magic";
  } else if (dim_ == 0 || dim_ > kDimMax) {
    why = "bad dim";
  } else {
    const uint64_t row_bytes = uint64_t{dim_} * sizeof(float);
    const uint64_t data = size - kHeadBytes;
    if (data % row_bytes != 0 || rows_ != data / row_bytes) why = "size does not match its head";
  }
  if (why != nullptr) {
    munmap(map_, map_size_);
    throw bad(why);
  }
  values_ = reinterpret_cast<const float*>(bytes + kHeadBytes);
  try {
    inverse_norms_.resize(rows_);
  } catch (...) {
    munmap(map_, map_size_);
    throw;
  }
  for (uint64_t i = 0; i < rows_; ++i) inverse_norms_[i] = dray_tasks::inverse_norm(row(i), dim_);
}

Matrix::~Matrix() { munmap(map_, map_size_); }

std::shared_ptr<const Matrix> MatrixCache::open(std::string_view path) {
  check_path(path);
  if (data_dir_.empty()) throw dray::FinalError("vec.topk: this worker has no data dir");
  const std::string name(path);
  const File file{::open((data_dir_ + '/' + name).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat st {};
  if (file.fd < 0 || fstat(file.fd, &st) != 0)
    throw std::runtime_error("vec.topk: can not open " + name);
  if (!S_ISREG(st.st_mode)) throw dray::FinalError("vec.topk: " + name + " is not a file");
  const int64_t mtime_ns = int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
  const auto size = static_cast<uint64_t>(st.st_size);

  // Opening under the lock: a matrix is read once even when many tasks ask for it at the same time.
  const std::lock_guard lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->path != name) continue;
    if (it->mtime_ns == mtime_ns && it->size == size && it->inode == st.st_ino) {
      entries_.splice(entries_.begin(), entries_, it);
      return entries_.front().matrix;
    }
    entries_.erase(it);
    break;
  }
  auto matrix = std::make_shared<const Matrix>(file.fd, size, name);
  entries_.push_front({name, mtime_ns, size, st.st_ino, matrix});
  if (entries_.size() > kEntriesMax) entries_.pop_back();
  return matrix;
}

}  // namespace dray_tasks
