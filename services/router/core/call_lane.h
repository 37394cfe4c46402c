// CallLane: the router's half of calls that are answered from memory. It owns every open call from
// its arrival to its end, the queues they wait in, and the credit of clients and workers.
//
//  * A call that was taken ends exactly once: reply, failed, rejected, expired, cancelled or
//    unknown; at its deadline at the latest. Expired and rejected calls were surely not executed.
//  * A call is executed more than once only if it is idempotent: caller or handler said so.
//  * Calls leave in the order of their deadlines, to the replica with the least to do, and only
//    against credit of the worker and below the handler's max_ongoing. What is ongoing is what the
//    batch table says.
//  * A replica that shares its device with queued tasks gets a batch only after it has agreed to
//  it;
//    it is asked when the batch is due: full, or its head as old as the worker's gather window.
//  * A batch has one handler and one model key, at most max_batch_size items and max_batch_bytes.
//    A call that can not be done in time makes room; no batch is made smaller for it.
//  * A call that could not be done in time is refused at the door, as soon as the handler's cost
//    is known. Every refusal adds one to exactly one counter.
//  * Whoever is not waited for any more is stopped, but its slot is free only when the worker says
//    so.
//  * A lane that has just begun has not heard of its workers yet: until the first one has offered
//    something, `settle` at most, it grants nothing, so that clients go to another router or wait;
//    and so long it does not say that nobody ever offered a handler.
//  * Everything is decided in end_turn(), so what one turn says to a peer is few messages.
#pragma once

#include <tsl/robin_map.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/wire/credit.h"
#include "common/wire/doc.h"
#include "common/wire/fleet.h"
#include "common/wire/link.h"
#include "common/wire/outbox.h"
#include "services/router/core/call_out.h"
#include "services/router/core/deployment.h"

namespace dray {

class CallLane {
 public:
  explicit CallLane(CallOptions options = {}) : options_(options) {}

  void on_client_open(SessionId session);
  void on_client_close(SessionId session, Now now);
  // CALL, CALL_CANCEL or CALL_CREDIT.
  void on_client_message(SessionId from, const Envelope& envelope, Message&& m, Now now,
                         Outbox& out);
  // So many calls were in a message of this client that was refused as a whole.
  void on_client_garbage(SessionId from, uint64_t calls);
  void on_worker_open(const SessionInfo& session);
  void on_worker_close(SessionId session, Now now, Outbox& out);
  void on_worker_message(SessionId from, const Envelope& envelope, Message&& m, Now now,
                         Outbox& out);
  // What the balancer says: which handlers calls wait for, and which workers are suspect.
  void on_view(const View& view, Now now, Outbox& out);
  void forget_suspects();  // nobody would take them back
  Load load() const;
  // Whether a call came to a held handler without a replica since this was asked last.
  bool take_held_call() { return std::exchange(held_call_, false); }
  void end_turn(Now now, Outbox& out);
  Time next_deadline() const;
  void begin_drain() { draining_ = true; }  // new calls are refused, open ones go on

  bool has_worker(SessionId id) const { return worker_ids_.count(static_cast<uint64_t>(id)) != 0; }
  size_t open_calls() const { return open_; }
  size_t workers() const { return worker_ids_.size(); }
  Doc gpus_doc() const;
  uint64_t bytes() const { return bytes_; }
  const CallTotals& totals() const { return totals_; }
  uint64_t late() const { return late_; }  // rows of workers that belong to no call
  const std::vector<std::unique_ptr<Deployment>>& deployments() const { return deployments_; }
  uint64_t credit_granted() const;  // by workers that are here, in all
  uint64_t credit_used() const;
  Doc deployments_doc() const;
  void check() const;  // tests: recomputes every total

