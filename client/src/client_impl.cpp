// ClientImpl: life of the client's thread, requests and shared waits.
#include "client/src/client_impl.h"

#include <sys/random.h>
#include <unistd.h>

#include "common/net/clock.h"

namespace dray {
inline namespace client_v1 {
namespace {

constexpr size_t kRoutersMax = 16;  // endpoints of one client
constexpr auto kGrace = std::chrono::seconds(1);  // the core answers by the deadline; then closed

uint64_t random_number() {
  uint64_t n = 0;
  while (::getrandom(&n, sizeof n, 0) != static_cast<ssize_t>(sizeof n)) {
  }
  return n;
}

ClientCoreOptions core_options(const ClientOptions& o) {
  ClientCoreOptions c;
  c.seed = random_number();
  c.queue_bytes = o.queue_bytes;
  c.calls.bytes_max = o.queue_bytes;
  return c;
}

// Each once: a router takes the newer of two sessions with the same client.
std::vector<std::string> split_endpoints(std::string_view text) {
  std::vector<std::string> list;
  while (!text.empty()) {
    std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    if (part.empty() || std::find(list.begin(), list.end(), part) != list.end()) continue;
    list.emplace_back(part);
  }
  return list;
}

ClientError closed_error() { return fault(Code::closed, "the client was shut down"); }

}  // namespace

ClientImpl::ClientImpl(ClientOptions options)
    : options_(std::move(options)),
      endpoints_(split_endpoints(options_.endpoint)),
      pid_(::getpid()),
      core_(core_options(options_)),
      host_(host_options(), core_, durable_),
      desk_(core_, host_),
      ids_(random_number()) {}

HostOptions ClientImpl::host_options() const {
  HostOptions h;
  h.link.role = Role::client;
  h.link.name = options_.name.empty() ? "client-" + std::to_string(pid_) : options_.name;
  h.link.boot = {random_number() | 1, random_number()};
  for (const std::string& endpoint : endpoints_)
    h.dial.push_back({static_cast<Port>(h.dial.size()), endpoint, Role::router});
  h.spin = options_.spin;
  h.drain_timeout = Duration::zero();
  return h;
}

Status ClientImpl::check_options() {
  auto bad = [](const char* text) { return make_error(Errc::bad_argument, text); };
  const ClientOptions& o = options_;
  if (endpoints_.empty() || endpoints_.size() > kRoutersMax)
    return bad("1 to 16 endpoints, please");
  if (o.batch < 1 || o.batch > kItemsMax) return bad("batch must be 1 to 4096");
  if (o.window < 1 || o.timeout.count() < 0) return bad("window and timeout must be positive");
  if (o.name.size() > kNameBytesMax) return bad("name is longer than 128 bytes");
  if (o.call_deadline < Millis{1} || o.call_deadline > std::chrono::hours{1})
    return bad("call_deadline must be 1 ms to an hour");
  if (o.stream_window < 1 || o.stream_window > kStreamWindowMax)
    return bad("stream_window must be 1 byte to 64 MiB");
  return {};
}

Expected<Done> ClientImpl::start() {
  if (Status status = check_options(); !status) return to_public(status.error());
  if (Status status = host_.open(); !status) return to_public(status.error());
  host_.set_on_turn([this](Now, ClientOut& out) { on_turn(out); });
  host_.set_poll([this](Now now, ClientOut& out) {
    flush_submits(false, now, core_, out);
    desk_.poll(now, out);
  });
  thread_ = std::thread([self = shared_from_this()] { self->run(); });
  std::unique_lock lock(mutex_);
  bool up = changed_.wait_for(lock, options_.timeout, [&] { return connected() || closed_; });
  if (up && !closed_) return Done{};
  return fault(Code::unavailable, "no router answered at " + options_.endpoint);
}

void ClientImpl::run() {
  thread_id_.store(std::this_thread::get_id());
  desk_.set_thread();
  (void)host_.run();  // without durable state it ends only on request
  close_all();
  std::lock_guard lock(mutex_);
  exited_ = true;
  changed_.notify_all();
}

void ClientImpl::shutdown() {
  if (!thread_.joinable()) return;
  host_.request_stop();
  bool own_thread = on_client_thread();
  if (!own_thread) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(900), [&] { return exited_; });
    own_thread = !exited_;  // a callback does not return: it keeps what it needs alive
  }
  if (own_thread)
    thread_.detach();
  else
    thread_.join();
}

