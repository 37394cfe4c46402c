// Little-endian fields, counted texts, and a reader that never reads past the end.
#include "services/worker/shell/child_frames.h"

#include <bit>
#include <cstring>
#include <type_traits>

#include "common/base/limits.h"

namespace dray::worker {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are copied as they lie");

template <class T>
void put(std::string& to, T value) {
  static_assert(std::is_integral_v<T>);
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_text(std::string& to, std::string_view text) {
  put(to, static_cast<uint32_t>(text.size()));
  to.append(text);
}
void put_list(std::string& to, const std::vector<std::string>& list) {
  put(to, static_cast<uint32_t>(list.size()));
  for (const std::string& text : list) put_text(to, text);
}

// Once something was missing every further read gives zeros; the end asks ok().
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}

  template <class T>
  T get() {
    T value{};
    if (sizeof value > left_.size()) {
      fail();
      return value;
    }
    std::memcpy(&value, left_.data(), sizeof value);
    left_.remove_prefix(sizeof value);
    return value;
  }
  std::string_view text() {
    const auto size = get<uint32_t>();
    if (size > left_.size()) {
      fail();
      return {};
    }
    const std::string_view text = left_.substr(0, size);
    left_.remove_prefix(size);
    return text;
  }
  std::string string() { return std::string(text()); }
  bool flag() { return get<uint8_t>() != 0; }
  std::vector<std::string> list(size_t most) {
    const auto n = get<uint32_t>();
    std::vector<std::string> list;
    if (n > most) fail();
    for (uint32_t i = 0; i < n && ok_; ++i) list.push_back(string());
    return list;
  }
  bool more() const { return ok_ && !left_.empty(); }
  bool complete() const { return ok_ && left_.empty(); }
  bool ok() const { return ok_; }

 private:
  void fail() {
    ok_ = false;
    left_ = {};
  }
  std::string_view left_;
  bool ok_ = true;
};

Error bad(const char* what) {
  return make_error(Errc::bad_message, std::string("executor protocol: bad ") + what);
}

bool is_known(uint8_t type) { return (type >= 1 && type <= 6) || (type >= 16 && type <= 24); }

}  // namespace

void put_head(std::string& to, const ChildHead& head) {
  put(to, head.len);
  put(to, static_cast<uint8_t>(head.type));
  put(to, uint8_t{0});
  put(to, head.index);
  put(to, head.id);
}

void put_frame(std::string& to, ChildFrame type, uint64_t id, uint16_t index,
               std::string_view body) {
  put_head(to, {static_cast<uint32_t>(body.size()), type, index, id});
  to.append(body);
}

Result<ChildHead> read_head(std::string_view bytes) {
  Reader r(bytes.substr(0, kChildHeadBytes));
  ChildHead head;
  head.len = r.get<uint32_t>();
  const auto type = r.get<uint8_t>();
  const auto zero = r.get<uint8_t>();
  head.index = r.get<uint16_t>();
  head.id = r.get<uint64_t>();
  if (!r.complete() || !is_known(type) || zero != 0 || head.len > kChildFrameMax)
    return bad("frame");
  head.type = static_cast<ChildFrame>(type);
  return head;
}

// --- start, ready ------------------------------------------------------------------------------

std::string encode_start(const ChildStart& start) {
  std::string to;
  put_text(to, start.worker_name);
  put_text(to, start.data_dir);
  put_text(to, start.deployment);
  put_text(to, start.user_config);
  put_list(to, start.plugins);
  put_list(to, start.handlers);
  put(to, start.threads);
  put(to, static_cast<uint8_t>(start.allow_test_handlers));
  return to;
}

Result<ChildStart> decode_start(std::string_view body) {
  Reader r(body);
  ChildStart start;
  start.worker_name = r.string();
  start.data_dir = r.string();
  start.deployment = r.string();
  start.user_config = r.string();
  start.plugins = r.list(kHandlersMax);
  start.handlers = r.list(kHandlersMax);
  start.threads = r.get<uint32_t>();
  start.allow_test_handlers = r.flag();
  if (!r.complete()) return bad("start");
  return start;
}