 private:
  struct Client {
    SessionId id = SessionId::none;
    CreditGiver credit;
    uint64_t published = 0;  // largest grant sent
    uint64_t bytes = 0;  // sum over open
    tsl::robin_map<uint64_t, CallIndex> open;  // by the client's number
    ReplyOut replies;
    bool touched = false;
  };
  struct Worker {
    SessionId id = SessionId::none;
    std::string name;
    uint32_t slots = 0;
    bool offered = false;
    bool draining = false;
    bool suspect = false;
    CreditTaker credit;
    std::vector<DeviceInfo> devices;  // as it told them last
    uint64_t batches = 0;  // ongoing, of all its replicas
    std::vector<uint32_t> replicas;  // in the order of its OFFER; kNoSlot: not taken
    RunOut runs;
    bool touched = false;
  };
  // How a call ends, for finish().
  struct End {
    CallEnd end = CallEnd::reply;
    Errc code = Errc::ok;
    CallLimit limit = CallLimit::none;
    uint64_t value = 0;
    uint32_t retry_ms = 0;
    Bytes bytes{};
    const DoneRow* done = nullptr;  // of the run that ended it
    CallIndex run = kNoSlot;  // which that was: the call or its hedge
  };
  struct Refused {  // what a refusal tells besides its reason
    uint64_t value = 0;
    uint32_t retry_ms = 0;
  };
  struct Arrival {  // one message of calls
    uint32_t client;
    const Call& message;
    uint32_t deployment;
    uint32_t key;
  };
  struct Head {  // a queue that may have something to launch
    Time at;
    uint64_t order;
    uint32_t deployment;
    uint32_t key;
  };

  // call_lane.cpp: clients
  void on_call(uint32_t client, const Envelope& envelope, const Call& m, Now now, Outbox& out);
  void admit(const Arrival& a, const CallRow& row, Bytes payload, Now now);
  bool refuse_row(const Arrival& a, const CallRow& row, Now now);
  void refuse(uint32_t client, const CallRow& row, uint32_t deployment, CallRefusal why,
              Refused told);
  void on_cancel(uint32_t client, const CallCancel& m, Now now);
  void on_credit(uint32_t client, const CallCredit& m);
  void drop_client(uint32_t client, Now now);
  bool is_young(Now now) const { return now.mono < settled_at_; }
  bool takes_calls(Now now) const { return heard_offer_ || !is_young(now); }
  // call_end.cpp: how calls end
  void finish(CallIndex call, End end, Now now);
  void refuse_open(CallIndex call, CallRefusal why, Refused told, Now now);
  void release_run(CallIndex run, bool stop);
  void requeue(CallIndex call, Now now);
  void lose_run(CallIndex run, Now now, Bytes why = {});
  void send_back(CallIndex run, Now now);
  void drop_run(CallIndex run);
  ReplyRow reply_row(const CallRecord& c, const End& end, Now now);
  void count_times(Deployment& d, const ReplyRow& row);
  void reply(uint32_t client, const ReplyRow& row, const Bytes& bytes);
  // call_worker.cpp: workers
  void on_capacity(Worker& w, const CapacityNews& m, Outbox& out);
  void on_offer(uint32_t worker, const Offer& m, Now now, Outbox& out);
  void offer_one(uint32_t worker, uint16_t handler, const std::string& blob, Now now, Outbox& out);
  void withdraw(uint32_t replica);
  void add_replica(uint32_t worker, uint16_t handler, HandlerOffer offer, Now now);
  void remove_replica(uint32_t replica, Now now);
  void replicas_changed(Deployment& d);
  void on_done(uint32_t worker, const Done& m, Now now);
  void on_done_row(CallIndex run, const DoneRow& row, Bytes bytes, Now now);
  void on_drain(uint32_t worker, const Drain& m, Outbox& out);
  void close_batch(BatchIndex batch, const DoneRow& row, Now now);
  void free_batch(BatchIndex batch, Now now);
  void learn(Deployment& d, const BatchRecord& b, const DoneRow& row, Now now);
  bool knows_or_has_room(const std::string& name) const;
  uint32_t make_deployment(const std::string& name, Now now);
  // call_view.cpp
  void suspect(const std::vector<std::string>& names);
  // call_dispatch.cpp
  void expire(Now now);
  void hedge(Now now);
  void dispatch(Now now);
  void collect_heads();
  bool try_launch(uint32_t deployment, uint32_t key, Now now);
  uint32_t drop_late(Deployment& d, uint32_t key, Now now);
  Time launch_at(const Deployment& d, const KeyQueue& q, uint32_t target, Duration gather) const;
  void launch(uint32_t replica, uint32_t key, uint32_t target, Now now);
  BatchIndex open_batch(uint32_t replica, uint32_t key, Now now);
  void begin_run(BatchIndex batch, size_t calls, uint64_t bytes);
  void run_call(BatchIndex batch, CallIndex call, Now now);
  void arm_hedge(CallIndex call, Now now);
  uint32_t choose(Deployment& d, KeyQueue& q, Now now);
  uint32_t best_of(const std::vector<uint32_t>& replicas) const;
  uint32_t idle_besides(const Deployment& d, uint32_t worker) const;
  bool has_room(const Replica& r) const;
  bool is_better(const Replica& a, const Replica& b) const;
  void use_model(uint32_t replica, uint32_t key);
  void forget_model(Deployment& d, uint32_t key, uint32_t replica);
  void activate(uint32_t deployment);
  // call_share.cpp
  void on_share(uint32_t worker, const Share& m);
  bool is_shared(const Replica& r) const;
  Duration gather_of(const Deployment& d) const;
  void ask(uint32_t deployment, uint32_t key, Now now);
  void want(const Replica& r, uint32_t items, Duration head);
  void decline_unused();
  // call_predict.cpp
  Time deadline_of(const CallRow& row, Now now) const;
  Time predict(Deployment& d, const CallRow& row, Now now);
  Time free_at(Deployment& d, Now now);
  Time free_at(const Replica& r, Now now) const;
  size_t lanes(const Replica& r) const;
  bool probe_due(const Deployment& d, Now now) const;
  void flush(Outbox& out);
  void settle(Now now);
  void touch_client(uint32_t client);
  void touch_worker(uint32_t worker);
  bool is_idempotent(const CallRecord& c) const;
  Doc replica_doc(const Replica& r) const;
  Doc deployment_doc(const Deployment& d) const;
  void check_clients() const;
  void check_batches() const;
  void check_deployment(const Deployment& d) const;

