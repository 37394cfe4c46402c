// Submit, cancel and query: what clients ask of the broker.
#include <algorithm>
#include <unordered_set>

#include "broker/core/broker.h"
#include "broker/core/fingerprint.h"
#include "common/base/mutant.h"

namespace dray::broker {
namespace {
constexpr int64_t kIdSkewMs = 60'000;  // how far ahead a client's clock may be

std::string list_some(const std::set<std::string>& names) {
  std::string out;
  size_t n = 0;
  for (const auto& name : names) {
    if (n++ == 8) return out + ", ...";
    if (!out.empty()) out += ", ";
    out += name;
  }
  return out;
}

// Appends a blob part, joining it to the last one when they are neighbours in memory.
void add_part(std::vector<BlobPart>& parts, const Bytes& all, uint64_t offset, uint64_t size) {
  if (size == 0) return;
  Bytes piece = all.slice(offset, size);
  if (!parts.empty() && parts.back().bytes.data() + parts.back().bytes.size() == piece.data()) {
    size_t joined = parts.back().bytes.size() + piece.size();
    parts.back().bytes =
        all.slice(static_cast<size_t>(parts.back().bytes.data() - all.data()), joined);
    return;
  }
  parts.push_back({std::move(piece), 0, 0, 0});
}

bool strictly_rising(const Submit& m) {
  TaskId last;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    TaskId id = m.rows[i].id;
    if (id <= last) return false;
    last = id;
  }
  return true;
}
}  // namespace

Status Broker::check_budgets(const Submit& m, Now, uint32_t& retry_ms, std::string& limit,
                             uint64_t& value) const {
  retry_ms = 200;
  if (draining_) {
    retry_ms = 500;
    return make_error(Errc::draining, "the broker is restarting");
  }
  if (space_low_) {
    retry_ms = 1000;
    return make_error(Errc::disk_low, "the broker's disk is nearly full");
  }
  auto over = [&](const char* name, uint64_t max) {
    limit = name;
    value = max;
    return make_error(Errc::overloaded, std::string(name) + " is used up");
  };
  if (m.rows.size() > options_.tasks_max)
    return make_error(Errc::too_large, "one batch of more tasks than broker.tasks_max");
  if (ledger_.live_tasks() + m.rows.size() > options_.tasks_max)
    return over("broker.tasks_max", options_.tasks_max);
  if (ledger_.live_bytes() + m.bytes.size() > options_.journal_budget)
    return over("broker.journal_budget", options_.journal_budget);
  if (ledger_.unacked_bytes() > options_.journal_budget / 2)
    return over("broker.unconfirmed_results", options_.journal_budget / 2);
  return {};
}

// Interns the option sets and refuses what no worker could ever run.
Status Broker::check_submit(const Submit& m, std::vector<uint32_t>& specs, Now) {
  for (const auto& blob : m.specs) {
    if (!ledger_.specs().has(blob)) {  // refused before anything is kept of it
      DRAY_TRY_ASSIGN(TaskSpec fresh, decode_spec(blob));
      DRAY_TRY(check_catalog(fresh));
    }
    DRAY_TRY_ASSIGN(uint32_t index, ledger_.specs().intern(blob));
    specs.push_back(index);
  }
  return {};
}

Status Broker::check_catalog(const TaskSpec& o) const {
  const auto& known = ledger_.catalog_handlers();
  if (known.empty()) return {};
  if (known.count(o.handler) == 0)
    return make_error(Errc::unknown_handler, "no worker has ever announced handler '" + o.handler +
                                                 "'; known: " + list_some(known));
  const ResourceVec& most = ledger_.catalog_resources();
  const std::string missing = first_excess(request_of(o), most);
  if (missing.empty()) return {};
  const std::string seen =
      print_amount(most.get(missing)) + (missing == "gpu_memory" ? " MiB on one device" : "");
  const char* next = missing.starts_with("gpu") ? "; see: dray gpus" : "";
  return make_error(Errc::infeasible, "no worker has ever offered that much of resource '" +
                                          missing + "' (largest seen: " + seen + ")" + next);
}

