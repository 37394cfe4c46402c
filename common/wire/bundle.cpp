#include "common/wire/bundle.h"

#include <cstdint>
#include <cstring>

namespace dray {
namespace {
constexpr char kMark[4] = {'\xC1', '\xFF', 0, 0};
// Envelope: array of nine, major, minor, kind. The link's kinds are one byte each.
constexpr size_t kKindAt = 3;
constexpr auto kLastLinkKind = static_cast<unsigned char>(Kind::who);
}  // namespace

bool is_bundle(const Bytes& frame) {
  return frame.size() >= sizeof kMark && std::memcmp(frame.data(), kMark, sizeof kMark) == 0;
}

bool next_in_bundle(const Bytes& bundle, size_t& at, Frames& out, bool& bad) {
  bad = false;
  if (at == 0) at = sizeof kMark;
  if (at == bundle.size()) return false;
  uint32_t size = 0;
  bad = true;
  if (bundle.size() - at < sizeof size) return false;
  std::memcpy(&size, bundle.data() + at, sizeof size);
  at += sizeof size;
  if (size == 0 || size > bundle.size() - at) return false;
  Bytes part = bundle.slice(at, size);
  at += size;
  if (is_compact(part)) {
    if (!split_compact(part, out)) return false;
  } else {
    out = Frames{};
    out.count = 1;
    out.frame[0] = std::move(part);
  }
  bad = false;
  return true;
}

size_t Bundler::bundled_size(const Frames& frames) {
  const Bytes& head = frames.frame[0];
  if (frames.count == 0 || head.size() <= kKindAt) return 0;
  if (static_cast<unsigned char>(head.data()[kKindAt]) <= kLastLinkKind) return 0;
  size_t size = frames.count == 1 ? head.size() : compact_size(frames);
  return size == 0 || size > kCompactBytesMax ? 0 : size + sizeof(uint32_t);
}

Packet Bundler::join(const std::vector<Packet>& packets, size_t bytes) {
  std::string all(sizeof kMark + bytes, '\0');
  std::memcpy(all.data(), kMark, sizeof kMark);
  char* at = all.data() + sizeof kMark;
  for (const Packet& p : packets) {
    auto size = static_cast<uint32_t>(bundled_size(p.frames) - sizeof(uint32_t));
    std::memcpy(at, &size, sizeof size);
    at += sizeof size;
    if (p.frames.count == 1) {
      std::memcpy(at, p.frames.frame[0].data(), size);
    } else {
      write_compact(p.frames, at);
    }
    at += size;
  }
  Packet out;
  out.port = packets[0].port;
  out.peer = packets[0].peer;
  out.frames.count = 1;
  out.frames.frame[0] = Bytes(std::move(all));
  return out;
}

Bundler::Open& Bundler::open_for(Port port, Peer peer) {
  auto [it, fresh] = by_peer_.emplace(peer << 8 | port, used_);
  if (fresh) {
    if (used_ == opens_.size()) opens_.emplace_back();
    ++used_;
  }
  return opens_[it->second];
}

}  // namespace dray
