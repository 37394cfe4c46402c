// The oracle's model of tasks, from durable records; comparison with the broker's ledger.
#include "broker/core/fingerprint.h"
#include "tests/sim/oracle.h"

namespace dray::sim {
namespace {
using broker::row_at;
using broker::row_count;

std::string name(TaskId id) { return "task " + to_hex(id); }
}  // namespace

std::string payload_of(TaskId id) {
  uint64_t h = mix64(id.hi ^ mix64(id.lo));
  return std::string(h % 40, static_cast<char>('a' + h % 26));
}

bool is_payload_of(TaskId id, std::string_view payload) {
  std::string good = payload_of(id);
  return payload == good || payload == good + "!";
}

std::string result_of(TaskId id, Token token) {
  uint64_t h = mix64(id.hi ^ mix64(id.lo ^ mix64(token.epoch * 1'000'003 + token.seq)));
  return std::to_string(h) + std::string(h % 50, 'r');
}

void Oracle::appended(const JournalRecord& j, int64_t wall_ms) {
  ReplayedRecord r{j.no, j.type, j.head, j.rows, 0};
  auto record = broker::decode_record(r);
  if (!record) violate("journal", "a record that can not be read: " + record.error().detail);
  Appended a{j.no, wall_ms, std::move(*record), {}, true};
  for (const BlobPart& p : j.blob) {
    if (p.from) a.has_blob = false;
    a.blob.append(p.bytes.view());
  }
  appended_.push_back(std::move(a));
}

void Oracle::committed() {
  while (!appended_.empty()) {
    Appended a = std::move(appended_.front());
    appended_.pop_front();
    if (a.no != next_) violate("journal", "records are not dense");
    ++next_;
    apply(a);
  }
}

// Records of a commit that failed may be there: they count now.
void Oracle::replayed(const ReplayedRecord& r) {
  if (replay_next_ != 0 && r.no != replay_next_) violate("journal", "replay has a gap");
  replay_next_ = r.no + 1;
  if (r.no < next_) return;
  if (appended_.empty() || appended_.front().no != r.no)
    violate("journal", "a record appeared from nowhere");
  Appended a = std::move(appended_.front());
  appended_.pop_front();
  ++next_;
  world_.reach("torn commits: part survived");
  apply(a);
}

void Oracle::recovered() {
  if (replay_next_ != 0 && replay_next_ < next_)
    violate("I1", "durable records are gone after recovery");
  if (!appended_.empty()) world_.reach("torn commits: rest lost");
  appended_.clear();
}

void Oracle::apply(const Appended& a) {
  std::visit([&](const auto& r) { on(r, a); }, a.record);
}

void Oracle::on(const broker::AcceptRec& r, const Appended& a) {
  uint64_t before = live_;
  size_t offset = 0;
  for (size_t i = 0; i < row_count<broker::AcceptRow>(r.rows); ++i) {
    auto row = row_at<broker::AcceptRow>(r.rows, i);
    if (never_.count(row.id))
      violate("client", name(row.id) + " was refused for good, yet accepted");
    TaskTruth t;
    t.fingerprint = row.fingerprint;
    t.len = row.len;
    t.copied = made_.count(row.id) == 0;
    if (!t.copied && !is_payload_of(row.id, std::string_view(a.blob).substr(offset, row.len)))
      violate("payload", name(row.id) + " is kept with a wrong payload");
    offset += row.len;
    auto spec = decode_spec(r.specs.at(row.spec));
    if (!spec) violate("journal", "accepted with options that can not be read");
    t.spec = std::move(*spec);
    if (t.spec.delay_ms) t.due_ms = r.wall_ms + static_cast<int64_t>(t.spec.delay_ms);
    if (t.spec.expires_ms) t.expires_ms = r.wall_ms + static_cast<int64_t>(t.spec.expires_ms);
    if (!tasks_.emplace(row.id, std::move(t)).second)
      violate("I2", name(row.id) + " is accepted a second time");
    ++live_;
  }
  if (live_ > knobs_.tasks_max && before < live_) {
    // dlq.replay is an operator's decision and may go beyond.
    if (row_count<broker::AcceptRow>(r.rows) && live_ > knobs_.tasks_max + 1000)
      violate("I8", "more live tasks than tasks_max");
  }
}

void Oracle::on(const broker::LeaseRec& r, const Appended& a) {
  for (size_t i = 0; i < row_count<IdRow>(r.rows); ++i) {
    TaskId id = row_at<IdRow>(r.rows, i).id;
    auto it = tasks_.find(id);
    if (it == tasks_.end()) violate("I1", name(id) + " is leased but unknown");
    TaskTruth& t = it->second;
    Token token{r.epoch, r.first_seq + i};
    if (t.state != TaskState::queued)
      violate(is_terminal(t.state) ? "I2" : "I4",
              name(id) + " is leased while " + std::string(state_name(t.state)));
    if (token <= t.token) violate("I4", name(id) + ": its token does not rise");
    if (t.due_ms > latest_wall_ms_) violate("due", name(id) + " starts before it is due");
    if (t.expires_ms && t.expires_ms <= a.wall_ms)
      violate("expiry", name(id) + " starts after its expiry");
    if (paused_.count(t.spec.queue)) violate("pause", name(id) + " starts in a paused queue");
    t.state = TaskState::leased;
    t.token = token;
    t.holder = r.worker;
    ++t.attempt;
    if (t.attempt > 1) world_.reach("second attempts");
  }
}

void Oracle::end_task(TaskId id, TaskTruth& t, const ResultRow& row, const Appended& a,
                      std::string_view bytes) {
  auto state = static_cast<TaskState>(row.status);
  if (!is_terminal(state)) violate("I2", name(id) + " ends in a state that is no end");
  if (is_terminal(t.state)) violate("I2", name(id) + " ends twice");
  if (row.token != t.token) violate("I3", name(id) + " ends with a token that is not current");
  if (row.attempt != t.attempt) violate("I3", name(id) + ": the count of attempts is wrong");
  bool leased = t.state == TaskState::leased;
  switch (state) {
    case TaskState::succeeded:
      if (!leased) violate("I3", name(id) + " succeeds without a lease");
      if (bytes != result_of(id, t.token))
        violate("I3", name(id) + " has the result of another attempt");
      break;
    case TaskState::failed:
      if (!leased) violate("I3", name(id) + " fails without a lease");
      break;
    case TaskState::expired:
      if (leased) violate("expiry", name(id) + " expires after it started");
      if (!t.expires_ms || t.expires_ms > a.wall_ms)
        violate("expiry", name(id) + " expires before its time");
      break;
    case TaskState::dead: {
      bool lost = row.code == static_cast<uint8_t>(Errc::worker_lost);
      ++(lost ? t.lost : t.failures);
      if (lost ? t.lost != t.spec.max_lost : t.failures != t.spec.max_failures)
        violate("attempts", name(id) + " is given up at the wrong count");
      break;
    }
    default:
      break;
  }
  t.state = state;
  t.result_hash = broker::fingerprint(bytes);
  --live_;
  world_.reach(state == TaskState::cancelled && leased ? "cancelled running"
                                                       : state_name(state).data());
}

void Oracle::on(const broker::FinishRec& r, const Appended& a) {
  if (r.prev != last_finish_ && r.prev != 0)
    violate("stream", "FINISH does not name the one before it");
  last_finish_ = a.no;
  finish_records_.insert(a.no);
  size_t offset = 0;
  for (size_t i = 0; i < row_count<ResultRow>(r.rows); ++i) {
    auto row = row_at<ResultRow>(r.rows, i);
    auto it = tasks_.find(row.id);
    if (it == tasks_.end()) violate("I1", name(row.id) + " ends but is unknown");
    end_task(row.id, it->second, row, a, std::string_view(a.blob).substr(offset, row.len));
    offset += row.len;
  }
}

void Oracle::on(const broker::RequeueRec& r, const Appended& a) {
  for (size_t i = 0; i < row_count<broker::RequeueRow>(r.rows); ++i) {
    auto row = row_at<broker::RequeueRow>(r.rows, i);
    auto it = tasks_.find(row.id);
    if (it == tasks_.end()) violate("I1", name(row.id) + " is queued again but is unknown");
    TaskTruth& t = it->second;
    if (t.state != TaskState::leased)
      violate("I4", name(row.id) + " is queued again while " + std::string(state_name(t.state)));
    t.state = TaskState::queued;
    t.due_ms = row.due_ms;
    if (row.cause == broker::Cause::failure) {
      ++t.failures;
      auto most = static_cast<int64_t>(t.spec.backoff_cap_ms);
      if (row.due_ms < a.wall_ms || row.due_ms > a.wall_ms + most)
        violate("backoff", name(row.id) + " is due outside its back-off");
      if (t.failures >= t.spec.max_failures) violate("attempts", name(row.id) + " fails too often");
      world_.reach("retries after failure");
    } else if (row.cause == broker::Cause::lost) {
      ++t.lost;
      if (t.lost >= t.spec.max_lost) violate("attempts", name(row.id) + " is lost too often");
      world_.reach("requeues of lost leases");
    } else {
      world_.reach("returned leases");
    }
  }
}

void Oracle::on(const broker::CarryRec& r, const Appended&) {
  for (size_t i = 0; i < row_count<broker::CarryRow>(r.rows); ++i) {
    auto row = row_at<broker::CarryRow>(r.rows, i);
    auto it = tasks_.find(row.id);
    if (it == tasks_.end()) violate("carry", name(row.id) + " is carried but is unknown");
    const TaskTruth& t = it->second;
    if (t.dropped || t.state != row.state || t.token != row.token || t.attempt != row.attempt ||
        t.failures != row.failures || t.lost != row.lost || t.due_ms != row.due_ms ||
        t.expires_ms != row.expires_ms || t.len != row.len || t.fingerprint != row.fingerprint ||
        (t.state == TaskState::leased && t.holder != row.worker))
      violate("carry", name(row.id) + " is carried forward changed");
    world_.reach("carried forward");
  }
}

void Oracle::on(const broker::DropDeadRec& r, const Appended&) {
  for (size_t i = 0; i < row_count<IdRow>(r.rows); ++i) {
    TaskId id = row_at<IdRow>(r.rows, i).id;
    auto it = tasks_.find(id);
    if (it == tasks_.end() || it->second.dropped) violate("dead", name(id) + " is dropped twice");
    if (it->second.state != TaskState::failed && it->second.state != TaskState::dead)
      violate("I1", name(id) + " is dropped though it is no dead letter");
    it->second.dropped = true;
    world_.reach("dead letters dropped");
  }
}

void Oracle::on(const broker::PauseRec& r, const Appended&) {
  if (r.on)
    paused_.insert(r.queue);
  else
    paused_.erase(r.queue);
}

// --- the ledger ----------------------------------------------------------------------------------

void Oracle::check_task(const broker::Ledger& ledger, TaskId id, const TaskTruth& t) {
  broker::Handle h = ledger.find(id);
  bool kept = !is_terminal(t.state) ||
              ((t.state == TaskState::failed || t.state == TaskState::dead) && !t.dropped);
  if (!kept) {
    if (h != broker::kNil) violate("I2", name(id) + " is over and still in the ledger");
    return;
  }
  if (h == broker::kNil) violate("I1", name(id) + " was accepted and is gone");
  const broker::Task& k = ledger.tasks()[h];
  if (k.state != t.state || k.token != t.token || k.attempt != t.attempt ||
      k.failures != t.failures || k.lost != t.lost || k.due_ms != t.due_ms ||
      k.fingerprint != t.fingerprint || k.len != t.len)
    violate("I10", name(id) + ": memory says " + std::string(state_name(k.state)) + " token " +
                       to_string(k.token) + " attempt " + std::to_string(k.attempt) +
                       ", the journal " + std::string(state_name(t.state)) + " token " +
                       to_string(t.token) + " attempt " + std::to_string(t.attempt));
  if (t.state == TaskState::leased && ledger.holder(k.worker).boot != t.holder)
    violate("I10", name(id) + " has another holder in memory");
}

void Oracle::check_ledger(const broker::Broker& core) {
  const broker::Ledger& ledger = core.ledger();
  if (ledger.live_tasks() != live_)
    violate("I6", "live tasks: " + std::to_string(ledger.live_tasks()) + " in memory, " +
                      std::to_string(live_) + " in the journal");
  if (ledger.next_record() != next_) violate("I10", "the next record differs from the journal's");
  for (const auto& [id, t] : tasks_) check_task(ledger, id, t);
  if (ledger.paused_queues() != paused_) violate("I10", "paused queues differ from the journal's");
  core.check();
}

}  // namespace dray::sim
