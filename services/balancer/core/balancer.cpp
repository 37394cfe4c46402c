// Balancer core: sessions, liveness, load, and what is said to whom.
#include "services/balancer/core/balancer.h"

#include <algorithm>

#include "common/base/assert.h"

namespace dray {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(250);
constexpr Duration kSleptMax = std::chrono::milliseconds(500);  // longer: we ourselves stood still
constexpr size_t kDecisionsKept = 32;

uint64_t of_epoch(uint64_t epoch) { return epoch << 32; }

}  // namespace

Balancer::Balancer(Goal goal, BalancerOptions options) : goal_(std::move(goal)), options_(options) {
  ++goal_.epoch;
  next_id_ = next_goal_ = view_version_ = of_epoch(goal_.epoch);
  for (const auto& [name, d] : goal_.deployments) {
    work_[name];
    mix_.note(d.spec().request);
  }
}

void Balancer::on_open(const SessionInfo& session, Now now, Out& out) {
  if (session.role == Role::worker) {
    Node& node = nodes_[session.name];
    if (node.session != SessionId::none) {  // the same name, from another process or a new socket
      peers_.erase(node.session);
      worker_of_.erase(node.session);
      if (node.boot != session.boot) lose_node(node, "another worker has its name", now, out);
    } else if (node.boot != session.boot && !node.boot.is_null()) {
      lose_node(node, "its process is another one", now, out);
    }
    node.name = session.name;
    node.session = session.id;
    node.boot = session.boot;
    node.clock.emplace(now.mono, options_.beat);
    node.reported = false;
    node.suspect = false;
    node.lost_at = kNever;
    node.sent = 0;
    node.sent_list.clear();
    peers_[session.id] = Peer::worker;
    worker_of_[session.id] = session.name;
    dirty_ = true;
  } else if (session.role == Role::router) {
    peers_[session.id] = Peer::router;
    loads_.on_router(session.id);
    out.now.push_back({session.id, 0, 0, 0, view_, {}, 0});
  } else if (session.role == Role::broker) {
    peers_[session.id] = Peer::broker;
    out.now.push_back({session.id, 0, 0, 0, view_, {}, 0});
  } else {
    out.note("wrong_door", "name=" + session.name);
    out.close.push_back(session.id);
  }
}

void Balancer::on_close(SessionId session, CloseReason reason, Now now, Out& out) {
  const auto peer = peers_.find(session);
  if (peer == peers_.end()) return;
  const Peer what = peer->second;
  peers_.erase(peer);
  loads_.drop(session);
  if (what == Peer::broker) loads_.drop_backlog();
  if (what != Peer::worker) return;
  Node& node = nodes_[worker_of_[session]];
  worker_of_.erase(session);
  node.session = SessionId::none;
  node.reported = false;
  node.clock.reset();
  // Silence was long enough already, and BYE is the end; what else ends a session may pass.
  const bool over = reason == CloseReason::bye || reason == CloseReason::timeout;
  node.lost_at = over ? now.mono : now.mono + options_.lost_wait;
  node.suspect = true;
  if (over) lose_node(node, close_reason_name(reason), now, out);
  dirty_ = true;
}

// What ran there is gone, or will be stopped if it comes back.
void Balancer::lose_node(Node& node, const std::string& why, Now now, Out& out) {
  size_t lost = 0;
  for (auto it = replicas_.begin(); it != replicas_.end();) {
    Replica& r = it->second;
    if (r.node != node.name) {
      ++it;
      continue;
    }
    if (!r.leaving) {
      ++lost;
      if (const auto w = work_.find(r.deployment); w != work_.end())
        decide(w->second, now, out, r.deployment, "lost a replica on " + node.name, why);
    }
    it = replicas_.erase(it);
  }
  ++counters_.deaths;
  node.lost_at = kNever;
  node.boot = {};
  out.note("node_lost", "node=" + node.name + " replicas=" + std::to_string(lost) + " why=" + why);
  dirty_ = true;
}

void Balancer::on_heard(SessionId session, Time at) {
  const auto it = worker_of_.find(session);
  if (it == worker_of_.end()) return;
  if (Node& node = nodes_[it->second]; node.clock) node.clock->heard(at);
}

