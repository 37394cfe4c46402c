// Host: runs one core on real sockets: the loop around Turn, one thread, one turn at a time.
//
// wait -> read clocks -> feed at most kTurnInputsMax packets -> finish the turn (which persists) ->
// send. Header only, so the client library uses it without the rest of this folder.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/net/clock.h"
#include "common/net/port_set.h"
#include "common/net/wake.h"
#include "common/service/loop_pair.h"
#include "common/service/turn.h"
#include "common/wire/bundle.h"

namespace dray {

constexpr size_t kTurnInputsMax = 256;  // packets per turn
constexpr size_t kTurnBytesMax = 16 * 1024 * 1024;  // bytes per turn
constexpr Duration kSafetyTick = 100ms;  // longest sleep
constexpr Duration kFlushLimit = 200ms;  // for the last messages of a process
constexpr Duration kReadTime = 100ms;  // for those who dialed to read them

struct HostOptions {
  LinkOptions link;
  std::vector<ListenSpec> listen;
  std::vector<DialSpec> dial;
  SocketOptions socket;
  int io_threads = 1;
  Duration spin{};  // stay awake this long after the last packet
  Duration drain_timeout = 30s;
  bool guests = false;  // the loop is a LoopPair: run_guest() may be used
};

struct HostCounters {  // written by the loop, read by anybody
  std::atomic<uint64_t> turns{0};
  std::atomic<uint64_t> packets_in{0};
  std::atomic<uint64_t> packets_out{0};
  std::atomic<uint64_t> wakeups{0};  // sleeps that ended
  std::atomic<uint64_t> eagain{0};  // packets that had to wait for a peer
  std::atomic<uint64_t> bad{0};  // messages dropped by a port or undecodable
  std::atomic<uint64_t> lost{0};  // packets dropped with their session
  std::atomic<uint64_t> missed{0};  // input found only by the safety tick; must stay 0
  std::atomic<uint64_t> sessions{0};
  std::atomic<uint64_t> turn_ns_max{0};
};

// Core may have, besides what Turn wants:
//   begin_drain(Now, Out&)   called once after request_stop()
//   drained() -> bool        the host leaves when it is true (without it: at once)
template <class Core, class Durable>
class Host {
 public:
  using Out = typename Core::Out;

  Host(HostOptions options, Core& core, Durable& durable)
      : options_(std::move(options)),
        core_(core),
        links_(options_.link),
        turn_(core, links_, durable) {}
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Opens the sockets and starts ZeroMQ's threads: fork nothing afterwards.
  Status open() {
    DRAY_TRY(wake_.open());
    DRAY_TRY(ports_.open(options_.listen, options_.dial, options_.socket, options_.io_threads));
    for (const ListenSpec& spec : options_.listen) links_.listen(spec.port);
    for (const DialSpec& spec : options_.dial) links_.dial(spec.port, spec.role);
    return {};
  }

  // Until stopped and drained. An error means that the process must end with a failure: something
  // was not made durable. Nothing that depends on it was sent.
  Status run() {
    if (options_.guests) {
      pair_ = std::make_unique<LoopPair>([this] { return loop(); });
      pair_->run();
    } else {
      loop();
    }
    if (status_) say_goodbye();
    ports_.close(status_ ? kFlushLimit : Duration::zero());
    return status_;
  }

  // --- any thread ---
  void request_stop() {  // also from a signal handler
    stop_.store(true);
    wake_.signal();
  }
  void wake() { wake_.signal(); }  // cheap while the loop is awake
  // Runs `f` in the loop's thread, in the next turn. Never called once run() has ended.
  void post(std::function<void(Now, Core&, Out&)> f) {
    {
      std::lock_guard lock(posts_mutex_);
      posts_.push_back(std::move(f));
    }
    has_posts_.store(true);
    wake_.signal();
  }
  const HostCounters& counters() const { return counters_; }

  // --- before run() ---
  // Start of each turn: effects that no packet caused (executor results). Use wake() to get one.
  void set_poll(std::function<void(Now, Out&)> f) { poll_ = std::move(f); }
  // Sees the turn's effects when its `now` lane was sent, before anything is made durable.
  void set_on_turn(std::function<void(Now, Out&)> f) { on_turn_ = std::move(f); }
  void set_on_note(std::function<void(const Note&)> f) { on_note_ = std::move(f); }