// State of an id that is not fresh; `unknown` with code ok means: fresh, accept it.
StateRow Broker::known_state(TaskId id, uint64_t print, Now now) const {
  auto row = [&](TaskState state, Errc code, uint16_t attempt) {
    return StateRow{id, state, static_cast<uint8_t>(code), attempt, 0};
  };
  Handle h = ledger_.find(id);
  if (h != kNil) {
    const Task& t = ledger_.tasks()[h];
    return row(t.state, t.fingerprint == print ? Errc::ok : Errc::conflict, t.attempt);
  }
  if (auto end = ledger_.known().find(id)) {
    bool same = end->fingerprint == 0 || end->fingerprint == static_cast<uint32_t>(print);
    return row(end->state, same ? Errc::ok : Errc::conflict, 0);
  }
  if (id.wall_ms() <= ledger_.floor_ms() && !DRAY_MUTANT(floor_not_checked))
    return row(TaskState::unknown, Errc::id_expired, 0);
  if (id.wall_ms() > static_cast<uint64_t>(now.wall_ms + kIdSkewMs))
    return row(TaskState::unknown, Errc::bad_argument, 0);
  return row(TaskState::unknown, Errc::ok, 0);
}

Broker::Fresh Broker::sort_out(const Submit& m, const std::vector<uint32_t>& specs, Now now) {
  Fresh fresh;
  fresh.rows.reserve(m.rows.size() * sizeof(AcceptRow));
  std::unordered_set<TaskId> seen;
  bool may_repeat = !strictly_rising(m);
  uint64_t offset = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    SubmitRow row = m.rows[i];
    std::string_view payload = m.bytes.view().substr(offset, row.len);
    uint64_t print =
        mix64(fingerprint(payload) ^ ledger_.specs()[specs[row.spec]].hash) | 1;  // 0 = unknown
    StateRow state = known_state(row.id, print, now);
    bool is_fresh = state.state == TaskState::unknown && state.code == 0;
    if (is_fresh && may_repeat && !seen.insert(row.id).second) {
      is_fresh = false;
      state.state = TaskState::queued;
      state.code = static_cast<uint8_t>(Errc::conflict);
    }
    if (is_fresh) {
      append_row(fresh.rows, AcceptRow{row.id, print, row.len, row.spec});
      add_part(fresh.blob, m.bytes, offset, row.len);
      ++fresh.count;
    } else {
      fresh.known.add(state);
      ++(state.code == static_cast<uint8_t>(Errc::ok) ? counters_.duplicates : counters_.conflicts);
    }
    offset += row.len;
  }
  return fresh;
}

void Broker::on_submit(SessionId from, const Envelope& e, Submit&& m, Now now, Out& out) {
  uint32_t retry_ms = 0;
  uint64_t value = 0;
  std::string limit;
  std::vector<uint32_t> specs;
  Status ok = check_budgets(m, now, retry_ms, limit, value);
  if (ok) {
    retry_ms = 0;
    ok = check_submit(m, specs, now);
  }
  if (!ok) {
    for (uint32_t s : specs) ledger_.specs().forget_if_unused(s);
    ++counters_.rejected;
    out.now.push_back(
        reply_to(from, e, make_reject(ok.error().code, ok.error().detail, retry_ms, limit, value)));
    return;
  }
  Fresh fresh = sort_out(m, specs, now);
  if (fresh.count > 0) {
    AcceptRec rec{now.wall_ms, ledger_.next_order(), m.specs, Bytes(std::move(fresh.rows))};
    commit(rec, std::move(fresh.blob), out);
    uint32_t watch = m.watch ? watch_index(from, e.route) : kNil;
    if (m.watch) watches_[watch].users += fresh.count;
    for (Handle h : ledger_.last_handles()) {
      ledger_.tasks()[h].watch = watch;
      enlist_new(h, now);
    }
    counters_.submitted += fresh.count;
  } else {
    for (uint32_t s : specs) ledger_.specs().forget_if_unused(s);
  }
  auto& lane = DRAY_MUTANT(ack_before_sync) ? out.now : out.after_sync;
  lane.push_back(reply_to(from, e, Submitted{fresh.count, epoch_, fresh.known.take()}));
}

