// The autoscaler on loads in simulated time: the table of the design (8 slots, target 0.7, 30 s
// start, 2 s tick, 1 hour), with every rule and without each.
#include "common/deploy/autoscaler.h"

#include <catch2/catch.hpp>
#include <cstdio>

#include "common/base/rng.h"
#include "common/deploy/scale_model.h"

using namespace dray;

namespace {

// The rule of the design alone: no upscale_delay, windows of 60 s and 300 s.
ScaleParams design() {
  ScaleParams p;
  p.max_replicas = 1000;
  p.target_ongoing_requests = 5'600;
  p.max_ongoing_requests = 8;
  p.look_back_period_ms = 60'000;
  p.upscale_delay_ms = 0;
  p.downscale_delay_ms = 300'000;
  return p;
}

ModelOptions from(int64_t replicas, bool count_starting = true) {
  ModelOptions o;
  o.replicas = replicas;
  o.slots = 8;
  o.count_starting = count_starting;
  return o;
}

LoadOverTime step(int64_t low, int64_t high, int64_t at_s = 600) {
  return [=](int64_t ms) { return ModelLoad{ms < at_s * 1000 ? low : high, 0}; };
}
LoadOverTime square(int64_t half_s) {
  return [=](int64_t ms) { return ModelLoad{ms / (half_s * 1000) % 2 == 0 ? 160 : 40, 0}; };
}
LoadOverTime noise(int64_t mean, uint64_t seed) {
  return [=, rng = Rng(seed)](int64_t) mutable {
    // Twelve uniform numbers make a normal one; its deviation is 8 % of the mean.
    int64_t sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<int64_t>(rng.below(1001));
    return ModelLoad{mean + (sum - 6000) * mean * 8 / 100'000, 0};
  };
}

void figures(const char* load, const char* variant, const ModelResult& r) {
  std::printf("%-28s %-34s %3lld / %-3lld  overload %4lld s  %7lld worker s\n", load, variant,
              static_cast<long long>(r.ups), static_cast<long long>(r.downs),
              static_cast<long long>(r.overload_ms / 1000),
              static_cast<long long>(r.replica_ms / 1000));
}

}  // namespace

TEST_CASE("the table of the design", "[.][figures]") {
  figures("constant 100 +- 8 %", "all rules", run_model(design(), noise(100, 1), from(20)));
  figures("step 20 to 200", "all rules", run_model(design(), step(20, 200), from(4)));
  ScaleParams calm = design();
  calm.panic_threshold = 0;
  figures("step", "without panic window", run_model(calm, step(20, 200), from(4)));
  figures("step", "starting not counted", run_model(design(), step(20, 200), from(4, false)));
  figures("square 60 s", "all rules", run_model(design(), square(60), from(29)));
  ScaleParams hasty = design();
  hasty.downscale_delay_ms = 0;
  hasty.step_down_every_ms = 0;
  figures("square 60 s", "without down window", run_model(hasty, square(60), from(29)));
  hasty.step_down_every_ms = 60'000;
  figures("square 60 s", "without down window with steps", run_model(hasty, square(60), from(29)));
  figures("square 600 s", "all rules", run_model(design(), square(600), from(29)));
  ScaleParams steps = design();
  steps.step_down_every_ms = 0;
  figures("square 600 s", "without that step limit", run_model(steps, square(600), from(29)));
  figures("square 600 s", "starting not counted",
          run_model(design(), square(600), from(29, false)));
}

TEST_CASE("every rule of the design at work: the rows of its table") {
  const ModelResult constant = run_model(design(), noise(100, 1), from(20));
  CHECK(constant.ups == 0);
  CHECK(constant.downs == 0);
  CHECK(constant.replica_ms == 72'000'000);
  const ModelResult up = run_model(design(), step(20, 200), from(4));
  CHECK(up.ups == 4);
  CHECK(up.downs == 0);
  CHECK(up.overload_ms == 34'000);
  CHECK(up.replica_ms == 110'232'000);
  const ModelResult fast = run_model(design(), square(60), from(29));
  CHECK(fast.ups == 0);
  CHECK(fast.downs == 0);
  CHECK(fast.replica_ms == 104'400'000);
  const ModelResult slow = run_model(design(), square(600), from(29));
  CHECK(slow.ups == 4);
  CHECK(slow.downs == 9);
  CHECK(slow.overload_ms == 68'000);
  CHECK(slow.replica_ms == 89'798'000);
}

TEST_CASE("without one of the rules the table is worse") {
  ScaleParams p = design();
  p.panic_threshold = 0;
  CHECK(run_model(p, step(20, 200), from(4)).overload_ms >= 60'000);
  CHECK(run_model(design(), step(20, 200), from(4, false)).replica_ms > 140'000'000);
  CHECK(run_model(design(), square(600), from(29, false)).replica_ms > 170'000'000);
  p = design();
  p.downscale_delay_ms = 0;
  p.step_down_every_ms = 0;
  const ModelResult hasty = run_model(p, square(60), from(29));
  CHECK(hasty.downs > 200);
  CHECK(hasty.overload_ms > 900'000);
  p = design();
  p.step_down_every_ms = 0;
  CHECK(run_model(p, square(600), from(29)).downs == 27);
}

TEST_CASE("constant load with 8 % noise changes nothing with Ray's parameters either") {
  for (uint64_t seed = 1; seed <= 20; ++seed)
    for (const int64_t mean : {60, 63, 100, 200}) {
      ScaleParams p;
      p.max_replicas = 1000;
      const int64_t right = (mean + 1) / 2;
      const ModelResult r = run_model(p, noise(mean, seed), from(right));
      CHECK(r.ups + r.downs == 0);
    }
}

TEST_CASE("a step of x10 is asked for within six looks with Ray's parameters") {
  ScaleParams p;
  p.max_replicas = 1000;
  const ModelResult r = run_model(p, step(20, 200), from(10));
  int64_t asked = 0;
  for (const ModelStep& s : r.steps)
    if (s.at_ms == 600'000 + 6 * 2'000) asked = s.decision.desired;
  CHECK(asked >= 91);  // 100, less what the tolerance leaves
  CHECK(r.downs == 0);
}

// --- single rules ------------------------------------------------------------------------------

namespace {

struct Looks {
  explicit Looks(ScaleParams params) : p(std::move(params)) {}
  // Looks every 2 s for `s` seconds at a constant load; what is decided is done, and ready at once.
  ScaleDecision pass(int64_t s, int64_t calls, int64_t backlog = 0) {
    for (const int64_t end = now + s * 1000; now < end;) {
      now += kScaleTickMs;
      last = look(calls, backlog);
    }
    return last;
  }
  ScaleDecision look(int64_t calls, int64_t backlog = 0) {
    history.note_load(now, calls, backlog);
    const ScaleDecision d = decide_scale(p, history, now, {replicas, 0, 0});
    history.note(p, d);
    replicas = d.desired;
    return d;
  }
  ScaleParams p;
  ScaleHistory history;
  int64_t now = 0;
  int64_t replicas = 1;
  ScaleDecision last;
};

ScaleParams ray(int64_t max = 100) {
  ScaleParams p;
  p.max_replicas = max;
  return p;
}
// Only the rule under test delays.
ScaleParams quick() {
  ScaleParams p = ray();
  p.upscale_delay_ms = p.downscale_delay_ms = p.step_down_every_ms = 0;
  p.look_back_period_ms = p.panic_window_ms = 2'000;
  p.panic_threshold = 0;
  p.step_up = 100'000;
  p.step_down = 1'000;
  p.tolerance = 0;
  return p;
}

}  // namespace

TEST_CASE("what is needed is the mean load over look_back_period by target_ongoing_requests") {
  ScaleParams p = quick();
  p.look_back_period_ms = 10'000;
  Looks l(p);
  l.replicas = 5;
  l.pass(20, 10);
  CHECK(l.last.desired == 5);
  CHECK(l.pass(2, 20).load == 12'000);  // one look of five
  CHECK(l.last.desired == 6);
  CHECK(l.pass(8, 20).desired == 10);
  l.p.target_ongoing_requests = 2'500;
  CHECK(l.pass(2, 20).desired == 8);
}

TEST_CASE("upscaling_factor and downscaling_factor move a part of the way or further") {
  ScaleParams p = quick();
  p.upscaling_factor = 500;
  Looks up(p);
  up.replicas = 4;
  CHECK(up.pass(2, 16).desired == 6);
  p.upscaling_factor = 2'000;
  Looks far(p);
  far.replicas = 4;
  CHECK(far.pass(2, 16).desired == 12);
  p.downscaling_factor = 500;
  Looks down(p);
  down.replicas = 8;
  CHECK(down.pass(2, 8).desired == 6);
  // The last one is not out of reach of a small factor.
  p.downscaling_factor = 100;
  Looks stuck(p);
  stuck.replicas = 5;
  CHECK(stuck.pass(2, 8).desired == 4);
}

TEST_CASE("up only after it was needed for upscale_delay") {
  ScaleParams p = ray();
  p.panic_threshold = 0;
  Looks l(p);
  l.replicas = 4;
  l.pass(60, 8);
  CHECK(l.pass(24, 14).desired == 4);
  CHECK(l.last.rule == ScaleRule::up_waits);
  CHECK(l.last.wait_ms > 0);
  CHECK(l.last.wait_ms <= 6'000);
  CHECK(l.pass(6, 14).desired == 7);
}

TEST_CASE("one look of ten that differs does not begin upscale_delay again, two do") {
  for (const int odd : {1, 3}) {
    ScaleParams p = quick();
    p.upscale_delay_ms = 30'000;
    Looks l(p);
    l.replicas = 4;
    l.pass(60, 8);
    l.pass(14, 16);
    l.pass(2 * odd, 8);
    l.pass(30 - 14 - 2 * odd, 16);
    CHECK(l.last.desired == (odd == 1 ? 8 : 4));
  }
}

TEST_CASE("after a start nothing is scaled before the delays have passed") {
  Looks l(ray());
  l.p.panic_threshold = 0;
  l.replicas = 10;
  l.pass(28, 40);
  CHECK(l.last.desired == 10);
  Looks down(ray());
  down.replicas = 10;
  down.pass(590, 2);
  CHECK(down.last.rule == ScaleRule::down_waits);
  CHECK(down.pass(20, 2).desired == 5);
}

TEST_CASE("steps up are bounded by a factor and a number") {
  ScaleParams p = quick();
  p.step_up = 2'000;
  p.step_up_replicas = 4;
  Looks l(p);
  CHECK(l.pass(2, 200).desired == 5);
  CHECK(l.last.rule == ScaleRule::up_step);
  CHECK(l.pass(2, 200).desired == 10);
  CHECK(l.pass(2, 200).desired == 20);
  p.step_up_replicas = 0;  // a step is at least one
  p.step_up = 1'000;
  Looks least(p);
  CHECK(least.pass(2, 200).desired == 2);
}

TEST_CASE("panic needs twice what is right and more than can run, and then does not wait") {
  ScaleParams p = ray();
  Looks l(p);
  l.replicas = 4;
  l.pass(60, 8);
  CHECK(l.pass(6, 19).desired == 4);  // 4.75 at each: they run, although twice the target
  CHECK_FALSE(l.last.panic);
  CHECK(l.pass(2, 30).desired == 8);
  CHECK(l.last.rule == ScaleRule::panic);
  // Over what can run, but not by the threshold.
  p.panic_threshold = 4'000;
  Looks m(p);
  m.replicas = 4;
  m.pass(60, 8);
  CHECK(m.pass(6, 30).desired == 4);
}

TEST_CASE("nothing goes down for a minute after a panic") {
  ScaleParams p = quick();
  p.panic_threshold = 2'000;
  Looks l(p);
  l.replicas = 4;
  l.pass(10, 8);
  CHECK(l.pass(2, 40).desired == 20);
  CHECK(l.pass(58, 8).desired == 20);
  CHECK(l.pass(4, 8).desired == 4);
}

TEST_CASE("the noise of the short window moves nothing within the tolerance") {
  ScaleParams p = quick();
  p.panic_threshold = 2'000;
  p.tolerance = 100;
  Looks l(p);
  l.replicas = 4;
  l.pass(10, 8);
  CHECK(l.pass(2, 40).desired == 20);
  CHECK(l.pass(2, 43).desired == 20);
  CHECK(l.pass(2, 45).desired == 23);
}

TEST_CASE("a difference within the tolerance changes nothing") {
  ScaleParams p = quick();
  p.tolerance = 100;
  Looks l(p);
  l.replicas = 20;
  CHECK(l.pass(2, 44).desired == 20);
  CHECK(l.pass(2, 46).desired == 23);
  CHECK(l.pass(2, 42).desired == 23);
  CHECK(l.pass(2, 40).desired == 20);
  // Two replicas that need 2.05 are enough, although whole replicas would be three.
  p.target_ongoing_requests = 20'000;
  Looks few(p);
  few.replicas = 2;
  CHECK(few.pass(2, 41).desired == 2);
  CHECK(few.pass(2, 45).desired == 3);
}

TEST_CASE("down goes to the most that was needed within downscale_delay") {
  ScaleParams p = quick();
  p.downscale_delay_ms = 60'000;
  Looks l(p);
  l.replicas = 10;
  l.pass(60, 20);
  l.pass(30, 4);
  l.pass(2, 12);  // 6 were needed here
  CHECK(l.pass(26, 4).desired == 10);
  CHECK(l.last.rule == ScaleRule::down_waits);
  CHECK(l.pass(6, 4).desired == 6);
  CHECK(l.pass(24, 4).desired == 6);
  CHECK(l.pass(4, 4).desired == 2);
}

TEST_CASE("a step down takes half and the next waits a minute") {
  ScaleParams p = quick();
  p.step_down = 500;
  p.step_down_every_ms = 60'000;
  Looks l(p);
  l.replicas = 17;
  CHECK(l.pass(2, 4).desired == 9);
  CHECK(l.last.rule == ScaleRule::down_step);
  CHECK(l.pass(58, 4).desired == 9);
  CHECK(l.last.rule == ScaleRule::step_waits);
  CHECK(l.pass(2, 4).desired == 5);
  CHECK(l.pass(60, 4).desired == 3);
}

TEST_CASE("from zero at once") {
  ScaleParams p = ray();
  p.min_replicas = 0;
  p.downscale_delay_ms = 20'000;
  p.downscale_to_zero_delay_ms = 100'000;
  Looks l(p);
  l.replicas = 0;
  l.pass(20, 0);
  CHECK(l.last.rule == ScaleRule::still);
  CHECK(l.pass(2, 1).desired == 1);
  CHECK(l.last.rule == ScaleRule::from_zero);
  l.p.upscaling_factor = 3'000;
  l.replicas = 0;
  CHECK(l.pass(2, 1).desired == 3);
}

TEST_CASE("to zero only from one and after its own delay") {
  ScaleParams p = ray();
  p.min_replicas = 0;
  p.downscale_delay_ms = 20'000;
  p.downscale_to_zero_delay_ms = 100'000;
  p.step_down_every_ms = 0;
  Looks l(p);
  l.replicas = 4;
  l.pass(60, 8);
  // 30 s until the mean is zero; 20 s later only one is left, and 100 s later none.
  l.pass(120, 0);
  CHECK(l.replicas == 1);
  CHECK(l.last.rule == ScaleRule::down_waits);
  CHECK(l.pass(12, 0).desired == 0);
}

TEST_CASE("no step goes past the last replica") {
  ScaleParams p = quick();
  p.min_replicas = 0;
  p.downscale_to_zero_delay_ms = 60'000;
  Looks l(p);
  l.replicas = 4;
  l.pass(60, 8);
  CHECK(l.pass(10, 0).desired == 1);
}

TEST_CASE("a small factor makes small steps and gets there") {
  ScaleParams p = quick();
  p.tolerance = 100;
  p.downscaling_factor = p.upscaling_factor = 50;
  Looks l(p);
  l.replicas = 40;
  CHECK(l.pass(2, 40).desired == 39);
  CHECK(l.pass(200, 40).desired == 22);
  l.replicas = 40;
  CHECK(l.pass(2, 160).desired == 42);
}

TEST_CASE("without a delay of its own the last replica leaves after downscale_delay") {
  ScaleParams p = ray();
  p.min_replicas = 0;
  p.downscale_delay_ms = 20'000;
  Looks l(p);
  l.pass(30, 0);
  CHECK(l.replicas == 0);
}

TEST_CASE("bounds hold at once and whatever else is said") {
  ScaleParams p = ray(8);
  p.min_replicas = 3;
  Looks l(p);
  CHECK(l.pass(2, 0).desired == 3);
  CHECK(l.last.rule == ScaleRule::bound);
  l.replicas = 12;
  CHECK(l.pass(2, 24).desired == 8);
  CHECK(l.pass(60, 1000).desired == 8);
  CHECK(initial_replicas(p) == 3);
  p.initial_replicas = 5;
  CHECK(initial_replicas(p) == 5);
  p.initial_replicas = 50;
  CHECK(initial_replicas(p) == 8);
}

TEST_CASE("replicas that start are there and those that leave are not") {
  ScaleParams p = quick();
  ScaleHistory h;
  h.note_load(2'000, 20, 0);
  CHECK(decide_scale(p, h, 2'000, {4, 6, 0}).desired == 10);
  CHECK(decide_scale(p, h, 2'000, {10, 0, 5}).desired == 10);
  CHECK(decide_scale(p, h, 2'000, {4, 6, 0}).rule == ScaleRule::still);
}

TEST_CASE("queued tasks of unknown length count as calls") {
  Looks l(quick());
  CHECK(l.pass(2, 4, 10).desired == 7);
}

TEST_CASE("queued work with a known length gets what its deadline needs beside the calls") {
  ScaleParams p = quick();
  p.task_time_ms = 1'000;
  p.backlog_deadline_ms = 100'000;
  Looks l(p);
  // 1700 s of work in 100 s with 85 % of a replica: 20.
  CHECK(l.pass(2, 0, 1700).desired == 20);
  // As it shrinks it keeps them, or it would be late.
  CHECK(l.pass(2, 0, 17).desired == 20);
  CHECK(l.pass(2, 0, 0).desired == 1);
  // 10 calls keep 2 of 5 busy (max_ongoing 5); the rest is for queued work.
  l.replicas = 5;
  CHECK(l.pass(2, 10, 170).desired == 5);
  CHECK(l.pass(2, 10, 340).desired == 6);
  l.replicas = 0;
  CHECK(l.pass(2, 0, 850).desired == 10);
}

TEST_CASE("a note stands for the time before it but not for a pause and close ones are one") {
  ScaleHistory h;
  h.note_load(0, 10, 0);
  h.note_load(1'000, 20, 0);
  h.note_load(1'100, 40, 0);  // in place of the 20
  CHECK(h.mean_load(1'100, 1'100) == 40'000);
  CHECK(h.mean_load(1'100, 2'200) == 25'000);
  // A minute without a word: the next note speaks for 5 s of it.
  h.note_load(61'100, 0, 0);
  CHECK(h.mean_load(61'100, 10'000) == 0);
  CHECK(h.mean_load(61'100, 70'000) > 6'000);
  h.note_load(61'200, -5, -7);
  CHECK(h.calls() == 0);
  CHECK(h.backlog() == 0);
}

TEST_CASE("what a look says names its rule and its numbers") {
  Looks l(ray());
  l.replicas = 4;
  l.pass(60, 8);
  const Doc doc = l.last.to_doc(l.p);
  CHECK(doc["rule"].as_text() == "still");
  CHECK(doc["why"].as_text() ==
        "4.00 replicas are needed, which is within the tolerance of 4 replicas");
  CHECK(doc["inputs"]["ready"].as_int() == 4);
  CHECK(doc["steps"]["needed"].as_number() == 4.0);
  CHECK(doc["windows"]["downscale_delay_s"].as_number() == 600.0);
}
