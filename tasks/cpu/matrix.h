// MatrixCache: read-only mapped float32 matrices, a few at a time, reopened when their file
// changes.
//
// A matrix file: the 8 bytes "DRAYMAT1", u32 dim, u64 rows, then rows * dim float32 row by row, and
// nothing after. Little-endian. dim is 1..65536. Replace a file by rename(); a file that is cut
// short while a worker has it mapped kills the worker (SIGBUS).
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace dray_tasks {

class Matrix {
 public:
  // Maps an open file of `size` bytes; throws FinalError if it is not a matrix file.
  Matrix(int fd, size_t size, const std::string& name);
  ~Matrix();
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  uint32_t dim() const { return dim_; }
  uint64_t rows() const { return rows_; }
  const float* row(uint64_t i) const { return values_ + i * dim_; }
  // 1 / Euclidean length of the row; 0 when that length is zero or not finite.
  float inverse_norm(uint64_t i) const { return inverse_norms_[i]; }

 private:
  void* map_ = nullptr;
  size_t map_size_ = 0;
  const float* values_ = nullptr;
  uint32_t dim_ = 0;
  uint64_t rows_ = 0;
  std::vector<float> inverse_norms_;
};

float inverse_norm(const float* values, size_t count);

class MatrixCache {
 public:
  static constexpr size_t kEntriesMax = 8;

  explicit MatrixCache(std::string data_dir) : data_dir_(std::move(data_dir)) {}
  // The matrix in the file `path` under the data dir. Throws FinalError for a path that is not
  // allowed or a file that is no matrix, runtime_error when the file can not be read now.
  std::shared_ptr<const Matrix> open(std::string_view path);

 private:
  struct Entry {
    std::string path;
    int64_t mtime_ns = 0;
    uint64_t size = 0;
    uint64_t inode = 0;
    std::shared_ptr<const Matrix> matrix;
  };

  std::string data_dir_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // most recently used first
};

}  // namespace dray_tasks
