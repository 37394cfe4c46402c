// ChildFrames: what a worker and a dray-executor, its child process, say to each other through a
// socket pair. Both are of the same build, so nothing here is negotiated; but a child runs code
// that is not ours and may write anything, so everything is checked when it is read.
//
// A frame is a head of 16 bytes, {len u32, type u8, 0 u8, index u16, id u64}, then len bytes. `id`
// is the number of a run (or of a question), `index` the place of a task in it. Little-endian;
// texts and payloads are a u32 length, then bytes.
//
//   start     ->  what to load: ChildStart. First, once
//   ready     <-  handlers: it is ready; or failed <-  text: it is not, and ends
//   run       ->  handler u16 (its place in `ready`), count u16, then a ChildTask each
//   cancel    ->  raises the flag of task `index`; parts are not wanted any more
//   grant     ->  u64: so many bytes of parts of task `index` may have been sent in all
//   part      <-  bytes of task `index`
//   progress  <-  permille u32, text
//   results   <-  (index u16, kind u8, bytes) each; results of one run may come in several frames
//   done      <-  the same, and the run is over
//   config    ->  text; answered by configured <-  1 or 0 u8, text
//   health    ->  ; answered by pong <-  1 or 0 u8, text
//   log       <-  level u32, text
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "services/worker/core/replica_work.h"
#include "services/worker/shell/plugin_host.h"

namespace dray::worker {

enum class ChildFrame : uint8_t {
  start = 1,
  run = 2,
  cancel = 3,
  grant = 4,
  config = 5,
  health = 6,
  ready = 16,
  failed = 17,
  part = 18,
  progress = 19,
  results = 20,
  done = 21,
  configured = 22,
  pong = 23,
  log = 24,
};

constexpr size_t kChildHeadBytes = 16;
// A run carries one message's bodies (8 MiB) and a durable header for each of 4096 tasks.
constexpr size_t kChildFrameMax = size_t{32} << 20;
constexpr size_t kChildPartMax = size_t{1} << 20;  // larger parts are cut
constexpr uint64_t kChildWindow = 2 * kChildPartMax;  // of parts, between child and worker
constexpr size_t kChildResultsBytes = size_t{1} << 20;  // results are sent when they are so many
constexpr int kChildFd = 3;  // the child's end

struct ChildHead {
  uint32_t len = 0;
  ChildFrame type{};
  uint16_t index = 0;
  uint64_t id = 0;
};

struct ChildStart {
  std::string worker_name{};
  std::string data_dir{};
  std::string deployment{};
  std::string user_config{};
  std::vector<std::string> plugins{};
  std::vector<std::string> handlers{};  // only these; empty: all
  uint32_t threads = 1;
  bool allow_test_handlers = false;
  bool operator==(const ChildStart&) const = default;
};

// One task of a run. Views point into the frame.
struct ChildTask {
  TaskId id;
  Token token;
  int64_t deadline_ns = INT64_MAX;
  uint32_t attempt = 1;
  uint32_t items = 1;
  bool is_call = false;
  bool parts = false;  // parts are sent at once
  std::string_view payload;
  std::string_view user_header;
  std::string_view model;
};

struct ChildRun {
  uint16_t handler = 0;
  std::vector<ChildTask> tasks{};
};

struct ChildResult {
  uint16_t index = 0;
  TaskOutput::Kind kind = TaskOutput::Kind::ok;
  std::string_view bytes{};
};

struct ChildWord {  // configured, pong, log, progress
  uint32_t number = 0;
  std::string_view text{};
};

// Appends one frame; the whole of it is in `to`.
void put_frame(std::string& to, ChildFrame type, uint64_t id, uint16_t index,
               std::string_view body);
void put_head(std::string& to, const ChildHead& head);
// Pre: 16 bytes. An unknown type or a length above kChildFrameMax is an error.
Result<ChildHead> read_head(std::string_view bytes);

std::string encode_start(const ChildStart& start);
Result<ChildStart> decode_start(std::string_view body);
std::string encode_handlers(const std::vector<ReplicaHandler>& handlers);
Result<std::vector<ReplicaHandler>> decode_handlers(std::string_view body);
void put_run(std::string& to, uint16_t handler, std::span<const TaskView> tasks);
Result<ChildRun> decode_run(std::string_view body);
void put_result(std::string& to, const ChildResult& result);
Result<std::vector<ChildResult>> decode_results(std::string_view body);
void put_word(std::string& to, uint32_t number, std::string_view text);
Result<ChildWord> decode_word(std::string_view body);
Result<uint64_t> decode_grant(std::string_view body);

}  // namespace dray::worker
