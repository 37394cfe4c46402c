// The call lane's side towards workers: offers, batches that are done, draining, loss.
#include <algorithm>

#include "common/base/assert.h"
#include "common/base/mutant.h"
#include "services/router/core/call_lane.h"

namespace dray {

void CallLane::on_worker_open(const SessionInfo& session) {
  const uint32_t i = workers_.take();
  Worker& w = workers_[i];
  w = Worker{};
  w.id = session.id;
  w.name = session.name;
  w.suspect = std::find(suspects_.begin(), suspects_.end(), w.name) != suspects_.end();
  worker_ids_[static_cast<uint64_t>(session.id)] = i;
}

void CallLane::on_worker_close(SessionId session, Now now, Outbox& out) {
  auto it = worker_ids_.find(static_cast<uint64_t>(session));
  if (it == worker_ids_.end()) return;
  const uint32_t i = it->second;
  worker_ids_.erase(it);
  Worker& w = workers_[i];
  out.note("worker_lost", "name=" + w.name + " batches=" + std::to_string(w.batches));
  w.id = SessionId::none;
  touch_worker(i);  // flush() gives its slot back
  for (uint32_t replica : w.replicas)
    if (replica != kNoSlot) remove_replica(replica, now);
  w.replicas.clear();
}

// Its runs are taken out of their batches first, so that a call with two runs here is judged once.
void CallLane::remove_replica(uint32_t replica, Now now) {
  const uint32_t deployment = replicas_[replica].deployment;
  Deployment& d = *deployments_[deployment];
  std::vector<CallIndex> lost;
  while (!replicas_[replica].ongoing.empty()) {
    const BatchIndex b = replicas_[replica].ongoing.back();
    for (CallIndex call : table_.batch(b).calls) {
      if (table_[call].batch != b) continue;
      if (table_[call].state == CallState::running) lost.push_back(call);
      if (table_[call].state == CallState::ended) {
        table_[call].batch = kNoSlot;
        table_.free(call);
      }
      table_[call].batch = kNoSlot;
    }
    free_batch(b, now);
  }
  while (!replicas_[replica].models.empty())
    forget_model(d, replicas_[replica].models.back(), replica);
  std::erase(d.replicas, replica);
  replicas_[replica] = Replica{};
  replicas_.give_back(replica);
  replicas_changed(d);
  for (CallIndex call : lost) {
    if (DRAY_MUTANT(lost_calls_forgotten)) continue;
    lose_run(call, now);
  }
}

void CallLane::on_worker_message(SessionId from, const Envelope& envelope, Message&& m, Now now,
                                 Outbox& out) {
  auto it = worker_ids_.find(static_cast<uint64_t>(from));
  if (it == worker_ids_.end()) return;
  Worker& w = workers_[it->second];
  if (envelope.granted > 0) {
    w.credit.on_granted(envelope.granted);
    dirty_ = true;
  }
  if (const auto* offer = std::get_if<Offer>(&m)) on_offer(it->second, *offer, now, out);
  if (const auto* done = std::get_if<Done>(&m)) on_done(it->second, *done, now);
  if (const auto* drain = std::get_if<Drain>(&m)) on_drain(it->second, *drain, out);
  if (const auto* news = std::get_if<CapacityNews>(&m)) on_capacity(w, *news, out);
  if (const auto* share = std::get_if<Share>(&m)) on_share(it->second, *share);
  if (const auto* reject = std::get_if<Reject>(&m))
    out.note("worker_rejects", "name=" + w.name + " detail=" + reject->detail);
}

// The first OFFER of a session, or all that holds from now on: an index names the same handler as
// before, an empty one no handler any more.
void CallLane::on_offer(uint32_t worker, const Offer& m, Now now, Outbox& out) {
  Worker& w = workers_[worker];
  const bool was_draining = w.draining;
  w.offered = heard_offer_ = true;
  w.slots = std::max<uint32_t>(1, m.slots);
  w.draining = m.draining;
  w.replicas.resize(std::max(w.replicas.size(), m.handlers.size()), kNoSlot);
  for (size_t i = 0; i < w.replicas.size(); ++i) {
    const std::string none;
    const std::string& blob = i < m.handlers.size() ? m.handlers[i] : none;
    offer_one(worker, static_cast<uint16_t>(i), blob, now, out);
  }
  for (uint32_t r : w.replicas)
    if (r != kNoSlot && w.draining != was_draining)
      replicas_changed(*deployments_[replicas_[r].deployment]);
  // It may wait for our word that nothing comes any more.
  if (m.draining) on_drain(worker, Drain{true}, out);
  dirty_ = true;
}

void CallLane::offer_one(uint32_t worker, uint16_t handler, const std::string& blob, Now now,
                         Outbox& out) {
  const uint32_t known = workers_[worker].replicas[handler];
  if (blob.empty()) {
    if (known != kNoSlot) withdraw(known);
    return;
  }
  auto offer = decode_offer(blob);
  const std::string& name = workers_[worker].name;
  if (!offer) {
    out.note("bad_offer", "name=" + name + " detail=" + offer.error().detail);
    if (known != kNoSlot) withdraw(known);
  } else if (known == kNoSlot) {
    if (knows_or_has_room(offer->name))
      add_replica(worker, handler, std::move(*offer), now);
    else
      out.note("too_many_handlers", "name=" + name + " handler=" + offer->name);
  } else if (replicas_[known].offer.name != offer->name) {
    out.note("bad_offer", "name=" + name + " detail=an index names another handler now");
    withdraw(known);
  } else if (Replica& r = replicas_[known]; r.withdrawn || !(r.offer == *offer)) {
    Deployment& d = *deployments_[r.deployment];
    r.withdrawn = false;
    r.changed = true;
    r.offer = std::move(*offer);
    while (r.models.size() > r.offer.max_models) forget_model(d, r.models.back(), known);
    replicas_changed(d);
  }
}

// It gets nothing new; what it runs goes on.
void CallLane::withdraw(uint32_t replica) {
  Replica& r = replicas_[replica];
  if (r.withdrawn) return;
  Deployment& d = *deployments_[r.deployment];
  r.withdrawn = true;
  while (!r.models.empty()) forget_model(d, r.models.back(), replica);
  replicas_changed(d);
}

bool CallLane::knows_or_has_room(const std::string& name) const {
  return deployments_.size() < kDeploymentsMax || deployment_ids_.count(name) != 0;
}

uint32_t CallLane::make_deployment(const std::string& name, Now now) {
  if (auto it = deployment_ids_.find(name); it != deployment_ids_.end()) return it->second;
  const auto id = static_cast<uint32_t>(deployments_.size());
  deployments_.push_back(std::make_unique<Deployment>());
  deployments_.back()->name = name;
  deployments_.back()->last_launch = now.mono;
  deployment_ids_[name] = id;
  return id;
}

void CallLane::add_replica(uint32_t worker, uint16_t handler, HandlerOffer offer, Now now) {
  const uint32_t deployment = make_deployment(offer.name, now);
  Deployment& d = *deployments_[deployment];
  for (uint32_t r : d.replicas)
    if (replicas_[r].worker == worker) return;  // named twice: the first one counts
  const uint32_t i = replicas_.take();
  Replica& r = replicas_[i];
  r = Replica{};
  r.worker = worker;
  r.deployment = deployment;
  r.handler = handler;
  r.offer = std::move(offer);
  r.idle_since = now.mono;
  workers_[worker].replicas[handler] = i;
  d.replicas.push_back(i);
  replicas_changed(d);
}

void CallLane::replicas_changed(Deployment& d) {
  d.live = d.lanes = d.trusted = 0;
  d.free_turn = 0;
  bool first = true;
  for (uint32_t i : d.replicas) {
    const Replica& r = replicas_[i];
    if (r.withdrawn) continue;
    const uint64_t bytes = r.offer.max_batch_bytes == 0 ? kBodyBytesMax : r.offer.max_batch_bytes;
    const Duration wait = std::chrono::microseconds(r.offer.batch_wait_us);
    const bool idempotent = (r.offer.flags & kOfferIdempotent) != 0;
    d.max_batch_size =
        first ? r.offer.max_batch_size : std::min(d.max_batch_size, r.offer.max_batch_size);
    d.max_batch_bytes = first ? bytes : std::min(d.max_batch_bytes, bytes);
    d.batch_wait = first ? wait : std::min(d.batch_wait, wait);
    d.max_models = first ? r.offer.max_models : std::max(d.max_models, r.offer.max_models);
    d.idempotent = first ? idempotent : d.idempotent && idempotent;
    first = false;
    if (workers_[r.worker].draining) continue;
    ++d.live;
    if (!workers_[r.worker].suspect) ++d.trusted;
    d.lanes += lanes(r);
  }
}

void CallLane::on_drain(uint32_t worker, const Drain& m, Outbox& out) {
  Worker& w = workers_[worker];
  w.draining = m.on && !DRAY_MUTANT(runs_after_drain);
  for (uint32_t r : w.replicas)
    if (r != kNoSlot) replicas_changed(*deployments_[replicas_[r].deployment]);
  dirty_ = true;
  // Every RUN so far has left, and this goes the same way: nothing comes behind it.
  Send answer;
  answer.to = w.id;
  answer.message = Drain{m.on};
  out.now.push_back(std::move(answer));
}

namespace {
// A worker is believed in how it divides the time, not in more of it than has passed here: what it
// says decides which calls are let in.
void limit_times(DoneRow& row, Duration passed) {
  const auto most = static_cast<uint32_t>(std::clamp<int64_t>(to_us(passed), 0, UINT32_MAX));
  row.run_us = std::min(row.run_us, most);
  row.wait_us = std::min(row.wait_us, most - row.run_us);
}
}  // namespace

void CallLane::on_done(uint32_t worker, const Done& m, Now now) {
  uint64_t offset = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    DoneRow row = m.rows[i];
    const CallIndex run = table_.find(row.call);
    const BatchIndex batch = run == kNoSlot ? kNoSlot : table_[run].batch;
    const bool its_own =
        batch != kNoSlot && replicas_[table_.batch(batch).replica].worker == worker;
    if (!its_own) {
      ++late_;
    } else {
      limit_times(row, now.mono - table_.batch(batch).sent);
      if (table_[run].state == CallState::running || DRAY_MUTANT(late_done_taken))
        on_done_row(run, row, m.bytes.slice(offset, row.len), now);
      else
        ++late_;
      if ((row.flags & kDoneFreesSlot) != 0) close_batch(batch, row, now);
    }
    offset += row.len;
  }
}

