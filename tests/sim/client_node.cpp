// The application and client process of a simulation.
#include "tests/sim/client_node.h"

#include "common/wire/fleet.h"
#include "common/wire/spec.h"

namespace dray::sim {

ClientNode::ClientNode(World& world, Net& net, const Knobs& knobs, Oracle& oracle,
                       CallOracle& calls, std::vector<Node*> routers, int index, uint64_t tasks)
    : CoreNode(world, net, "client" + std::to_string(index)),
      knobs_(knobs),
      oracle_(oracle),
      call_oracle_(calls),
      routers_(std::move(routers)),
      index_(index),
      left_(tasks),
      ids_(world.rng().next()) {
  size_t n = 1 + world.below(6);
  for (size_t i = 0; i < n; ++i) specs_.push_back(make_spec());
}

std::string ClientNode::make_spec() {
  TaskSpec s;
  s.handler = "h" + std::to_string(world_.below(knobs_.handler_kinds));
  if (knobs_.shared > 0 && world_.percent(knobs_.shared_percent))
    s.handler = knobs_.calls.handlers[0].offer.name;
  s.queue = "q" + std::to_string(world_.below(2));
  s.priority = static_cast<uint8_t>(world_.below(10));
  s.max_failures = 1 + static_cast<uint32_t>(world_.below(4));
  s.max_lost = 1 + static_cast<uint32_t>(world_.below(4));
  s.backoff_base_ms = 1 + world_.below(500);
  s.backoff_cap_ms = s.backoff_base_ms + world_.below(1000);
  if (world_.percent(knobs_.delay_percent)) s.delay_ms = 1 + world_.below(10'000);
  if (world_.percent(knobs_.expires_percent)) s.expires_ms = 1 + world_.below(8'000);
  if (world_.percent(knobs_.limit_percent)) s.time_limit_ms = 20 + world_.below(1'000);
  if (world_.percent(knobs_.label_percent)) s.labels = {"first"};
  if (world_.one_in(4)) s.resources = {{"cpu", 10'000}};
  if (knobs_.gpus_max > 0 && world_.percent(knobs_.gpu_percent)) ask_gpus(s);
  return encode_spec(s);
}

// Never more than the first worker has: one whole device, or a part of one.
void ClientNode::ask_gpus(TaskSpec& s) {
  static constexpr uint64_t kShares[] = {2'500, 3'333, 5'000, 7'500, 10'000, 0};
  s.gpus = kShares[world_.below(6)];
  if (s.gpus == 0 || world_.one_in(3)) s.gpu_memory_mib = 1 + world_.below(20'000);
  s.strategy = static_cast<uint8_t>(world_.below(3));
  if (world_.one_in(4)) s.variants = {encode_need({0, 0, {{"cpu", 10'000}}, {}})};
}

void ClientNode::boot() {
  ClientCoreOptions o;
  o.seed = world_.rng().next();
  if (world_.one_in(4)) o.waits_max = 1 + world_.below(3);
  if (index_ > 0 && world_.one_in(3))  // the first one is the operator, too
    o.queue_bytes = 3'000 + world_.below(20'000);
  if (world_.one_in(2)) o.calls.repeats_at_start = static_cast<uint32_t>(world_.below(5));
  repeats_at_start_ = o.calls.repeats_at_start;
  core_ = std::make_unique<ClientCore>(o);
  durable_ = std::make_unique<NoDurable>();
  seen_ = {};
  links_ = std::make_unique<Links>(LinkOptions{Role::client, name_, make_boot(), 0, 1s, 5s});
  calls_seen_ = {};
  for (size_t i = 0; i < routers_.size(); ++i) {
    links_->dial(static_cast<Port>(i), Role::router);
    net_.dial(*this, static_cast<Port>(i), *routers_[i], Router::kClients);
  }
  make_turn();
  if (!mine_.empty()) later([this](Now now, Out& out) { resume_tasks(now, out); });
}

void ClientNode::on_died() {
  open_.clear();
  sent_.clear();
  admin_reqs_.clear();
  actions_.clear();
  calls_.clear();
  probes_.clear();
  sent_in_.clear();
  loss_untold_ = false;
  call_oracle_.client_died(*this);
}

void ClientNode::before_turn(Now now, Out& out) {
  for (auto& action : std::exchange(actions_, {})) {
    action(now, out);
    on_effects(now, out);  // a refusal at once is seen before the next action
  }
}

// --- actions -------------------------------------------------------------------------------------

void ClientNode::act() {
  if (!alive()) return;
  if (knobs_.admin && world_.one_in(4))
    later([this](Now now, Out& out) { do_admin(now, out); });
  else if (!mine_.empty() && world_.percent(knobs_.cancel_percent))
    later([this](Now now, Out& out) { do_cancel_or_query(now, out); });
  else
    later([this](Now now, Out& out) { do_submit(now, out); });
}

void ClientNode::do_submit(Now now, Out& out) {
  std::vector<size_t> tasks;
  bool repeat = !mine_.empty() && world_.percent(knobs_.resubmit_percent + knobs_.conflict_percent);
  bool conflict = repeat && world_.below(knobs_.resubmit_percent + knobs_.conflict_percent) >=
                                knobs_.resubmit_percent;
  if (repeat) {
    size_t at = world_.below(mine_.size());
    for (size_t n = 1 + world_.below(std::min<uint64_t>(5, knobs_.batch_max));
         n > 0 && at < mine_.size(); --n)
      tasks.push_back(at++);
  } else {
    uint64_t n = std::min(left_, 1 + world_.below(knobs_.batch_max));
    left_ -= n;
    for (; n > 0; --n) {
      TaskId id = ids_.next(now.wall_ms);
      oracle_.client_made(id);
      by_id_[id] = mine_.size();
      tasks.push_back(mine_.size());
      mine_.push_back(
          {id, static_cast<uint16_t>(world_.below(specs_.size())), 0, false, false, false});
    }
  }
  if (tasks.empty()) return;
  Time deadline = world_.one_in(6) ? now.mono + world_.between(500ms, 10s) : kNever;
  submit(tasks, conflict, deadline, now, out);
}

void ClientNode::submit(const std::vector<size_t>& tasks, bool conflict, Time deadline, Now now,
                        Out& out) {
  SubmitCmd cmd;
  cmd.specs = specs_;
  cmd.deadline = deadline;
  RowsBuilder<SubmitRow> rows;
  std::string bytes;
  for (size_t i : tasks) {
    Mine& m = mine_[i];
    std::string payload = payload_of(m.id) + (conflict ? "!" : "");
    rows.add({m.id, static_cast<uint32_t>(payload.size()), m.spec, 0});
    bytes += payload;
    ++m.submits;
    m.closed = false;
    open_.insert(m.id);
    oracle_.client_submits(m.id);
    if (world_.verbose()) trace("submits " + to_hex(m.id) + (conflict ? " changed" : ""));
  }
  cmd.rows = rows.take();
  cmd.bytes = Bytes(std::move(bytes));
  uint64_t req = core_->submit(std::move(cmd), now, out);
  sent_[req] = {tasks, conflict};
  world_.reach("submits");
}

void ClientNode::do_cancel_or_query(Now now, Out& out) {
  RowsBuilder<IdRow> ids;
  size_t at = world_.below(mine_.size());
  for (size_t n = 1 + world_.below(8); n > 0 && at < mine_.size(); --n) ids.add({mine_[at++].id});
  if (world_.one_in(2)) {
    core_->cancel(ids.take(), kNever, now, out);
    world_.reach("cancels");
  } else {
    core_->query(ids.take(), kNever, now, out);
    world_.reach("queries");
  }
}

uint64_t ClientNode::ask_admin(const std::string& verb, Doc args, Now now, Out& out) {
  Admin admin{static_cast<uint8_t>(Role::broker), verb, std::move(args)};
  uint64_t req = core_->admin(std::move(admin), now.mono + 10s, now, out);
  admin_reqs_.insert(req);
  return req;
}

uint64_t ClientNode::do_admin(Now now, Out& out) {
  Doc args{Doc::Object{}};
  switch (world_.below(6)) {
    case 0:
      args.set("queue", "q" + std::to_string(world_.below(2)));
      return ask_admin(world_.one_in(2) ? "pause" : "resume", std::move(args), now, out);
    case 1:
      args.set("worker", world_.one_in(3) ? "all" : "worker" + std::to_string(world_.below(4)));
      args.set("on", world_.one_in(2));
      return ask_admin("drain", std::move(args), now, out);
    case 2:
      args.set("all", true).set("limit", 1 + world_.below(3));
      return ask_admin("dlq.replay", std::move(args), now, out);
    case 3:
      args.set("all", true).set("limit", 1 + world_.below(3));
      return ask_admin("dlq.purge", std::move(args), now, out);
    case 4:
      return ask_admin("queues", std::move(args), now, out);
    default:
      return ask_admin("tasks", std::move(args), now, out);
  }
}

void ClientNode::calm(bool on) {
  if (!alive()) return;
  later([this, on](Now now, Out& out) {
    for (const char* queue : {"q0", "q1"})
      ask_admin("resume", Doc(Doc::Object{}).set("queue", queue), now, out);
    ask_admin("drain", Doc(Doc::Object{}).set("worker", "all").set("on", on), now, out);
  });
}

void ClientNode::ask_workers() {
  workers_.reset();
  later([this](Now now, Out& out) {
    workers_req_ = ask_admin("workers", Doc(Doc::Object{}), now, out);
  });
}

// After a crash: what was confirmed is waited for, what was not is submitted again.
void ClientNode::resume_tasks(Now now, Out& out) {
  std::vector<size_t> again;
  for (size_t i = 0; i < mine_.size(); ++i) {
    if (mine_[i].closed) continue;
    if (mine_[i].confirmed) {
      wait_again(i, now);
    } else {
      again.push_back(i);
    }
    if (again.size() == knobs_.batch_max) {
      submit(again, false, kNever, now, out);
      again.clear();
    }
  }
  if (!again.empty()) submit(again, false, kNever, now, out);
}

void ClientNode::wait_again(size_t i, Now now) {
  if (world_.verbose()) trace("waits for " + to_hex(mine_[i].id));
  open_.insert(mine_[i].id);
  mine_[i].closed = false;
  core_->wait(make_rows<IdRow>(std::vector<TaskId>{mine_[i].id}), now);
}

// --- events --------------------------------------------------------------------------------------

void ClientNode::on_effects(Now now, Out& out) {
  on_calls(out);
  for (Event& event : std::exchange(out.events, {})) {
    if (auto* submitted = std::get_if<SubmittedEvent>(&event)) {
      for (size_t i : sent_.at(submitted->req).tasks)
        if (open_.count(mine_[i].id)) mine_[i].confirmed = true;
      sent_.erase(submitted->req);
    } else if (auto* results = std::get_if<ResultsEvent>(&event)) {
      on_results(*results, now);
    } else if (auto* rejected = std::get_if<RejectedEvent>(&event)) {
      on_rejected(*rejected);
    } else if (auto* answer = std::get_if<AdminEvent>(&event)) {
      if (admin_reqs_.erase(answer->req) == 0) violate("client", "an answer to no question");
      if (answer->req == workers_req_) workers_ = std::move(answer->body);
    }
  }
}

void ClientNode::on_results(const ResultsEvent& e, Now now) {
  std::set<uint32_t> fresh(e.fresh.begin(), e.fresh.end());
  size_t offset = 0;
  for (uint32_t k = 0; k < e.rows.size(); ++k) {
    ResultRow row = e.rows[k];
    Bytes bytes = e.bytes.slice(offset, row.len);
    offset += row.len;
    if (!fresh.empty() && !fresh.count(k)) continue;
    if (world_.verbose()) trace("result " + to_hex(row.id) + " " + std::to_string(row.status));
    if (open_.erase(row.id) == 0)
      violate("client", "task " + to_hex(row.id) + ": a result that is not open");
    auto state = static_cast<TaskState>(row.status);
    oracle_.check_result(row.id, state, row.code, bytes);
    Mine& m = mine_[by_id_.at(row.id)];
    m.closed = true;
    if (state != TaskState::unknown) {
      m.confirmed = true;  // by its result
      continue;
    }
    bool conflict = row.code == static_cast<uint8_t>(Errc::conflict);
    // The one with the same id is there, and its end is still of interest.
    if (conflict || (m.submits > 1 && oracle_.find(row.id)))
      wait_again(by_id_.at(row.id), now);
    else {
      m.refused = true;
      m.confirmed = false;
    }
  }
}

void ClientNode::on_rejected(const RejectedEvent& e) {
  admin_reqs_.erase(e.req);
  auto it = sent_.find(e.req);
  if (it == sent_.end()) return;
  for (size_t k = 0; k < e.tasks.size(); ++k) {
    TaskId id = e.tasks[k].id;
    if (world_.verbose()) trace("gives up " + to_hex(id) + ": " + e.detail);
    open_.erase(id);  // not there when two submits of it were refused at once
    Mine& m = mine_[by_id_.at(id)];
    m.closed = true;
    if (!m.confirmed) m.refused = true;
    if (e.code == Errc::timeout || m.submits > 1) continue;
    if (oracle_.find(id)) violate("client", "task " + to_hex(id) + " is refused, yet accepted");
    oracle_.client_refused(id);
  }
  world_.reach(e.code == Errc::timeout ? "requests with unknown outcome" : "requests refused");
  if (e.code == Errc::overloaded) world_.reach("overloaded");
  sent_.erase(it);
}

void ClientNode::after_turn(Now) {
  if (world_.one_in(32)) core_->check();
  check_lost_sessions();
  count_calls();
  const ClientCounters& c = core_->counters();
  if (c.waits > seen_.waits) world_.reach("waits", c.waits - seen_.waits);
  if (c.resent > seen_.resent) world_.reach("requests sent again");
  if (c.watch_lost > seen_.watch_lost) world_.reach("watch lost told");
  if (c.repeated_results > seen_.repeated_results) world_.reach("results repeated");
  seen_ = c;
}

bool ClientNode::settled() {
  return alive() && core_->requests() == 0 && open_.empty() && actions_.empty() && calls_.empty();
}

std::string ClientNode::unsettled() const {
  return name_ + ": requests " + std::to_string(alive_ ? core_->requests() : 0) + ", open tasks " +
         std::to_string(open_.size()) + ", open calls " + std::to_string(calls_.size()) +
         (open_.empty() ? "" : ", first " + to_hex(*open_.begin()));
}

void ClientNode::check_final() const {
  for (const Mine& m : mine_) {
    const TaskTruth* t = oracle_.find(m.id);
    if (!m.confirmed || m.refused) continue;
    if (!t) violate("I1", "task " + to_hex(m.id) + " was confirmed and is gone");
    if (!is_terminal(t->state)) violate("I7", "task " + to_hex(m.id) + " never ended");
  }
}

}  // namespace dray::sim
