// What the broker says on the wire must be durable already (I9); what workers start and clients are
// told must be true.
#include "broker/core/fingerprint.h"
#include "tests/sim/oracle.h"

namespace dray::sim {
namespace {
std::string name(TaskId id) { return "task " + to_hex(id); }
}  // namespace

void Oracle::broker_hears(Peer peer, const Frames& frames) {
  auto e = decode_envelope(frames);
  if (!e) return;
  if (e->kind != Kind::hello && e->kind != Kind::submit && e->kind != Kind::results) return;
  auto in = decode(frames);
  if (!in) return;
  if (auto* hello = std::get_if<Hello>(&in->message)) {
    boot_of_peer_[peer] = hello->boot;
    auto& [no, at] = newest_hello_[hello->boot];
    if (hello->connect_no < no && at != peer) {
      old_hellos_.insert({peer, hello->connect_no});
      world_.reach("late HELLO of an old connection");
    }
    if (hello->connect_no > no) std::tie(no, at) = std::pair(hello->connect_no, peer);
  }
  if (auto* submit = std::get_if<Submit>(&in->message)) {
    auto& ids = submits_[{peer, e->route, e->req}];
    ids.clear();
    for (size_t i = 0; i < submit->rows.size(); ++i) ids.push_back(submit->rows[i].id);
  }
  if (auto* results = std::get_if<Results>(&in->message)) {
    Heard& h = heard_[boot_of_peer_[peer]];
    for (size_t i = 0; i < results->rows.size(); ++i) {
      uint64_t no = results->first + i;
      if (no >= h.first + h.rows.size()) {
        if (no > h.first + h.rows.size()) h.rows.resize(no - h.first);
        h.rows.push_back({results->rows[i].id, results->rows[i].token});
      } else if (no >= h.first) {
        h.rows[no - h.first] = {results->rows[i].id, results->rows[i].token};
      }
    }
  }
}

void Oracle::broker_says(Peer peer, const Frames& frames) {
  auto e = decode_envelope(frames);
  if (!e) violate("wire", "the broker sends what can not be read");
  switch (e->kind) {
    case Kind::welcome:
    case Kind::submitted:
    case Kind::dispatch:
    case Kind::ready:
    case Kind::states:
    case Kind::results_ack:
    case Kind::finished:
      break;
    default:
      return;
  }
  auto in = decode(frames);
  if (!in) violate("wire", "the broker sends what can not be read: " + in.error().detail);
  if (auto* m = std::get_if<Welcome>(&in->message))
    if (old_hellos_.count({peer, m->connect_no}))
      violate("links", "a late HELLO of an old connection is welcome");
  if (auto* m = std::get_if<Submitted>(&in->message)) check_submitted(peer, *e, *m);
  if (auto* m = std::get_if<Dispatch>(&in->message)) check_dispatch(*m);
  if (auto* m = std::get_if<Ready>(&in->message)) check_ready(m->rows, m->bytes, "READY");
  if (auto* m = std::get_if<States>(&in->message)) check_states(*m);
  if (auto* m = std::get_if<ResultsAck>(&in->message)) check_results_ack(peer, *m);
  if (auto* m = std::get_if<Finished>(&in->message)) {
    if (!finish_records_.count(m->record))
      violate("I9", "FINISHED of a record that is not durable");
    check_ready(m->rows, m->bytes, "FINISHED");
  }
}

void Oracle::check_submitted(Peer peer, const Envelope& e, const Submitted& m) {
  auto it = submits_.find({peer, e.route, e.req});
  if (it == submits_.end()) violate("wire", "SUBMITTED without a submit");
  std::set<TaskId> refused;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    StateRow row = m.rows[i];
    if (row.code == static_cast<uint8_t>(Errc::id_expired)) world_.reach("id expired");
    if (row.code == static_cast<uint8_t>(Errc::conflict)) world_.reach("conflicts");
    if (row.code != 0) refused.insert(row.id);
    if (row.code == 0) world_.reach(is_terminal(row.state) ? "known ends" : "duplicates");
    const TaskTruth* t = find(row.id);
    if (is_terminal(row.state) && (!t || t->state != row.state))
      violate("I9", name(row.id) + ": SUBMITTED tells an end that is not durable");
  }
  for (TaskId id : it->second)
    if (!refused.count(id) && !find(id))
      violate("I9", name(id) + " is confirmed before it is durable");
}

