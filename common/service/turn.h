// Turn: one step of a process, written once: packets in, core decides, records become durable,
// packets out. The real host and the simulator run this same template, so the rule "nothing that
// promises a record leaves before the record is durable" is tested, not trusted.
#pragma once

#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/base/time.h"
#include "common/wire/link.h"
#include "common/wire/outbox.h"

namespace dray {

// Core:    using Out (derived from Outbox);
//          on_open(SessionInfo, Now, Out&)  on_close(SessionId, CloseReason, Now, Out&)
//          on_message(SessionId, Envelope, Message&&, Now, Out&)   or, for a core that forwards:
//          on_frames(SessionId, Envelope, Frames&&, Now, Out&)
//          tick(Now, Out&)  next_deadline() -> Time
//          end_turn(Now, Out&)   optional: what is best done once for all inputs of a turn
//          Out.forwards          optional: messages passed on as they came, with the `now` lane
// Durable: persist(Out&) -> Status   makes the turn's records durable
//          load(Send&) -> Status     fills in bytes that a message refers to
template <class Core, class Durable>
class Turn {
 public:
  using Out = typename Core::Out;
  Turn(Core& core, Links& links, Durable& durable)
      : core_(core), links_(links), durable_(durable) {}

  // Feeds one packet to the core. Call any number of times, then finish().
  void feed(Packet&& packet, Now now) {
    links_.on_packet(std::move(packet), now.mono);
    drain_events(now);
  }

  // Moves time, makes records durable and leaves everything to send in links.packets.
  // `on_now` is called when the `now` lane is ready, before anything is written.
  // An error means the process must end: what it says is not on disk.
  template <class OnNow>
  Status finish(Now now, bool drained, OnNow&& on_now) {
    if (now.mono >= links_.next_deadline() || !links_.events.empty()) {
      links_.tick(now.mono, drained);
      drain_events(now);
    }
    if (now.mono >= core_.next_deadline()) core_.tick(now, out_);
    if constexpr (requires { core_.end_turn(now, out_); }) core_.end_turn(now, out_);
    for (Send& s : out_.now) DRAY_TRY(emit(s, now));
    if constexpr (requires { out_.forwards; })
      for (auto& f : out_.forwards) links_.forward(f.to, f.envelope, f.frames, now.mono);
    on_now(out_);
    DRAY_TRY(durable_.persist(out_));
    for (Send& s : out_.after_sync) DRAY_TRY(emit(s, now));
    for (SessionId id : out_.close) links_.close(id, now.mono);
    notes_.insert(notes_.end(), std::make_move_iterator(out_.notes.begin()),
                  std::make_move_iterator(out_.notes.end()));
    out_.clear();
    drain_events(now);  // closing a session is an event too; its effects go with the next turn
    return {};
  }
  Status finish(Now now, bool drained) {
    return finish(now, drained, [](const Out&) {});
  }

  Time next_deadline() const { return std::min(links_.next_deadline(), core_.next_deadline()); }
  bool has_effects() const {
    if constexpr (requires { out_.has_effects(); })
      if (out_.has_effects()) return true;
    return !out_.now.empty() || !out_.after_sync.empty() || !out_.close.empty();
  }
  Out& out() { return out_; }  // for effects that do not come from a packet (executors, admin)
  std::vector<Note> take_notes() { return std::exchange(notes_, {}); }

 private:
  void drain_events(Now now) {
    for (size_t i = 0; i < links_.events.size(); ++i) {
      LinkEvent event = std::move(links_.events[i]);
      switch (event.type) {
        case LinkEvent::Type::opened:
          core_.on_open(event.session, now, out_);
          break;
        case LinkEvent::Type::closed:
          core_.on_close(event.session.id, event.reason, now, out_);
          break;
        case LinkEvent::Type::message:
          deliver(event, now);
          break;
      }
    }
    links_.events.clear();
  }

  void deliver(LinkEvent& event, Now now) {
    SessionId from = event.session.id;
    if constexpr (requires(Core & c) {
                    c.on_frames(from, event.envelope, std::move(event.frames), now, out_);
                  }) {
      core_.on_frames(from, event.envelope, std::move(event.frames), now, out_);
    } else {
      auto in = decode(event.frames);
      if (in) {
        core_.on_message(from, event.envelope, std::move(in->message), now, out_);
      } else {
        out_.now.push_back(
            reply_to(from, event.envelope, make_reject(in.error().code, in.error().detail)));
        out_.note("bad_message", in.error().detail);
      }
    }
  }

  Status emit(Send& s, Now now) {
    if (!s.gather.empty() || s.load) DRAY_TRY(durable_.load(s));
    Envelope e;
    e.route = s.route;
    e.req = s.req;
    e.granted = s.granted;
    links_.send(s.to, e, s.message, now.mono);
    return {};
  }

  Core& core_;
  Links& links_;
  Durable& durable_;
  Out out_;
  std::vector<Note> notes_;
};

// For cores without durable state.
struct NoDurable {
  template <class Out>
  Status persist(Out&) {
    return {};
  }
  Status load(Send&) { return {}; }
};

}  // namespace dray