void Balancer::on_message(SessionId from, const Envelope& e, Message&& message, Now now, Out& out) {
  const auto peer = peers_.find(from);
  if (peer == peers_.end()) return;
  if (peer->second == Peer::router) {
    if (const auto* m = std::get_if<Admin>(&message)) return on_admin(from, e, *m, now, out);
    if (const auto* m = std::get_if<Load>(&message)) {
      ++counters_.loads;
      counters_.bad += loads_.on_load(from, *m, now.mono);
      loads_dirty_ = true;
      return;
    }
  } else if (peer->second == Peer::broker) {
    if (const auto* m = std::get_if<Backlog>(&message)) {
      ++counters_.backlogs;
      loads_.on_backlog(*m);
      loads_dirty_ = true;
      return;
    }
  } else if (auto* m = std::get_if<NodeReport>(&message)) {
    Node& node = nodes_[worker_of_[from]];
    if (node.clock) node.clock->heard(now.mono);
    return on_report(node, std::move(*m), now, out);
  }
  ++counters_.bad;
  if (e.kind == Kind::reject) return;
  out.now.push_back(reply_to(
      from, e,
      make_reject(Errc::bad_message,
                  "the balancer takes no " + std::string(kind_name(e.kind)) + " from you")));
}

void Balancer::tick(Now now, Out& out) {
  if (settled_at_ == kNever) settled_at_ = now.mono + options_.settle;
  judge(now, out);
  look_at_load(now);
  for (auto& [name, d] : goal_.deployments) {
    Work& work = work_[name];
    if (now.mono >= work.look_at + std::chrono::milliseconds(kScaleTickMs))
      scale(d, work, now, out);
  }
  dirty_ = true;  // times pass: proofs, waits, retries
  next_tick_ = now.mono + kTick;
}

// Who is suspect, and which lost connections are not coming back.
void Balancer::judge(Now now, Out& out) {
  const Duration slept = now.mono - ticked_;
  const bool stood_still = ticked_ != Time{} && slept > kSleptMax;
  ticked_ = now.mono;
  for (auto& [name, node] : nodes_) {
    if (node.lost_at != kNever) {
      if (stood_still) node.lost_at += slept;
      if (now.mono >= node.lost_at) lose_node(node, "connection lost", now, out);
    }
    if (!node.clock) continue;
    if (stood_still) node.clock->forgive(slept);
    const bool suspect = node.clock->is_suspect(now.mono);
    if (suspect && !node.suspect) {
      ++counters_.suspicions;
      out.note("suspect", "node=" + name +
                              " silent_ms=" + std::to_string(to_ms(node.clock->silence(now.mono))));
    }
    node.suspect = suspect;
  }
  // Nodes that left for good are not kept for ever.
  constexpr size_t kNodesMax = 16'384;
  if (nodes_.size() > kNodesMax)
    std::erase_if(nodes_, [](const auto& entry) {
      return entry.second.session == SessionId::none && entry.second.lost_at == kNever;
    });
}

void Balancer::look_at_load(Now now) {
  loads_dirty_ = false;
  for (const auto& [name, d] : goal_.deployments) {
    if (!d.spec().autoscale || !loads_.has_router()) continue;
    const LoadSum sum = loads_.of(d.all_handlers());
    work_[name].history.note_load(to_ms(now.mono.time_since_epoch()), sum.calls(), sum.queued);
  }
}

void Balancer::scale(DeploymentGoal& d, Work& work, Now now, Out& out) {
  work.look_at = now.mono;
  if (!d.spec().autoscale || !loads_.has_router()) {
    work.look.reset();
    return;
  }
  const Count c = count(d, now);
  const int64_t wanted = d.replicas();
  const int64_t ready = std::min(wanted, c.ready);
  const ScaleReplicas seen{ready, wanted - ready, static_cast<int64_t>(c.leaving.size())};
  const int64_t now_ms = to_ms(now.mono.time_since_epoch());
  ScaleDecision look = decide_scale(d.spec().scale, work.history, now_ms, seen);
  work.history.note(d.spec().scale, look);
  if (look.desired != d.desired) {
    look.desired > wanted ? ++counters_.ups : ++counters_.downs;
    decide(work, now, out, d.name,
           "scaled from " + std::to_string(wanted) + " to " + std::to_string(look.desired),
           std::string(look.to_doc(d.spec().scale)["why"].as_text()));
    d.desired = look.desired;
    goal_dirty_ = dirty_ = true;
  }
  work.look = std::move(look);
}

void Balancer::end_turn(Now now, Out& out) {
  if (loads_dirty_) {
    look_at_load(now);
    // A call that waits for the first replica does not wait for the next look.
    for (auto& [name, d] : goal_.deployments)
      if (d.spec().autoscale && d.replicas() == 0 && work_[name].history.calls() > 0)
        scale(d, work_[name], now, out);
  }
  if (dirty_) {
    dirty_ = false;
    reconcile(now, out);
    say_places(now, out);
    say_view(out);
  }
  out.goal_changed = goal_dirty_;
  goal_dirty_ = false;
}

