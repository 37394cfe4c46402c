// Life of a simulated process: start, wake, pause, crash.
#include "tests/sim/node.h"

namespace dray::sim {

Now Node::clock() const {
  return {Time(world_.now() + mono_skew_), kWallStart + to_ms(world_.now()) + wall_skew_ms_};
}

void Node::start() {
  if (alive_) return;
  ++life_;
  alive_ = true;
  plan_ = CrashPoint::none;
  leaving_ = false;
  wake_at_ = Duration::max();
  busy_until_ = born_ = world_.now();
  mono_skew_ = 3600s + world_.up_to(3600s);
  trace("starts, life " + std::to_string(life_));
  try {
    boot();
  } catch (const CrashSignal&) {
    return crash("while starting");
  }
  wake(world_.now());
}

void Node::crash(const char* why) {
  trace(std::string("ends: ") + why);
  world_.mix(life_ * 7919);
  alive_ = false;
  inbox_.clear();
  unreachable_.clear();
  plan_ = CrashPoint::none;
  on_died();
  clear();
  if (left_)
    net_.on_leave(*this);
  else
    net_.on_death(*this);
  if (!left_) world_.disturb(world_.now() + 10s);
  left_ = false;
  Duration back = std::max(down_until_, world_.now() + 1ms + world_.skewed(4s));
  world_.at(back, [this] { start(); });
}

void Node::die() {
  if (alive_) crash("killed");
}

void Node::plan_crash(CrashPoint point) {
  if (!alive_) return;
  plan_ = point;
  plan_until_ = world_.now() + 2s;
  wake(world_.now());
}

void Node::pause_until(Duration t) {
  paused_until_ = std::max(paused_until_, t);
  world_.disturb(t + 5s);
  trace("stopped");
}

void Node::retire() {
  if (!alive_ || leaving_) return;
  trace("SIGTERM");
  leaving_ = true;
  begin_drain();
  wake(world_.now());
  uint64_t life = life_;
  world_.after(20s, [this, life] {
    if (alive_ && life_ == life && leaving_) crash("drain timeout");
  });
}

void Node::wake(Duration when) {
  if (!alive_ || when == Duration::max()) return;
  when = std::max({when, busy_until_, world_.now()});
  if (when >= wake_at_) return;
  wake_at_ = when;
  uint64_t life = life_;
  world_.at(when, [this, when, life] { on_wake(when, life); });
}

void Node::on_wake(Duration at, uint64_t life) {
  if (!alive_ || life_ != life || wake_at_ != at) return;
  wake_at_ = Duration::max();
  if (paused()) return wake(paused_until_);
  busy_until_ = world_.now() + 50us;
  turn();
}

void Node::note_trouble(Duration until) {
  if (world_.now() > trouble_end_ + 2s) trouble_begin_ = world_.now();
  trouble_end_ = std::max(trouble_end_, until);
}

}  // namespace dray::sim
