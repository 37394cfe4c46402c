#include "client/demo/matrix_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace dray::demo {
namespace {
constexpr uint64_t kHeader = 8 + 4 + 8;
}

bool MatrixFile::create(const std::string& path, uint32_t dim, uint64_t rows) {
  path_ = path;
  dim_ = dim;
  size_ = kHeader + rows * dim * sizeof(float);
  int fd = open((path + ".tmp").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(size_)) != 0) {
    std::perror(path.c_str());
    if (fd >= 0) close(fd);
    return false;
  }
  void* map = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED) {
    std::perror("mmap");
    return false;
  }
  data_ = static_cast<char*>(map);
  std::memcpy(data_, "DRAYMAT1", 8);
  std::memcpy(data_ + 8, &dim, sizeof dim);
  std::memcpy(data_ + 12, &rows, sizeof rows);
  return true;
}

void MatrixFile::set_row(uint64_t row, const char* floats) {
  std::memcpy(data_ + kHeader + row * dim_ * sizeof(float), floats, dim_ * sizeof(float));
}

bool MatrixFile::publish() { return std::rename((path_ + ".tmp").c_str(), path_.c_str()) == 0; }

MatrixFile::~MatrixFile() {
  if (data_) munmap(data_, size_);
}

}  // namespace dray::demo
