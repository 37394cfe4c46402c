#include "common/deploy/autoscaler.h"

#include <algorithm>

namespace dray {
namespace {

constexpr int64_t kUnit = 1'000;  // "1" in thousandths
constexpr int64_t kStandsForMs = 5'000;
constexpr int64_t kCloseMs = 200;
constexpr size_t kLoadsMax = 8'192;
constexpr size_t kWishesMax = 65'536;  // 36 h of looks
constexpr int64_t kLoadMax = 1'000'000'000;  // calls or tasks; above it is not a load

int64_t ceil_div(int64_t a, int64_t b) { return a <= 0 ? 0 : (a - 1) / b + 1; }

// Ray's rule: the difference to what there is, times a factor.
int64_t with_factor(const ScaleParams& p, int64_t need, int64_t current) {
  const int64_t there = current * kUnit;
  const int64_t factor = need > there ? p.upscaling_factor : p.downscaling_factor;
  int64_t wish = ceil_div(there + factor * (need - there) / kUnit, kUnit);
  // A small factor must not stop the way down one above the goal.
  if (ceil_div(need, kUnit) < current && wish == current) --wish;
  return wish;
}

// Within the tolerance; below, whole replicas are compared.
bool is_right(const ScaleParams& p, int64_t need, int64_t current) {
  const int64_t off = need > current * kUnit ? need - current * kUnit
                                             : current * kUnit - ceil_div(need, kUnit) * kUnit;
  return off <= p.tolerance * current;
}

int64_t backlog_need(const ScaleParams& p, int64_t backlog) {
  if (p.task_time_ms == 0) return 0;
  const int64_t work_ms = std::min(backlog, kLoadMax) * p.task_time_ms;
  return ceil_div(work_ms, std::max<int64_t>(1, p.backlog_deadline_ms / kUnit) *
                               std::max<int64_t>(1, p.backlog_utilisation));
}

// The load in thousandths as replicas in thousandths.
int64_t replicas_for(const ScaleParams& p, int64_t load) {
  return load * kUnit / std::max<int64_t>(1, p.target_ongoing_requests);
}

void look(const ScaleParams& p, const ScaleHistory& h, ScaleDecision& d) {
  const int64_t current = d.replicas.current();
  // Queued tasks of unknown length are requests like others.
  d.load = h.mean_load(d.now_ms, p.look_back_period_ms);
  d.panic_load = h.mean_load(d.now_ms, p.panic_window_ms);
  d.backlog = h.backlog();
  if (p.task_time_ms == 0) {
    d.load += d.backlog * kUnit;
    d.panic_load += d.backlog * kUnit;
  }
  d.need = replicas_for(p, d.load);
  d.wish = with_factor(p, d.need, current);
  if (p.task_time_ms > 0 && d.backlog > 0) {
    // Calls come first; queued work has what they leave and what is added for it.
    d.need_queued = std::max(backlog_need(p, d.backlog), h.backlog_peak());
    const int64_t busy = d.load / std::max<int64_t>(1, p.max_ongoing_requests);
    const int64_t both = busy + d.need_queued * kUnit;
    d.need = std::max(d.need, both);
    d.wish = std::max(d.wish, ceil_div(both, kUnit));
  }
  const int64_t panic_need = replicas_for(p, d.panic_load);
  const int64_t panic_wish = ceil_div(panic_need, kUnit);
  const bool too_many = panic_wish * kUnit >= p.panic_threshold * current;
  const bool too_much = d.panic_load > current * p.max_ongoing_requests * kUnit;
  d.panic_begins = p.panic_threshold > 0 && current > 0 && too_many && too_much;
  d.panic = d.panic_begins || d.now_ms < h.panic_until_ms();
  if (!d.panic) return;
  d.need = panic_need;
  d.wish = std::max(panic_wish, current);
}

void go_up(const ScaleParams& p, const ScaleHistory& h, ScaleDecision& d) {
  const int64_t current = d.replicas.current();
  d.wait_ms = d.panic ? 0 : h.wait_for_more(d.now_ms, p.upscale_delay_ms, current);
  if (d.wait_ms > 0) {
    d.rule = ScaleRule::up_waits;
    return;
  }
  const int64_t most =
      std::max(current * p.step_up / kUnit, current + std::max<int64_t>(1, p.step_up_replicas));
  d.desired = std::min(d.wish, most);
  d.rule = d.panic ? ScaleRule::panic : d.wish > most ? ScaleRule::up_step : ScaleRule::up;
}

void go_down(const ScaleParams& p, const ScaleHistory& h, ScaleDecision& d) {
  const int64_t current = d.replicas.current();
  const bool last = current == 1;
  const int64_t delay =
      last ? p.downscale_to_zero_delay_ms.value_or(p.downscale_delay_ms) : p.downscale_delay_ms;
  const auto [need, wish] = h.most(d.now_ms, delay);
  d.most_wished = std::max(wish, d.wish);
  const int64_t seen = h.seen_ms(d.now_ms, delay);
  if (seen < delay || d.most_wished >= current || is_right(p, std::max(need, d.need), current)) {
    d.rule = ScaleRule::down_waits;
    d.wait_ms = delay - seen;
    return;
  }
  if (last) {
    d.desired = 0;
    d.rule = ScaleRule::to_zero;
    return;
  }
  const int64_t since_down = h.last_down_ms() ? d.now_ms - *h.last_down_ms() : INT64_MAX;
  if (since_down < p.step_down_every_ms) {
    d.rule = ScaleRule::step_waits;
    d.wait_ms = p.step_down_every_ms - since_down;
    return;
  }
  const int64_t least = std::max<int64_t>(1, current - current * p.step_down / kUnit);
  d.desired = std::max(d.most_wished, least);
  d.rule = d.most_wished < least ? ScaleRule::down_step : ScaleRule::down;
}

void choose(const ScaleParams& p, const ScaleHistory& h, ScaleDecision& d) {
  const int64_t current = d.replicas.current();
  d.desired = current;
  d.most_wished = d.wish;
  if (current == 0) {
    if (h.calls() == 0 && d.backlog == 0) return;
    d.desired = std::max({ceil_div(p.upscaling_factor, kUnit), d.need_queued, int64_t{1}});
    d.rule = ScaleRule::from_zero;
    return;
  }
  if (d.wish == current) return;
  // Of what is needed, not of the wish: a small factor makes small steps.
  if (is_right(p, d.need, current)) return;
  if (d.wish > current)
    go_up(p, h, d);
  else
    go_down(p, h, d);
}

}  // namespace

void ScaleHistory::note_load(int64_t now_ms, int64_t calls, int64_t backlog) {
  Load load{now_ms, std::clamp<int64_t>(calls, 0, kLoadMax),
            std::clamp<int64_t>(backlog, 0, kLoadMax), kScaleTickMs};
  if (!loads_.empty()) {
    const int64_t gap = now_ms - loads_.back().at_ms;
    load.stands_for_ms = std::clamp<int64_t>(gap, 0, kStandsForMs);
    if (gap < kCloseMs && loads_.size() > 1) {
      load.stands_for_ms = std::clamp<int64_t>(loads_.back().stands_for_ms + gap, 0, kStandsForMs);
      loads_.pop_back();
    }
  }
  loads_.push_back(load);
  if (loads_.size() > kLoadsMax) loads_.pop_front();
}

void ScaleHistory::note(const ScaleParams& p, const ScaleDecision& d) {
  if (!first_look_ms_) first_look_ms_ = d.now_ms;
  if (d.panic_begins) panic_until_ms_ = d.now_ms + p.panic_hold_ms;
  if (d.desired < d.replicas.current()) last_down_ms_ = d.now_ms;
  backlog_peak_ = d.backlog == 0 ? 0 : d.need_queued;
  wishes_.push_back({d.now_ms, d.wish, d.need});
  const int64_t keep = std::max(
      {p.downscale_delay_ms, p.upscale_delay_ms, p.downscale_to_zero_delay_ms.value_or(0)});
  while (wishes_.front().at_ms <= d.now_ms - keep && wishes_.size() > 1) wishes_.pop_front();
  if (wishes_.size() > kWishesMax) wishes_.pop_front();
  const int64_t look_back = std::max(p.look_back_period_ms, p.panic_window_ms);
  while (loads_.size() > 1 && loads_.front().at_ms <= d.now_ms - look_back) loads_.pop_front();
}

int64_t ScaleHistory::mean_load(int64_t now_ms, int64_t window_ms) const {
  int64_t sum = 0, time = 0;
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    const int64_t left = load->at_ms - (now_ms - std::max<int64_t>(1, window_ms));
    if (left <= 0) break;
    const int64_t weight = std::max<int64_t>(1, std::min(left, load->stands_for_ms));
    sum += load->calls * weight;
    time += weight;
  }
  return time == 0 ? calls() * kUnit : sum * kUnit / time;
}

