// The call lane's side towards clients: arrival, admission, cancelling, grants.
#include "services/router/core/call_lane.h"

#include <algorithm>

#include "common/base/mutant.h"

namespace dray {

void CallLane::on_client_open(SessionId session) {
  const uint32_t i = clients_.take();
  Client& c = clients_[i];
  c = Client{};
  c.id = session;
  client_ids_[static_cast<uint64_t>(session)] = i;
  touch_client(i);  // its first grant
}

void CallLane::on_client_close(SessionId session, Now now) {
  auto it = client_ids_.find(static_cast<uint64_t>(session));
  if (it == client_ids_.end()) return;
  const uint32_t i = it->second;
  client_ids_.erase(it);
  clients_[i].id = SessionId::none;
  drop_client(i, now);
  // Its slot is free when the turn has passed it by, see flush().
  touch_client(i);
}

// Nobody is told any more: the session is gone.
void CallLane::drop_client(uint32_t client, Now now) {
  scratch_.clear();
  for (const auto& [number, call] : clients_[client].open) scratch_.push_back(call);
  std::sort(scratch_.begin(), scratch_.end(),
            [this](CallIndex a, CallIndex b) { return table_[a].order < table_[b].order; });
  if (DRAY_MUTANT(calls_outlive_client)) scratch_.clear();
  for (CallIndex call : scratch_)
    finish(call, {.end = CallEnd::cancelled, .code = Errc::cancelled}, now);
}

void CallLane::on_client_message(SessionId from, const Envelope& envelope, Message&& m, Now now,
                                 Outbox& out) {
  auto it = client_ids_.find(static_cast<uint64_t>(from));
  if (it == client_ids_.end()) return;
  if (const auto* call = std::get_if<Call>(&m)) on_call(it->second, envelope, *call, now, out);
  if (const auto* cancel = std::get_if<CallCancel>(&m)) on_cancel(it->second, *cancel, now);
  if (const auto* credit = std::get_if<CallCredit>(&m)) on_credit(it->second, *credit);
}

void CallLane::on_client_garbage(SessionId from, uint64_t calls) {
  auto it = client_ids_.find(static_cast<uint64_t>(from));
  if (it == client_ids_.end()) return;
  CreditGiver& credit = clients_[it->second].credit;
  credit.on_received_upto(credit.received() + calls);
  touch_client(it->second);
}

void CallLane::on_call(uint32_t client, const Envelope& envelope, const Call& m, Now now,
                       Outbox& out) {
  Arrival a{client, m, kNoSlot, kNoSlot};
  if (auto it = deployment_ids_.find(m.handler); it != deployment_ids_.end()) {
    a.deployment = it->second;
    a.key = deployments_[a.deployment]->find_key(m.key);
    if (DRAY_MUTANT(keys_mixed)) a.key = deployments_[a.deployment]->find_key({});
  }
  uint64_t offset = 0, repeated = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    const CallRow row = m.rows[i];
    Client& c = clients_[client];
    c.credit.on_received_upto(c.credit.received() + 1);
    if (c.open.count(row.call) != 0)
      ++repeated;  // an end for it would end the other one
    else if (!refuse_row(a, row, now))
      admit(a, row, m.bytes.slice(offset, row.len), now);
    offset += row.len;
  }
  if (a.deployment != kNoSlot) deployments_[a.deployment]->release_key(a.key);
  touch_client(client);
  if (repeated == 0) return;
  out.now.push_back(reply_to(clients_[client].id, envelope,
                             make_reject(Errc::bad_argument, "call number is in use")));
  out.note("call_number_in_use", "calls=" + std::to_string(repeated));
}

// True if the call was refused, and told so.
bool CallLane::refuse_row(const Arrival& a, const CallRow& row, Now now) {
  const Client& c = clients_[a.client];
  auto no = [&](CallRefusal why, uint64_t value = 0, uint32_t retry_ms = 0) {
    refuse(a.client, row, a.deployment, why, {value, retry_ms});
    return true;
  };
  if (draining_ && !DRAY_MUTANT(taken_while_leaving)) return no(CallRefusal::draining);
  if (a.deployment == kNoSlot && is_young(now))
    return no(CallRefusal::no_replica, 0, options_.retry_ms);
  if (a.deployment == kNoSlot) return no(CallRefusal::unknown_handler);
  Deployment& d = *deployments_[a.deployment];
  if (d.live == 0 && !d.held) return no(CallRefusal::no_replica, 0, options_.retry_ms);
  if (c.credit.received() > c.published)
    return no(CallRefusal::client_calls, options_.client_calls, options_.retry_ms);
  if (c.bytes + row.len > options_.client_bytes && !DRAY_MUTANT(client_bytes_ignored))
    return no(CallRefusal::client_bytes, options_.client_bytes, options_.retry_ms);
  const bool no_room = bytes_ + row.len > options_.call_bytes && !DRAY_MUTANT(call_bytes_ignored);
  if (no_room || table_.full())
    return no(CallRefusal::call_bytes, options_.call_bytes, options_.retry_ms);
  if (row.items > d.max_batch_size) return no(CallRefusal::batch_items, d.max_batch_size);
  if (row.len > d.max_batch_bytes) return no(CallRefusal::batch_bytes, d.max_batch_bytes);
  if (d.queued >= options_.max_queued && !DRAY_MUTANT(max_queued_ignored))
    return no(CallRefusal::max_queued, options_.max_queued, options_.retry_ms);
  if (d.live == 0) {  // when its first replica comes nobody knows; its deadline bounds the wait
    held_call_ = true;
    return false;
  }
  const Time finish_at = predict(d, row, now);
  const Time deadline = deadline_of(row, now);
  if (finish_at <= deadline || DRAY_MUTANT(admits_the_infeasible)) return false;
  const int64_t excess_ms = to_ms(finish_at - deadline) + 1;
  return no(CallRefusal::infeasible, static_cast<uint64_t>(to_us(finish_at - now.mono)),
            static_cast<uint32_t>(std::min<int64_t>(excess_ms, 3'600'000)));
}