void CallLane::on_done_row(CallIndex run, const DoneRow& row, Bytes bytes, Now now) {
  const CallIndex call = table_[run].is_hedge ? table_[run].twin : run;
  const auto status = static_cast<CallEnd>(row.status);
  if (status == CallEnd::part) {
    CallRecord& c = table_[call];
    if (c.window == 0) return;  // not asked for
    c.has_parts = true;
    ++totals_.ends[0];
    ++deployments_[c.deployment]->totals.ends[0];
    ReplyRow part;
    part.call = c.client_call;
    part.len = static_cast<uint32_t>(bytes.size());
    return reply(c.client, part, bytes);
  }
  const bool not_started = (row.flags & kDoneNotStarted) != 0 && !table_[call].has_parts;
  if (status == CallEnd::reply || status == CallEnd::failed) {
    if (table_[run].is_hedge) ++totals_.hedges_won;
    return finish(call,
                  {.end = status,
                   .code = static_cast<Errc>(row.code),
                   .bytes = std::move(bytes),
                   .done = &row,
                   .run = run},
                  now);
  }
  const CallIndex twin = table_[run].twin;
  const bool alone = twin == kNoSlot || table_[twin].batch == kNoSlot;
  if (status == CallEnd::expired && alone && table_[call].deadline <= now.mono + 1ms)
    return finish(call, {.end = CallEnd::expired, .code = Errc::expired, .run = run}, now);
  if (not_started || status == CallEnd::rejected || status == CallEnd::expired)
    return send_back(run, now);
  lose_run(run, now, status == CallEnd::unknown ? std::move(bytes) : Bytes());
}

