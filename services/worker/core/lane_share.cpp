// Who is next at a shared handler, and how Q and W follow what calls take.
#include "services/worker/core/lane_share.h"

#include <algorithm>
#include <numeric>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "common/base/mutant.h"

namespace dray::worker {
namespace {

constexpr Duration kHold = 5ms;  // a router that was given a place answers within a round trip
constexpr Duration kOffAfter = 20ms;  // without tasks; they come in messages, with gaps
constexpr Duration kCallsStay = 10s;  // after the last call, calls still count as present
constexpr Duration kShrinkEvery = 2s;
constexpr Duration kGrowEvery = 10s;
constexpr uint32_t kSamples = 20;
constexpr uint32_t kTooSlow = 85;  // percent of their time that calls take
constexpr uint32_t kFast = 60;
constexpr Duration kFirstPiece = 10ms;  // assumed while nothing is known
constexpr double kAnyTime = 1e15;

double us_of(Duration d) { return static_cast<double>(d.count()) / 1000; }
Duration duration_of(double us) { return Duration(static_cast<int64_t>(1000 * us)); }

}  // namespace

LaneShare::LaneShare(LaneShareOptions options) : options_(std::move(options)) {
  DRAY_ASSERT(options_.floor_percent < 100);
  for (const ShareHandler& h : options_.handlers) add(h);
}

void LaneShare::add(const ShareHandler& h) {
  State s;
  s.name = h.name;
  s.limit = h.limit;
  s.max_batch = std::max<uint32_t>(h.max_batch, 1);
  if (h.limit != 0) shared_.push_back(static_cast<uint32_t>(state_.size()));
  state_.push_back(std::move(s));
}

void LaneShare::set_handlers(size_t fixed, const std::vector<ShareHandler>& handlers) {
  for (size_t i = fixed; i < handlers.size(); ++i) {
    const ShareHandler& h = handlers[i];
    if (i == state_.size()) {
      add(h);
      continue;
    }
    const uint32_t max_batch = std::max<uint32_t>(h.max_batch, 1);
    State& s = state_[i];
    if (s.limit == 0) continue;
    const uint32_t limit = h.limit != 0 ? h.limit : static_cast<uint32_t>(kItemsMax);
    s.limit_before = std::max(s.limit_before, s.limit);
    if (limit > s.limit) moved_ = calls_moved_ = true;
    s.limit = limit;
    if (std::exchange(s.max_batch, max_batch) != max_batch) derive(s);
  }
}

// --- pieces ------------------------------------------------------------------------------------

void LaneShare::set_queued(uint32_t handler, size_t tasks, Now now) {
  State& s = state_[handler];
  s.queued = tasks;
  switch_mode(s, now);
}

size_t LaneShare::piece_size(const State& s, Now now) const {
  const bool bounded = now.mono < s.calls_until && s.quantum > Duration{};
  const double budget = bounded ? us_of(s.quantum) : kAnyTime;
  return s.line.target(s.max_batch, budget);
}

double LaneShare::piece_us(const State& s, size_t tasks) const {
  return s.line.ready() ? s.line.us(static_cast<double>(tasks)) : us_of(kFirstPiece);
}

// Not by the quantum of now, which says what calls can bear: that many calls bear nothing, and
// small pieces waste what little there is.
size_t LaneShare::floor_size(const State& s) const {
  const Duration q = std::min(s.slo * 4 / 15, options_.quantum_max);
  return s.line.target(s.max_batch, us_of(q));
}

bool LaneShare::floor_due(const State& s) const {
  if (s.queued == 0 || s.pieces > 0) return false;
  return options_.floor_percent != 0 && us_of(s.debt) >= piece_us(s, floor_size(s));
}

size_t LaneShare::piece(uint32_t handler, Now now) const {
  const State& s = state_[handler];
  if (s.queued == 0 || (!has_place(s) && !DRAY_MUTANT(piece_beside_calls))) return 0;
  const bool calls_first = s.calls_waiting > 0 || !s.wants.empty();
  if (calls_first) return floor_due(s) ? std::min(s.queued, floor_size(s)) : 0;
  return std::min(s.queued, piece_size(s, now));
}

void LaneShare::start_piece(uint32_t handler, size_t tasks, Now now) {
  State& s = state_[handler];
  ++s.pieces;
  ++counters_.pieces;
  counters_.tasks += tasks;
  const bool floor = s.calls_waiting > 0 || !s.wants.empty();
  counters_.floor_pieces += floor;
  s.free_pieces += !floor;
  switch_mode(s, now);
}

void LaneShare::end_piece(uint32_t handler, uint32_t tasks, uint32_t run_us, Now now) {
  State& s = state_[handler];
  DRAY_ASSERT(s.pieces > 0);
  --s.pieces;
  if (run_us > 0) s.line.add(tasks, run_us);
  s.debt = std::max<Duration>(Duration{}, s.debt - std::chrono::microseconds(run_us));
  moved_ = calls_moved_ = true;
  switch_mode(s, now);
}

// --- calls -------------------------------------------------------------------------------------

void LaneShare::call_waits(uint32_t handler, int change) {
  State& s = state_[handler];
  DRAY_ASSERT(change > 0 || s.calls_waiting > 0);
  s.calls_waiting += static_cast<uint32_t>(change);
  if (change < 0) moved_ = true;
}

void LaneShare::call_came(uint32_t handler, Duration had, Now now) {
  State& s = state_[handler];
  s.calls_until = now.mono + kCallsStay;
  had = std::max<Duration>(had, 1us);
  // Near the shortest that is common: down fast, up slowly.
  if (s.slo == Duration{})
    s.slo = had;
  else
    s.slo += (had - s.slo) / (had < s.slo ? 5 : 100);
  const Duration off = s.slo > s.derived_from ? s.slo - s.derived_from : s.derived_from - s.slo;
  if (5 * off > s.derived_from) derive(s);
  switch_mode(s, now);
}

// 25 ms and 40 ms of 150 ms.
void LaneShare::derive(State& s) {
  s.derived_from = s.slo;
  s.gather = s.max_batch > 1 ? std::min(s.slo / 6, options_.gather_max) : Duration{};
  s.quantum = std::min(s.slo * 4 / 15, options_.quantum_max);
  s.taken = {};
  s.samples = s.free_pieces = 0;
}

// A hold is kept for calls, so it does not keep them out.
bool LaneShare::call_may_start(uint32_t handler) const {
  const State& s = state_[handler];
  return (s.calls + s.pieces < s.limit || DRAY_MUTANT(shared_place_taken)) && !floor_due(s);
}

void LaneShare::start_call(uint32_t handler, Now now) {
  State& s = state_[handler];
  ++s.calls;
  switch_mode(s, now);
}

void LaneShare::end_call(uint32_t handler, uint32_t items, uint32_t run_us, Now now) {
  State& s = state_[handler];
  DRAY_ASSERT(s.calls > 0);
  --s.calls;
  moved_ = true;
  if (run_us > 0) s.line.add(items, run_us);
  if (s.queued > 0) {
    const uint32_t f = options_.floor_percent;
    const Duration most = duration_of(2 * piece_us(s, s.max_batch));
    s.debt = std::min<Duration>(most, s.debt + std::chrono::microseconds(run_us) * f / (100 - f));
  }
  switch_mode(s, now);
}

void LaneShare::note_latency(uint32_t handler, Duration took, Duration had, Now now) {
  State& s = state_[handler];
  if (!s.on) return;
  had = std::max<Duration>(had, 1us);
  const auto percent = std::clamp<int64_t>(100 * took.count() / had.count(), 0, 200);
  ++s.taken[static_cast<size_t>(percent)];
  ++s.samples;
  if (s.shrink_at == kNever) s.shrink_at = now.mono + kShrinkEvery;
  if (s.grow_at == kNever) s.grow_at = now.mono + kGrowEvery;
}

void LaneShare::steer(State& s, Now now) {
  if (now.mono < s.shrink_at) return;
  s.shrink_at = now.mono + kShrinkEvery;
  if (s.samples < kSamples) {
    if (s.samples == 0) s.shrink_at = s.grow_at = kNever;
    return;
  }
  uint32_t slower = 0;
  size_t p99 = s.taken.size();
  while (p99 > 0 && slower * 100 <= s.samples) slower += s.taken[--p99];
  const Duration least = duration_of(piece_us(s, 1));
  const bool grows = now.mono >= s.grow_at;
  if (p99 > kTooSlow && s.free_pieces > 0) {  // else it is not the tasks that make them late
    if (s.quantum > least)
      s.quantum = std::max(least, s.quantum * 3 / 4);
    else
      s.gather = s.gather * 3 / 4;
  } else if (!grows) {
    return;  // let it gather
  } else if (p99 < kFast && s.queued > 0) {
    s.quantum = std::min(options_.quantum_max, s.quantum * 11 / 10);
    if (s.max_batch > 1)
      s.gather = std::min({s.slo / 6, options_.gather_max, s.gather + s.slo / 60});
  }
  s.grow_at = now.mono + kGrowEvery;
  s.taken = {};
  s.samples = s.free_pieces = 0;
}

// --- routers -----------------------------------------------------------------------------------

void LaneShare::switch_mode(State& s, Now now) {
  const bool meet = (s.queued > 0 || s.pieces > 0) && now.mono < s.calls_until;
  if (meet) {
    s.on = true;
    s.off_at = kNever;
  } else if (s.on) {
    if (s.off_at == kNever) s.off_at = now.mono + kOffAfter;
    if (now.mono >= s.off_at) {
      s.on = false;
      s.off_at = kNever;
      s.wants.clear();
      moved_ = true;
    }
  }
}

LaneShare::Terms LaneShare::terms(uint32_t handler) const {
  const State& s = state_[handler];
  if (!s.on) return {};
  return {s.gather, std::max<Duration>(s.quantum, 1us)};
}

void LaneShare::want(uint32_t handler, const Want& want, Now now) {
  State& s = state_[handler];
  std::erase_if(s.wants, [&](const Wanting& w) { return w.router == want.router; });
  if (want.items == 0) {
    came(handler, want.router);
    moved_ = true;
    return;
  }
  if (!s.on) return;  // it will hear that it needs no leave
  ++counters_.wants;
  s.wants.push_back({want.router, want.sent, now.mono - want.head});
}

void LaneShare::came(uint32_t handler, SessionId router) {
  State& s = state_[handler];
  const auto hold = std::find_if(s.holds.begin(), s.holds.end(),
                                 [&](const Hold& h) { return h.router == router; });
  if (hold != s.holds.end()) s.holds.erase(hold);
}

void LaneShare::forget(SessionId router) {
  for (State& s : state_) {
    std::erase_if(s.wants, [&](const Wanting& w) { return w.router == router; });
    std::erase_if(s.holds, [&](const Hold& h) { return h.router == router; });
  }
  moved_ = true;
}

void LaneShare::decide(Now now, std::vector<Grant>& grants, std::vector<uint32_t>& changed_terms) {
  deadline_ = kNever;
  for (const uint32_t i : shared_) {
    State& s = state_[i];
    switch_mode(s, now);
    steer(s, now);
    // Tasks could have started, and did not: others wait for it.
    if (floor_due(s) && has_place(s) && !moved_) {
      s.debt = Duration{};
      calls_moved_ = true;
    }
    const size_t gone = std::erase_if(s.holds, [&](const Hold& h) { return h.until <= now.mono; });
    if (gone > 0) {
      counters_.idle_grants += gone;
      moved_ = true;
      if (options_.floor_percent != 0 && s.queued > 0)
        s.debt = std::max(s.debt, duration_of(1 + piece_us(s, floor_size(s))));
    }
    while (has_place(s) && s.calls_waiting == 0 && !s.wants.empty() && !floor_due(s)) {
      const auto first =
          std::min_element(s.wants.begin(), s.wants.end(),
                           [](const Wanting& a, const Wanting& b) { return a.since < b.since; });
      grants.push_back({first->router, i, first->sent + 1});
      s.holds.push_back({first->router, now.mono + kHold});
      s.wants.erase(first);
      ++counters_.grants;
    }
    if (const Terms t = terms(i); !(t == s.told) && !(DRAY_MUTANT(share_end_untold) && !s.on)) {
      s.told = t;
      changed_terms.push_back(i);
    }
    for (const Hold& h : s.holds) deadline_ = std::min(deadline_, h.until);
    deadline_ = std::min({deadline_, s.off_at, s.shrink_at});
    if (s.on) deadline_ = std::min(deadline_, std::max(s.calls_until, now.mono + 1us));
  }
}

bool LaneShare::take_moved() { return std::exchange(moved_, false); }
bool LaneShare::take_calls_moved() { return std::exchange(calls_moved_, false); }

void LaneShare::check() const {
  for (const State& s : state_) {
    if (s.limit == 0) {
      DRAY_ASSERT(s.calls == 0 && s.pieces == 0 && s.wants.empty() && s.holds.empty());
      continue;
    }
    DRAY_ASSERT(s.calls + s.pieces <= std::max(s.limit, s.limit_before));
    DRAY_ASSERT(std::accumulate(s.taken.begin(), s.taken.end(), 0u) == s.samples);
    DRAY_ASSERT(s.debt >= Duration{} && s.quantum >= Duration{} && s.gather >= Duration{});
    DRAY_ASSERT(s.on || s.wants.empty());
  }
}

Doc LaneShare::to_doc(Now now) const {
  Doc doc, handlers, counts;
  for (const uint32_t i : shared_) {
    const State& s = state_[i];
    Doc row;
    row.set("limit", s.limit).set("calls", s.calls).set("pieces", s.pieces);
    row.set("calls_waiting", s.calls_waiting).set("queued", s.queued).set("shared", s.on);
    row.set("wants", s.wants.size()).set("gather_us", to_us(s.gather));
    row.set("quantum_us", to_us(s.quantum)).set("piece", piece_size(s, now));
    row.set("slo_us", to_us(s.slo)).set("debt_us", to_us(s.debt));
    row.set("base_us", s.line.a_us()).set("item_us", s.line.b_us());
    handlers.set(s.name, std::move(row));
  }
  const ShareCounters& c = counters_;
  counts.set("pieces", c.pieces).set("tasks", c.tasks).set("floor_pieces", c.floor_pieces);
  counts.set("wants", c.wants).set("grants", c.grants).set("idle_grants", c.idle_grants);
  doc.set("handlers", std::move(handlers)).set("counters", std::move(counts));
  return doc;
}

}  // namespace dray::worker
