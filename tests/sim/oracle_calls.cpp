// The oracle of the call lane: what callers are told against what executors did.
#include "services/router/core/call_types.h"
#include "tests/sim/call_oracle.h"
#include "tests/sim/node.h"

namespace dray::sim {
namespace {

constexpr Duration kSlack = 1ms;  // a turn of a client
constexpr size_t kIdBytes = 16;

std::string name_of(uint64_t call) { return "call " + std::to_string(call); }

std::string hex_of(uint64_t n) {
  std::string s(kIdBytes, '0');
  for (size_t i = kIdBytes; n != 0; n >>= 4) s[--i] = "0123456789abcdef"[n & 15];
  return s;
}

uint64_t number_of(std::string_view s) {
  uint64_t n = 0;
  for (size_t i = 0; i < kIdBytes && i < s.size(); ++i) {
    const char c = s[i];
    n = n << 4 | static_cast<uint64_t>(c <= '9' ? c - '0' : c - 'a' + 10);
  }
  return n;
}

bool not_executed(CallEnd end) { return end == CallEnd::rejected || end == CallEnd::expired; }

}  // namespace

// --- callers -------------------------------------------------------------------------------------

uint64_t CallOracle::made(CallOrder order) {
  calls_.push_back({});
  calls_.back().order = std::move(order);
  const uint64_t id = calls_.size();
  open_.insert(id);
  return id;
}

std::string CallOracle::payload(uint64_t id) const {
  std::string s = hex_of(id);
  const size_t size = std::max(call(id).order.size, kIdBytes);
  for (size_t i = s.size(); i < size; ++i) s += static_cast<char>('a' + (id + i) % 26);
  return s;
}

uint64_t CallOracle::id_of(std::string_view payload_seen) const {
  const uint64_t id = number_of(payload_seen);
  if (id == 0 || id > calls_.size() || payload(id) != payload_seen)
    violate("P5", "a payload is not what any caller gave");
  return id;
}

uint64_t CallOracle::left(std::string_view payload_seen) {
  const uint64_t id = id_of(payload_seen);
  ++calls_[id - 1].sends;
  return id;
}

void CallOracle::takes(uint64_t id, uint64_t bytes) {
  CallTruth& c = calls_[id - 1];
  c.taken += bytes;
  c.taken_at = world_.now();
}

void CallOracle::client_died(const Node& client) {
  for (auto it = open_.begin(); it != open_.end();) {
    CallTruth& c = calls_[*it - 1];
    if (c.order.client != &client) {
      ++it;
      continue;
    }
    c.ended = true;
    c.end = CallEnd::part;  // nobody was told
    c.end_at = world_.now();
    it = open_.erase(it);
    world_.reach("calls lost with their client");
  }
}

void CallOracle::told(uint64_t id, const CallEvent& event) {
  if (id == 0 || id > calls_.size()) violate("P5", "an event of a call that nobody made");
  CallTruth& c = calls_[id - 1];
  if (c.ended) violate("P5", name_of(id) + " is spoken of after its end");
  const auto end = static_cast<CallEnd>(event.row.status);
  world_.mix(id * 16 + event.row.status);
  if (end == CallEnd::part) return on_part(id, c, event);
  check_end(id, c, event);
  count(c, event);
  c.ended = true;
  c.end = end;
  c.end_at = world_.now();
  open_.erase(id);
}

void CallOracle::on_part(uint64_t id, CallTruth& c, const CallEvent& event) {
  if (event.bytes.size() < 1) violate("P5", name_of(id) + ": an empty part");
  const std::string_view bytes = event.bytes.view();
  c.part_bytes += bytes.size();
  if (c.part_bytes > c.order.window + c.taken)
    violate("P5", name_of(id) + ": more parts than its reader granted");
  if (c.part_bytes == bytes.size()) c.parts_of = c.executions;
  std::erase_if(c.parts_of, [&](uint64_t e) {
    return executions_[e - 1].stream < c.part_bytes ||
           stream_bytes(e, c.part_bytes - bytes.size(), bytes.size()) != bytes;
  });
  if (c.parts_of.empty())
    violate("P5", name_of(id) + ": a part that no execution sent, or not at this place");
  world_.reach("parts of streams");
}

void CallOracle::check_end(uint64_t id, const CallTruth& c, const CallEvent& event) const {
  const auto end = static_cast<CallEnd>(event.row.status);
  const Duration latest = std::max(c.order.deadline, c.order.client->paused_until()) + kSlack;
  if (world_.now() > latest) violate("P5", name_of(id) + " ends after its deadline");
  if (not_executed(end) && !c.executions.empty())
    violate("P5",
            name_of(id) + " ends as " + std::string(call_end_name(end)) + ", but it was executed");
  if (end == CallEnd::expired && world_.now() + kSlack < c.order.deadline - c.order.deadline / 2 &&
      c.executions.empty() && c.sends == 0)
    violate("P5", name_of(id) + " expires long before its deadline");
  if (end == CallEnd::cancelled && !c.cancelled)
    violate("P5", name_of(id) + " ends as cancelled, and nobody did");
  if (end == CallEnd::reply || end == CallEnd::failed) check_reply(id, c, end, event.bytes);
  if (end == CallEnd::unknown) check_unknown(id, c);
  if (c.order.easy) check_easy(id, c, event);
}

void CallOracle::check_reply(uint64_t id, const CallTruth& c, CallEnd end,
                             const Bytes& bytes) const {
  const uint64_t e = number_of(bytes.view());
  if (e == 0 || e > executions_.size() || executions_[e - 1].call != id)
    violate("P5", name_of(id) + ": its reply is of no execution of it");
  const CallExecution& x = executions_[e - 1];
  if (!x.returned || x.replied != (end == CallEnd::reply))
    violate("P5", name_of(id) + ": its end is not what the execution returned");
  if (c.part_bytes > 0 && std::find(c.parts_of.begin(), c.parts_of.end(), e) == c.parts_of.end())
    violate("P5", name_of(id) + ": its end is of another execution than its parts");
  if (c.order.window != 0 && x.stream != c.part_bytes)
    violate("P5", name_of(id) + ": parts are missing before the end");
}

void CallOracle::check_unknown(uint64_t id, const CallTruth& c) const {
  if (c.sends == 0) violate("P5", name_of(id) + " ends as unknown, but it was never sent");
  if (world_.disturbed() || world_.now() >= c.order.deadline - 2ms) return;
  violate("P5", name_of(id) + " ends as unknown without a reason");
}

void CallOracle::check_easy(uint64_t id, const CallTruth& c, const CallEvent& event) const {
  const auto end = static_cast<CallEnd>(event.row.status);
  const auto code = static_cast<Errc>(event.row.code);
  bool fine = end == CallEnd::reply || end == CallEnd::failed;
  fine = fine || (end == CallEnd::cancelled && c.cancelled);
  fine =
      fine || (end == CallEnd::rejected && (code == Errc::overloaded || code == Errc::too_large));
  if (!fine)
    violate("P5", name_of(id) + " ends as " + std::string(call_end_name(end)) + " (" +
                      std::string(errc_name(code)) + ") because somebody left in peace");
}

void CallOracle::count(const CallTruth& c, const CallEvent& event) {
  const auto end = static_cast<CallEnd>(event.row.status);
  const auto code = static_cast<Errc>(event.row.code);
  world_.reach(("calls: " + std::string(call_end_name(end))).c_str());
  if (end == CallEnd::rejected)
    world_.reach(("calls rejected: " + std::string(errc_name(code))).c_str());
  if (end == CallEnd::expired)
    world_.reach(c.sends > 0 ? "calls expired queued" : "calls expired unsent");
  if (end == CallEnd::cancelled && !c.executions.empty()) world_.reach("calls cancelled running");
  if (c.executions.size() > 1) world_.reach("calls executed again");
}

// --- executors -----------------------------------------------------------------------------------

uint64_t CallOracle::begins(uint64_t id, std::string_view handler, std::string_view key,
                            const Node& worker) {
  CallTruth& c = calls_[id - 1];
  if (c.order.handler != handler) violate("P5", name_of(id) + " runs in another handler");
  if (c.order.key != key) violate("P5", name_of(id) + " runs with another model");
  if (c.sends == 0) violate("P5", name_of(id) + " runs, but its client never sent it");
  if (c.ended && not_executed(c.end))
    violate("P5", name_of(id) + " ended as " + std::string(call_end_name(c.end)) +
                      ", and is executed afterwards");
  if (!c.executions.empty() && !c.order.may_repeat)
    violate("P5", name_of(id) + " is not idempotent and executed twice");
  check_repeats(id, c);
  executions_.push_back({});
  executions_.back().call = id;
  executions_.back().worker = &worker;
  const uint64_t e = executions_.size();
  c.executions.push_back(e);
  running_.insert(e);
  world_.mix(e * 31 + id);
  world_.reach("calls begun");
  return e;
}

// Each sending reaches one router, and that sends it to three replicas at most, and to one more as
// a hedge.
void CallOracle::check_repeats(uint64_t id, const CallTruth& c) const {
  const uint64_t most = kCallAttemptsMax + ((c.order.flags & kCallHedge) != 0 ? 1 : 0);
  if (c.executions.size() >= c.sends * most)
    violate("P5", name_of(id) + " is executed more often than its attempts allow");
  if (c.executions.size() + 1 == kCallAttemptsMax) world_.reach("calls executed three times");
}

void CallOracle::blocks(uint64_t e, bool on) {
  executions_[e - 1].blocked_at = on ? world_.now() : Duration{-1};
}

std::string CallOracle::returns(uint64_t e, bool ok) {
  CallExecution& x = executions_[e - 1];
  x.returned = true;
  x.replied = ok;
  running_.erase(e);
  return hex_of(e) + (ok ? " done" : " failed");
}

void CallOracle::dies(uint64_t e) {
  executions_[e - 1].lost = true;
  running_.erase(e);
  world_.reach("calls lost with their worker");
}

std::string CallOracle::stream_bytes(uint64_t e, uint64_t offset, uint64_t size) {
  std::string s(size, 0);
  for (uint64_t i = 0; i < size; ++i)
    s[i] = static_cast<char>('a' + mix64(e ^ (offset + i) / 7 << 32) % 26);
  return s;
}

// --- now and then --------------------------------------------------------------------------------

// From then on nothing stands in the way of what follows from `at`.
Duration CallOracle::calm_since(Duration at) const {
  return world_.disturbed() ? std::max(at, world_.disturbed_until()) + 12s : at + 2s;
}

void CallOracle::check_running() const {
  for (uint64_t e : running_) {
    const CallExecution& x = executions_[e - 1];
    const CallTruth& c = call(x.call);
    if (x.worker->paused()) continue;
    if (c.ended && !x.stop_asked && world_.now() > calm_since(c.end_at))
      violate("P5", name_of(x.call) + " runs on, nobody waits for it, and nobody says so");
    const bool wakes = x.blocked_at >= Duration{0} && !c.ended && c.taken == x.stream;
    if (wakes && world_.now() > calm_since(std::max(x.blocked_at, c.taken_at)))
      violate("P5", name_of(x.call) + " waits for its reader, who has read everything");
  }
}

void CallOracle::check_open() const {
  for (uint64_t id : open_) {
    const CallOrder& o = call(id).order;
    if (o.client->paused()) continue;
    if (world_.now() > std::max(o.deadline, o.client->paused_until()) + kSlack)
      violate("P5", name_of(id) + " is open after its deadline");
  }
}

}  // namespace dray::sim