void ClientImpl::close_all() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    connected_ = false;
    for (const auto& request : live_requests_) {
      std::lock_guard inner(request->mutex);
      request->closed = true;
      request->changed.notify_all();
    }
    for (auto& [id, group] : groups_) {
      std::lock_guard inner(group->mutex);
      group->closed = true;
      group->changed.notify_all();
    }
    changed_.notify_all();
  }
  {
    std::lock_guard lock(registry_mutex_);
    registry_closed_ = true;
    for (auto& [id, batch] : registry_.all()) {
      {
        std::lock_guard inner(batch->mutex);
        if (batch->messages_open > 0) batch->error = closed_error();
        batch->messages_open = 0;
      }
      TaskRegistry::Session session(registry_, due_);
      ResultRow row;
      row.id = id;
      row.code = static_cast<uint8_t>(Errc::closed);
      session.close(row, "the client was shut down; the outcome is not known");
    }
  }
  run_callbacks();
  desk_.close();
}

Expected<Event> ClientImpl::request(Millis timeout, Starter start) {
  if (on_client_thread())
    return fault(Code::bad_argument, "a blocking call from a callback of the client");
  timeout = effective(timeout);
  auto request = std::make_shared<Request>();
  {
    std::lock_guard lock(mutex_);
    if (closed_) return closed_error();
    live_requests_.insert(request);
  }
  post([this, request, timeout, start = std::move(start)](Now now, ClientCore& core,
                                                          ClientOut& out) {
    requests_[start(now, now.mono + timeout, core, out)] = request;
  });
  std::unique_lock lock(request->mutex);
  request->changed.wait_for(lock, timeout + kGrace,
                            [&] { return request->event || request->closed; });
  std::optional<Event> event = std::move(request->event);
  lock.unlock();
  {
    std::lock_guard guard(mutex_);
    live_requests_.erase(request);
  }
  if (!event) return closed_error();
  if (auto* rejected = std::get_if<RejectedEvent>(&*event)) return to_public(*rejected);
  return std::move(*event);
}

void ClientImpl::set_on_results(std::function<void(std::span<const ResultView>)> f) {
  auto shared = std::make_shared<const std::function<void(std::span<const ResultView>)>>(f);
  std::lock_guard lock(mutex_);
  on_results_ = f ? shared : nullptr;
}

Expected<Done> ClientImpl::flush(Millis timeout) {
  if (on_client_thread())
    return fault(Code::bad_argument, "a blocking call from a callback of the client");
  std::unique_lock lock(mutex_);
  bool done =
      changed_.wait_for(lock, effective(timeout), [&] { return window_messages_ == 0 || closed_; });
  if (closed_) return closed_error();
  if (!done) return fault(Code::timeout, "submits are unanswered still");
  return Done{};
}

std::shared_ptr<TaskBatch> ClientImpl::wait_for(Id id) {
  auto batch = make_batch(1);
  TaskId wire = to_wire(id);
  {
    std::lock_guard lock(registry_mutex_);
    if (registry_closed_ || !registry_.add(std::span(&wire, 1), batch, 0)) return nullptr;
  }
  post([wire](Now now, ClientCore& core, ClientOut&) {
    core.wait(make_rows<IdRow>(std::vector<TaskId>{wire}), now);
  });
  return batch;
}

void ClientImpl::stop_waiting_for(Id id) {
  TaskId wire = to_wire(id);
  {
    std::lock_guard lock(registry_mutex_);
    registry_.remove(wire);
  }
  post([wire](Now, ClientCore& core, ClientOut&) {
    core.unwait(make_rows<IdRow>(std::vector<TaskId>{wire}));
  });
}

std::shared_ptr<ClientImpl::GroupWaiter> ClientImpl::join_group(Id id) {
  std::lock_guard lock(mutex_);
  auto& waiter = groups_[to_wire(id)];
  if (!waiter) waiter = std::make_shared<GroupWaiter>();
  waiter->closed = closed_;
  ++waiter->users;
  return waiter;
}

void ClientImpl::leave_group(Id id) {
  TaskId wire = to_wire(id);
  {
    std::lock_guard lock(mutex_);
    auto it = groups_.find(wire);
    if (it == groups_.end() || --it->second->users > 0) return;
    groups_.erase(it);
  }
  post([wire](Now, ClientCore& core, ClientOut& out) { core.group_unwatch(wire, out); });
}

void ClientImpl::wait_any(Millis timeout, const std::function<bool()>& ready) {
  auto until = std::chrono::steady_clock::now() + effective(timeout);
  ++any_waiters_;
  while (true) {
    uint64_t seen;
    {
      std::lock_guard lock(any_mutex_);
      seen = any_news_;
    }
    if (ready()) break;
    std::unique_lock lock(any_mutex_);
    if (!any_changed_.wait_until(lock, until, [&] { return any_news_ != seen; })) break;
  }
  --any_waiters_;
}

ClientStats ClientImpl::stats() const {
  uint64_t connects = connects_.load();
  return {sent_.load(),     resent_.load(),      results_.load(),
          repeated_.load(), waits_.load(),       connects > 0 ? connects - 1 : 0,
          calls_.load(),    calls_resent_.load()};
}

}  // namespace client_v1
}  // namespace dray