void Balancer::say_places(Now now, Out& out) {
  (void)now;
  std::map<std::string, std::vector<std::string>> lists;
  for (const auto& [id, r] : replicas_)
    if (!r.leaving) lists[r.node].push_back(encode_replica(spec_of(r)));
  for (auto& [name, node] : nodes_) {
    if (!node.reported) continue;
    std::vector<std::string>& list = lists[name];
    if (node.sent != 0 && list == node.sent_list) continue;
    node.sent = ++next_goal_;
    node.sent_list = std::move(list);
    ++counters_.places;
    out.after_sync.push_back({node.session, 0, 0, 0, Place{node.sent, node.sent_list}, {}, 0});
  }
}

void Balancer::say_view(Out& out) {
  View fresh = make_view();
  fresh.version = view_.version;
  if (fresh == view_) return;
  fresh.version = ++view_version_;
  view_ = std::move(fresh);
  for (const auto& [session, peer] : peers_) {
    if (peer == Peer::worker) continue;
    ++counters_.views;
    out.now.push_back({session, 0, 0, 0, view_, {}, 0});
  }
}

View Balancer::make_view() const {
  View view;
  size_t bytes = 0;  // a message is bounded
  for (const auto& [name, d] : goal_.deployments) {
    uint32_t ready = 0, starting = 0;
    for (const auto& [id, r] : replicas_) {
      if (r.deployment != name || r.leaving) continue;
      if (r.is_ready() && !r.standby)
        ++ready;
      else
        ++starting;
    }
    const Work& work = work_.at(name);
    for (const std::string& handler : d.all_handlers()) {
      HandlerView h;
      h.handler = handler;
      h.deployment = name;
      h.replicas = ready;
      h.starting = starting;
      h.start_ms = work.start_ms;
      const DeploymentSpec& s = d.spec();
      h.held = s.autoscale ? s.scale.max_replicas > 0 : s.num_replicas > 0;
      std::string blob = encode_handler_view(h);
      bytes += blob.size() + 5;
      if (bytes > kHeadBytesMax / 4 * 3) return view;
      view.handlers.push_back(std::move(blob));
    }
  }
  for (const auto& [name, node] : nodes_)
    if (node.suspect && node.session != SessionId::none &&
        (bytes += name.size() + 5) < kHeadBytesMax - 1024)
      view.suspects.push_back(name);
  return view;
}

void Balancer::decide(Work& work, Now now, Out& out, const std::string& name, std::string what,
                      std::string why) {
  if (!work.decisions.empty() && work.decisions.back().what == what &&
      work.decisions.back().why == why) {
    ++work.decisions.back().times;
    work.decisions.back().wall_ms = now.wall_ms;
    return;
  }
  out.note("decided", "deployment=" + name + " what=" + what + " why=" + why);
  work.decisions.push_back({now.wall_ms, std::move(what), std::move(why), 1});
  if (work.decisions.size() > kDecisionsKept) work.decisions.pop_front();
}

std::vector<SessionId> Balancer::worker_sessions() const {
  std::vector<SessionId> out;
  for (const auto& [session, name] : worker_of_) out.push_back(session);
  return out;
}

size_t Balancer::nodes_up() const { return worker_of_.size(); }

size_t Balancer::suspects() const {
  return static_cast<size_t>(std::count_if(nodes_.begin(), nodes_.end(), [](const auto& entry) {
    return entry.second.suspect && entry.second.session != SessionId::none;
  }));
}

size_t Balancer::ready_replicas() const {
  return static_cast<size_t>(std::count_if(
      replicas_.begin(), replicas_.end(),
      [](const auto& entry) { return entry.second.is_ready() && !entry.second.leaving; }));
}

void Balancer::check() const {
  for (const auto& [session, name] : worker_of_) {
    DRAY_ASSERT(nodes_.at(name).session == session);
    DRAY_ASSERT(peers_.at(session) == Peer::worker);
  }
  for (const auto& [name, node] : nodes_) {
    if (node.session != SessionId::none) DRAY_ASSERT(worker_of_.at(node.session) == name);
    DRAY_ASSERT(!node.reported || node.session != SessionId::none);
    DRAY_ASSERT(node.clock.has_value() == (node.session != SessionId::none));
  }
  for (const auto& [id, r] : replicas_) {
    DRAY_ASSERT(id == r.id && nodes_.count(r.node) == 1);
    DRAY_ASSERT(r.good_since == kNever || r.is_ready());
  }
  for (const auto& [name, d] : goal_.deployments) {
    DRAY_ASSERT(d.find(d.current) != nullptr && work_.count(name) == 1);
    DRAY_ASSERT(d.stable == 0 || d.find(d.stable) != nullptr);
  }
}

}  // namespace dray