void CallLane::close_batch(BatchIndex batch, const DoneRow& row, Now now) {
  if (DRAY_MUTANT(batch_never_closed) && row.status == static_cast<uint8_t>(CallEnd::failed))
    return;
  BatchRecord& b = table_.batch(batch);
  Deployment& d = *deployments_[replicas_[b.replica].deployment];
  learn(d, b, row, now);
  scratch_.clear();
  for (CallIndex call : b.calls) {
    if (table_[call].batch != batch) continue;
    if (table_[call].state == CallState::ended) {
      table_[call].batch = kNoSlot;
      table_.free(call);
    } else {
      scratch_.push_back(call);  // the worker owes it an end
    }
  }
  for (CallIndex call : scratch_) table_[call].batch = kNoSlot;
  free_batch(batch, now);
  for (CallIndex call : scratch_) lose_run(call, now);
}

void CallLane::learn(Deployment& d, const BatchRecord& b, const DoneRow& row, Now now) {
  if (row.status != static_cast<uint8_t>(CallEnd::reply) || row.run_us == 0) return;
  d.line.add(b.items, row.run_us);
  d.times.batch_items.add(b.items);
  const double wire = static_cast<double>(to_us(now.mono - b.sent)) - row.wait_us - row.run_us;
  d.wire_us += 0.1 * (std::max(0.0, wire) - d.wire_us);
  if (b.at_once) d.note_wait(row.wait_us);
}

void CallLane::free_batch(BatchIndex batch, Now now) {
  BatchRecord& b = table_.batch(batch);
  Replica& r = replicas_[b.replica];
  Deployment& d = *deployments_[r.deployment];
  r.ongoing[b.pos] = r.ongoing.back();
  table_.batch(r.ongoing[b.pos]).pos = b.pos;
  r.ongoing.pop_back();
  if (r.ongoing.empty()) r.idle_since = now.mono;
  --workers_[r.worker].batches;
  KeyQueue& q = d.keys[b.key];
  --q.batches;
  if (q.loading == b.replica) q.loading = kNoSlot;
  d.free_turn = 0;
  d.release_key(b.key);
  b.replica = kNoSlot;
  b.calls.clear();
  table_.batches().give_back(batch);
  dirty_ = true;
}

}  // namespace dray