// Puts a task that is new to this life of the broker where it waits. The expiry timer is set here
// and only here: two of them would end the task twice.
void Broker::enlist_new(Handle h, Now now) {
  const Task& t = ledger_.tasks()[h];
  if (t.expires_ms) push_timer({t.expires_ms, h, t.order, true});
  if (t.state == TaskState::queued) enlist(h, now);
}

// Puts a queued task where it waits: its lane, or the timer until it is due.
void Broker::enlist(Handle h, Now now) {
  Task& t = ledger_.tasks()[h];
  if (DRAY_MUTANT(expiry_timer_twice) && t.expires_ms) push_timer({t.expires_ms, h, t.order, true});
  // The timer that was set at the start may have fired while it ran: it must not start any more.
  if (t.attempt > 0 && t.expires_ms && t.expires_ms <= now.wall_ms)
    push_timer({t.expires_ms, h, t.order, true});
  if (t.due_ms > now.wall_ms && !DRAY_MUTANT(due_ignored)) {
    push_timer({t.due_ms, h, t.order, false});
    return;
  }
  t.in_lane = true;
  // A task that had its turn before goes to the head of its lane again.
  if (t.attempt > 0) {
    lanes_.push_front(h);
  } else {
    lanes_.push_back(h);
  }
}

void Broker::on_cancel(SessionId from, const Envelope& e, const Cancel& m, Now now, Out& out) {
  std::vector<Ending> ends;
  std::map<uint32_t, std::vector<TokenRow>> revoke;
  std::set<Handle> chosen;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    Handle h = ledger_.find(m.rows[i].id);
    if (h == kNil) continue;
    const Task& t = ledger_.tasks()[h];
    if (is_terminal(t.state) || !chosen.insert(h).second) continue;
    if (t.state == TaskState::leased) revoke[t.worker].push_back({t.id, t.token});
    ends.push_back({h, TaskState::cancelled, Errc::cancelled, 0, {}});
  }
  finish(ends, now, out);
  for (auto& [w, rows] : revoke)
    out.after_sync.push_back(
        {workers_[w].session, 0, 0, 0, Revoke{make_rows<TokenRow>(rows)}, {}, 0});
  RowsBuilder<StateRow> states;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    TaskId id = m.rows[i].id;
    auto end = ledger_.known().find(id);
    Handle h = ledger_.find(id);
    TaskState s = h != kNil ? ledger_.tasks()[h].state : end ? end->state : TaskState::unknown;
    states.add({id, s, 0, 0, 0});
  }
  auto& lane = DRAY_MUTANT(cancel_told_early) ? out.now : out.after_sync;
  lane.push_back(reply_to(from, e, States{states.take()}));
}

void Broker::on_query(SessionId from, const Envelope& e, const Query& m, Out& out) {
  RowsBuilder<StateRow> states;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    TaskId id = m.rows[i].id;
    Handle h = ledger_.find(id);
    if (h != kNil) {
      const Task& t = ledger_.tasks()[h];
      states.add({id, t.state, 0, t.attempt, 0});
    } else {
      auto end = ledger_.known().find(id);
      states.add({id, end ? end->state : TaskState::unknown, 0, 0, 0});
    }
  }
  // After the sync: a state that was decided in this turn is not the truth before.
  out.after_sync.push_back(reply_to(from, e, States{states.take()}));
}

}  // namespace dray::broker
