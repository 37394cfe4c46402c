// Queues of a deployment and what it learns.
#include "services/router/core/deployment.h"

#include <algorithm>
#include <cmath>

namespace dray {

uint32_t Deployment::find_key(const std::string& key_name) {
  auto [it, fresh] = key_ids.try_emplace(key_name, kNoSlot);
  if (!fresh) return it->second;
  it->second = keys.take();
  keys[it->second] = KeyQueue{};
  keys[it->second].name = key_name;
  return it->second;
}

void Deployment::release_key(uint32_t key) {
  KeyQueue& q = keys[key];
  // The empty key is the one of all handlers without models: not worth making again and again.
  if (q.users > 0 || q.batches > 0 || !q.homes.empty() || q.name.empty()) return;
  key_ids.erase(q.name);
  q = KeyQueue{};
  keys.give_back(key);
}

void Deployment::push(CallTable& table, CallIndex call, Time now) {
  CallRecord& c = table[call];
  KeyQueue& q = keys[c.key];
  if (q.calls.empty()) {
    q.waiting_pos = static_cast<uint32_t>(waiting.size());
    waiting.push_back(c.key);
    q.first_at = now;
    q.free_since = q.blocked_since = kNever;
  }
  q.calls.push(table.calls(), c.deadline, call);
  q.items += c.items;
  q.bytes += c.payload.size();
  c.bucket = tally.add(c.deadline, now, c.items);
  c.state = CallState::queued;
  ++queued;
}

void Deployment::pop(CallTable& table, CallIndex call) {
  CallRecord& c = table[call];
  KeyQueue& q = keys[c.key];
  q.calls.remove(table.calls(), call);
  q.items -= c.items;
  q.bytes -= c.payload.size();
  tally.remove(c.bucket, c.items);
  --queued;
  if (!q.calls.empty()) return;
  const uint32_t last = waiting.back();
  waiting[q.waiting_pos] = last;
  keys[last].waiting_pos = q.waiting_pos;
  waiting.pop_back();
  q.waiting_pos = kNoSlot;
}

void Deployment::note_reply(uint64_t worker_us) {
  replied_us.add(worker_us);
  const uint64_t n = replied_us.count();
  if (n >= kHedgeSamples && (hedge_after_us == 0 || n % 64 == 0))
    hedge_after_us = std::max<uint64_t>(1, replied_us.quantile(0.95));
  if (n >= 4096) replied_us.halve();
}

void Deployment::note_wait(double wait_us) {
  others_dev_us += 0.1 * (std::abs(wait_us - others_us) - others_dev_us);
  others_us += 0.1 * (wait_us - others_us);
}

uint32_t Deployment::target(Duration budget) const {
  if (max_batch_size == 1) return 1;
  return line.target(max_batch_size, (static_cast<double>(to_us(budget)) - wire_us) / 2);
}

Duration Deployment::takes(double items) const {
  if (!line.ready()) return Duration::zero();
  return Duration(static_cast<int64_t>((line.guarded_us(items) + wire_us + others_us) * 1000));
}

Duration Deployment::may_take(double items) const {
  return takes(items) + Duration(static_cast<int64_t>(others_dev_us * 1000));
}

}  // namespace dray
