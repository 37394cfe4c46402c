#include "common/wire/compact.h"

#include <cstdint>
#include <cstring>

namespace dray {
namespace {
constexpr char kMark = '\xC1';
constexpr size_t header_size(uint8_t count) { return 4 + 4 * (count - size_t{1}); }
}  // namespace

size_t compact_size(const Frames& frames) {
  if (frames.count < 2) return 0;
  size_t size = header_size(frames.count);
  for (uint8_t i = 0; i < frames.count; ++i) size += frames.frame[i].size();
  return size <= kCompactBytesMax ? size : 0;
}

void write_compact(const Frames& frames, char* out) {
  out[0] = kMark;
  out[1] = static_cast<char>(frames.count);
  out[2] = out[3] = 0;
  char* size_at = out + 4;
  char* at = out + header_size(frames.count);
  for (uint8_t i = 0; i < frames.count; ++i) {
    const Bytes& b = frames.frame[i];
    if (i + 1 < frames.count) {
      auto size = static_cast<uint32_t>(b.size());
      std::memcpy(size_at, &size, sizeof size);
      size_at += sizeof size;
    }
    std::memcpy(at, b.data(), b.size());
    at += b.size();
  }
}

bool is_compact(const Bytes& frame) {
  return frame.size() > 1 && frame.data()[0] == kMark && frame.data()[1] != '\xFF';  // not a bundle
}

bool split_compact(const Bytes& frame, Frames& frames) {
  frames.count = 0;
  if (frame.size() < 8 || frame.size() > kCompactBytesMax) return false;
  auto count = static_cast<uint8_t>(frame.data()[1]);
  if (count < 2 || count > kFramesMax || frame.data()[2] != 0 || frame.data()[3] != 0) return false;
  size_t at = header_size(count);
  if (frame.size() < at) return false;
  for (uint8_t i = 0; i + 1 < count; ++i) {
    uint32_t size = 0;
    std::memcpy(&size, frame.data() + 4 + 4 * size_t{i}, sizeof size);
    if (size > frame.size() - at) return false;
    frames.frame[i] = frame.slice(at, size);
    at += size;
  }
  frames.frame[count - 1] = frame.slice(at, frame.size() - at);
  for (size_t i = count; i < kFramesMax; ++i) frames.frame[i] = {};
  frames.count = count;
  return true;
}

}  // namespace dray
