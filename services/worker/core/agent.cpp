// The conversation with the broker: session, dispatch, acknowledgements, HAVE, give-back.
#include "services/worker/core/agent.h"

#include <algorithm>
#include <type_traits>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "common/base/mutant.h"

namespace dray::worker {
namespace {
constexpr size_t kUnackedBytesMax = size_t{64} << 20;  // results waiting for RESULTS_ACK
constexpr size_t kPayloadsBytesMax = size_t{64} << 20;  // payloads of queued and running tasks
constexpr size_t kSpecsKept = 4096;
constexpr Duration kResendAfter = 2s;
constexpr Duration kResendWaitMax = 16s;
constexpr Duration kHaveSoon = 20ms;
}  // namespace

LaneShareOptions share_options(const AgentOptions& options) {
  LaneShareOptions o;
  o.floor_percent = options.task_floor_percent;
  o.gather_max = options.gather_max;
  o.quantum_max = options.quantum_max;
  for (size_t i = 0; i < options.handlers.size(); ++i)
    o.handlers.push_back({options.handlers[i],
                          i < options.handler_limits.size() ? options.handler_limits[i] : 0,
                          i < options.offers.size() ? options.offers[i].max_batch_size : 1});
  return o;
}

Agent::Agent(AgentOptions options, LaneShare* share)
    : options_(std::move(options)),
      node_(options_.devices, options_.resources, options_.labels),
      own_share_(share ? nullptr : std::make_unique<LaneShare>(share_options(options_))),
      share_(share ? share : own_share_.get()),
      pace_(options_.slots, options_.prefetch_max) {
  DRAY_ASSERT(options_.slots > 0);
}

// --- session ---------------------------------------------------------------------------------

void Agent::on_open(const SessionInfo& info, Now now, Out& out) {
  if (info.role != Role::broker) return;
  session_ = info.id;
  credit_ = CreditGiver{};
  epoch_ =
      info.epoch;  // also when it is lower: another journal; this session's order is what counts
  have_at_ = now.mono + options_.beat;
  const std::vector<TokenRow> all = tokens();
  const size_t n = std::min(all.size(), kItemsMax);
  out.note("attached", "epoch=" + std::to_string(info.epoch) +
                           " held=" + std::to_string(held_.size()) +
                           " unacked=" + std::to_string(results_.size()));
  Attach attach;
  attach.slots = options_.slots;
  attach.draining = draining();
  attach.handlers = offered_handlers();
  attach.labels = options_.labels;
  attach.resources = options_.resources;
  attach.results_from = results_.first();
  attach.devices = node_.device_blobs();
  attach.rows = make_rows<TokenRow>(std::vector<TokenRow>(all.begin(), all.begin() + long(n)));
  send(std::move(attach), now, out);
  tell_at_ = kNever;
  if (node_.grants() > 0) tell_capacity(now, out);  // ATTACH has no word for pools that are taken
  resend_wait_ = kResendAfter;
  resend_at_ = kNever;
  send_results(DRAY_MUTANT(results_not_repeated) ? results_.next() : results_.first(), now, out);
  if (n < all.size()) send_have(now, out);  // the rest of what ATTACH could not name
  if (draining()) give_back_queue(Errc::draining, 0, now, out);
  give_back_withdrawn(now, out);
  start_ready(now, out);
  check_drain(now, out);
}

void Agent::on_close(SessionId id, CloseReason reason, Now now, Out& out) {
  if (id != session_) return;
  out.note("detached", std::string("reason=") + close_reason_name(reason));
  session_ = SessionId::none;
  if (DRAY_MUTANT(results_dropped_at_close)) results_.ack(results_.next());
  closed_at_ = now.mono;
  have_at_ = kNever;
  resend_at_ = kNever;
  tell_at_ = kNever;
  check_drain(now, out);
}

void Agent::on_message(SessionId from, const Envelope& envelope, Message&& message, Now now,
                       Out& out) {
  if (from != session_) return;
  std::visit(
      [&](auto&& m) {
        using M = std::decay_t<decltype(m)>;
        if constexpr (std::is_same_v<M, Dispatch>) {
          on_dispatch(m, now, out);
        } else if constexpr (std::is_same_v<M, ResultsAck>) {
          on_results_ack(m, now, out);
        } else if constexpr (std::is_same_v<M, Revoke>) {
          on_revoke(m, now, out);
        } else if constexpr (std::is_same_v<M, Drain>) {
          on_drain(m, now, out);
        } else if constexpr (std::is_same_v<M, Sync>) {
          on_sync(m, now, out);
        } else {
          take_other(from, envelope, m, out);
        }
      },
      std::move(message));
  check_drain(now, out);
}

void Agent::send(Message message, Now now, Out& out) {
  out.now.push_back({session_, 0, 0, granted(now), std::move(message), {}, 0});
}

uint64_t Agent::granted(Now now) const {
  uint64_t k = std::max(pace_.target(stalled(now)), share_ahead(now));
  k = std::min<uint64_t>(k, std::max<uint64_t>(kItemsMax, options_.slots));  // one ATTACH
  if (draining() || results_.bytes() > kUnackedBytesMax ||
      held_.payload_bytes() > kPayloadsBytesMax)
    k = 0;
  return credit_.granted(k, held_.size());
}

// --- what we hold ------------------------------------------------------------------------------

std::vector<TokenRow> Agent::tokens() const {
  std::vector<TokenRow> rows;
  rows.reserve(held_.size() + results_.size());
  const auto add = [&](Index i) {
    for (; i != Holdings::kNone; i = held_.after(i)) {
      const HeldTask& t = held_.at(i);
      if (!t.revoked && !t.reported) rows.push_back({t.id, t.token});
    }
  };
  add(held_.oldest_running());
  if (!DRAY_MUTANT(have_without_queue)) add(held_.oldest_queued());
  results_.each([&](const TokenRow& row) { rows.push_back(row); });
  return rows;
}

void Agent::send_have(Now now, Out& out) {
  const std::vector<TokenRow> all = tokens();
  size_t i = 0;
  do {
    RowsBuilder<TokenRow> rows;
    const size_t end = std::min(all.size(), i + kItemsMax);
    rows.reserve(end - i);
    for (; i < end; ++i) rows.add(all[i]);
    send(Have{credit_.received(), rows.take(), i == all.size()}, now, out);
  } while (i < all.size());
  have_at_ = now.mono + options_.beat;
}

void Agent::have_soon(Now now) {
  if (attached()) have_at_ = std::min(have_at_, now.mono + kHaveSoon);
}

void Agent::send_results(uint64_t from, Now now, Out& out) {
  if (!attached() || from >= results_.next()) return;
  for (Results& m : results_.messages(from, credit_.received())) send(std::move(m), now, out);
  if (resend_at_ == kNever) {
    resend_wait_ = kResendAfter;
    resend_at_ = now.mono + resend_wait_;
  }
}

void Agent::on_results_ack(const ResultsAck& m, Now now, Out& out) {
  for (size_t i = 0; i < m.rows.size(); ++i) {
    ++counters_.stale_results;
    out.note("stale_result",
             "task=" + to_hex(m.rows[i].id) + " token=" + to_string(m.rows[i].token));
  }
  if (results_.ack(m.upto) == 0) return;
  resend_wait_ = kResendAfter;
  resend_at_ = results_.empty() ? kNever : now.mono + resend_wait_;
}

// --- dispatch ----------------------------------------------------------------------------------

void Agent::on_dispatch(const Dispatch& m, Now now, Out& out) {
  const size_t n = m.rows.size();
  const uint64_t known = credit_.received();
  const size_t skip = known > m.first && !DRAY_MUTANT(late_dispatch_taken)
                          ? static_cast<size_t>(std::min(known - m.first, n))
                          : 0;
  if (m.first > known) {
    counters_.missed += m.first - known;
    have_soon(now);  // proof for the broker that they are lost
  }
  credit_.on_received_upto(m.first + n);
  if (m.epoch < epoch_) {
    out.note("old_epoch", "epoch=" + std::to_string(m.epoch));
    return;
  }
  epoch_ = m.epoch;
  std::vector<std::shared_ptr<const LocalSpec>> specs;
  for (const std::string& blob : m.specs) specs.push_back(local_spec(blob));
  const uint64_t results_from = results_.next();
  std::vector<Refused> refused;
  size_t offset = 0;
  for (size_t i = 0; i < n; ++i) {
    const DispatchRow row = m.rows[i];
    Bytes payload = m.bytes.slice(offset, row.len);
    offset += row.len;
    if (i < skip)
      ++counters_.repeated;
    else
      take(row, m.epoch, row.spec < specs.size() ? specs[row.spec] : nullptr, std::move(payload),
           now, refused);
  }
  send_results(results_from, now, out);
  for (const Refused& r : refused) {
    give_back(r.code, r.rows, now, out);
    if (r.code == Errc::infeasible) tell_capacity(now, out);
  }
  start_ready(now, out);
}

void Agent::take(const DispatchRow& row, uint64_t epoch, std::shared_ptr<const LocalSpec> spec,
                 Bytes payload, Now now, std::vector<Refused>& refused) {
  const Token token{epoch, row.token_seq};
  if (held_.find(token) != Holdings::kNone || results_.has(token)) {
    ++counters_.repeated;
    return;
  }
  ++counters_.received;
  const Errc code = spec == nullptr ? Errc::bad_message : spec->refuse;
  if (code == Errc::bad_message) {  // no worker could read it either: end the task
    results_.add({row.id, token, 0, 0, 0, row.attempt, static_cast<uint8_t>(Verdict::fail_final),
                  static_cast<uint8_t>(code)},
                 Bytes(spec == nullptr ? std::string("no such task options") : spec->problem));
    ++counters_.finished;
    ++counters_.failed;
    return;
  }
  if (code == Errc::ok && !draining()) {
    HeldTask task;
    task.id = row.id;
    task.token = token;
    task.spec = std::move(spec);
    task.payload = std::move(payload);
    task.since = now.mono;
    task.attempt = row.attempt;
    held_.add(std::move(task));
    return;
  }
  const Errc why = draining() ? Errc::draining : code;
  auto it =
      std::find_if(refused.begin(), refused.end(), [&](const Refused& r) { return r.code == why; });
  if (it == refused.end()) it = refused.insert(it, {why, {}});
  it->rows.push_back({row.id, token});
}

std::shared_ptr<const LocalSpec> Agent::local_spec(const std::string& blob) {
  const auto it = specs_.find(blob);
  if (it != specs_.end()) return it->second;
  if (specs_.size() >= kSpecsKept) specs_.clear();
  return specs_.emplace(blob, std::make_shared<const LocalSpec>(judge(blob))).first->second;
}

LocalSpec Agent::judge(const std::string& blob) const {
  LocalSpec local;
  auto spec = decode_spec(blob);
  if (!spec) {
    local.refuse = Errc::bad_message;
    local.problem = spec.error().detail;
    return local;
  }
  local.spec = std::move(*spec);
  local.time_limit = std::chrono::milliseconds(local.spec.time_limit_ms);
  const auto handler =
      std::find(options_.handlers.begin(), options_.handlers.end(), local.spec.handler);
  local.handler = static_cast<uint32_t>(handler - options_.handlers.begin());
  set_needs(local);
  if (!is_offered(local.handler))
    local.refuse = Errc::unknown_handler;
  else if (!node_.could_ever(local.request))
    local.refuse = Errc::infeasible;
  return local;
}

std::vector<std::string> Agent::offered_handlers() const {
  std::vector<std::string> names;
  for (size_t i = 0; i < options_.handlers.size(); ++i)
    if (is_offered(i)) names.push_back(options_.handlers[i]);
  return names;
}

void Agent::set_handlers(const std::vector<HandlerNow>& handlers, Now now, Out& out) {
  const std::vector<std::string> before = offered_handlers();
  withdrawn_.clear();
  options_.handlers.clear();
  for (const HandlerNow& handler : handlers) {
    options_.handlers.push_back(handler.name);
    withdrawn_.push_back(!handler.offered);
  }
  specs_.clear();  // they were judged by what was offered before
  std::vector<std::string> names = offered_handlers();
  if (attached() && names != before && !DRAY_MUTANT(handlers_not_told))
    send(Handlers{options_.slots, std::move(names)}, now, out);
  give_back_withdrawn(now, out);
  start_ready(now, out);
}

// Without a session they wait here for the next one.
void Agent::give_back_withdrawn(Now now, Out& out) {
  std::vector<TokenRow> rows;
  for (Index i = held_.oldest_queued(); i != Holdings::kNone && attached();) {
    const Index next = held_.after(i);
    if (!is_offered(held_.at(i).spec->handler)) {
      rows.push_back({held_.at(i).id, held_.at(i).token});
      held_.remove(i);
    }
    i = next;
  }
  give_back(Errc::unknown_handler, rows, now, out);
}

void Agent::give_back(Errc code, const std::vector<TokenRow>& rows, Now now, Out& out) {
  for (size_t i = 0; i < rows.size();) {
    RowsBuilder<TokenRow> part;
    for (; i < rows.size() && part.size() < kItemsMax; ++i) part.add(rows[i]);
    counters_.given_back += part.size();
    send(GiveBack{static_cast<uint8_t>(code), credit_.received(), part.take()}, now, out);
  }
}

// Newest first, until `keep` are left. Without a session nothing can be given back, so they stay.
void Agent::give_back_queue(Errc code, size_t keep, Now now, Out& out) {
  if (!attached()) return;
  std::vector<TokenRow> rows;
  while (held_.queued() > keep) {
    const Index i = held_.newest_queued();
    rows.push_back({held_.at(i).id, held_.at(i).token});
    held_.remove(i);
  }
  give_back(code, rows, now, out);
}

// --- other verbs -------------------------------------------------------------------------------

void Agent::on_revoke(const Revoke& m, Now now, Out& out) {
  for (size_t k = 0; k < m.rows.size(); ++k) {
    const Index i = held_.find(m.rows[k].token);
    if (i == Holdings::kNone) continue;  // finished or gone: the broker calls its result stale
    HeldTask& t = held_.at(i);
    if (t.revoked) continue;
    ++counters_.revoked;
    if (t.running) {
      t.revoked = true;
      if (DRAY_MUTANT(revoked_gives_devices) && t.spec->has_devices) node_.release_devices(t.grant);
      cancel(i, out);
    } else {
      held_.remove(i);
      have_soon(now);  // credit came free
    }
  }
  start_ready(now, out);
}

void Agent::on_drain(const Drain& m, Now now, Out& out) {
  if (m.on != told_to_drain_) out.note("drain", m.on ? "on=true" : "on=false");
  told_to_drain_ = m.on;
  send(Drain{draining()}, now, out);  // what holds from here on, whatever is still under way
  if (draining()) {
    give_back_queue(Errc::draining, 0, now, out);
    out.recall = true;
  } else {
    start_ready(now, out);
  }
}

// The pipe keeps order: what was sent before this SYNC and is not here is lost.
void Agent::on_sync(const Sync& m, Now now, Out& out) {
  if (m.sent > credit_.received()) counters_.missed += m.sent - credit_.received();
  credit_.on_received_upto(m.sent);
  send_have(now, out);
}

void Agent::on_progress(std::vector<ProgressItem>&& items, Now now, Out& out) {
  if (!attached()) return;
  RowsBuilder<ProgressRow> rows;
  std::string body;
  const auto flush = [&] {
    if (!rows.empty()) send(Progress{rows.take(), Bytes(std::move(body))}, now, out);
    body.clear();
  };
  for (const ProgressItem& item : items) {
    const Index i = held_.find(item.token);
    if (i == Holdings::kNone || held_.at(i).revoked || held_.at(i).reported) continue;
    const std::string_view text = std::string_view(item.text).substr(0, kErrorTextMax);
    rows.add({item.id, item.token, std::min<uint32_t>(item.permille, 1000),
              static_cast<uint32_t>(text.size())});
    body.append(text);
    if (rows.size() == kItemsMax || body.size() + kErrorTextMax > kBodyBytesMax) flush();
  }
  flush();
}

// --- time --------------------------------------------------------------------------------------

void Agent::tick(Now now, Out& out) {
  if (now.mono >= have_at_) send_have(now, out);
  if (now.mono >= resend_at_) {
    ++counters_.resends;
    out.note("resend", "from=" + std::to_string(results_.first()) +
                           " count=" + std::to_string(results_.size()));
    send_results(results_.first(), now, out);
    resend_wait_ = std::min(2 * resend_wait_, kResendWaitMax);
    resend_at_ = now.mono + resend_wait_;
  }
  if (now.mono >= limit_at_) check_limits(now, out);
  if (now.mono >= check_at_) check_waiting(now, out);
  if (now.mono >= tell_at_) tell_capacity(now, out);
  check_drain(now, out);
}

Doc Agent::to_doc(Now now) const {
  Doc doc;
  doc.set("attached", attached()).set("draining", draining()).set("slots", options_.slots);
  doc.set("queued", held_.queued()).set("running", held_.running());
  doc.set("stuck", held_.reported()).set("unacked", results_.size());
  doc.set("unacked_bytes", results_.bytes()).set("payload_bytes", held_.payload_bytes());
  doc.set("received", credit_.received()).set("granted", granted(now));
  doc.set("target", target(now)).set("service_us", to_us(pace_.service()));
  doc.set("next_result", results_.next()).set("epoch", epoch_);
  doc.set("resources", resources_doc());
  const AgentCounters& c = counters_;
  Doc counts;
  counts.set("received", c.received).set("repeated", c.repeated).set("missed", c.missed);
  counts.set("started", c.started).set("finished", c.finished).set("failed", c.failed);
  counts.set("time_limits", c.time_limits).set("given_back", c.given_back);
  counts.set("revoked", c.revoked).set("dropped", c.dropped).set("resends", c.resends);
  counts.set("stale_results", c.stale_results).set("stuck", c.stuck);
  counts.set("device_lost", c.device_lost);
  doc.set("counters", std::move(counts));
  return doc;
}

}  // namespace dray::worker
