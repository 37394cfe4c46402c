// Who gets what, and the common drain.
#include "services/worker/core/worker_core.h"

#include "common/base/assert.h"

namespace dray::worker {
namespace {
CallAgentOptions call_options(const AgentOptions& options) {
  CallAgentOptions o;
  o.slots = options.call_slots;
  o.offers = options.offers;
  o.drain_timeout = options.drain_timeout;
  return o;
}
}  // namespace

WorkerCore::WorkerCore(AgentOptions options)
    : share_(share_options(options)),
      tasks_(options, &share_),
      calls_(call_options(options), &share_) {}

void WorkerCore::on_open(const SessionInfo& info, Now now, Out& out) {
  if (info.role == Role::router)
    open_router(info, now, out);
  else
    tasks_.on_open(info, now, out);
}

void WorkerCore::open_router(const SessionInfo& info, Now now, Out& out) {
  calls_.on_open(info, now, out);
  const Node& node = tasks_.node();
  if (!node.devices().empty()) calls_.tell(info.id, node.news(0), now, out);
}

void WorkerCore::set_devices(std::vector<DeviceInfo> devices, bool is_news, Now now, Out& out) {
  tasks_.set_devices(std::move(devices), now, out);
  if (is_news) calls_.tell(SessionId::none, tasks_.node().news(0), now, out);
}

void WorkerCore::on_close(SessionId id, CloseReason reason, Now now, Out& out) {
  if (calls_.has(id))
    calls_.on_close(id, reason, now, out);
  else
    tasks_.on_close(id, reason, now, out);
}

void WorkerCore::on_message(SessionId from, const Envelope& envelope, Message&& message, Now now,
                            Out& out) {
  if (calls_.has(from))
    calls_.on_message(from, envelope, std::move(message), now, out);
  else
    tasks_.on_message(from, envelope, std::move(message), now, out);
}

void WorkerCore::tick(Now now, Out& out) {
  if (now.mono >= tasks_.next_deadline()) tasks_.tick(now, out);
  if (now.mono >= calls_.next_deadline()) calls_.tick(now, out);
}

void WorkerCore::begin_drain(Now now, Out& out) {
  tasks_.begin_drain(now, out);
  calls_.begin_drain(now, out);
}

void WorkerCore::end_turn(Now now, Out& out) {
  if (calls_.stuck()) tasks_.begin_drain(now, out);
  if (tasks_.leaving())
    calls_.begin_drain(now, out);
  else
    calls_.set_draining(tasks_.draining(), now, out);
  tasks_.note_takings(now);
  calls_.end_turn(now, out);
  share_out(now, out);
  out.exit = drained() && !exit_told_;  // the agent speaks only for itself
  exit_told_ = exit_told_ || out.exit;
}

// Calls that are here go first, then routers that asked for a place, then tasks; what a start has
// changed is told in the same turn.
void WorkerCore::share_out(Now now, Out& out) {
  tasks_.tell_share(now);
  for (int round = 0; round < 2; ++round) {
    if (share_.take_calls_moved()) calls_.start_more(now, out);
    if (share_.take_moved()) tasks_.start_ready(now, out);
    share_.decide(now, grants_, changed_terms_);
    if (!share_.has_moved()) break;
  }
  calls_.tell_share(grants_, changed_terms_, now, out);
  grants_.clear();
  changed_terms_.clear();
}

void WorkerCore::check() const {
  share_.check();
  tasks_.check();
  calls_.check();
  DRAY_ASSERT(!exit_told_ || drained());
}

Doc WorkerCore::to_doc(Now now) const {
  Doc doc = tasks_.to_doc(now);
  doc.set("calls", calls_.to_doc(now)).set("share", share_.to_doc(now));
  return doc;
}

}  // namespace dray::worker
