// Node: one process of the simulation: its life, its input, its turns. CoreNode runs the real Turn
// template around a real core, as common/service/host.h does.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/service/turn.h"
#include "tests/sim/net.h"
#include "tests/sim/world.h"

namespace dray::sim {

constexpr int64_t kWallStart = 1'800'000'000'000;

enum class CrashPoint : uint8_t {
  none,
  between_turns,
  after_now,  // the `now` lane was delivered, the journal was not written
  in_commit,  // some of what was appended is on disk
  after_commit,  // all of it is, and nothing of after_sync was sent
};
struct CrashSignal {};

class Node {
 public:
  Node(World& world, Net& net, std::string name)
      : world_(world), net_(net), name_(std::move(name)) {}
  virtual ~Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  const std::string& name() const { return name_; }
  bool alive() const { return alive_; }
  uint64_t life() const { return life_; }
  bool paused() const { return world_.now() < paused_until_; }
  Duration born() const { return born_; }
  Duration paused_until() const { return paused_until_; }
  bool leaving() const { return leaving_; }
  bool stable() const { return stable_; }
  Now clock() const;
  int64_t wall_ms() const { return clock().wall_ms; }
  void set_wall_skew(int64_t ms) { wall_skew_ms_ = ms; }

  void start();  // a new life
  void die();  // at once; the disks stay
  void plan_crash(CrashPoint point);  // in the next turn that gets so far, or after a while
  void pause_until(Duration t);
  void retire();  // SIGTERM
  void keep_down_until(Duration t) { down_until_ = t; }
  void set_stable(bool stable) { stable_ = stable; }  // no more faults of its own

  void arrive(Packet&& packet) {
    inbox_.push_back(std::move(packet));
    wake(world_.now());
  }
  void unreachable(Port port, Peer peer) {
    unreachable_.push_back({port, peer});
    wake(world_.now());
  }
  void wake(Duration when);

  // Trouble: the time in which this process may be taken for dead. Overlapping pieces join.
  void note_trouble(Duration until);
  Duration trouble_begin() const { return trouble_begin_; }
  Duration trouble_end() const { return trouble_end_; }

 protected:
  virtual void boot() = 0;  // makes core, links, durable; may throw CrashSignal
  virtual void clear() = 0;  // destroys them
  virtual void turn() = 0;
  virtual void on_died() {}
  virtual void begin_drain() {}
  void crash(const char* why);
  BootId make_boot() { return {world_.rng().next(), world_.rng().next()}; }
  void trace(const std::string& text) {
    if (world_.verbose()) world_.trace(name_, text);
  }

  World& world_;
  Net& net_;
  std::string name_;
  bool alive_ = false;
  bool leaving_ = false;
  bool stable_ = false;
  bool left_ = false;  // of itself, with everything said
  uint64_t life_ = 0;
  CrashPoint plan_ = CrashPoint::none;
  Duration plan_until_{0};
  Duration paused_until_{0};
  Duration busy_until_{0};
  Duration born_{0};
  Duration down_until_{0};
  Duration mono_skew_{0};
  int64_t wall_skew_ms_ = 0;
  Duration wake_at_ = Duration::max();
  std::deque<Packet> inbox_;
  std::vector<std::pair<Port, Peer>> unreachable_;
  Duration trouble_begin_{-1};
  Duration trouble_end_{-1};

 private:
  void on_wake(Duration at, uint64_t life);
};

template <class Core, class Durable>
class CoreNode : public Node {
 public:
  using Node::Node;
  using Out = typename Core::Out;
  Core& core() { return *core_; }
  Links& links() { return *links_; }

 protected:
  virtual void before_turn(Now, Out&) {}
  virtual void on_feed(const Packet&) {}
  virtual void on_effects(Now, Out&) {}  // the turn's effects, before anything is durable
  virtual void on_send(const Packet&) {}
  virtual void after_turn(Now) {}
  virtual void on_note(const Note&) {}
  virtual bool has_records(const Out&) const { return false; }
  virtual void arm_commit_fault(CrashPoint) {}
  virtual void disarm_commit_fault() {}
  virtual bool expected_error(const Error&) const { return false; }

  void clear() override {
    turn_.reset();
    durable_.reset();
    core_.reset();
    links_.reset();
  }
  void make_turn() { turn_ = std::make_unique<Turn<Core, Durable>>(*core_, *links_, *durable_); }
  void begin_drain() override {
    if constexpr (requires(Core & c, Out & o) { c.begin_drain(Now{}, o); })
      core_->begin_drain(clock(), turn_->out());
  }

  void turn() override {
    Now now = clock();
    if (plan_ != CrashPoint::none &&
        (plan_ == CrashPoint::between_turns || world_.now() >= plan_until_))
      return crash("between turns");
    before_turn(now, turn_->out());
    uint64_t closed = links_->counters().closed;
    size_t limit = 1 + world_.below(64);
    for (size_t n = 0; n < limit && !inbox_.empty(); ++n) {
      Packet packet = std::move(inbox_.front());
      inbox_.pop_front();
      on_feed(packet);
      turn_->feed(std::move(packet), now);
    }
    bool armed = false;
    Status status;
    try {
      status = turn_->finish(now, inbox_.empty(), [&](Out& out) {
        flush(now);
        on_effects(now, out);
        if (plan_ == CrashPoint::after_now && (has_records(out) || world_.one_in(4)))
          throw CrashSignal{};
        if (has_records(out) && plan_ >= CrashPoint::in_commit) {
          armed = true;
          arm_commit_fault(plan_);
        }
      });
    } catch (const CrashSignal&) {
      return crash("after the now lane");
    }
    if (!status) {
      if (!armed && !expected_error(status.error()))
        violate("error", name_ + " ends with: " + status.error().detail);
      return crash(status.error().detail.c_str());
    }
    if (armed) disarm_commit_fault();
    flush(now);
    for (const Note& note : turn_->take_notes()) {
      if (world_.verbose()) trace(std::string(note.event) + " " + note.fields);
      on_note(note);
    }
    after_turn(now);
    if (!alive_) return;
    bool again = turn_->has_effects() || !links_->events.empty() || !inbox_.empty() ||
                 links_->counters().closed != closed;
    if (leaving_ && !again && ready_to_leave()) return leave();
    Duration next = again ? world_.now() : to_world(turn_->next_deadline());
    wake(next);
  }
  bool ready_to_leave() {
    if constexpr (requires(Core & c) { c.drained(); }) return core_->drained();
    return true;
  }

  Duration to_world(Time t) const {
    if (t == kNever) return Duration::max();
    return t.time_since_epoch() - mono_skew_;
  }

  std::unique_ptr<Core> core_;
  std::unique_ptr<Links> links_;
  std::unique_ptr<Durable> durable_;
  std::unique_ptr<Turn<Core, Durable>> turn_;

 private:
  void flush(Now now) {
    for (Port port : links_->resets) net_.recreate(*this, port);
    links_->resets.clear();
    for (Packet& packet : links_->packets) {
      on_send(packet);
      net_.send(*this, std::move(packet));
    }
    links_->packets.clear();
    for (auto [port, peer] : std::exchange(unreachable_, {}))
      links_->on_unreachable(port, peer, now.mono);
  }
  void leave() {
    Now now = clock();
    links_->close_all(now.mono);
    flush(now);
    world_.reach("graceful exits");
    left_ = true;
    crash("left");
  }
};

}  // namespace dray::sim