std::pair<int64_t, int64_t> ScaleHistory::most(int64_t now_ms, int64_t window_ms) const {
  std::pair<int64_t, int64_t> most{0, 0};
  for (auto wish = wishes_.rbegin(); wish != wishes_.rend(); ++wish) {
    if (wish->at_ms <= now_ms - window_ms) break;
    most.first = std::max(most.first, wish->need);
    most.second = std::max(most.second, wish->replicas);
  }
  return most;
}

int64_t ScaleHistory::wait_for_more(int64_t now_ms, int64_t window_ms, int64_t current) const {
  if (window_ms <= 0) return 0;
  const int64_t unseen = window_ms - seen_ms(now_ms, window_ms);
  if (unseen > 0) return unseen;
  int64_t looks = 1;
  for (const Wish& wish : wishes_) looks += wish.at_ms > now_ms - window_ms ? 1 : 0;
  int64_t others = 0;
  for (auto wish = wishes_.rbegin(); wish != wishes_.rend(); ++wish) {
    if (wish->at_ms <= now_ms - window_ms) break;
    if (wish->replicas <= current && ++others * 10 > looks) return wish->at_ms + window_ms - now_ms;
  }
  return 0;
}

int64_t ScaleHistory::seen_ms(int64_t now_ms, int64_t window_ms) const {
  return first_look_ms_ ? std::min(window_ms, now_ms - *first_look_ms_) : 0;
}

