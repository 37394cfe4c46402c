// Compact framing: a small message of several frames as one ZeroMQ frame, because a frame costs
// more to pass than a few hundred bytes do. 0xC1 (a byte that msgpack never uses), the number of
// frames, two zero bytes, the sizes of all frames but the last (u32), then the frames.
#pragma once

#include <cstddef>

#include "common/wire/message.h"

namespace dray {

constexpr size_t kCompactBytesMax = 2048;  // of the result

// Size as one frame; 0 if the message has one frame already or is too large.
size_t compact_size(const Frames& frames);
void write_compact(const Frames& frames, char* out);  // writes compact_size() bytes
bool is_compact(const Bytes& frame);
// The parts share the memory of `frame`. False: the sizes do not fit.
bool split_compact(const Bytes& frame, Frames& frames);

}  // namespace dray
