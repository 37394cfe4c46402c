// ClientImpl: what the client's thread does with the core's events.
#include "client/src/client_impl.h"

namespace dray {
inline namespace client_v1 {

void ClientImpl::on_turn(ClientOut& out) {
  if (out.events.empty() && !desk_.has_news(out)) return;
  publish_counters();  // before anybody is told
  desk_.enter(out);
  for (Event& event : out.events) on_event(event);
  out.events.clear();
  run_callbacks();
  desk_.leave(out);
}

void ClientImpl::publish_counters() {
  const ClientCounters& c = core_.counters();
  constexpr auto relaxed = std::memory_order_relaxed;
  sent_.store(c.sent, relaxed);
  resent_.store(c.resent, relaxed);
  results_.store(c.results, relaxed);
  repeated_.store(c.repeated_results, relaxed);
  waits_.store(c.waits, relaxed);
  const CallCounters& calls = core_.calls().counters();
  calls_.store(calls.started, relaxed);
  calls_resent_.store(calls.moved + calls.repeated, relaxed);
}

void ClientImpl::run_callbacks() {
  DueCallbacks due = std::move(due_);
  due_.clear();
  for (auto& [f, outcome] : due) f(outcome);
  if (any_waiters_.load() == 0) return;
  std::lock_guard lock(any_mutex_);
  ++any_news_;
  any_changed_.notify_all();
}

namespace {
template <class E>
uint64_t req_of(const E& event) {
  if constexpr (requires { event.req; }) {
    return event.req;
  } else {
    return 0;
  }
}
}  // namespace

void ClientImpl::on_event(Event& event) {
  if (auto* results = std::get_if<ResultsEvent>(&event)) return on_results(*results);
  if (auto* submitted = std::get_if<SubmittedEvent>(&event))
    return end_submission(submitted->req, nullptr);
  if (auto* rejected = std::get_if<RejectedEvent>(&event)) on_rejected(*rejected);
  if (auto* group = std::get_if<GroupEvent>(&event)) on_group(*group);
  if (std::holds_alternative<ConnectedEvent>(event)) {
    ++connects_;
    std::lock_guard lock(mutex_);
    connected_ = true;
    changed_.notify_all();
  } else if (std::holds_alternative<DisconnectedEvent>(event)) {
    connected_ = false;
  }
  auto request = requests_.find(std::visit([](const auto& e) { return req_of(e); }, event));
  if (request == requests_.end()) return;
  {
    std::lock_guard lock(request->second->mutex);
    request->second->event = std::move(event);
    request->second->changed.notify_all();
  }
  requests_.erase(request);
}

void ClientImpl::on_group(const GroupEvent& event) {
  const GroupState& s = event.state;
  std::lock_guard lock(mutex_);
  auto it = groups_.find(s.id);
  if (it == groups_.end()) return;
  std::lock_guard inner(it->second->mutex);
  it->second->latest = {s.total, s.done, s.succeeded, s.failed, s.cancelled, s.expired};
  it->second->changed.notify_all();
}

void ClientImpl::end_submission(uint64_t req, const ClientError* error) {
  auto it = submissions_.find(req);
  if (it == submissions_.end()) return;
  const std::vector<SubmitPart> parts = std::move(it->second);
  submissions_.erase(it);
  unanswered_ -= parts.size();
  if (!merge_.empty()) host_.wake();  // what waited for this answer
  size_t bytes = 0;
  for (const SubmitPart& part : parts) {
    bytes += part.bytes;
    if (!part.batch) continue;
    std::lock_guard lock(part.batch->mutex);
    --part.batch->messages_open;
    if (error && !part.batch->error) part.batch->error = *error;
    part.batch->changed.notify_all();
  }
  release_window(parts.size(), bytes);
}

void ClientImpl::on_results(const ResultsEvent& event) {
  close_rows(event.rows, event.bytes.view(), event.fresh);
}

// A refused submit: each of its open tasks ends with the reason as its text.
void ClientImpl::on_rejected(RejectedEvent& event) {
  ClientError error = to_public(event);
  if (!event.tasks.empty()) {
    std::lock_guard lock(registry_mutex_);
    TaskRegistry::Session session(registry_, due_);
    ResultRow row;
    row.code = static_cast<uint8_t>(event.code);
    for (size_t i = 0; i < event.tasks.size(); ++i) {
      row.id = event.tasks[i].id;
      if (!session.close(row, event.detail))
        views_.push_back({to_public(row.id), State::unknown, error.code, 0, 0, event.detail});
    }
  }
  give_views();
  end_submission(event.req, &error);
}

void ClientImpl::close_rows(const Rows<ResultRow>& rows, std::string_view bytes,
                            const std::vector<uint32_t>& fresh) {
  {
    std::lock_guard lock(registry_mutex_);
    TaskRegistry::Session session(registry_, due_);
    size_t offset = 0;
    size_t next = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      ResultRow row = rows[i];
      std::string_view own = bytes.substr(offset, row.len);
      offset += row.len;
      if (!fresh.empty()) {
        if (next == fresh.size()) break;
        if (fresh[next] != i) continue;
        ++next;
      }
      if (session.close(row, own)) continue;
      views_.push_back({to_public(row.id), static_cast<State>(row.status), to_code(row.code),
                        row.attempt, row.exec_us, own});
    }
  }
  give_views();
}

void ClientImpl::give_views() {
  if (views_.empty()) return;
  std::shared_ptr<const std::function<void(std::span<const ResultView>)>> f;
  {
    std::lock_guard lock(mutex_);
    f = on_results_;
  }
  if (f) (*f)(views_);
  views_.clear();
}

}  // namespace client_v1
}  // namespace dray