  // --- loop thread ---
  // Whether a guest that does not return would be no harm.
  bool can_have_guest() const { return pair_ && pair_->has_spare(); }
  // Runs `f` in this thread when the turn has sent what it says. `f` may outlive the loop's being
  // in this thread, so it must not touch what belongs to the loop.
  void run_guest(std::function<void()> f) { guest_ = std::move(f); }
  // Address of a listening port as really bound (tcp://127.0.0.1:0 got a number).
  std::string endpoint(Port port, size_t index = 0) const { return ports_.endpoint(port, index); }
  Links& links() { return links_; }
  Core& core() { return core_; }

 private:
  // Until the end (true), or until another thread is the loop (false).
  bool loop() {
    while (status_ && !(stopping_ && may_leave())) {
      status_ = run_turn();
      if (!status_ || (stopping_ && may_leave())) break;
      if (guest_) {
        const std::function<void()> guest = std::exchange(guest_, nullptr);
        if (!pair_->run_guest(guest)) return false;
        continue;  // what the guest made is there
      }
      // What a callback asked for goes out at once; the sockets are looked at every other turn.
      hurried_ = !hurried_ && has_posts_.load(std::memory_order_relaxed);
      if (!hurried_) sleep();
    }
    return true;
  }

  Status run_turn() {
    Now now = read_clock();
    wake_.awake();  // before looking at what it announces
    if (stop_.load(std::memory_order_relaxed) && !stopping_) begin_stop(now);
    if (has_posts_.load(std::memory_order_relaxed)) run_posts(now);
    if (poll_) poll_(now, turn_.out());
    if (ports_.take_departures()) links_.on_departure(now.mono);
    // Who judges silence must have read everything.
    const bool all = turn_.next_deadline() <= now.mono;
    size_t received = read_packets(now, all);
    uint64_t closed = links_.counters().closed;
    Status status = turn_.finish(now, all && ports_.drained(), [&](Out& out) {
      flush(now);
      if (on_turn_) on_turn_(now, out);
    });
    DRAY_TRY(status);
    flush(now);
    // Closing a session is seen by the core after its durable step: its effects need a turn.
    again_ = turn_.has_effects() || !links_.events.empty() || links_.counters().closed != closed;
    if (received > 0) active_ = now.mono;
    if (on_note_)
      for (const Note& note : turn_.take_notes()) on_note_(note);
    else
      turn_.take_notes();
    count(now, received);
    return {};
  }

  size_t read_packets(Now now, bool all) {
    size_t n = 0;
    size_t bytes = 0;
    for (; n < kTurnInputsMax && bytes < kTurnBytesMax; ++n) {
      Received result = ports_.receive(packet_, all);
      if (result == Received::none) break;
      if (result == Received::dropped) continue;
      for (uint8_t i = 0; i < packet_.frames.count; ++i) bytes += packet_.frames.frame[i].size();
      if (packet_.frames.count == 1 && is_bundle(packet_.frames.frame[0])) {
        n += feed_bundle(now);
      } else {
        turn_.feed(std::move(packet_), now);
      }
    }
    return n;
  }

  size_t feed_bundle(Now now) {
    Packet part;
    size_t at = 0;
    size_t n = 0;
    bool bad = false;
    while (next_in_bundle(packet_.frames.frame[0], at, part.frames, bad)) {
      part.port = packet_.port;
      part.peer = packet_.peer;
      turn_.feed(std::move(part), now);
      ++n;
    }
    if (bad) bad_bundles_.fetch_add(1, std::memory_order_relaxed);
    return n;
  }

  // Everything that links want sent, after what already waits.
  void flush(Now now) {
    for (Port port : links_.resets) ports_.recreate(port);
    links_.resets.clear();
    if (ports_.has_pending() && now.mono != retried_) {
      retried_ = now.mono;
      ports_.retry();
    }
    auto send = [this](Packet&& packet) { ports_.send(std::move(packet)); };
    for (Packet& packet : links_.packets) bundler_.add(std::move(packet), send);
    bundler_.flush(send);
    links_.packets.clear();
    if (!ports_.take_unreachable(unreachable_)) return;
    for (const Unreachable& u : unreachable_) links_.on_unreachable(u.port, u.peer, now.mono);
  }

