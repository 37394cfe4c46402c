// Slicing of a blob that lies in several pieces.
#include "common/journal/blob_parts.h"

#include <algorithm>
#include <string>

namespace dray {

void BlobParts::add(Bytes piece) {
  if (piece.empty()) return;
  uint64_t end = size() + piece.size();
  parts_.push_back(Part{end, std::move(piece)});
}

Bytes BlobParts::slice(uint64_t offset, uint64_t size) const {
  auto it = std::upper_bound(parts_.begin(), parts_.end(), offset,
                             [](uint64_t at, const Part& p) { return at < p.end; });
  if (it == parts_.end() || size == 0) return {};
  size_t inside = static_cast<size_t>(offset - (it->end - it->bytes.size()));
  if (offset + size <= it->end) return it->bytes.slice(inside, static_cast<size_t>(size));
  std::string joined;
  joined.reserve(static_cast<size_t>(size));
  for (; it != parts_.end() && joined.size() < size; ++it, inside = 0)
    joined += it->bytes.slice(inside, static_cast<size_t>(size) - joined.size()).view();
  return Bytes(std::move(joined));
}

}  // namespace dray
