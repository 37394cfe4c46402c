// Autoscaler: how many replicas a deployment shall have, as a pure function of its history.
//
// Parameters with Ray Serve's names have Ray Serve's meaning; the others are dray's own and can be
// switched off. How the rules combine, in this order:
//
//   1. need    mean load over look_back_period / target_ongoing_requests, moved by upscaling_factor
//              or downscaling_factor (Ray). Queued work is added to what calls keep busy.
//   2. panic   over the last panic_window there was at least panic_threshold times what is right
//              for the replicas there are, and more than they can run at once: that need counts,
//              without upscale_delay, and nothing goes down for panic_hold.
//   3. zero    a deployment without replicas gets the first one with its first call (Ray).
//   4. still   a difference of at most `tolerance` changes nothing.
//   5. up      after more was needed for upscale_delay (Ray; a tenth of the looks may differ, so
//              that one odd look does not begin the wait again); at most step_up times as many, or
//              step_up_replicas more, in one look.
//   6. down    to the most that was needed in downscale_delay (Ray goes down to the last need),
//              at most step_down of them in one step and one step in step_down_every. The last
//              replica goes after downscale_to_zero_delay, and only from exactly one (Ray).
//   7. bounds  min_replicas to max_replicas, always and at once.
//
// `current` is what was asked for: replicas that start are counted as if they were there, so that a
// slow start does not ask for more at every look; replicas that leave are not counted.
// Integers only: loads, replicas and factors are in thousandths.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string_view>
#include <utility>

#include "common/wire/doc.h"

namespace dray {

struct ScaleParams {
  // Ray Serve's.
  int64_t min_replicas = 1;
  int64_t max_replicas = 1;
  std::optional<int64_t> initial_replicas;  // none: min_replicas
  int64_t target_ongoing_requests = 2'000;  // thousandths; running and waiting, per replica
  int64_t max_ongoing_requests = 5;  // per replica
  int64_t upscale_delay_ms = 30'000;
  int64_t downscale_delay_ms = 600'000;
  std::optional<int64_t> downscale_to_zero_delay_ms;  // none: downscale_delay
  int64_t upscaling_factor = 1'000;  // thousandths
  int64_t downscaling_factor = 1'000;
  int64_t look_back_period_ms = 30'000;
  // dray's own.
  int64_t panic_window_ms = 6'000;
  int64_t panic_threshold = 2'000;  // thousandths; 0: never
  int64_t panic_hold_ms = 60'000;
  int64_t tolerance = 100;  // thousandths of the current number
  int64_t step_up = 2'000;  // thousandths of the current number
  int64_t step_up_replicas = 4;
  int64_t step_down = 500;  // thousandths of the current number that may go in one step
  int64_t step_down_every_ms = 60'000;
  int64_t task_time_ms = 0;  // one replica needs so long for a queued task; 0: it counts as a call
  int64_t backlog_deadline_ms = 600'000;  // queued work shall be done within this time
  int64_t backlog_utilisation = 850;  // thousandths of a replica's time that queued work may get
  bool operator==(const ScaleParams&) const = default;
};

enum class ScaleRule : uint8_t {
  still,  // the number is right
  up,
  up_step,  // more is needed, a step was made
  up_waits,  // for upscale_delay
  panic,
  from_zero,
  down,
  down_step,
  down_waits,  // for downscale_delay
  step_waits,  // for step_down_every
  to_zero,
  bound,  // min_replicas or max_replicas decided
};
std::string_view scale_rule_name(ScaleRule rule);

struct ScaleReplicas {
  int64_t ready = 0;
  int64_t starting = 0;  // asked for and not ready: starting, or without a place yet
  int64_t leaving = 0;  // drained or stopping; shown, never counted
  int64_t current() const { return ready + starting; }
};

// One look at a deployment: what was seen, which rule decided, and what it said.
struct ScaleDecision {
  int64_t now_ms = 0;
  ScaleReplicas replicas;
  int64_t load = 0;  // thousandths, mean over look_back_period
  int64_t panic_load = 0;  // thousandths, mean over panic_window
  int64_t backlog = 0;  // queued tasks
  int64_t need = 0;  // thousandths of a replica, before factors
  int64_t need_queued = 0;  // whole replicas for queued work
  int64_t wish = 0;  // whole replicas: what this look alone would have
  int64_t most_wished = 0;  // in downscale_delay
  bool panic = false;  // panic holds
  bool panic_begins = false;
  int64_t wait_ms = 0;  // how long a rule waits yet, at least
  ScaleRule rule = ScaleRule::still;
  int64_t desired = 0;
  Doc to_doc(const ScaleParams& params) const;
};

// What decide() looks back on. Bounded by time and by count.
class ScaleHistory {
 public:
  // What is ongoing and waiting now; it stands for the time since the last note, 5 s at most.
  // A note within 200 ms of the one before replaces it.
  void note_load(int64_t now_ms, int64_t calls, int64_t backlog);
  // What was decided; before it is carried out.
  void note(const ScaleParams& params, const ScaleDecision& decision);

  int64_t mean_load(int64_t now_ms, int64_t window_ms) const;  // thousandths
  int64_t calls() const { return loads_.empty() ? 0 : loads_.back().calls; }
  int64_t backlog() const { return loads_.empty() ? 0 : loads_.back().backlog; }
  // The most of the looks in the window: {need in thousandths, wish}.
  std::pair<int64_t, int64_t> most(int64_t now_ms, int64_t window_ms) const;
  // How long it takes at least until nine tenths of the looks in the window, this one included,
  // wished for more than `current`; 0: they do.
  int64_t wait_for_more(int64_t now_ms, int64_t window_ms, int64_t current) const;
  // How much of the window was looked at; never more than the window.
  int64_t seen_ms(int64_t now_ms, int64_t window_ms) const;
  int64_t panic_until_ms() const { return panic_until_ms_; }
  std::optional<int64_t> last_down_ms() const { return last_down_ms_; }
  int64_t backlog_peak() const { return backlog_peak_; }

 private:
  struct Load {
    int64_t at_ms, calls, backlog;
    int64_t stands_for_ms;  // the time up to at_ms
  };
  struct Wish {
    int64_t at_ms, replicas, need;
  };
  std::deque<Load> loads_;
  std::deque<Wish> wishes_;
  std::optional<int64_t> first_look_ms_;
  std::optional<int64_t> last_down_ms_;
  int64_t panic_until_ms_ = 0;
  // The most replicas that the present backlog needed. Why: fewer as it shrinks would be late.
  int64_t backlog_peak_ = 0;
};

// How many replicas there shall be now.
ScaleDecision decide_scale(const ScaleParams& params, const ScaleHistory& history, int64_t now_ms,
                           ScaleReplicas replicas);

// How many a deployment begins with.
int64_t initial_replicas(const ScaleParams& params);

constexpr int64_t kScaleTickMs = 2'000;  // between two looks

}  // namespace dray