  CallOptions options_;
  CallTable table_;
  CallHeap<&CallRecord::timer_pos> timers_;  // open calls by deadline
  CallHeap<&CallRecord::hedge_pos> hedges_;  // running calls by the time to send a copy
  Slab<Client> clients_;
  Slab<Worker> workers_;
  Slab<Replica> replicas_;
  std::unordered_map<uint64_t, uint32_t> client_ids_;  // by session; for lookups only
  std::unordered_map<uint64_t, uint32_t> worker_ids_;
  std::vector<std::unique_ptr<Deployment>> deployments_;
  std::unordered_map<std::string, uint32_t> deployment_ids_;
  std::vector<uint32_t> active_;  // deployments with waiting calls
  std::vector<uint32_t> touched_clients_, touched_workers_;
  std::vector<Head> heads_;
  std::vector<CallIndex> scratch_;
  std::vector<uint32_t> answered_;  // replicas that gave us their device in this turn
  CallTotals totals_;
  uint64_t late_ = 0;
  uint64_t open_ = 0;  // calls that clients wait for
  uint64_t bytes_ = 0;
  uint64_t turn_ = 1;
  Time wake_at_ = kNever;  // for gather windows and waits for a model
  Time settled_at_ = kNever;  // known from the first turn on
  bool heard_offer_ = false;
  bool grants_ = false;  // clients have been granted calls
  bool dirty_ = false;  // something may be launched
  bool draining_ = false;
  bool held_call_ = false;
  std::vector<std::string> suspects_;  // names
};

}  // namespace dray
