// The worker process of a simulation and its executors.
#include "tests/sim/worker_node.h"

#include <set>

#include "broker/core/fingerprint.h"

namespace dray::sim {
namespace {
uint64_t dice(TaskId id, Token token, uint64_t salt) {
  return mix64(id.hi ^ mix64(id.lo ^ mix64(token.epoch * 911 + token.seq) ^ salt));
}
}  // namespace

WorkerNode::WorkerNode(World& world, Net& net, const Knobs& knobs, Oracle& oracle, Executions& all,
                       CallOracle& calls, Node& broker, std::vector<Node*> routers, int index)
    : CoreNode(world, net, "worker" + std::to_string(index)),
      knobs_(knobs),
      oracle_(oracle),
      all_(all),
      broker_(broker),
      routers_(std::move(routers)),
      index_(index),
      slots_(1 + static_cast<uint32_t>(world.below(knobs.slots_max))),
      call_slots_(1 + static_cast<uint32_t>(world.below(knobs.calls.slots_max))),
      offers_(choose_offers()),
      processes_(world, *this, knobs.crash_process),
      call_threads_(world, calls, knobs.calls, *this, call_slots_),
      gpus_(name_, knobs.gpus_max == 0 ? 0
                   : index == 0        ? 1 + world.below(knobs.gpus_max)
                                       : world.below(knobs.gpus_max + 1)) {
  call_threads_.set_processes(&processes_);
}

// Not all workers offer everything, nor on the same terms.
std::vector<HandlerOffer> WorkerNode::choose_offers() const {
  std::vector<HandlerOffer> offers;
  for (uint64_t i = 0; i < knobs_.handler_kinds; ++i) {
    offers.emplace_back();
    offers.back().name = "h" + std::to_string(i);
  }
  for (const CallHandler& h : knobs_.calls.handlers) {
    if (index_ > 0 && !knobs_.calls.graceful && !knobs_.calls.crowded && world_.one_in(4)) continue;
    offers.push_back(h.offer);
    HandlerOffer& o = offers.back();
    if (knobs_.calls.graceful || knobs_.calls.crowded || !world_.one_in(3)) continue;
    o.max_ongoing = static_cast<uint32_t>(world_.below(3));
    o.max_batch_size = 1 + static_cast<uint32_t>(world_.below(o.max_batch_size));
  }
  return offers;
}

void WorkerNode::boot() {
  worker::AgentOptions o;
  o.slots = slots_;
  o.prefetch_max = knobs_.prefetch_max;
  std::vector<worker::ReplicaHandler> handlers;
  for (const HandlerOffer& offer : offers_) {
    const bool shared = knobs_.shared > 0 && offer.name == knobs_.calls.handlers[0].offer.name;
    handlers.push_back({offer, shared ? knobs_.shared : 0, true});
  }
  const size_t own = processes_.boot(handlers);
  for (size_t i = 0; i < own; ++i) {
    o.handlers.push_back(handlers[i].offer.name);
    o.handler_limits.push_back(handlers[i].max_concurrency);
    o.offers.push_back(handlers[i].offer);
  }
  worker::ReplicaOptions replicas;
  replicas.fixed = processes_.fixed();
  replicas.handlers = o.handlers;
  o.call_slots = call_slots_;
  if (index_ == 0) o.labels = {"first"};
  o.resources = {{"cpu", uint64_t{slots_} * 10'000}};
  o.devices = gpus_.boot();
  o.drain_timeout = 5s;
  core_ = std::make_unique<worker::WorkerCore>(o, replicas);
  durable_ = std::make_unique<NoDurable>();
  links_ = std::make_unique<Links>(LinkOptions{Role::worker, name_, make_boot(), 0, 1s, 5s});
  links_->dial(0, Role::broker);
  net_.dial(*this, worker::WorkerCore::kBroker, broker_, 0);
  for (size_t i = 0; i < routers_.size(); ++i) {
    const Port port = worker::WorkerCore::kFirstRouter + static_cast<Port>(i);
    links_->dial(port, Role::router);
    net_.dial(*this, port, *routers_[i], Router::kWorkers);
  }
  seen_ = {};
  calls_seen_ = {};
  shares_seen_ = {};
  make_turn();
}

void WorkerNode::on_died() {
  for (auto& [token, e] : executions_) {
    if (!e.running) continue;
    auto& list = all_.running[e.task.id];
    std::erase(list, std::pair(this, token));
    world_.reach("executions lost with their process");
  }
  executions_.clear();
  for (auto& [id, done] : done_) all_.done.erase(id);
  done_.clear();
  waiting_.clear();
  outcomes_.clear();
  busy_ = 0;
  call_threads_.died();
}

void WorkerNode::begin_drain() {
  if (core_->calls().held() > 0) world_.reach("workers leave with calls");
  CoreNode::begin_drain();
}

bool WorkerNode::idle() const {
  const worker::Agent& tasks = core_->tasks();
  return alive() && core_->replicas().fixed_ready() &&
         tasks.queued() + tasks.running() + tasks.unacked() == 0 && core_->calls().held() == 0 &&
         call_threads_.idle();
}

void WorkerNode::out_of_reach(Duration until) {
  note_trouble(until);
  if (trouble_end() - trouble_begin() < knobs_.lease_ttl * 6 / 10) return;
  for (auto& [token, e] : executions_) e.excused = true;
  for (auto& [id, done] : done_) done.second = true;
  reach_from_ = trouble_end();
}

Duration WorkerNode::time_of(const worker::Start& t) const {
  uint64_t d = dice(t.id, {}, 1);
  if (d % 100 < knobs_.long_tasks) return knobs_.lease_ttl * (1 + d / 100 % 20);
  uint64_t us = static_cast<uint64_t>(knobs_.task_time.count()) / 1000;
  uint64_t spread = dice(t.id, t.token, 2);
  uint64_t most = spread % 16 == 0 ? us * 10 : us;
  return std::chrono::microseconds(1 + spread / 16 % most);
}

void WorkerNode::lose_gpu() {
  if (gpus_.empty()) return;
  const size_t i = world_.below(gpus_.size());
  if (!gpus_.lose(i)) return;
  world_.reach("GPUs lost");
  wake(world_.now());
  world_.after(world_.up_to(10s), [this, i] {
    gpus_.mend(i);
    wake(world_.now());
  });
}

void WorkerNode::mend_gpus() {
  for (size_t i = 0; i < gpus_.size(); ++i) gpus_.mend(i);
  wake(world_.now());
}

void WorkerNode::before_turn(Now now, Out& out) {
  processes_.tell(*core_, now, out);
  call_threads_.tell(*core_, now, out);
  if (gpus_.has_news()) core_->set_devices(gpus_.tell(), true, now, out);
  if (outcomes_.empty()) return;
  core_->tasks().on_outcomes(std::exchange(outcomes_, {}), now, out);
}

void WorkerNode::on_effects(Now now, Out& out) {
  lose_runs(processes_.take(out));
  call_threads_.take(now, out);
  if (out.recall) {
    for (Token token : std::exchange(waiting_, {}))
      end(token, Verdict::fail, Errc::cancelled, {}, false);
    world_.reach("recalls");
  }
  // Here tasks that run together end each in their own time.
  std::vector<std::pair<worker::Start, uint64_t>> starts;
  for (worker::Start& s : out.start) {
    ++pieces_;
    std::vector<worker::Start> more = std::exchange(s.more, {});
    if (!more.empty()) world_.reach("tasks that start together");
    starts.emplace_back(std::move(s), pieces_);
    for (worker::Start& m : more) starts.emplace_back(std::move(m), pieces_);
  }
  for (auto& [s, piece] : starts) {
    oracle_.check_start(s.id, s.token, static_cast<uint16_t>(s.attempt), s.payload);
    Token token = s.token;
    if (executions_.count(token)) violate("I4", "task " + to_hex(s.id) + " is handed out twice");
    gpus_.take(s);
    if (s.grant && !s.grant->shares.empty()) world_.reach("tasks with GPUs");
    executions_[token] = {std::move(s), {}, false, false, false, piece};
    waiting_.push_back(token);
  }
  out.start.clear();
  for (Token token : out.cancel) {
    auto it = executions_.find(token);
    if (it == executions_.end()) continue;
    Execution& e = it->second;
    e.cancelled = true;
    if (!e.running) {
      std::erase(waiting_, token);
      end(token, Verdict::fail, Errc::cancelled, {}, false);
    } else if (dice(e.task.id, token, 3) % 4 != 0) {  // the rest does not look at the flag
      uint64_t life = life_;
      world_.after(world_.skewed(500ms), [this, token, life] { finish(token, life); });
    }
  }
  for (const auto& [token, e] : executions_)
    if (e.task.grant && !e.cancelled && gpus_.is_lost(*e.task.grant))
      violate("GPU", "task " + to_hex(e.task.id) + " goes on though its GPU is lost");
  check_shared();
  start_waiting();
  if (out.exit) leaving_ = true;
}

// Whatever is handed out occupies its place.
void WorkerNode::check_shared() const {
  if (knobs_.shared == 0) return;
  const std::string& handler = knobs_.calls.handlers[0].offer.name;
  std::set<uint64_t> pieces;
  for (const auto& [token, e] : executions_)
    if (e.task.spec->spec.handler == handler) pieces.insert(e.piece);
  const size_t calls = call_threads_.ongoing(handler);
  if (pieces.size() + calls > knobs_.shared)
    violate("SHARE", name_ + " runs " + std::to_string(pieces.size()) + " pieces and " +
                         std::to_string(calls) + " batches of a handler that runs " +
                         std::to_string(knobs_.shared) + " times");
}

void WorkerNode::count_shares() {
  const worker::ShareCounters& c = core_->share().counters();
  if (c.grants > shares_seen_.grants) world_.reach("shared places given to routers");
  if (c.idle_grants > shares_seen_.idle_grants) world_.reach("shared places not used");
  if (c.floor_pieces > shares_seen_.floor_pieces) world_.reach("tasks that go before calls");
  shares_seen_ = c;
}

void WorkerNode::start_waiting() {
  for (size_t i = 0; busy_ < slots_ && i < waiting_.size();) {
    const Token token = waiting_[i];
    const auto way = processes_.way(executions_.at(token).task.spec->handler);
    if (way == ModelProcesses::Way::expected) {
      ++i;
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    if (way == ModelProcesses::Way::open) {
      begin(token);
    } else {
      world_.reach("tasks of a handler that is gone");
      end(token, Verdict::fail, Errc::unavailable, {}, false);
      return;  // it has started what can be started
    }
  }
}

// Their process has ended.
void WorkerNode::lose_runs(const std::vector<uint32_t>& handlers) {
  for (const uint32_t handler : handlers) {
    std::vector<Token> lost;
    for (const auto& [token, e] : executions_)
      if (e.running && e.task.spec->handler == handler) lost.push_back(token);
    for (const Token token : lost) {
      world_.reach("tasks lost with their process");
      end(token, Verdict::crashed, Errc::worker_lost, "executor crashed", true);
    }
    call_threads_.lose(handler);
  }
}

void WorkerNode::check_second_start(const worker::Start& task) {
  auto it = all_.running.find(task.id);
  if (it == all_.running.end()) return;
  for (auto& [node, token] : it->second) {
    const Execution& first = node->executions().at(token);
    if (first.cancelled || first.excused) continue;
    // It wakes up with a task that was given to somebody else meanwhile.
    if (task.token < token && world_.now() <= reach_from_) continue;
    violate("I4", "task " + to_hex(task.id) + " starts at " + name_ + " while it runs at " +
                      node->name() + ", which is alive and in reach");
  }
  if (!it->second.empty()) world_.reach("two executions at a time (excused)");
}

// A worker that is in reach keeps a good end until the broker has it: nothing is done twice.
void WorkerNode::check_not_done(const worker::Start& task) {
  auto it = all_.done.find(task.id);
  if (it == all_.done.end()) return;
  auto [token, excused] = it->second->done_.at(task.id);
  if (excused || task.token < token) return;
  violate("I4", "task " + to_hex(task.id) + " starts again at " + name_ + " though " +
                    it->second->name() + " has done it");
}

void WorkerNode::begin(Token token) {
  Execution& e = executions_.at(token);
  if (++all_.starts[token] > 1)
    violate("I4", "task " + to_hex(e.task.id) + " starts twice with one token");
  check_second_start(e.task);
  check_not_done(e.task);
  e.running = true;
  e.begun = world_.now();
  e.excused = world_.now() <= reach_from_;
  all_.running[e.task.id].emplace_back(this, token);
  ++busy_;
  world_.mix(token.seq * 31 + static_cast<uint64_t>(index_));
  if (world_.verbose()) trace("begins " + to_hex(e.task.id) + " token " + to_string(token));
  uint64_t life = life_;
  Duration time = time_of(e.task);
  if (time >= knobs_.lease_ttl) world_.reach("tasks longer than the lease");
  world_.after(time, [this, token, life] { finish(token, life); });
}

// The thread returns. A stopped process gets no further while it is stopped.
void WorkerNode::finish(Token token, uint64_t life) {
  if (!alive() || life_ != life) return;
  auto it = executions_.find(token);
  if (it == executions_.end() || !it->second.running) return;
  if (paused()) {
    world_.at(paused_until_, [this, token, life] { finish(token, life); });
    return;
  }
  const Execution& e = it->second;
  TaskId id = e.task.id;
  uint64_t d = dice(id, token, 4);
  if (!stable_ && dice(id, {}, 5) % 100 < knobs_.poison_percent && !e.cancelled) {
    world_.reach("tasks that kill their worker");
    return die();
  }
  if (e.cancelled) return end(token, Verdict::fail, Errc::cancelled, "cancelled", true);
  if (d % 100 >= knobs_.fail_percent)
    return end(token, Verdict::ok, Errc::ok, result_of(id, token), true);
  if (d % 3 == 0) return end(token, Verdict::fail_final, Errc::app_fatal, "gives up", true);
  end(token, Verdict::fail, Errc::app_error, "fails", true);
}

void WorkerNode::end(Token token, Verdict verdict, Errc code, std::string bytes, bool started) {
  auto it = executions_.find(token);
  Execution& e = it->second;
  gpus_.give(token);
  worker::Outcome o;
  o.id = e.task.id;
  o.token = token;
  o.verdict = verdict;
  o.code = code;
  o.started = started;
  o.exec_us = static_cast<uint32_t>(std::min<int64_t>(to_us(world_.now() - e.begun), UINT32_MAX));
  o.piece_us = o.exec_us;
  o.result = Bytes(std::move(bytes));
  if (verdict == Verdict::ok && !e.cancelled) {
    done_[o.id] = {token, e.excused};
    all_.done[o.id] = this;
  }
  if (e.running) {
    std::erase(all_.running[o.id], std::pair(this, token));
    --busy_;
  }
  executions_.erase(it);
  outcomes_.push_back(std::move(o));
  start_waiting();
  wake(world_.now());
}

void WorkerNode::after_turn(Now) {
  core_->check();
  if (core_->tasks().queued() + core_->tasks().running() > slots_ + knobs_.prefetch_max)
    violate("I8", name_ + " holds more tasks than its credit");
  count_calls();
  count_shares();
  const worker::AgentCounters& c = core_->tasks().counters();
  if (c.given_back > seen_.given_back)
    world_.reach("tasks given back", c.given_back - seen_.given_back);
  if (c.missed > seen_.missed) world_.reach("tasks missed");
  if (c.repeated > seen_.repeated) world_.reach("dispatches repeated");
  if (c.revoked > seen_.revoked) world_.reach("tasks revoked");
  if (c.dropped > seen_.dropped) world_.reach("outcomes of void tasks");
  if (c.resends > seen_.resends) world_.reach("results sent again");
  if (c.time_limits > seen_.time_limits) world_.reach("time limits");
  if (c.device_lost > seen_.device_lost) world_.reach("tasks that lost their GPU");
  if (c.stuck > seen_.stuck) {  // it leaves, and does not wait long for its calls
    world_.reach("stuck threads");
    world_.disturb(world_.now() + 20s);
  }
  seen_ = c;
}

// Each router may have a share of the slots whatever the others do. More than the slots is
// prefetched only if batches are short.
void WorkerNode::check_call_credit() const {
  constexpr uint64_t kPrefetchMax = 64;
  const uint64_t ahead = call_threads_.shortest() < 1ms ? kPrefetchMax : 0;
  const uint64_t shares = routers_.size() > 1 ? call_slots_ + routers_.size() : 0;
  // Those of a session that is over go on, but not against the credit of the next one.
  if (core_->calls().held() > call_slots_ + ahead + shares + call_threads_.abandoned())
    violate("I8", name_ + " holds more batches than its credit");
}

void WorkerNode::count_calls() {
  check_call_credit();
  const worker::CallCounters& c = core_->calls().counters();
  if (c.refused > 0)
    violate("P5", name_ + " got a batch that makes no sense, or beyond its credit");
  if (c.withdrawn > calls_seen_.withdrawn) world_.reach("batches for a handler that is gone");
  if (c.repeated > 0 && knobs_.repeat_percent == 0) violate("P5", name_ + " got a batch again");
  if (c.repeated > calls_seen_.repeated) world_.reach("batches repeated");
  if (c.stuck > calls_seen_.stuck) {
    world_.reach("stuck call threads");
    world_.disturb(world_.now() + 20s);
  }
  if (c.expired > calls_seen_.expired) world_.reach("calls expired at a worker");
  if (c.dropped > calls_seen_.dropped) world_.reach("outcomes that nobody waits for");
  calls_seen_ = c;
}

void WorkerNode::on_note(const Note& note) {
  std::string_view event = note.event;
  if (event == "bad_message" || event == "rejected" || event == "unexpected")
    violate("wire", name_ + " " + note.event + ": " + note.fields);
}

}  // namespace dray::sim
