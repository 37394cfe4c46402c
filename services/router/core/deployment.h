// Deployment: one handler as the router knows it: the calls that wait for it, the replicas that
// offer it, and what was learned about how long it takes.
//
// Calls wait in one queue per model key, so that a batch never mixes keys, each in the order of
// deadlines (EDF). A key is remembered while calls of it are open, batches of it run, or a replica
// has its model.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/cost_line.h"
#include "common/wire/offer.h"
#include "services/router/core/call_heap.h"
#include "services/router/core/call_table.h"
#include "services/router/core/call_types.h"
#include "services/router/core/deadline_tally.h"

namespace dray {

// One handler of one worker session.
struct Replica {
  uint32_t worker = kNoSlot;
  uint32_t deployment = kNoSlot;
  uint16_t handler = 0;  // index into OFFER.handlers
  HandlerOffer offer;
  bool withdrawn = false;  // gets nothing new
  bool changed = false;  // it was offered differently before
  std::vector<BatchIndex> ongoing;
  Time idle_since{};  // valid while nothing is ongoing
  std::vector<uint32_t> models;  // keys it has loaded, as far as we sent them; newest first
  // Sharing its device with queued tasks (SHARE).
  uint64_t sent = 0;  // batches in this session
  uint64_t allowed = 0;  // of them, while quantum > 0
  Duration gather{};
  Duration quantum{};  // 0: does not share
  bool asked = false;
  Time asked_at{};
};

struct KeyQueue {
  std::string name;
  CallHeap<&CallRecord::queue_pos> calls;
  uint64_t items = 0;
  uint64_t bytes = 0;
  uint32_t waiting_pos = kNoSlot;  // in Deployment.waiting
  uint32_t users = 0;  // open calls
  uint32_t batches = 0;  // ongoing
  std::vector<uint32_t> homes;  // replicas that have the model or load it
  uint32_t loading = kNoSlot;  // replica that loads it: its first batch there runs
  Time first_at{};  // arrival of the call that opened the gather window
  Time free_since = kNever;  // a replica is free since then, and we wait for company
  Time blocked_since = kNever;  // a replica is free, but those with the model are not
};

// Spends a share of all calls on extra work, so that retries never multiply an outage.
class CallBudget {
 public:
  CallBudget(uint32_t cost, uint32_t depth) : cost_(cost), max_(cost * depth), have_(max_) {}
  void earn() { have_ = have_ < max_ ? have_ + 1 : max_; }
  bool spend() {
    if (have_ < cost_) return false;
    have_ -= cost_;
    return true;
  }

 private:
  uint32_t cost_, max_, have_;
};

struct Deployment {
  std::string name;
  uint32_t active_pos = kNoSlot;  // in the lane's list of deployments with waiting calls
  std::vector<uint32_t> replicas;
  Slab<KeyQueue> keys;
  std::unordered_map<std::string, uint32_t> key_ids;  // for lookups only: never iterated
  std::vector<uint32_t> waiting;  // keys with calls
  uint64_t queued = 0;
  size_t live = 0;  // replicas whose worker does not leave
  size_t lanes = 0;  // batches they really run at once
  size_t trusted = 0;  // of the live ones, those on workers that are not suspect
  bool in_view = false;  // the balancer knows it
  bool held = false;  // without a replica calls wait for one (the balancer says so)
  DeadlineTally tally;  // of queued items

  // What all replicas agree on: the least of their offers.
  uint32_t max_batch_size = 1;
  uint64_t max_batch_bytes = kBodyBytesMax;
  Duration batch_wait{};
  uint32_t max_models = 0;
  bool idempotent = false;

  CostLine line;
  double wire_us = 0;  // mean time of a batch that was spent neither waiting nor running
  double others_us = 0;  // mean wait at a free replica: batches of other routers run there
  double others_dev_us = 0;  // mean distance from it
  Time last_launch{};
  LogHistogram replied_us;  // from router to replica and back, recent ones count more
  uint64_t hedge_after_us = 0;  // its 95th percentile; 0 while too few are known
  CallBudget retries{10, 10};  // 10 % of the calls
  CallBudget hedges{50, 2};  // 2 %
  uint64_t free_turn = 0;  // turn in which free_at was computed
  Time free_at{};
  CallTotals totals;
  CallTimes times;

  uint32_t find_key(const std::string& key_name);  // made if new
  void release_key(uint32_t key);  // forgets it if nothing needs it
  void push(CallTable& table, CallIndex call, Time now);
  void pop(CallTable& table, CallIndex call);
  void note_reply(uint64_t worker_us);
  void note_wait(double wait_us);

  uint32_t target(Duration budget) const;  // items of the batch to aim for
  // There, waiting for others, running, and back; 0 while nothing is known.
  Duration takes(double items) const;
  Duration may_take(double items) const;  // also when others take longer than usual
};

}  // namespace dray
