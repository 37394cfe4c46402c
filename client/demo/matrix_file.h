// MatrixFile: float32 rows in a mapped file, in the format that vec.topk reads
// (tasks/cpu/README.md).
#pragma once

#include <cstdint>
#include <string>

namespace dray::demo {

class MatrixFile {
 public:
  // Creates the file at `path`.tmp with `rows` zero rows. False and a text on stderr on failure.
  bool create(const std::string& path, uint32_t dim, uint64_t rows);
  void set_row(uint64_t row, const char* floats);  // dim float32, little-endian
  bool publish();  // renames it to `path`: complete or absent
  ~MatrixFile();

 private:
  std::string path_;
  uint32_t dim_ = 0;
  char* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace dray::demo
