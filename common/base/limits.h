// Every bound of the system in one place, with the relations between them checked at compile time.
// Values that an operator may change are defaults in the config tables; these are the hard walls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dray {

constexpr size_t kHeadBytesMax = 64 * 1024;  // frame 1
constexpr size_t kPayloadBytesMax = 4 * 1024 * 1024;  // one task's payload or result
constexpr size_t kItemsMax = 4096;  // rows in one message
constexpr size_t kMergeRowsMax = 256;  // tasks of one message that a client merged itself
constexpr size_t kRowBytesMax = 64;  // widest row
constexpr size_t kRowsBytesMax = kItemsMax * kRowBytesMax;
constexpr size_t kBodyBytesMax = 8 * 1024 * 1024;  // frame 3, all payloads of one message
constexpr size_t kFrameBytesMax = kBodyBytesMax + 4096;  // ZMQ_MAXMSGSIZE
constexpr size_t kFramesMax = 3;

constexpr size_t kMsgpackArrayMax = 4096;
constexpr size_t kMsgpackMapMax = 256;
constexpr size_t kMsgpackStrMax = 64 * 1024;
constexpr size_t kMsgpackDepthMax = 8;
constexpr size_t kMsgpackTokensMax = 16 * 1024;

constexpr size_t kNameBytesMax = 128;  // handler, queue, worker, label, resource names
constexpr size_t kUserHeaderBytesMax = 4096;  // durable header of a task
constexpr size_t kSpecsMax = 256;  // different option sets in one submit
constexpr size_t kHandlersMax = 1024;  // handlers one worker may announce
constexpr int64_t kCallDeadlineUsMax = int64_t{3600} * 1'000'000;  // longest deadline of a call
constexpr uint64_t kStreamWindowMax = uint64_t{64} << 20;  // largest first window of a stream
constexpr size_t kModelsMax = 1024;  // largest max_models of a handler
constexpr size_t kDevicesMax = 128;  // GPUs and MIG devices of one node: 16 of 7 parts, and some
constexpr size_t kLabelsMax = 64;
constexpr size_t kResourcesMax = 32;
constexpr size_t kErrorTextMax = 2048;
constexpr uint8_t kPriorityBands = 10;  // 0 lowest .. 9 highest, 5 default

constexpr int64_t kDurationMsMax = int64_t{366} * 24 * 3600 * 1000;  // longest delay, ttl, limit
constexpr uint32_t kAttemptsMax = 1000;  // largest max_failures / max_lost

static_assert(kPayloadBytesMax <= kBodyBytesMax);
static_assert(kRowsBytesMax <= kFrameBytesMax);
static_assert(kSpecsMax <= kItemsMax);

}  // namespace dray