  void sleep() {
    Duration timeout = Duration::zero();
    if (!again_ && ports_.drained()) {
      const Time now = read_mono();
      timeout = std::min(turn_.next_deadline() - now, kSafetyTick);
      if (turn_.next_deadline() <= now) timeout = Duration::zero();
      if (stopping_) timeout = std::min(timeout, std::max(drain_until_ - now, Duration(1ms)));
      if (ports_.has_pending()) timeout = std::min(timeout, retry_delay());
      if (now - active_ < options_.spin) timeout = Duration::zero();
    }
    if (ports_.wait(timeout, wake_)) counters_.wakeups.fetch_add(1, std::memory_order_relaxed);
  }

  // 1 ms while packets that waited get through, up to 10 ms while they do not.
  Duration retry_delay() {
    uint64_t sent = ports_.counters().sent;
    retry_delay_ =
        sent != sent_at_retry_ ? Duration(1ms) : std::min(2 * retry_delay_, Duration(10ms));
    sent_at_retry_ = sent;
    return retry_delay_;
  }

  void begin_stop(Now now) {
    stopping_ = true;
    drain_until_ = now.mono + options_.drain_timeout;
    if constexpr (requires(Core & c, Out & out) { c.begin_drain(now, out); })
      core_.begin_drain(now, turn_.out());
  }
  bool may_leave() {
    if (read_mono() >= drain_until_) return true;
    if (again_) return false;
    if constexpr (requires(Core & c) {
                    { c.drained() } -> std::convertible_to<bool>;
                  }) {
      return core_.drained();
    } else {
      return true;
    }
  }

  void say_goodbye() {
    Now now = read_clock();
    Time until = now.mono + kFlushLimit;
    const bool has_hearers = !options_.listen.empty() && links_.size() > 0;
    links_.close_all(now.mono);
    flush(now);
    while (ports_.has_pending() && read_mono() < until) {
      ports_.wait(Duration(1ms), wake_);
      ports_.retry();
    }
    // With ZMQ_IMMEDIATE a dialer loses what waits in its socket when the connection ends: replies
    // to calls and the DRAIN that says which ones were not taken.
    if (has_hearers) std::this_thread::sleep_for(kReadTime);
  }

  void run_posts(Now now) {
    std::vector<std::function<void(Now, Core&, Out&)>> posts;
    has_posts_.store(false);
    {
      std::lock_guard lock(posts_mutex_);
      posts.swap(posts_);
    }
    for (auto& f : posts) f(now, core_, turn_.out());
  }

  void count(Now now, size_t received) {
    constexpr auto relaxed = std::memory_order_relaxed;
    const PortCounters ports = ports_.counters();
    counters_.turns.fetch_add(1, relaxed);
    if (received > 0) counters_.packets_in.store(ports.received, relaxed);
    counters_.packets_out.store(ports.sent, relaxed);
    counters_.eagain.store(ports.busy, relaxed);
    counters_.lost.store(ports.lost, relaxed);
    counters_.bad.store(ports.bad + links_.counters().bad_messages + bad_bundles_, relaxed);
    counters_.missed.store(ports_.missed(), relaxed);
    counters_.sessions.store(links_.size(), relaxed);
    auto took = static_cast<uint64_t>((read_mono() - now.mono).count());
    if (took > counters_.turn_ns_max.load(relaxed)) counters_.turn_ns_max.store(took, relaxed);
  }

  HostOptions options_;
  Core& core_;
  Links links_;
  Turn<Core, Durable> turn_;
  PortSet ports_;
  Wake wake_;
  HostCounters counters_;
  std::function<void(Now, Out&)> poll_;
  std::function<void(Now, Out&)> on_turn_;
  std::function<void(const Note&)> on_note_;
  std::mutex posts_mutex_;
  std::vector<std::function<void(Now, Core&, Out&)>> posts_;
  std::atomic<bool> has_posts_{false};
  std::atomic<bool> stop_{false};

  std::unique_ptr<LoopPair> pair_;
  std::function<void()> guest_;
  Status status_;

  Bundler bundler_;
  std::atomic<uint64_t> bad_bundles_{0};
  Packet packet_;
  std::vector<Unreachable> unreachable_;
  bool hurried_ = false;  // went on without a look at the sockets
  bool again_ = false;  // effects wait for the next turn
  bool stopping_ = false;
  Time drain_until_{};
  Time active_{};
  Time retried_{};
  Duration retry_delay_ = 1ms;
  uint64_t sent_at_retry_ = 0;
};

}  // namespace dray