ScaleDecision decide_scale(const ScaleParams& p, const ScaleHistory& h, int64_t now_ms,
                           ScaleReplicas replicas) {
  ScaleDecision d;
  d.now_ms = now_ms;
  d.replicas = replicas;
  look(p, h, d);
  choose(p, h, d);
  const int64_t bounded =
      std::clamp(d.desired, p.min_replicas, std::max(p.min_replicas, p.max_replicas));
  if (bounded != d.desired) {
    d.desired = bounded;
    d.rule = ScaleRule::bound;
  }
  return d;
}

int64_t initial_replicas(const ScaleParams& p) {
  return std::clamp(p.initial_replicas.value_or(p.min_replicas), p.min_replicas,
                    std::max(p.min_replicas, p.max_replicas));
}

std::string_view scale_rule_name(ScaleRule rule) {
  switch (rule) {
    case ScaleRule::still:
      return "still";
    case ScaleRule::up:
      return "up";
    case ScaleRule::up_step:
      return "up_step";
    case ScaleRule::up_waits:
      return "up_waits";
    case ScaleRule::panic:
      return "panic";
    case ScaleRule::from_zero:
      return "from_zero";
    case ScaleRule::down:
      return "down";
    case ScaleRule::down_step:
      return "down_step";
    case ScaleRule::down_waits:
      return "down_waits";
    case ScaleRule::step_waits:
      return "step_waits";
    case ScaleRule::to_zero:
      return "to_zero";
    case ScaleRule::bound:
      return "bound";
  }
  return "?";
}

}  // namespace dray
