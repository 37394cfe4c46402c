// ClientImpl: from payloads to messages, on the caller's thread: ids, rows, one copy of the bytes.
#include "client/src/client_impl.h"
#include "common/net/clock.h"

namespace dray {
inline namespace client_v1 {
namespace {
constexpr size_t kChunkBytes = 512 * 1024;  // payloads of one message, if they are small
constexpr size_t kWindowBytes = size_t{32} << 20;  // on their way; the router allows 64 MiB
// With so many submits unanswered, throughput is what the caller is after: then a small one waits
// for the next answer, but not longer than this (and for a turn, at most 100 ms).
constexpr size_t kMergeFrom = 16;
constexpr Duration kMergeWait = 2ms;
using SteadyTime = std::chrono::steady_clock::time_point;
}  // namespace

std::shared_ptr<TaskBatch> ClientImpl::make_batch(size_t n) {
  auto batch = std::make_shared<TaskBatch>();
  batch->slots.resize(n);
  batch->timeout = options_.timeout;
  batch->client_thread = thread_id_.load();
  return batch;
}

Id ClientImpl::new_id() {
  Now now = read_clock();
  std::lock_guard lock(mutex_);
  return to_public(ids_.next(now.wall_ms));
}

// How many of the payloads the next message takes.
Expected<size_t> ClientImpl::chunk_size(Payloads rest) const {
  size_t n = 0, bytes = 0;
  while (n < rest.size() && n < options_.batch) {
    size_t size = rest[n].size();
    if (size > kPayloadBytesMax)
      return fault(Code::too_large, "payload of " + std::to_string(size) + " bytes, limit " +
                                        std::to_string(kPayloadBytesMax));
    if (n > 0 && bytes + size > kChunkBytes) break;
    bytes += size;
    ++n;
  }
  return n;
}

ClientImpl::Chunk ClientImpl::make_chunk(Payloads payloads, const TaskOptions& options) {
  Chunk chunk;
  chunk.ids.reserve(payloads.size());
  {
    Now now = read_clock();
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < payloads.size(); ++i)
      chunk.ids.push_back(options.id.is_null() ? ids_.next(now.wall_ms) : to_wire(options.id));
  }
  size_t total = 0;
  for (std::string_view p : payloads) total += p.size();
  RowsBuilder<SubmitRow> rows;
  rows.reserve(payloads.size());
  std::string bytes;
  bytes.reserve(total);
  for (size_t i = 0; i < payloads.size(); ++i) {
    rows.add({chunk.ids[i], static_cast<uint32_t>(payloads[i].size()), 0, 0});
    bytes.append(payloads[i]);
  }
  chunk.rows = rows.take();
  chunk.bytes = Bytes(std::move(bytes));
  chunk.size = chunk.rows.bytes().size() + chunk.bytes.size();
  chunk.own_id = !options.id.is_null();
  return chunk;
}

bool ClientImpl::acquire_window(size_t bytes, SteadyTime until) {
  std::unique_lock lock(mutex_);
  bool free = changed_.wait_until(lock, until, [&] {
    return closed_ || window_messages_ == 0 ||
           (window_messages_ < options_.window && window_bytes_ + bytes <= kWindowBytes);
  });
  if (!free || closed_) return false;
  ++window_messages_;
  window_bytes_ += bytes;
  return true;
}

void ClientImpl::release_window(size_t messages, size_t bytes) {
  std::lock_guard lock(mutex_);
  window_messages_ -= messages;
  window_bytes_ -= bytes;
  changed_.notify_all();
}

Expected<Done> ClientImpl::register_chunk(const Chunk& chunk,
                                          const std::shared_ptr<TaskBatch>& batch, size_t base) {
  if (!batch) return Done{};
  std::lock_guard lock(registry_mutex_);
  if (registry_closed_) return fault(Code::closed, "the client was shut down");
  if (!registry_.add(chunk.ids, batch, static_cast<uint32_t>(base)))
    return fault(Code::bad_argument, "this client waits for that id already");
  std::lock_guard inner(batch->mutex);
  ++batch->messages_open;
  return Done{};
}

void ClientImpl::send_chunk(Chunk&& chunk, const std::string& spec,
                            const std::shared_ptr<TaskBatch>& batch, Millis timeout) {
  SubmitCmd cmd;
  cmd.specs = {spec};
  cmd.rows = std::move(chunk.rows);
  cmd.bytes = std::move(chunk.bytes);
  host_.post([this, cmd = std::move(cmd), part = SubmitPart{batch, chunk.size},
              alone = chunk.own_id || !options_.merge,
              timeout](Now now, ClientCore&, ClientOut&) mutable {
    cmd.deadline = now.mono + timeout;
    merge_.add(std::move(cmd), alone);
    merge_parts_.push_back(std::move(part));
  });
}

void ClientImpl::flush_submits(bool all, Now now, ClientCore& core, ClientOut& out) {
  if (merge_.empty()) return;
  const bool busy = unanswered_ >= kMergeFrom && now.mono - submitted_at_ < kMergeWait;
  for (SubmitMessage& m : merge_.take(busy && !all)) {
    unanswered_ += m.parts;
    auto& parts = submissions_[core.submit(std::move(m.cmd), now, out)];
    for (; m.parts > 0; --m.parts) {
      parts.push_back(std::move(merge_parts_.front()));
      merge_parts_.pop_front();
    }
    submitted_at_ = now.mono;
  }
}

void ClientImpl::post(std::function<void(Now, ClientCore&, ClientOut&)> f) {
  host_.post([this, f = std::move(f)](Now now, ClientCore& core, ClientOut& out) {
    flush_submits(true, now, core, out);
    f(now, core, out);
  });
}

Expected<Done> ClientImpl::submit(std::string_view handler, Payloads payloads,
                                  const TaskOptions& options,
                                  const std::shared_ptr<TaskBatch>& batch, std::vector<Id>& ids,
                                  Millis timeout) {
  auto spec = make_spec(handler, options);
  if (!spec) return spec.error();
  if (!options.id.is_null() && payloads.size() != 1)
    return fault(Code::bad_argument, "an id of your own needs exactly one payload");
  timeout = effective(timeout);
  auto until = std::chrono::steady_clock::now() + timeout;
  // A callback can not wait for room that only its own thread can make.
  if (on_client_thread()) until = SteadyTime{};
  ids.reserve(payloads.size());
  while (ids.size() < payloads.size()) {
    Payloads rest = payloads.subspan(ids.size());
    auto n = chunk_size(rest);
    if (!n) return n.error();
    Chunk chunk = make_chunk(rest.first(*n), options);
    if (!acquire_window(chunk.size, until)) {
      ClientError e = fault(Code::overloaded,
                            "no room in the window; handed over: " + std::to_string(ids.size()));
      e.limit = "window";
      e.value = ids.size();
      return e;
    }
    if (auto ok = register_chunk(chunk, batch, ids.size()); !ok) {
      release_window(1, chunk.size);
      return ok.error();
    }
    for (TaskId id : chunk.ids) ids.push_back(to_public(id));
    send_chunk(std::move(chunk), *spec, batch, timeout);
  }
  return Done{};
}

Expected<Done> ClientImpl::await_accepted(TaskBatch& batch, Millis timeout) {
  if (on_client_thread())
    return fault(Code::bad_argument, "a blocking call from a callback of the client");
  std::unique_lock lock(batch.mutex);
  bool done = batch.changed.wait_for(lock, effective(timeout) + std::chrono::seconds(1),
                                     [&] { return batch.messages_open == 0; });
  if (batch.error) return *batch.error;
  if (!done) return fault(Code::timeout, "outcome unknown: not accepted so far");
  return Done{};
}

}  // namespace client_v1
}  // namespace dray
