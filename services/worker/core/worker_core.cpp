// Who gets what, and the common drain.
#include "services/worker/core/worker_core.h"

#include "common/base/assert.h"
#include "common/base/limits.h"

namespace dray::worker {
namespace {
constexpr Duration kReportAfter = 500ms;  // what tasks take changes all the time

CallAgentOptions call_options(const AgentOptions& options) {
  CallAgentOptions o;
  o.slots = options.call_slots;
  o.offers = options.offers;
  o.drain_timeout = options.drain_timeout;
  return o;
}
}  // namespace

WorkerCore::WorkerCore(AgentOptions options, ReplicaOptions replicas)
    : share_(share_options(options)),
      tasks_(options, &share_),
      resources_(tasks_.node()),
      calls_(call_options(options), &share_),
      replicas_(std::move(replicas), resources_),
      own_(options.handlers.size()) {
  for (size_t i = 0; i < own_; ++i) {
    Entry entry{{options.handlers[i], true}, {}, {}};
    if (i < options.offers.size()) entry.offered.offer = options.offers[i];
    table_.push_back(std::move(entry));
  }
}

// --- replicas ----------------------------------------------------------------------------------

void WorkerCore::on_processes(std::vector<ProcessEvent>&& events, Now now, Out& out) {
  replicas_.on_events(std::move(events), now, out);
}

// Its place in the table, a new one if need be; table_.size(): there is no room.
size_t WorkerCore::entry_of(const std::string& name, Out& out) {
  size_t i = own_;
  while (i < table_.size() && table_[i].handler.name != name) ++i;
  if (i < table_.size()) return i;
  if (table_.size() == kHandlersMax) {
    if (!table_full_) out.note("too_many_handlers", "handler=" + name);
    table_full_ = true;
    return i;
  }
  table_.push_back({{name, false}, {}, {}});
  return i;
}

void WorkerCore::apply_replicas(Now now, Out& out) {
  if (!replicas_.take_changed()) return;
  std::vector<OfferedHandler> next(table_.size());
  for (OfferedHandler& handler : replicas_.offered(now.mono)) {
    const size_t i = entry_of(handler.offer.name, out);
    next.resize(table_.size());
    if (i < next.size()) next[i] = std::move(handler);
  }
  std::vector<HandlerNow> handlers;
  std::vector<std::optional<HandlerOffer>> offers;
  bool changed = false;
  for (size_t i = 0; i < table_.size(); ++i) {
    Entry& entry = table_[i];
    if (i >= own_) {
      const bool offered = !next[i].offer.name.empty();
      const HandlerRoute route{static_cast<uint32_t>(i), entry.handler.name, next[i].can_batch,
                               next[i].places, next[i].expected};
      changed = changed || !(next[i] == entry.offered) || offered != entry.handler.offered;
      if (!(next[i] == entry.offered)) out.orders.routes.push_back(route);
      entry.handler.offered = offered;
      entry.offered = std::move(next[i]);
    }
    handlers.push_back(entry.handler);
    offers.emplace_back();
    if (entry.handler.offered) offers.back() = entry.offered.offer;
  }
  if (!changed) return;
  std::vector<ShareHandler> shared;
  for (Entry& entry : table_) {
    if (entry.handler.offered)
      entry.share = {entry.handler.name, entry.offered.limit, entry.offered.offer.max_batch_size};
    shared.push_back(entry.share);
  }
  share_.set_handlers(own_, shared);
  tasks_.set_handlers(handlers, now, out);
  calls_.set_offers(offers, now, out);
}

void WorkerCore::report(bool all, Out& out) {
  report_at_ = kNever;
  if (balancer_ == SessionId::none) return;
  NodeReport report;
  report.goal = replicas_.goal();
  report.draining = tasks_.draining();
  report.whole = all;
  resources_.report(report);
  report.replicas = replicas_.statuses(all);
  draining_told_ = report.draining;
  takings_told_ = tasks_.node().takings();
  out.now.push_back({balancer_, 0, 0, 0, std::move(report), {}, 0});
}

// --- sessions ----------------------------------------------------------------------------------

void WorkerCore::on_open(const SessionInfo& info, Now now, Out& out) {
  if (info.role == Role::balancer) {
    balancer_ = info.id;
    replicas_.on_balancer();
    report(true, out);
  } else if (info.role == Role::router)
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
  replicas_.on_devices(now, out);
  if (is_news) report_at_ = now.mono;
  if (is_news) calls_.tell(SessionId::none, tasks_.node().news(0), now, out);
}

void WorkerCore::on_close(SessionId id, CloseReason reason, Now now, Out& out) {
  if (id == balancer_)
    balancer_ = SessionId::none;  // what it wanted goes on
  else if (calls_.has(id))
    calls_.on_close(id, reason, now, out);
  else
    tasks_.on_close(id, reason, now, out);
}

void WorkerCore::on_message(SessionId from, const Envelope& envelope, Message&& message, Now now,
                            Out& out) {
  if (from == balancer_) {
    const auto* place = std::get_if<Place>(&message);
    if (place == nullptr) return;
    if (Status read = replicas_.on_place(*place, now, out); !read)
      out.now.push_back(
          reply_to(from, envelope, make_reject(read.error().code, read.error().detail)));
  } else if (calls_.has(from))
    calls_.on_message(from, envelope, std::move(message), now, out);
  else
    tasks_.on_message(from, envelope, std::move(message), now, out);
}

void WorkerCore::tick(Now now, Out& out) {
  if (now.mono >= tasks_.next_deadline()) tasks_.tick(now, out);
  if (now.mono >= calls_.next_deadline()) calls_.tick(now, out);
  if (now.mono >= replicas_.next_deadline()) replicas_.tick(now, out);
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
  apply_replicas(now, out);
  tasks_.note_takings(now);
  if (balancer_ != SessionId::none && tasks_.node().takings() != takings_told_)
    report_at_ = std::min(report_at_, now.mono + kReportAfter);
  if (replicas_.has_news() || now.mono >= report_at_ || tasks_.draining() != draining_told_)
    report(false, out);
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
  replicas_.check();
  DRAY_ASSERT(!exit_told_ || drained());
}

Doc WorkerCore::to_doc(Now now) const {
  Doc doc = tasks_.to_doc(now);
  doc.set("calls", calls_.to_doc(now)).set("share", share_.to_doc(now));
  doc.set("replicas", replicas_.to_doc());
  return doc;
}

}  // namespace dray::worker