void Oracle::check_dispatch(const Dispatch& m) {
  uint64_t offset = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    DispatchRow row = m.rows[i];
    const TaskTruth* t = find(row.id);
    Token token{m.epoch, row.token_seq};
    if (!t || t->token < token)
      violate("I9", name(row.id) + " is sent out before its lease is durable");
    if (t->token == token && t->state == TaskState::queued)
      violate("I9", name(row.id) + " is sent out without a lease");
    if (row.len != t->len ||
        (!t->copied && !is_payload_of(row.id, m.bytes.slice(offset, row.len).view())))
      violate("payload", name(row.id) + " is sent with a wrong payload");
    offset += row.len;
  }
}

void Oracle::check_ready(const Rows<ResultRow>& rows, const Bytes& bytes, const char* what) {
  size_t offset = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    ResultRow row = rows[i];
    auto state = static_cast<TaskState>(row.status);
    Bytes piece = bytes.slice(offset, row.len);
    offset += row.len;
    if (!is_terminal(state)) continue;
    const TaskTruth* t = find(row.id);
    if (!t || !is_terminal(t->state))
      violate("I9", name(row.id) + ": " + what + " before its end is durable");
    if (t->state != state) violate("I2", name(row.id) + ": " + what + " tells another end");
    if (broker::fingerprint(piece.view()) != t->result_hash && row.len != 0)
      violate("I2", name(row.id) + ": " + what + " has another result");
  }
}

void Oracle::check_states(const States& m) {
  for (size_t i = 0; i < m.rows.size(); ++i) {
    StateRow row = m.rows[i];
    const TaskTruth* t = find(row.id);
    if (is_terminal(row.state) && (!t || t->state != row.state))
      violate("I9", name(row.id) + ": STATES tells an end that is not durable");
    if (row.state == TaskState::queued && !t)
      violate("I9", name(row.id) + ": STATES tells of a task that is not durable");
  }
}

// An acknowledged result is settled: its lease is over.
void Oracle::check_results_ack(Peer peer, const ResultsAck& m) {
  Heard& h = heard_[boot_of_peer_[peer]];
  while (h.first < m.upto && !h.rows.empty()) {
    TokenRow row = h.rows.front();
    h.rows.pop_front();
    ++h.first;
    const TaskTruth* t = find(row.id);
    if (t && t->state == TaskState::leased && t->token == row.token)
      violate("I9", name(row.id) + ": its result is acknowledged before it is durable");
  }
  if (h.first < m.upto) violate("acks", "RESULTS_ACK for results that never came");
  if (m.rows.size() > 0) world_.reach("stale results refused", m.rows.size());
}

void Oracle::check_start(TaskId id, Token token, uint16_t attempt, const Bytes& payload) {
  const TaskTruth* t = find(id);
  if (!t || t->token < token) violate("I9", name(id) + " starts before its lease is durable");
  if (t->token == token && t->attempt != attempt && !is_terminal(t->state))
    violate("attempts", name(id) + " starts with a wrong attempt number");
  if (payload.size() != t->len || (!t->copied && !is_payload_of(id, payload.view())))
    violate("payload", name(id) + " starts with a wrong payload");
}

void Oracle::check_result(TaskId id, TaskState state, uint8_t code, const Bytes& bytes) {
  const TaskTruth* t = find(id);
  if (state == TaskState::unknown) {
    if (code == 0) violate("client", name(id) + " is refused without a code");
    return;
  }
  if (!t || !is_terminal(t->state))
    violate("I9", name(id) + ": a client is told an end that is not durable");
  if (t->state != state) violate("I2", name(id) + ": a client is told another end");
  if (broker::fingerprint(bytes.view()) != t->result_hash)
    violate("I2", name(id) + ": a client gets another result");
}

}  // namespace dray::sim
