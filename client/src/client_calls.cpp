// Calls in the public API: checks of arguments, and the blocking forms.
#include "client/src/client_impl.h"

namespace dray {
inline namespace client_v1 {
namespace {

constexpr auto kGrace = std::chrono::seconds(1);  // the core ends a call by its deadline

CallOutcome from_callback() {
  return make_refusal(Code::bad_argument, "a blocking call from a callback of the client");
}

Bytes copy_payload(std::string_view payload) {
  if (payload.empty()) return {};
  auto memory = std::make_shared_for_overwrite<char[]>(payload.size());
  std::memcpy(memory.get(), payload.data(), payload.size());
  const char* data = memory.get();
  return Bytes(std::move(memory), data, payload.size());
}

std::optional<CallOutcome> refuse(std::string_view handler, std::string_view payload,
                                  const CallOptions& options) {
  constexpr std::chrono::microseconds longest{kCallDeadlineUsMax};
  if (handler.empty() || handler.size() > kNameBytesMax)
    return make_refusal(Code::bad_argument, "handler must have 1 to 128 bytes");
  if (options.model.size() > kNameBytesMax)
    return make_refusal(Code::bad_argument, "model is longer than 128 bytes");
  if (options.items == 0) return make_refusal(Code::bad_argument, "items must be at least 1");
  if (options.deadline < options.deadline.zero() || options.deadline > longest)
    return make_refusal(Code::bad_argument, "deadline must be at most an hour");
  if (payload.size() > kPayloadBytesMax)
    return make_refusal(Code::too_large, "payload of " + std::to_string(payload.size()) +
                                             " bytes, limit " + std::to_string(kPayloadBytesMax));
  return std::nullopt;
}

}  // namespace

std::string_view call_end_text(CallEnd end) {
  switch (end) {
    case CallEnd::reply:
      return "reply";
    case CallEnd::failed:
      return "failed";
    case CallEnd::rejected:
      return "rejected";
    case CallEnd::expired:
      return "expired";
    case CallEnd::cancelled:
      return "cancelled";
    case CallEnd::unknown:
      return "unknown";
  }
  return "?";
}

std::string CallOutcome::text() const {
  std::string out(call_end_text(end));
  if (ok()) return out;
  std::string_view why = code_name(code);
  if (why != out) out.append(": ").append(why);
  if (!bytes.empty()) out.append(": ").append(bytes);
  if (!limit.empty()) out.append(" (limit " + limit + " = " + std::to_string(value) + ")");
  return out;
}

std::chrono::microseconds ClientImpl::call_limit(const CallOptions& options) const {
  return options.deadline.count() == 0 ? options_.call_deadline : options.deadline;
}

uint64_t ClientImpl::start_call(std::string_view handler, std::string_view payload,
                                const CallOptions& options, uint64_t window, CallSink&& sink) {
  if (auto refusal = refuse(handler, payload, options)) {
    sink.finish(std::move(*refusal));
    return 0;
  }
  CallCmd cmd;
  cmd.handler = handler;
  cmd.key = options.model;
  cmd.window = window;
  cmd.payload = copy_payload(payload);
  cmd.items = options.items;
  if (options.idempotent) cmd.flags = kCallIdempotent;
  if (options.idempotent && options.hedge) cmd.flags |= kCallHedge;
  return desk_.start(std::move(cmd), call_limit(options), std::move(sink));
}

// The waiter is kept for the thread's next call, unless it was left behind.
CallOutcome Client::call(std::string_view handler, std::string_view payload,
                         const CallOptions& options) {
  if (impl_->on_client_thread()) return from_callback();
  static thread_local std::shared_ptr<CallWaiter> waiter;
  if (!waiter) waiter = std::make_shared<CallWaiter>();
  waiter->arm();
  impl_->start_call(handler, payload, options, 0, {{}, waiter, {}});
  if (waiter->wait(impl_->call_limit(options) + kGrace)) return waiter->take();
  waiter.reset();
  CallOutcome stuck;
  stuck.code = Code::timeout;
  stuck.bytes = "a callback of this client does not return";
  return stuck;
}

PendingCall Client::async_call(std::string_view handler, std::string_view payload,
                               const CallOptions& options, std::function<void(CallOutcome&&)> f) {
  PendingCall pending;
  pending.impl_ = impl_;
  pending.number_ = impl_->start_call(handler, payload, options, 0, {std::move(f), {}, {}});
  return pending;
}

std::future<CallOutcome> Client::call_future(std::string_view handler, std::string_view payload,
                                             const CallOptions& options) {
  auto promise = std::make_shared<std::promise<CallOutcome>>();
  auto future = promise->get_future();
  auto keep = [promise](CallOutcome&& outcome) { promise->set_value(std::move(outcome)); };
  impl_->start_call(handler, payload, options, 0, {std::move(keep), {}, {}});
  return future;
}

void PendingCall::cancel() const {
  if (auto impl = impl_.lock()) impl->cancel_call(number_);
}

// --- streams -------------------------------------------------------------------------------------

CallStream Client::call_stream(std::string_view handler, std::string_view payload,
                               const CallOptions& options) {
  auto state = std::make_shared<StreamState>();
  state->window = impl_->options().stream_window;
  state->until = std::chrono::steady_clock::now() + impl_->call_limit(options) + kGrace;
  state->impl = impl_;
  state->handle = impl_->start_call(handler, payload, options, state->window, {{}, {}, state});
  return CallStream(std::move(state));
}

CallStream::CallStream(std::shared_ptr<StreamState> state) : state_(std::move(state)) {}
CallStream::CallStream(CallStream&&) noexcept = default;
CallStream& CallStream::operator=(CallStream&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
CallStream::~CallStream() {
  if (state_) cancel();
}

// The core hears of what was taken by half windows; of less when the reader waits for more.
std::optional<std::string> CallStream::next() {
  StreamState& s = *state_;
  auto impl = s.impl.lock();
  std::unique_lock lock(s.mutex);
  auto news = [&s] { return !s.parts.empty() || s.over; };
  if (!impl || !impl->on_client_thread()) s.changed.wait_until(lock, s.until, news);
  if (s.parts.empty()) {
    if (s.over) return std::nullopt;
    bool stuck = !impl || !impl->on_client_thread();
    s.outcome = from_callback();
    s.outcome.end = CallEnd::unknown;
    if (stuck) s.outcome.code = Code::timeout;
    return std::nullopt;
  }
  std::string part = std::move(s.parts.front());
  s.parts.pop_front();
  s.untold += part.size();
  bool hurry = s.untold >= s.window / 2;
  uint64_t bytes = hurry || s.parts.empty() ? std::exchange(s.untold, 0) : 0;
  bool over = s.over;
  lock.unlock();
  if (bytes > 0 && !over && impl) impl->part_taken(s.handle, bytes, hurry);
  return part;
}

const CallOutcome& CallStream::outcome() const { return state_->outcome; }

void CallStream::cancel() {
  {
    std::lock_guard lock(state_->mutex);
    if (state_->over) return;
  }
  if (auto impl = state_->impl.lock()) impl->cancel_call(state_->handle);
}

}  // namespace client_v1
}  // namespace dray
