// Broker, aggregator and router of a simulation: how they start, fail and are looked at.
#include "tests/sim/services.h"

namespace dray::sim {

// --- journal -------------------------------------------------------------------------------------

Status SpyJournal::replay(const std::function<Status(const ReplayedRecord&)>& each) {
  oracle_.begin_replay();
  DRAY_TRY(inner_.replay([&](const ReplayedRecord& r) -> Status {
    oracle_.replayed(r);
    return each(r);
  }));
  oracle_.recovered();
  return {};
}

Status SpyJournal::append(const JournalRecord& record) {
  DRAY_TRY(inner_.append(record));
  oracle_.appended(record, wall_ms_);
  return {};
}

Status SpyJournal::commit() {
  DRAY_TRY(inner_.commit());
  oracle_.committed();
  return {};
}

// --- broker --------------------------------------------------------------------------------------

BrokerNode::BrokerNode(World& world, Net& net, const Knobs& knobs, Oracle& oracle)
    : CoreNode(world, net, "broker"), knobs_(knobs), oracle_(oracle) {
  disk_->set_segment_records(knobs.segment_records);
}

broker::BrokerOptions BrokerNode::options() const {
  broker::BrokerOptions o;
  o.tasks_max = knobs_.tasks_max;
  o.journal_budget = knobs_.journal_budget;
  o.journal_keep = knobs_.journal_keep;
  o.known_ids_max = knobs_.known_ids_max;
  o.dead_letters_max = knobs_.dead_letters_max;
  o.lease_ttl = knobs_.lease_ttl;
  o.resume_window = knobs_.resume_window;
  o.seed = 7;
  return o;
}

void BrokerNode::boot() {
  oracle_.see_wall(wall_ms());
  journal_ = std::make_unique<SpyJournal>(disk_, oracle_);
  core_ = std::make_unique<broker::Broker>(options());
  durable_ = std::make_unique<broker::JournalDurable>(*journal_);
  Status recovered = durable_->recover(*core_, clock());
  if (!recovered) violate("recover", recovered.error().detail);
  oracle_.check_ledger(*core_);
  seen_ = {};
  if (core_->epoch() > 1) world_.reach("broker restarts");
  if (oracle_.live() > 0 && core_->epoch() > 1) world_.reach("restarts with live tasks");
  if (!stable_ && core_->epoch() > 1 && world_.one_in(8)) {
    world_.reach("crashes during recovery");
    throw CrashSignal{};
  }
  LinkOptions link{Role::broker,     name_,           make_boot(), core_->epoch(), 1s,
                   knobs_.lease_ttl, kPayloadBytesMax};
  links_ = std::make_unique<Links>(link);
  links_->listen(0);
  make_turn();
}

void BrokerNode::clear() {
  CoreNode::clear();
  journal_.reset();
}

void BrokerNode::on_died() {
  disk_->fail_next_commits(0);
  disk_->fail_next_commits_applied(0);
  disk_->crash(world_.rng());
  oracle_.broker_died();
}

void BrokerNode::fill_disk(bool full) {
  full_ = full;
  disk_->set_capacity_bytes(full ? disk_->bytes_used() + world_.below(3000) : 0);
  trace(full ? "disk is nearly full" : "disk has space again");
}

void BrokerNode::before_turn(Now now, Out&) {
  oracle_.see_wall(now.wall_ms);
  JournalHealth h = journal_->health();
  core_->set_space_low(!h.writable || h.bytes_free < 1000);
}

void BrokerNode::on_effects(Now now, Out& out) {
  journal_->set_wall(now.wall_ms);
  committed_ = !out.journal.empty();
  if (out.release_before) world_.reach("journal space released");
}

void BrokerNode::arm_commit_fault(CrashPoint point) {
  if (point == CrashPoint::in_commit)
    disk_->fail_next_commits(1);
  else
    disk_->fail_next_commits_applied(1);
}

void BrokerNode::disarm_commit_fault() {
  disk_->fail_next_commits(0);
  disk_->fail_next_commits_applied(0);
}

void BrokerNode::after_turn(Now) {
  const broker::BrokerCounters& c = core_->counters();
  if (c.rejected > seen_.rejected) world_.reach("submits rejected", c.rejected - seen_.rejected);
  if (c.stale > seen_.stale) world_.reach("stale results", c.stale - seen_.stale);
  seen_ = c;
  if (committed_) busy_until_ = world_.now() + 50us + world_.skewed(knobs_.sync_max);
  if (core_->ledger().live_tasks() != oracle_.live())
    violate("I6", "live tasks in memory and in the journal differ");
  if (core_->ledger().known().size() > knobs_.known_ids_max + 20'000)
    violate("I8", "more known ids than known_ids_max");
  if (world_.one_in(64)) check_now();
}

void BrokerNode::on_note(const Note& note) {
  std::string_view event = note.event;
  if (event == "worker_attached" && note.fields.find("leases=0") == std::string::npos)
    world_.reach("workers resume with leases");
  if (event == "bad_message") violate("wire", name_ + " got a bad message: " + note.fields);
}

void BrokerNode::check_now() {
  oracle_.check_ledger(*core_);
  check_replay();
}

// A copy of the disk, replayed twice, gives the state that is in memory.
void BrokerNode::check_replay() {
  uint64_t digest[2];
  for (uint64_t& d : digest) {
    MemoryJournal journal(std::make_shared<MemoryDisk>(*disk_));
    broker::Broker copy(options());
    Status ok = broker::JournalDurable(journal).recover(copy, clock());
    if (!ok) violate("I10", "replay fails: " + ok.error().detail);
    d = copy.ledger().digest();
  }
  if (digest[0] != digest[1]) violate("I10", "two replays differ");
  if (digest[0] != core_->ledger().digest()) violate("I10", "replay differs from memory");
  world_.reach("replays compared");
}

// --- aggregator ----------------------------------------------------------------------------------

void AggregatorNode::boot() {
  store_ = std::make_unique<MemoryResultStore>(disk_);
  auto epoch = store_->acquire();
  if (!epoch) violate("recover", epoch.error().detail);
  core_ = std::make_unique<Aggregator>(*store_);
  Status started = core_->start();
  if (!started) violate("recover", started.error().detail);
  durable_ = std::make_unique<StoreDurable>(*core_, *store_);
  seen_ = {};
  links_ = std::make_unique<Links>(LinkOptions{Role::aggregator, name_, make_boot(), 0, 1s, 5s});
  links_->listen(Aggregator::kRouters);
  links_->dial(Aggregator::kBroker, Role::broker);
  net_.dial(*this, Aggregator::kBroker, broker_, 0);
  make_turn();
}

void AggregatorNode::clear() {
  CoreNode::clear();
  store_.reset();
}

void AggregatorNode::on_died() {
  faulty_ = false;
  disk_->fail_next_commit(CommitFault::none);
  disk_->crash();
}

void AggregatorNode::fail_next_commit(CommitFault fault) {
  faulty_ = fault != CommitFault::none;
  disk_->fail_next_commit(fault);
}

void AggregatorNode::arm_commit_fault(CrashPoint point) {
  disk_->fail_next_commit(point == CrashPoint::in_commit ? CommitFault::io_lost
                                                         : CommitFault::io_applied);
}

void AggregatorNode::on_send(const Packet& packet) {
  auto e = decode_envelope(packet.frames);
  if (!e || (e->kind != Kind::finished_ack && e->kind != Kind::ready)) return;
  auto in = decode(packet.frames);
  if (!in) violate("wire", "the aggregator sends what can not be read");
  if (auto* ack = std::get_if<FinishedAck>(&in->message))
    if (ack->upto > disk_->stream_pos().pos)
      violate("I9", "the aggregator confirms what it has not stored");
  auto* ready = std::get_if<Ready>(&in->message);
  if (!ready) return;
  std::vector<TaskId> ids;
  for (size_t i = 0; i < ready->rows.size(); ++i)
    if (is_terminal(static_cast<TaskState>(ready->rows[i].status)))
      ids.push_back(ready->rows[i].id);
  auto stored = store_->get(ids, wall_ms());
  if (!stored) violate("error", stored.error().detail);
  for (size_t i = 0; i < ids.size(); ++i)
    if (!(*stored)[i]) violate("I9", "the aggregator tells a result that it has not stored");
}

void AggregatorNode::after_turn(Now) {
  core_->check();
  const AggregatorCounters& c = core_->counters();
  if (c.duplicates > seen_.duplicates) world_.reach("stream records repeated");
  if (c.stalls > seen_.stalls) world_.reach("result store full");
  if (c.holes > seen_.holes) world_.reach("stream holes");
  seen_ = c;
}

void AggregatorNode::check_complete() {
  std::vector<TaskId> ids;
  for (const auto& [id, t] : oracle_.tasks()) ids.push_back(id);
  auto stored = store_->get(ids, wall_ms());
  if (!stored) violate("error", stored.error().detail);
  for (size_t i = 0; i < ids.size(); ++i) {
    const TaskTruth& t = *oracle_.find(ids[i]);
    if (!is_terminal(t.state)) continue;
    if (!(*stored)[i]) violate("I1", "task " + to_hex(ids[i]) + " has no stored result");
    if (static_cast<TaskState>((*stored)[i]->state) != t.state || (*stored)[i]->token != t.token)
      violate("I2", "task " + to_hex(ids[i]) + ": the stored end is another one");
  }
}

// --- router --------------------------------------------------------------------------------------

void RouterNode::boot() {
  RouterOptions o;
  o.client_credit = knobs_.router_credit;
  o.calls = knobs_.calls.limits;
  o.calls.settle = 1s;
  core_ = std::make_unique<Router>(o);
  calls_seen_ = {};
  queued_max_.clear();
  durable_ = std::make_unique<NoDurable>();
  watch_lost_seen_ = 0;
  links_ = std::make_unique<Links>(LinkOptions{Role::router, name_, make_boot(), 0, 1s, 5s});
  links_->listen(Router::kClients);
  links_->listen(Router::kWorkers);
  links_->dial(Router::kBroker, Role::broker);
  links_->dial(Router::kAggregator, Role::aggregator);
  net_.dial(*this, Router::kBroker, broker_, 0);
  net_.dial(*this, Router::kAggregator, aggregator_, Aggregator::kRouters);
  make_turn();
}

void RouterNode::on_died() {
  if (!left_ && core_ && core_->lane().open_calls() > 0) world_.reach("routers lost with calls");
}

void RouterNode::begin_drain() {
  open_when_leaving_ = core_->lane().open_calls();
  if (open_when_leaving_ > 0) world_.reach("routers leave with calls");
  CoreNode::begin_drain();
}

void RouterNode::after_turn(Now) {
  core_->check();
  if (world_.one_in(8)) core_->lane().check();
  check_bounds();
  if (leaving() && core_->lane().open_calls() > open_when_leaving_)
    violate("P5", name_ + " takes a new call while it leaves");
  open_when_leaving_ = core_->lane().open_calls();
  count_calls();
  const RouterCounters& c = core_->counters();
  if (c.watch_lost > watch_lost_seen_) world_.reach("watches lost");
  watch_lost_seen_ = c.watch_lost;
}

bool RouterNode::idle() const {
  const CallLane& lane = core_->lane();
  return alive() && core_->inflight() == 0 && lane.open_calls() == 0 && lane.bytes() == 0 &&
         lane.credit_used() == 0;
}

// Calls that come back from a worker may wait beyond max_queued: they were admitted before.
void RouterNode::check_bounds() {
  const CallLane& lane = core_->lane();
  if (lane.bytes() > knobs_.calls.limits.call_bytes)
    violate("I8", name_ + " keeps more payload bytes of calls than call_bytes");
  queued_max_.resize(lane.deployments().size());
  for (size_t i = 0; i < queued_max_.size(); ++i) {
    const Deployment& d = *lane.deployments()[i];
    const uint64_t back = d.totals.returns + d.totals.retries;
    if (d.queued <= knobs_.calls.limits.max_queued) queued_max_[i] = back;
    if (d.queued > knobs_.calls.limits.max_queued + back - queued_max_[i])
      violate("I8", name_ + ": more calls wait than max_queued");
    check_budgets(d);
    look_at_models(d);
  }
}

// Retries are 10 % of the calls that were let in and ten more, hedges 2 % and two.
void RouterNode::check_budgets(const Deployment& d) {
  uint64_t taken = core_->lane().open_calls();
  for (size_t i = 1; i < kCallEnds; ++i) taken += d.totals.ends[i];
  for (CallRefusal why :
       {CallRefusal::no_replica, CallRefusal::client_bytes, CallRefusal::call_bytes,
        CallRefusal::max_queued, CallRefusal::infeasible, CallRefusal::draining})
    taken -= d.totals.refused[static_cast<size_t>(why)];
  if (10 * d.totals.retries > taken + 100)
    violate("P5", name_ + " retries more than 10 % of the calls");
  if (50 * d.totals.hedges > taken + 100)
    violate("P5", name_ + " hedges more than 2 % of the calls");
  if (10 * (d.totals.retries + 1) > taken + 100) world_.reach("retry budget used up");
  if (50 * (d.totals.hedges + 1) > taken + 100) world_.reach("hedge budget used up");
}

void RouterNode::look_at_models(const Deployment& d) {
  for (uint32_t key : d.waiting) {
    const KeyQueue& q = d.keys[key];
    if (q.blocked_since == kNever) continue;
    world_.reach(q.loading == kNoSlot ? "calls wait for a replica with their model"
                                      : "calls wait for a model that is being loaded");
  }
}

void RouterNode::count_calls() {
  const CallTotals& t = core_->lane().totals();
  auto reach = [this](const char* what, uint64_t now, uint64_t before) {
    if (now > before) world_.reach(what, now - before);
  };
  const auto replies = static_cast<size_t>(CallEnd::reply);
  if (name_ != "router")
    reach("calls of a second router", t.ends[replies], calls_seen_.ends[replies]);
  reach("calls retried", t.retries, calls_seen_.retries);
  reach("calls sent back unstarted", t.returns, calls_seen_.returns);
  reach("calls hedged", t.hedges, calls_seen_.hedges);
  reach("hedges that won", t.hedges_won, calls_seen_.hedges_won);
  reach("calls stopped", t.stops, calls_seen_.stops);
  for (size_t i = 0; i < kCallRefusals; ++i)
    if (t.refused[i] > calls_seen_.refused[i])
      world_.reach((std::string("calls refused: ") + call_refusal_name(static_cast<CallRefusal>(i)))
                       .c_str());
  calls_seen_ = t;
}

}  // namespace dray::sim
