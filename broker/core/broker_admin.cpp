// Admin verbs: what the console shows and steers. Answers are Docs (docs/operations.md).
#include <algorithm>

#include "broker/core/broker.h"

namespace dray::broker {
namespace {
constexpr size_t kListMax = 1000;
constexpr size_t kPageBytes = 24 * 1024;  // an answer travels in a head of 64 KiB
constexpr size_t kReplayMax = 300;
constexpr size_t kAnsweredKept = 128;
constexpr Handle kScanMax = 500'000;
const char* kVerbs =
    "status, workers, gpus, queues, tasks, task, explain, dlq.list, dlq.replay, dlq.purge, "
    "drain, pause, resume";
}  // namespace

void Broker::on_admin(SessionId from, const Envelope& e, const Admin& m, Now now, Out& out) {
  if (const Message* again = answered(from, e)) {
    out.after_sync.push_back(reply_to(from, e, *again));
    return;
  }
  auto reply = admin(m.verb, m.args, now, out);
  Message message = reply ? Message(AdminReply{std::move(reply).value()})
                          : make_reject(reply.error().code, reply.error().detail);
  answered_.push_back({from, e.route, e.req, message});
  if (answered_.size() > kAnsweredKept) answered_.pop_front();
  out.after_sync.push_back(reply_to(from, e, std::move(message)));
}

const Message* Broker::answered(SessionId from, const Envelope& e) const {
  for (const Answered& a : answered_)
    if (e.req != 0 && a.from == from && a.route == e.route && a.req == e.req) return &a.message;
  return nullptr;
}

Result<Doc> Broker::admin(const std::string& verb, const Doc& args, Now now, Out& out) {
  if (verb == "status") return status(now);
  if (verb == "workers") return list_workers(now);
  if (verb == "queues") return list_queues(now);
  if (verb == "gpus") return list_gpus(args);
  if (verb == "tasks") return list_tasks(args, now);
  if (verb == "task") {
    DRAY_TRY_ASSIGN(Handle h, task_arg(args));
    return describe(h, now);
  }
  if (verb == "explain") return explain(args, now);
  if (verb == "dlq.list" || verb == "dlq.replay" || verb == "dlq.purge")
    return dead_letter_verb(verb, args, now, out);
  if (verb == "drain") return drain_worker(args, out);
  if (verb == "pause" || verb == "resume") {
    std::string queue(args["queue"].as_text());
    if (queue.empty()) return make_error(Errc::bad_argument, "name the queue");
    if (ledger_.is_paused(queue) != (verb == "pause"))
      commit(PauseRec{queue, verb == "pause"}, {}, out);
    return Doc(Doc::Object{}).set("queue", queue).set("paused", verb == "pause");
  }
  return make_error(Errc::bad_argument,
                    "unknown admin verb '" + verb.substr(0, 64) + "'; known: " + kVerbs);
}

Doc Broker::status(Now) const {
  Doc d{Doc::Object{}};
  uint64_t leased = 0;
  size_t attached = 0;
  for (const Worker& w : workers_) {
    leased += w.leases;
    attached += w.session != SessionId::none;
  }
  d.set("epoch", epoch_).set("draining", draining_).set("disk_low", space_low_);
  d.set("tasks", ledger_.live_tasks()).set("ready", lanes_.total()).set("running", leased);
  d.set("waiting", ledger_.live_tasks() - lanes_.total() - leased);
  d.set("dead_letters", ledger_.dead_letters().size()).set("workers", attached);
  d.set("aggregator", has_aggregator()).set("unconfirmed_results", ledger_.unacked().size());
  d.set("journal_bytes", ledger_.log_bytes()).set("live_payload_bytes", ledger_.live_bytes());
  d.set("first_record", ledger_.first_record()).set("next_record", ledger_.next_record());
  d.set("known_ids", ledger_.known().size());
  const BrokerCounters& c = counters_;
  Doc n{Doc::Object{}};
  n.set("submitted", c.submitted).set("duplicates", c.duplicates).set("conflicts", c.conflicts);
  n.set("rejected", c.rejected).set("dispatched", c.dispatched).set("results", c.results);
  n.set("stale", c.stale).set("returned", c.returned).set("lost_leases", c.lost_leases);
  n.set("retries", c.retries).set("succeeded", c.succeeded).set("failed", c.failed);
  n.set("dead", c.dead).set("cancelled", c.cancelled).set("expired", c.expired);
  n.set("records", c.records).set("carried", c.carried);
  d.set("counters", std::move(n));
  return d;
}

Doc Broker::list_workers(Now now) const {
  Doc list{Doc::List{}};
  for (uint32_t i = 0; i < workers_.size(); ++i) {
    const Worker& w = workers_[i];
    if (w.session == SessionId::none && w.leases == 0) continue;
    const char* state = w.session == SessionId::none ? "away" : w.draining ? "draining" : "up";
    Doc d{Doc::Object{}};
    d.set("name", ledger_.holder(i).name).set("boot", to_hex(ledger_.holder(i).boot));
    d.set("state", state).set("slots", w.slots).set("leases", w.leases);
    d.set("credit", w.credit.available()).set("done", w.done).set("handlers", w.handlers.size());
    Doc labels{Doc::List{}};
    for (const auto& l : w.node.labels) labels.push(l);
    Doc names{Doc::List{}};
    for (const auto& h : w.handlers) names.push(h);
    d.set("labels", std::move(labels)).set("handler_names", std::move(names));
    Doc resources{Doc::Object{}};
    for (const PoolState& p : w.node.pools)
      resources.set(p.name, print_amount(p.free()) + "/" + print_amount(p.capacity));
    const uint64_t gpus = largest_of(w.node).get("gpus");
    if (!w.node.devices.empty())
      resources.set("gpus", print_amount(w.node.free_units()) + "/" + print_amount(gpus));
    d.set("resources", std::move(resources));
    if (w.session == SessionId::none)
      d.set("leases_lost_in_ms", std::max<int64_t>(0, to_ms(w.expire_at - now.mono)));
    list.push(std::move(d));
  }
  return list;
}

Doc Broker::list_queues(Now) const {
  const SpecTable& specs = ledger_.specs();
  struct Counts {
    uint64_t ready = 0, waiting = 0, running = 0, dead = 0;
  };
  std::map<std::string, Counts> counts;
  for (const auto& q : ledger_.paused_queues()) counts[q];
  for (uint32_t lane = 0; lane < specs.lanes(); ++lane)
    counts[specs.queue_name(specs.lane(lane).queue)].ready += lanes_.live(lane);
  const TaskPool& tasks = ledger_.tasks();
  bool complete = tasks.size() <= 4 * kScanMax;
  for (Handle h = 0; complete && h < tasks.size(); ++h) {
    const Task& t = tasks[h];
    if (!t.in_use) continue;
    Counts& c = counts[ledger_.options(t).queue];
    if (t.state == TaskState::leased) ++c.running;
    if (t.state == TaskState::queued && !t.in_lane) ++c.waiting;
    if (is_terminal(t.state)) ++c.dead;
  }
  Doc list{Doc::List{}};
  for (const auto& [name, c] : counts) {
    Doc d{Doc::Object{}};
    d.set("queue", name).set("ready", c.ready).set("waiting", c.waiting);
    d.set("running", c.running).set("dead_letters", c.dead);
    d.set("paused", ledger_.is_paused(name)).set("complete", complete);
    list.push(std::move(d));
  }
  return list;
}

Doc Broker::describe(Handle h, Now now) const {
  const Task& t = ledger_.tasks()[h];
  const TaskSpec& o = ledger_.options(t);
  Doc d{Doc::Object{}};
  d.set("id", to_hex(t.id)).set("state", state_name(t.state)).set("handler", o.handler);
  d.set("queue", o.queue).set("priority", o.priority).set("attempt", t.attempt);
  d.set("failures", t.failures).set("max_failures", o.max_failures);
  d.set("lost", t.lost).set("max_lost", o.max_lost).set("payload_bytes", t.len);
  if (t.state == TaskState::leased)
    d.set("worker", ledger_.holder(t.worker).name).set("token", to_string(t.token));
  if (t.state == TaskState::queued && t.due_ms > now.wall_ms)
    d.set("starts_in_ms", t.due_ms - now.wall_ms);
  if (t.expires_ms) d.set("expires_in_ms", t.expires_ms - now.wall_ms);
  if (o.time_limit_ms) d.set("time_limit_ms", o.time_limit_ms);
  if (!o.header.empty()) d.set("header", o.header.substr(0, 256));
  auto shown = progress_.find(t.id);
  if (shown != progress_.end() && t.state == TaskState::leased)
    d.set("progress", static_cast<double>(shown->second.permille) / 1000)
        .set("progress_text", shown->second.text);
  if (const auto* errors = ledger_.errors(t.id)) {
    Doc list{Doc::List{}};
    for (const auto& text : *errors) list.push(text);
    d.set("errors", std::move(list));
  }
  return d;
}

Doc Broker::list_tasks(const Doc& args, Now now) const {
  std::string_view state = args["state"].as_text();
  std::string_view queue = args["queue"].as_text();
  auto limit = static_cast<size_t>(std::clamp<int64_t>(args["limit"].as_int(50), 1, kListMax));
  auto h = static_cast<Handle>(std::clamp<int64_t>(args["after"].as_int(0), 0, UINT32_MAX - 1));
  const TaskPool& tasks = ledger_.tasks();
  h = std::min(h, tasks.size());
  Handle end = tasks.size() - h > kScanMax ? h + kScanMax : tasks.size();
  Doc list{Doc::List{}};
  size_t bytes = 0;
  for (; h < end && list.list().size() < limit && bytes < kPageBytes; ++h) {
    const Task& t = tasks[h];
    if (!t.in_use || (!state.empty() && state_name(t.state) != state)) continue;
    if (!queue.empty() && ledger_.options(t).queue != queue) continue;
    list.push(describe(h, now));
    bytes += to_json(list.list().back()).size();
  }
  Doc d{Doc::Object{}};
  d.set("tasks", std::move(list));
  if (h < tasks.size()) d.set("next", h);
  return d;
}

Result<Handle> Broker::task_arg(const Doc& args) const {
  auto id = task_id_from_hex(args["id"].as_text());
  if (!id) return make_error(Errc::bad_argument, "a task id is 32 hexadecimal digits");
  Handle h = ledger_.find(*id);
  if (h != kNil) return h;
  if (auto end = ledger_.known().find(*id))
    return make_error(Errc::not_found, "task has ended (" + std::string(state_name(end->state)) +
                                           "); see: dray result " + to_hex(*id));
  return make_error(Errc::not_found, "the broker has no live task " + to_hex(*id));
}

// Why is this task not running? One line per reason, the decisive one first.
Result<Doc> Broker::explain(const Doc& args, Now now) const {
  DRAY_TRY_ASSIGN(Handle h, task_arg(args));
  const Task& t = ledger_.tasks()[h];
  const TaskSpec& o = ledger_.options(t);
  Doc why{Doc::List{}};
  uint32_t lane = ledger_.specs()[t.spec].lane;
  const TaskClass& c = ledger_.specs().task_class(ledger_.specs().lane(lane).task_class);
  if (t.state == TaskState::leased) {
    const Worker& w = workers_[t.worker];
    why.push("it was given to worker " + ledger_.holder(t.worker).name +
             (w.session == SessionId::none ? ", which is away; it starts elsewhere when its leases "
                                             "are lost"
                                           : ""));
  } else if (is_terminal(t.state)) {
    why.push("it has ended (" + std::string(state_name(t.state)) + "); dray retry makes a new one");
  } else {
    if (t.due_ms > now.wall_ms)
      why.push("not before " + std::to_string(t.due_ms - now.wall_ms) + " ms from now (" +
               (t.failures ? "back-off after a failure" : "its own delay") + ")");
    if (ledger_.is_paused(o.queue)) why.push("queue " + o.queue + " is paused; dray queues resume");
    explain_workers(c, why);
    if (t.in_lane)
      why.push("tasks ready in the same lane (same queue, priority and needs): " +
               std::to_string(lanes_.live(lane)));
  }
  return describe(h, now).set("why", std::move(why));
}

Result<Doc> Broker::drain_worker(const Doc& args, Out& out) {
  std::string_view name = args["worker"].as_text();
  bool on = args["on"].as_bool(true);
  Doc list{Doc::List{}};
  for (const auto& [session, index] : worker_sessions_) {
    if (name != "all" && ledger_.holder(index).name != name) continue;
    out.now.push_back({session, 0, 0, 0, Drain{on}, {}, 0});
    list.push(ledger_.holder(index).name);
  }
  if (list.list().empty())
    return make_error(Errc::not_found,
                      "no connected worker is called '" + std::string(name) + "'; dray workers");
  return Doc(Doc::Object{}).set("draining", on).set("workers", std::move(list));
}

// --- dead letters --------------------------------------------------------------------------------

std::vector<Handle> Broker::select_dead(const Doc& args) const {
  std::vector<Handle> out;
  size_t limit =
      static_cast<size_t>(std::clamp<int64_t>(args["limit"].as_int(kListMax), 1, kListMax));
  std::set<TaskId> chosen;
  for (const Doc& text : args["ids"].list())
    if (auto id = task_id_from_hex(text.as_text())) chosen.insert(*id);
  bool all = args["all"].as_bool(false);
  std::string_view handler = args["handler"].as_text();
  for (const auto& [order, id] : ledger_.dead_letters()) {
    if (!all && chosen.count(id) == 0) continue;
    Handle h = ledger_.find(id);
    if (!handler.empty() && ledger_.options(ledger_.tasks()[h]).handler != handler) continue;
    out.push_back(h);
    if (out.size() == limit) break;
  }
  return out;
}

Result<Doc> Broker::dead_letter_verb(const std::string& verb, const Doc& args, Now now, Out& out) {
  Doc chosen = args;
  if (verb == "dlq.list" && !args["all"].as_bool(false) && args["ids"].list().empty())
    chosen.set("all", true);
  std::vector<Handle> list = select_dead(chosen);
  if (verb == "dlq.list") {
    Doc rows{Doc::List{}};
    size_t bytes = 0;
    for (Handle h : list) {
      rows.push(describe(h, now));
      bytes += to_json(rows.list().back()).size();
      if (bytes > kPageBytes) break;
    }
    return Doc(Doc::Object{})
        .set("total", ledger_.dead_letters().size())
        .set("dead_letters", std::move(rows));
  }
  if (list.empty()) return make_error(Errc::not_found, "no dead letter matches; dray dlq list");
  if (verb == "dlq.replay") {
    list.resize(std::min(list.size(), kReplayMax));
    return replay_dead(list, now, out);
  }
  std::string ids;
  for (Handle h : list) append_row(ids, IdRow{ledger_.tasks()[h].id});
  commit(DropDeadRec{Bytes(std::move(ids))}, {}, out);
  return Doc(Doc::Object{}).set("purged", list.size());
}

// A dead task stays ended (P2). Replaying makes a new task, with a new id, of the same payload and
// options; both changes are one turn's records.
Result<Doc> Broker::replay_dead(const std::vector<Handle>& list, Now now, Out& out) {
  DRAY_TRY(space_low_ ? Status(make_error(Errc::disk_low, "the broker's disk is nearly full"))
                      : Status());
  Doc made{Doc::List{}};
  AcceptRec rec{now.wall_ms, ledger_.next_order(), {}, {}};
  std::string rows, old_ids;
  std::vector<BlobPart> blob;
  std::unordered_map<uint32_t, uint32_t> specs;
  for (Handle h : list) {
    const Task& t = ledger_.tasks()[h];
    auto [it, fresh] = specs.emplace(t.spec, static_cast<uint32_t>(rec.specs.size()));
    if (fresh) rec.specs.push_back(ledger_.specs()[t.spec].blob);
    TaskId id{static_cast<uint64_t>(now.wall_ms) << 16 | (rng_.next() & 0xffff), rng_.next()};
    append_row(rows, AcceptRow{id, t.fingerprint, t.len, it->second});
    append_row(old_ids, IdRow{t.id});
    if (t.len) blob.push_back({{}, t.record, t.offset, t.len});
    made.push(Doc(Doc::Object{}).set("old", to_hex(t.id)).set("id", to_hex(id)));
  }
  rec.rows = Bytes(std::move(rows));
  commit(rec, std::move(blob), out);
  for (Handle h : std::vector<Handle>(ledger_.last_handles())) enlist_new(h, now);
  commit(DropDeadRec{Bytes(std::move(old_ids))}, {}, out);
  counters_.submitted += list.size();
  return Doc(Doc::Object{}).set("replayed", std::move(made));
}

}  // namespace dray::broker
