// One run: start, chaos, settling, final checks.
#include "tests/sim/simulation.h"

namespace dray::sim {
namespace {
constexpr Duration kSettleBound = 1500s;
CrashPoint some_point(World& w) {
  static constexpr CrashPoint kPoints[] = {CrashPoint::between_turns, CrashPoint::after_now,
                                           CrashPoint::in_commit, CrashPoint::after_commit};
  return kPoints[w.below(4)];
}
}  // namespace

Simulation::Simulation(World& world, const Knobs& knobs)
    : world_(world),
      knobs_(knobs),
      net_(world, knobs.delay_max),
      oracle_(world, knobs),
      call_oracle_(world) {
  broker_ = std::make_unique<BrokerNode>(world_, net_, knobs_, oracle_);
  aggregator_ = std::make_unique<AggregatorNode>(world_, net_, oracle_, *broker_);
  nodes_ = {broker_.get(), aggregator_.get()};
  std::vector<Node*> routers;
  for (int i = 0; i < knobs_.calls.routers; ++i) {
    routers_.push_back(
        std::make_unique<RouterNode>(world_, net_, knobs_, *broker_, *aggregator_, i));
    routers.push_back(routers_.back().get());
    nodes_.push_back(routers_.back().get());
  }
  for (int i = 0; i < knobs_.workers; ++i) {
    workers_.push_back(std::make_unique<WorkerNode>(world_, net_, knobs_, oracle_, executions_,
                                                    call_oracle_, *broker_, routers, i));
    nodes_.push_back(workers_.back().get());
  }
  for (int i = 0; i < knobs_.clients; ++i) {
    uint64_t share = knobs_.tasks / static_cast<uint64_t>(knobs_.clients) + 1;
    clients_.push_back(std::make_unique<ClientNode>(world_, net_, knobs_, oracle_, call_oracle_,
                                                    routers, i, share));
    nodes_.push_back(clients_.back().get());
  }
}

void Simulation::run() {
  start_all();
  plan_faults();
  world_.run_until(knobs_.chaos);
  calm_down();
  settle();
  check_final();
}

void Simulation::start_all() {
  broker_->set_wall_skew(-to_ms(knobs_.clock_late));
  for (Node* n : nodes_) {
    Node* node = n;
    world_.after(world_.skewed(1s), [node] { node->start(); });
  }
  for (auto& c : clients_) {
    ClientNode* client = c.get();
    uint64_t acts = 3 + 2 * knobs_.tasks / knobs_.batch_max / knobs_.clients;
    acts = std::min<uint64_t>(acts, 200);
    for (uint64_t i = 0; i < acts; ++i)
      world_.after(world_.up_to(knobs_.chaos), [client] { client->act(); });
  }
  plan_calls();
  watch_calls();
}

// Half of them in a third of the time, so that something waits.
void Simulation::plan_calls() {
  if (knobs_.calls.calls == 0) return;
  const uint64_t acts = 2 + 3 * knobs_.calls.calls / (knobs_.calls.burst_max + 2);
  const Duration busy = world_.up_to(knobs_.chaos * 2 / 3);
  for (uint64_t i = 0; i < acts; ++i) {
    ClientNode* client = clients_[world_.below(clients_.size())].get();
    const Duration at =
        world_.one_in(2) ? world_.up_to(knobs_.chaos) : busy + world_.up_to(knobs_.chaos / 3);
    world_.after(at, [client] { client->call_some(); });
  }
}

void Simulation::watch_calls() {
  call_oracle_.check_running();
  call_oracle_.check_open();
  world_.after(500ms, [this] { watch_calls(); });
}

// --- faults --------------------------------------------------------------------------------------

template <class F>
void Simulation::repeat(Duration mean, F fault) {
  if (mean == Duration{0}) return;
  for (Duration at = world_.up_to(2 * mean); at < knobs_.chaos; at += world_.up_to(2 * mean) + 1ms)
    world_.at(at, [this, fault] { (this->*fault)(); });
}

void Simulation::plan_faults() {
  repeat(knobs_.crash_broker, &Simulation::crash_broker);
  repeat(knobs_.crash_worker, &Simulation::crash_worker);
  repeat(knobs_.crash_service, &Simulation::crash_service);
  repeat(knobs_.pause, &Simulation::pause_some);
  repeat(knobs_.reset, &Simulation::reset_some);
  repeat(knobs_.hole, &Simulation::hole_some);
  repeat(knobs_.partition, &Simulation::partition_some);
  repeat(knobs_.wall_jump, &Simulation::jump_wall);
  repeat(knobs_.disk_full, &Simulation::fill_disk);
  repeat(knobs_.store_fault, &Simulation::store_fault);
  repeat(knobs_.retire, knobs_.calls.graceful ? &Simulation::leave_one : &Simulation::retire_some);
  repeat(knobs_.suspend, &Simulation::suspend_all);
  repeat(knobs_.lose_gpu, &Simulation::lose_gpu);
  if (knobs_.wall_jump != Duration{0} && world_.one_in(2)) jump_wall();
  net_.set_repeat(knobs_.repeat_percent);
  if (knobs_.crash_client != Duration{0})
    for (auto& c : clients_) {
      ClientNode* client = c.get();
      world_.at(world_.up_to(2 * knobs_.crash_client), [client] { client->die(); });
    }
}

Node& Simulation::any_node() { return *nodes_[world_.below(nodes_.size())]; }

// A network fault at a worker's connection: it may be out of reach for so long.
void Simulation::hit_workers(Duration until) {
  for (Node* n : net_.take_hit())
    for (auto& w : workers_)
      if (n == w.get()) w->out_of_reach(until);
}

// One after the other, as in an update.
void Simulation::leave_one() {
  if (world_.now() < next_leave_) return;
  for (Node* n : nodes_)
    if (!n->alive() || n->leaving() || world_.now() < n->born() + 5s) return;
  const size_t i = world_.below(workers_.size() + routers_.size());
  Node* node = i < workers_.size() ? static_cast<Node*>(workers_[i].get())
                                   : routers_[i - workers_.size()].get();
  next_leave_ = world_.now() + 100ms;
  // Work is on its way when it happens.
  for (auto& c : clients_)
    for (int n = 0; n < 10; ++n)
      world_.after(world_.up_to(60ms), [client = c.get()] {
        client->call_some();
        client->act();
      });
  world_.after(world_.up_to(40ms), [node] { node->retire(); });
  world_.reach(i < workers_.size() ? "workers leave in peace" : "routers leave in peace");
}

void Simulation::crash_broker() {
  if (world_.one_in(4)) broker_->keep_down_until(world_.now() + world_.up_to(15s));
  broker_->plan_crash(some_point(world_));
  world_.reach("broker crashes");
}

void Simulation::crash_worker() {
  auto& w = *workers_[world_.below(workers_.size())];
  if (world_.one_in(4)) w.keep_down_until(world_.now() + world_.up_to(15s));
  w.plan_crash(world_.one_in(2) ? CrashPoint::between_turns : CrashPoint::after_now);
  world_.reach("worker crashes");
}

void Simulation::crash_service() {
  Node* n = world_.one_in(2) ? static_cast<Node*>(aggregator_.get()) : &some_router();
  if (world_.one_in(4)) n->keep_down_until(world_.now() + world_.up_to(10s));
  n->plan_crash(some_point(world_));
  world_.reach("service crashes");
}

void Simulation::pause_some() {
  Node& n = any_node();
  Duration until = world_.now() + world_.up_to(3 * knobs_.lease_ttl);
  for (auto& w : workers_)
    if (w.get() == &n) w->out_of_reach(until + 2s);
  world_.reach("pauses");
  if (&n != broker_.get()) return n.pause_until(until);
  if (world_.one_in(2)) return pause_broker(until);
  // Stopped while it waits for its workers to come back: that time is not theirs.
  const Duration length = until - world_.now();
  broker_->plan_crash(CrashPoint::between_turns);
  world_.after(world_.up_to(3s), [this, length] { pause_broker(world_.now() + length); });
}

// Who was out of reach learns about it only afterwards.
void Simulation::pause_broker(Duration until) {
  broker_->pause_until(until);
  for (auto& w : workers_)
    if (w->trouble_end() + 5s > world_.now()) w->out_of_reach(until + 5s);
}

void Simulation::reset_some() {
  if (!net_.break_some(world_.one_in(2) ? broker_.get() : nullptr)) return;
  hit_workers(world_.now() + 2s);
  world_.reach("resets");
}

void Simulation::hole_some() {
  uint64_t kind = world_.below(3);
  if (!net_.hole_some(world_.one_in(2) ? broker_.get() : nullptr, kind != 1, kind != 0)) return;
  for (Node* n : net_.take_hit())
    for (auto& w : workers_)
      if (n == w.get()) follow_hole(*w);
  world_.reach("holes");
}

// A hole lasts until the connection is replaced, which may take long when an end is stopped.
void Simulation::follow_hole(WorkerNode& w) {
  if (!net_.has_hole(w, *broker_)) return;
  w.out_of_reach(world_.now() + knobs_.lease_ttl + 5s);
  world_.after(1s, [this, &w] { follow_hole(w); });
}

void Simulation::partition_some() {
  Duration until = world_.now() + world_.up_to(2 * knobs_.lease_ttl);
  bool up = !world_.one_in(3), down = !world_.one_in(3);
  if (!up && !down) up = true;
  switch (world_.below(4)) {
    case 0:
      net_.partition(*aggregator_, *broker_, up, down, until);
      break;
    case 1:
      net_.partition(some_router(), world_.one_in(2) ? static_cast<Node&>(*broker_) : *aggregator_,
                     up, down, until);
      break;
    case 2:
      net_.partition(*clients_[world_.below(clients_.size())], some_router(), up, down, until);
      break;
    default: {
      auto& w = *workers_[world_.below(workers_.size())];
      if (world_.one_in(2)) {
        net_.partition(w, some_router(), up, down, until);
        break;
      }
      net_.partition(w, *broker_, up, down, until);
      w.out_of_reach(until + 5s);
    }
  }
  world_.reach("partitions");
}

void Simulation::jump_wall() {
  static constexpr Duration kFar[] = {5s, 40s, 40s, 100s};
  Duration far = kFar[world_.below(4)];
  int64_t ms = to_ms(world_.up_to(2 * far)) - to_ms(far);
  broker_->set_wall_skew(ms);
  world_.trace("broker", "wall clock jumps to " + std::to_string(ms) + " ms");
  world_.reach("wall clock jumps");
}

void Simulation::fill_disk() {
  broker_->fill_disk(true);
  if (world_.one_in(3)) broker_->plan_crash(CrashPoint::after_commit);
  world_.after(world_.up_to(5s), [this] { broker_->fill_disk(false); });
  world_.reach("journal disk full");
}

void Simulation::store_fault() {
  static constexpr CommitFault kFaults[] = {CommitFault::io_lost, CommitFault::io_applied,
                                            CommitFault::no_space};
  aggregator_->fail_next_commit(kFaults[world_.below(3)]);
}

void Simulation::retire_some() {
  any_node().retire();
  world_.disturb(world_.now() + 25s);
  world_.reach("SIGTERM");
}

void Simulation::lose_gpu() { workers_[world_.below(workers_.size())]->lose_gpu(); }

// Nobody is dead when everybody slept.
void Simulation::suspend_all() {
  Duration until = world_.now() + world_.up_to(3 * knobs_.lease_ttl);
  for (Node* n : nodes_) n->pause_until(until + world_.skewed(300ms));
  pause_broker(until);
  world_.reach("machine suspended");
}

// --- settling ------------------------------------------------------------------------------------

void Simulation::calm_down() {
  world_.trace("sim", "---- no more faults ----");
  net_.heal();
  net_.set_repeat(0);
  net_.set_delay(std::min<Duration>(knobs_.delay_max, 20ms));
  broker_->set_wall_skew(0);
  broker_->fill_disk(false);
  aggregator_->fail_next_commit(CommitFault::none);
  for (Node* n : nodes_) n->set_stable(true);
  for (auto& w : workers_) w->mend_gpus();
}

bool Simulation::settled() {
  for (Node* n : nodes_)
    if (!n->alive() || n->paused()) return false;
  for (auto& c : clients_)
    if (!c->settled()) return false;
  for (auto& w : workers_)
    if (!w->idle() || !w->executions().empty()) return false;
  for (auto& r : routers_)
    if (!r->idle()) return false;
  const broker::Ledger& ledger = broker_->core().ledger();
  return ledger.live_tasks() == 0 && ledger.unacked().empty();
}

std::string Simulation::why_unsettled() {
  std::string s = "live tasks " + std::to_string(oracle_.live());
  if (broker_->alive()) {
    s += ", broker " + to_json(broker_->core().status(broker_->clock()));
    for (const auto& [id, t] : oracle_.tasks())
      if (!is_terminal(t.state)) {
        s += ", for example " + to_hex(id) + " " + std::string(state_name(t.state));
        break;
      }
  }
  for (auto& c : clients_)
    if (!c->settled()) s += "; " + c->unsettled();
  for (auto& w : workers_)
    if (w->alive() && !w->idle())
      s += "; " + w->name() + " " + to_json(w->core().to_doc(w->clock()));
  for (auto& r : routers_)
    if (r->alive() && !r->idle())
      s += "; " + r->name() + " " + to_json(r->core().lane().deployments_doc());
  return s;
}

void Simulation::settle() {
  Duration end = world_.now() + kSettleBound;
  int calm = 0;
  for (int i = 0; world_.now() < end; ++i) {
    if (i % 20 == 0) clients_[0]->calm(false);
    world_.run_until(world_.now() + 500ms);
    calm = settled() ? calm + 1 : 0;
    if (calm >= 5) return;
  }
  violate("I7", "does not settle: " + why_unsettled());
}

void Simulation::check_final() {
  broker_->check_now();
  aggregator_->check_complete();
  for (auto& c : clients_) c->check_final();
  for (const auto& [id, t] : oracle_.tasks())
    if (!is_terminal(t.state)) violate("I7", "task " + to_hex(id) + " never ended");
  // A worker says its credit with each beat, so what is short now may be a beat old: look again.
  std::string shortfall = short_credit();
  for (int i = 0; i < 4 && !shortfall.empty(); ++i) {
    world_.run_until(world_.now() + 1500ms);
    shortfall = short_credit();
  }
  if (!shortfall.empty()) violate("I7", "credit did not come back: " + shortfall);
  if (knobs_.calls.crowded) check_crowded();
  check_calls();
}

// Whoever could not be served in time was told so at the door. Only the first ones were let in
// before anything was known about the cost.
void Simulation::check_crowded() {
  uint64_t taken = 0, late = 0;
  for (auto& r : routers_) {
    const CallTotals& t = r->core().lane().totals();
    auto ends = [&t](CallEnd end) { return t.ends[static_cast<size_t>(end)]; };
    const uint64_t dropped = t.refused[static_cast<size_t>(CallRefusal::too_late)];
    late += dropped + ends(CallEnd::expired) + ends(CallEnd::unknown);
    taken += ends(CallEnd::reply) + late;
    if (t.refused[static_cast<size_t>(CallRefusal::infeasible)] > 0)
      world_.reach("crowds sent away at the door");
  }
  if (world_.verbose())
    world_.trace("sim", std::to_string(late) + " late of " + std::to_string(taken));
  if (late > 2 * knobs_.calls.burst_max + taken / 10)
    violate("P5", std::to_string(late) + " of " + std::to_string(taken) +
                      " calls were let in and not done in time");
}

// Everything is at rest: each handler answers each client, and all credit is back.
void Simulation::check_calls() {
  if (!call_oracle_.open().empty()) violate("P5", "a call is still open at rest");
  world_.run_until(std::max(world_.now(), world_.disturbed_until()));  // holes are found out late
  clients_[0]->calm(false);  // somebody's late wish to drain may have come last
  // The listener's end of a hole is noticed after 5 s of silence, the dialer's 3 s after that: what
  // is sent into it until then is lost, and rightly unknown.
  world_.run_until(world_.now() + 10s);
  for (int round = 0; round < 2 * knobs_.calls.routers; ++round)
    for (size_t handler = 0; handler < knobs_.calls.handlers.size(); ++handler)
      for (auto& c : clients_) {
        c->probe(handler);
        Duration step = 10ms;
        do {
          world_.run_until(world_.now() + step);
          step = std::min<Duration>(2 * step, 5s);
        } while (!c->settled());
      }
  world_.run_until(world_.now() + 1s);
  for (auto& r : routers_) {
    const CallLane& lane = r->core().lane();
    if (lane.workers() != workers_.size()) violate("P5", r->name() + " has lost a worker");
    for (auto& w : workers_)
      if (w->core().calls().routers() != routers_.size())
        violate("P5", w->name() + " has lost a router");
    lane.check();
  }
}

// Exact equality at rest: of each "free/all" both are the same.
std::string Simulation::still_taken(const Doc& worker) {
  for (const auto& [name, amounts] : worker["resources"].object()) {
    const std::string text(amounts.as_text());
    const size_t slash = text.find('/');
    if (text.substr(0, slash) != text.substr(slash + 1)) return name + " is " + text;
  }
  for (auto& w : workers_)
    if (w->core().tasks().node().grants() != 0) return w->name() + " has grants";
  return {};
}

std::string Simulation::short_credit() {
  clients_[0]->ask_workers();
  for (int i = 0; i < 40 && !clients_[0]->workers(); ++i) world_.run_until(world_.now() + 250ms);
  if (!clients_[0]->workers()) violate("I7", "the broker does not answer `workers`");
  for (const Doc& d : clients_[0]->workers()->list()) {
    if (d["leases"].as_int() != 0) violate("I7", "a worker still has leases");
    if (const std::string taken = still_taken(d); !taken.empty()) return taken;
    for (auto& w : workers_)
      if (w->name() == d["name"].as_text() && d["state"].as_text() == "up" &&
          d["credit"].as_int() < static_cast<int64_t>(w->core().tasks().target(w->clock())))
        return w->name() + " " + to_json(d);
  }
  return {};
}

RunResult run_seed(uint64_t seed, bool verbose) {
  World world(seed, verbose);
  RunResult result;
  try {
    Knobs knobs = choose_knobs(world);
    Simulation simulation(world, knobs);
    try {
      simulation.run();
    } catch (const Violation& v) {
      result.violation = v;
    }
  } catch (const std::exception& e) {
    result.violation = Violation{"exception", e.what()};
  }
  result.reached = world.reached();
  result.hash = world.hash();
  result.simulated = world.now();
  result.events = world.events_run();
  return result;
}

}  // namespace dray::sim
