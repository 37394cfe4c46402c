// BlobParts: a record's blob as a list of shared pieces, sliceable without copying.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/bytes.h"

namespace dray {

class BlobParts {
 public:
  void add(Bytes piece);
  uint64_t size() const { return parts_.empty() ? 0 : parts_.back().end; }
  // [offset, offset + size), which must lie inside. Copies only if it spans pieces.
  Bytes slice(uint64_t offset, uint64_t size) const;
  template <class F>
  void for_each(F&& f) const {
    for (const Part& p : parts_) f(p.bytes);
  }

 private:
  struct Part {
    uint64_t end;  // offset behind this piece
    Bytes bytes;
  };
  std::vector<Part> parts_;
};

}  // namespace dray