void CallLane::admit(const Arrival& a, const CallRow& row, Bytes payload, Now now) {
  Client& client = clients_[a.client];
  Deployment& d = *deployments_[a.deployment];
  const CallIndex i = table_.open();
  CallRecord& c = table_[i];
  c.client_call = row.call;
  c.client = a.client;
  c.deployment = a.deployment;
  c.key = a.key;
  c.arrived = now.mono;
  c.deadline = deadline_of(row, now);
  c.window = a.message.window;
  c.items = row.items;
  c.flags = row.flags;
  c.payload = std::move(payload);
  client.open[row.call] = i;
  client.bytes += row.len;
  bytes_ += row.len;
  ++open_;
  ++d.keys[a.key].users;
  d.retries.earn();
  d.hedges.earn();
  timers_.push(table_.calls(), c.deadline, i);
  d.push(table_, i, now.mono);
  activate(a.deployment);
}

void CallLane::refuse(uint32_t client, const CallRow& row, uint32_t deployment, CallRefusal why,
                      Refused told) {
  ++totals_.refused[static_cast<size_t>(why)];
  ++totals_.ends[static_cast<size_t>(CallEnd::rejected)];
  if (deployment != kNoSlot) {
    ++deployments_[deployment]->totals.refused[static_cast<size_t>(why)];
    ++deployments_[deployment]->totals.ends[static_cast<size_t>(CallEnd::rejected)];
  }
  ReplyRow reply_to;
  reply_to.call = row.call;
  reply_to.value = told.value;
  reply_to.retry_after_ms = told.retry_ms;
  reply_to.status = static_cast<uint8_t>(CallEnd::rejected);
  reply_to.code = static_cast<uint8_t>(call_refusal_code(why));
  reply_to.limit = static_cast<uint8_t>(call_refusal_limit(why));
  reply(client, reply_to, Bytes());
}

void CallLane::on_cancel(uint32_t client, const CallCancel& m, Now now) {
  for (size_t i = 0; i < m.rows.size(); ++i) {
    auto it = clients_[client].open.find(m.rows[i].call);
    if (it == clients_[client].open.end()) continue;  // its end is on the way
    finish(it->second, {.end = CallEnd::cancelled, .code = Errc::cancelled}, now);
  }
}

void CallLane::on_credit(uint32_t client, const CallCredit& m) {
  for (size_t i = 0; i < m.rows.size(); ++i) {
    const CallCreditRow row = m.rows[i];
    auto it = clients_[client].open.find(row.call);
    if (it == clients_[client].open.end()) continue;
    CallRecord& c = table_[it->second];
    if (c.window == 0 || row.granted <= c.window) continue;
    c.window = row.granted;  // still here: the worker gets it as its first window
    if (c.state != CallState::running || c.batch == kNoSlot) continue;
    const uint32_t worker = replicas_[table_.batch(c.batch).replica].worker;
    const uint64_t number = DRAY_MUTANT(credit_not_mapped) ? row.call : c.number;
    workers_[worker].runs.credit({number, row.granted});
    touch_worker(worker);
  }
}

void CallLane::reply(uint32_t client, const ReplyRow& row, const Bytes& bytes) {
  if (clients_[client].id == SessionId::none) return;
  clients_[client].replies.add(row, bytes);
  touch_client(client);
}

void CallLane::touch_client(uint32_t client) {
  if (clients_[client].touched) return;
  clients_[client].touched = true;
  touched_clients_.push_back(client);
}

void CallLane::touch_worker(uint32_t worker) {
  if (workers_[worker].touched) return;
  workers_[worker].touched = true;
  touched_workers_.push_back(worker);
}

// Nothing was granted so far; from now on it is.
void CallLane::settle(Now now) {
  if (settled_at_ == kNever) settled_at_ = now.mono + options_.settle;
  if (grants_ || !takes_calls(now)) return;
  grants_ = true;
  for (uint32_t i = 0; i < clients_.slots(); ++i)
    if (clients_[i].id != SessionId::none) touch_client(i);
}

// Workers first: what is asked of them takes longest.
void CallLane::flush(Outbox& out) {
  for (uint32_t i : touched_workers_) {
    Worker& w = workers_[i];
    w.touched = false;
    for (Message& m : w.runs.take()) {
      if (w.id == SessionId::none) continue;
      out.now.emplace_back();
      out.now.back().to = w.id;
      out.now.back().message = std::move(m);
    }
    if (w.id == SessionId::none) workers_.give_back(i);
  }
  touched_workers_.clear();
  for (uint32_t i : touched_clients_) {
    Client& c = clients_[i];
    c.touched = false;
    if (c.id == SessionId::none) {
      c = Client{};
      clients_.give_back(i);
      continue;
    }
    const uint64_t held = DRAY_MUTANT(client_credit_ignores_open) ? 0 : c.open.size();
    const uint64_t granted = grants_ ? c.credit.granted(options_.client_calls, held) : c.published;
    std::vector<Reply> replies = c.replies.take();
    if (replies.empty() && granted > c.published) replies.emplace_back();
    c.published = std::max(c.published, granted);
    for (Reply& r : replies) {
      r.granted = c.published;
      out.now.emplace_back();
      out.now.back().to = c.id;
      out.now.back().message = std::move(r);
    }
  }
  touched_clients_.clear();
}

}  // namespace dray
