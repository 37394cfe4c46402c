// EpochFile: the durable owner counter of a journal directory and the fence built on it.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "common/journal/file_ops.h"

namespace dray {

class EpochFile {
 public:
  // Opens the counter, creating it at 0 when `may_create`; a lost counter must not restart at 0.
  Status open(FileOps& ops, const std::string& dir, bool may_create);
  Result<uint64_t> bump();  // durable before it returns
  Result<uint64_t> read() const;

 private:
  Status create();
  FileOps* ops_ = nullptr;
  std::string dir_;
  std::string path_;
  OwnedFd fd_;
};

}  // namespace dray
