// Placement: which waiting tasks go to which worker, against credit; and the lease that says so.
#include <algorithm>

#include "broker/core/broker.h"
#include "common/base/mutant.h"
#include "common/resources/fleet.h"

namespace dray::broker {
namespace {
constexpr size_t kLanesPerRound = 100;
constexpr size_t kChunk = 256;  // tasks of one lane before the next lane is looked at
constexpr size_t kBatchRows = 1024;  // tasks in one DISPATCH
constexpr uint64_t kBatchBytes = 4 << 20;  // payload in one DISPATCH, unless one task has more
constexpr size_t kBatchSpecBytes = 40 * 1024;  // options in one DISPATCH: a head has 64 KiB
constexpr uint64_t kWindowBytes = 64 << 20;  // payload held by one worker

bool fits_now(const NodeState& node, const Request& request) {
  return std::any_of(request.variants.begin(), request.variants.end(), [&](const Variant& v) {
    return std::holds_alternative<std::vector<DeviceShare>>(
        place_variant(node, v, request.strategy, {}));
  });
}
}  // namespace

bool Broker::can_run(const Worker& w, const TaskClass& c) const {
  if (w.session == SessionId::none || w.draining) return false;
  if (w.handlers.count(c.handler) == 0) return false;
  return could_serve_when_idle(w.node, c.request);
}

const std::vector<uint32_t>& Broker::eligible(uint32_t task_class) {
  if (task_class >= eligible_.size()) eligible_.resize(task_class + 1);
  Eligible& e = eligible_[task_class];
  if (e.gen == placement_gen_) return e.workers;
  e.gen = placement_gen_;
  e.workers.clear();
  const TaskClass& c = ledger_.specs().task_class(task_class);
  for (const auto& [session, index] : worker_sessions_)
    if (can_run(workers_[index], c)) e.workers.push_back(index);
  return e.workers;
}

bool Broker::has_room(const Worker& w, uint32_t index) const {
  auto batch = batches_.find(index);
  uint64_t pending = batch == batches_.end() ? 0 : batch->second.handles.size();
  return w.credit.available() > pending && w.leased_bytes < kWindowBytes;
}

// The eligible worker with credit and room that has the least to do per slot.
uint32_t Broker::best_worker(uint32_t task_class) {
  const TaskClass& c = ledger_.specs().task_class(task_class);
  if (c.has_devices) return best_node(task_class);
  uint32_t best = kNil;
  uint64_t best_load = 0;
  for (uint32_t index : eligible(task_class)) {
    const Worker& w = workers_[index];
    if (!has_room(w, index)) continue;
    if (c.has_needs && !fits_now(w.node, c.request)) continue;
    auto batch = batches_.find(index);
    uint64_t pending = batch == batches_.end() ? 0 : batch->second.handles.size();
    uint64_t load = (w.leases + pending) * 1000 / std::max<uint32_t>(w.slots, 1);
    if (best == kNil || load < best_load) {
      best = index;
      best_load = load;
    }
  }
  return best;
}

// GPUs are what is scarce: the node on which least of them becomes unusable for others.
uint32_t Broker::best_node(uint32_t task_class) {
  std::vector<const NodeState*> nodes;
  std::vector<uint32_t> indexes;
  for (uint32_t index : eligible(task_class)) {
    const Worker& w = workers_[index];
    // Behind busy slots a task would hold GPUs that it does not use.
    const bool has_slot = w.grants.size() < w.slots;
    if (!has_slot || !has_room(w, index)) continue;
    nodes.push_back(&w.node);
    indexes.push_back(index);
  }
  const Request& request = ledger_.specs().task_class(task_class).request;
  auto found = choose_node(nodes, request, mix_.classes());
  const auto* choice = std::get_if<NodeChoice>(&found);
  return choice == nullptr ? kNil : indexes[choice->node];
}

// Moves up to `want` tasks of the lane into the worker's batch. Tasks past their expiry end
// instead.
size_t Broker::fill(uint32_t index, uint32_t lane, size_t want, std::vector<Ending>& expired,
                    Now now) {
  Worker& w = workers_[index];
  Batch& batch = batches_[index];
  const TaskClass& c = ledger_.specs().task_class(ledger_.specs().lane(lane).task_class);
  size_t moved = 0;
  while (moved < want && !batch.full && batch.handles.size() < kBatchRows &&
         batch.bytes < kBatchBytes) {
    if (c.has_needs && !fits_now(w.node, c.request)) break;
    Handle h = lanes_.pop(lane);
    if (h == kNil) break;
    Task& t = ledger_.tasks()[h];
    t.in_lane = false;
    if (t.expires_ms && t.expires_ms <= now.wall_ms && !DRAY_MUTANT(expiry_ignored)) {
      expired.push_back({h, TaskState::expired, Errc::expired, 0, {}});
      continue;
    }
    size_t spec_bytes = batch.specs.count(t.spec) ? 0 : ledger_.specs()[t.spec].blob.size();
    if (!batch.handles.empty() && batch.spec_bytes + spec_bytes > kBatchSpecBytes) {
      batch.full = true;
      t.in_lane = true;
      lanes_.push_front(h);
      break;
    }
    if (spec_bytes) batch.specs.insert(t.spec);
    batch.spec_bytes += spec_bytes;
    if (c.has_needs) take_needs(w, h, c.request);
    batch.handles.push_back(h);
    batch.bytes += t.len;
    ++moved;
  }
  return moved;
}

bool Broker::place(uint32_t lane, std::vector<Ending>& expired, Now now) {
  uint32_t task_class = ledger_.specs().lane(lane).task_class;
  if (ledger_.is_paused(ledger_.specs().queue_name(ledger_.specs().lane(lane).queue)) &&
      !DRAY_MUTANT(pause_ignored))
    return false;
  uint32_t index = best_worker(task_class);
  if (index == kNil) return false;
  Worker& w = workers_[index];
  Batch& batch = batches_[index];
  // An even share for everybody who could take some, so that a short queue spreads out.
  size_t share =
      (lanes_.live(lane) + eligible(task_class).size() - 1) / eligible(task_class).size();
  size_t want =
      std::min({w.credit.available() - batch.handles.size(), std::max<size_t>(share, 1), kChunk});
  // Each takes the node that is the best one then.
  if (ledger_.specs().task_class(task_class).has_devices) want = 1;
  size_t moved = fill(index, lane, want, expired, now);
  return moved > 0 || batch.full || !expired.empty();
}

// Visits lanes best first. A lane that can not be placed delays nobody: the next one is tried, at
// most kLanesPerRound without success in one turn, continuing there in the next.
void Broker::dispatch(Now now, Out& out) {
  if (draining_) return;
  std::vector<Ending> expired;
  size_t blocked = 0;
  auto it = round_unfinished_ ? lanes_.heads().upper_bound(cursor_) : lanes_.heads().begin();
  round_unfinished_ = false;
  while (it != lanes_.heads().end()) {
    ReadyLanes::Head head = *it;
    if (place(head.lane, expired, now)) {
      it = lanes_.heads().lower_bound(head);  // its head moved on; an older lane may be first now
      bool full = std::any_of(batches_.begin(), batches_.end(), [](const auto& b) {
        return b.second.full || b.second.handles.size() >= kBatchRows ||
               b.second.bytes >= kBatchBytes;
      });
      if (full) send_batches(out);
      finish(expired, now, out);
      continue;
    }
    it = lanes_.heads().upper_bound(head);  // a lane with nothing but stale entries left the set
    if (++blocked == kLanesPerRound) {
      cursor_ = head;
      round_unfinished_ = it != lanes_.heads().end();
      break;
    }
  }
  send_batches(out);
  finish(expired, now, out);
}

void Broker::send_batches(Out& out) {
  for (auto& [index, batch] : batches_)
    if (!batch.handles.empty()) send_batch(index, batch.handles, out);
  batches_.clear();
}

void Broker::send_batch(uint32_t index, const std::vector<Handle>& handles, Out& out) {
  const Holder& holder = ledger_.holder(index);
  uint64_t first_seq = lease_seq_ + 1;
  lease_seq_ += handles.size();
  std::string ids;
  ids.reserve(handles.size() * sizeof(IdRow));
  for (Handle h : handles) append_row(ids, IdRow{ledger_.tasks()[h].id});
  commit(LeaseRec{epoch_, first_seq, holder.boot, holder.name, Bytes(std::move(ids))}, {}, out);
  Worker& w = workers_[index];
  uint64_t first = w.credit.sent();
  for (size_t i = 0; i < handles.size(); ++i) {
    link(index, handles[i]);
    ledger_.tasks()[handles[i]].sent_no = first + i + 1;
  }
  w.credit.on_sent(handles.size());
  counters_.dispatched += handles.size();
  Send send{w.session, 0, 0, 0, {}, {}, 0};
  send.message = make_dispatch(handles, first, send.gather);
  (DRAY_MUTANT(dispatch_before_sync) ? out.now : out.after_sync).push_back(std::move(send));
}

Message Broker::make_dispatch(const std::vector<Handle>& handles, uint64_t first,
                              std::vector<BlobRef>& gather) const {
  Dispatch d;
  d.epoch = epoch_;
  d.first = first;
  RowsBuilder<DispatchRow> rows;
  rows.reserve(handles.size());
  std::unordered_map<uint32_t, uint16_t> specs;
  uint32_t last_spec = kNil;
  uint16_t last_index = 0;
  for (Handle h : handles) {
    const Task& t = ledger_.tasks()[h];
    if (t.spec != last_spec) {
      auto [it, fresh] = specs.emplace(t.spec, static_cast<uint16_t>(d.specs.size()));
      if (fresh) d.specs.push_back(ledger_.specs()[t.spec].blob);
      last_spec = t.spec;
      last_index = it->second;
    }
    rows.add({t.id, t.token.seq, t.len, t.attempt, last_index});
    if (t.len == 0) continue;
    if (!gather.empty() && gather.back().record == t.record &&
        gather.back().offset + gather.back().size == t.offset) {
      gather.back().size += t.len;
    } else {
      gather.push_back({t.record, t.offset, t.len});
    }
  }
  d.rows = rows.take();
  return d;
}

}  // namespace dray::broker