std::string encode_handlers(const std::vector<ReplicaHandler>& handlers) {
  std::string to;
  for (const ReplicaHandler& h : handlers) {
    put(to, static_cast<uint8_t>(h.can_batch));
    put(to, h.max_concurrency);
    put_text(to, encode_offer(h.offer));
  }
  return to;
}

Result<std::vector<ReplicaHandler>> decode_handlers(std::string_view body) {
  Reader r(body);
  std::vector<ReplicaHandler> handlers;
  while (r.more() && handlers.size() <= kHandlersMax) {
    ReplicaHandler h;
    h.can_batch = r.flag();
    h.max_concurrency = r.get<uint32_t>();
    auto offer = decode_offer(r.text());
    if (!offer) return bad("handler");
    h.offer = std::move(*offer);
    handlers.push_back(std::move(h));
  }
  if (!r.complete() || handlers.size() > kHandlersMax) return bad("list of handlers");
  return handlers;
}

// --- run, results ------------------------------------------------------------------------------

void put_run(std::string& to, uint16_t handler, std::span<const TaskView> tasks) {
  put(to, handler);
  put(to, static_cast<uint16_t>(tasks.size()));
  for (const TaskView& task : tasks) {
    put(to, task.id.hi);
    put(to, task.id.lo);
    put(to, task.token.epoch);
    put(to, task.token.seq);
    put(to, task.deadline_ns);
    put(to, task.attempt);
    put(to, task.items);
    put(to, static_cast<uint8_t>(task.is_call));
    put(to, static_cast<uint8_t>(task.parts != nullptr));
    put_text(to, task.payload);
    put_text(to, task.user_header);
    put_text(to, task.model);
  }
}

Result<ChildRun> decode_run(std::string_view body) {
  Reader r(body);
  ChildRun run;
  run.handler = r.get<uint16_t>();
  const auto count = r.get<uint16_t>();
  if (count == 0 || count > kItemsMax) return bad("run");
  run.tasks.reserve(count);
  for (uint16_t i = 0; i < count && r.ok(); ++i) {
    ChildTask task;
    task.id.hi = r.get<uint64_t>();
    task.id.lo = r.get<uint64_t>();
    task.token.epoch = r.get<uint64_t>();
    task.token.seq = r.get<uint64_t>();
    task.deadline_ns = r.get<int64_t>();
    task.attempt = r.get<uint32_t>();
    task.items = r.get<uint32_t>();
    task.is_call = r.flag();
    task.parts = r.flag();
    task.payload = r.text();
    task.user_header = r.text();
    task.model = r.text();
    run.tasks.push_back(task);
  }
  if (!r.complete()) return bad("run");
  return run;
}

void put_result(std::string& to, const ChildResult& result) {
  put(to, result.index);
  put(to, static_cast<uint8_t>(result.kind));
  put_text(to, result.bytes);
}

Result<std::vector<ChildResult>> decode_results(std::string_view body) {
  Reader r(body);
  std::vector<ChildResult> results;
  while (r.more() && results.size() <= kItemsMax) {
    ChildResult result;
    result.index = r.get<uint16_t>();
    const auto kind = r.get<uint8_t>();
    // A child can not say that it crashed.
    if (kind > static_cast<uint8_t>(TaskOutput::Kind::fail_final)) return bad("result");
    result.kind = static_cast<TaskOutput::Kind>(kind);
    result.bytes = r.text();
    results.push_back(result);
  }
  if (!r.complete() || results.size() > kItemsMax) return bad("results");
  return results;
}

// --- words -------------------------------------------------------------------------------------

void put_word(std::string& to, uint32_t number, std::string_view text) {
  put(to, number);
  put_text(to, text);
}

Result<ChildWord> decode_word(std::string_view body) {
  Reader r(body);
  ChildWord word;
  word.number = r.get<uint32_t>();
  word.text = r.text();
  if (!r.complete()) return bad("word");
  return word;
}

Result<uint64_t> decode_grant(std::string_view body) {
  Reader r(body);
  const auto granted = r.get<uint64_t>();
  if (!r.complete()) return bad("grant");
  return granted;
}

}  // namespace dray::worker
