// Links: every conversation (session) of one process, as a pure state machine: HELLO / WELCOME,
// BEAT, WHO, BYE, liveness and the watchdog. Written once for every pair of processes; the real
// host and the simulator run the same code. It sees packets and time, and returns packets and
// events.
//
// A *port* is one socket of the process: a listening ROUTER (many peers) or a dialing DEALER (one
// peer). A *peer* is the shell's handle of a ROUTER connection; routing ids never get here.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/ids.h"
#include "common/base/time.h"
#include "common/wire/message.h"

namespace dray {

using Port = uint8_t;
using Peer = uint64_t;

struct Packet {
  Port port = 0;
  Peer peer = 0;  // 0 on dialing ports
  Frames frames;
};

enum class CloseReason : uint8_t { timeout, replaced, bye, unreachable, reset };
const char* close_reason_name(CloseReason reason);

struct SessionInfo {
  SessionId id = SessionId::none;
  Port port = 0;
  Role role = Role::client;  // of the peer
  std::string name;
  BootId boot;
  uint64_t epoch = 0;  // of a broker peer
  uint64_t payload_max = 0;  // limit announced by a listener, 0 if the peer dialed us
};

struct LinkEvent {
  enum class Type : uint8_t { opened, closed, message } type;
  SessionInfo session;  // `opened` only; else just the id
  CloseReason reason = CloseReason::timeout;
  Envelope envelope;  // `message` only
  Frames frames;  // `message` only
};

struct LinkOptions {
  Role role = Role::client;
  std::string name;
  BootId boot;
  uint64_t epoch = 0;
  Duration beat = std::chrono::seconds(1);
  Duration liveness = std::chrono::seconds(5);  // silence after which a session is over
  uint64_t payload_max = kPayloadBytesMax;
};

struct LinkCounters {
  uint64_t bad_messages = 0;  // undecodable, wrong version, link verbs that make no sense
  uint64_t stale_messages = 0;  // session not current
  uint64_t opened = 0;
  uint64_t closed = 0;
  uint64_t resets = 0;
};

class Links {
 public:
  explicit Links(LinkOptions options)
      : options_(std::move(options)), wire_base_(options_.boot.lo & 0x7fff'ffff) {}

  void listen(Port port) { ports_[port].listening = true; }
  // Starts saying HELLO at the next tick.
  void dial(Port port, Role expected);
  void set_epoch(uint64_t epoch) { options_.epoch = epoch; }

  void on_packet(Packet&& packet, Time now);
  // `drained`: all waiting input was processed, so silence is silence. A gap since the last tick
  // (the process was stopped) is given back to every session before anyone is declared dead.
  void tick(Time now, bool drained);
  Time next_deadline() const { return next_tick_; }
  // The shell could not deliver to this connection (EHOSTUNREACH). What came from it and was not
  // read yet still counts, a BYE for one.
  void on_unreachable(Port port, Peer peer, Time now);
  // Somebody's connection to a listening port ended, and the shell can not tell whose: something is
  // said to everybody soon, which can not be delivered to that one.
  void on_departure(Time now);

  void send(SessionId to, Envelope envelope, const Message& message, Time now);
  void forward(SessionId to, const Envelope& envelope, const Frames& frames, Time now);
  void close(SessionId id, Time now);
  void close_all(Time now);  // says BYE to everybody
  bool is_open(SessionId id) const { return sessions_.count(id) != 0; }
  // When the peer last said anything, beats included; what this process itself slept is given back.
  Time heard(SessionId id) const {
    const auto it = sessions_.find(id);
    return it == sessions_.end() ? Time{} : it->second.heard;
  }
  size_t size() const { return sessions_.size(); }
  const LinkCounters& counters() const { return counters_; }

  // Outputs, consumed and cleared by the shell.
  std::vector<Packet> packets;
  std::vector<LinkEvent> events;
  std::vector<Port> resets;  // close this dialing socket and make a new one

 private:
  struct Session {
    SessionInfo info;
    Peer peer = 0;
    uint64_t wire_id = 0;  // session number in envelopes: assigned by the listener
    uint64_t connect_no = 0;
    Time heard{};
    Time spoke{};
    Time unreachable_at = kNever;  // since then it waits until all that the peer said was read
  };
  struct PortState {
    bool listening = false;
    Role expected = Role::broker;
    SessionId session = SessionId::none;  // dialing ports
    uint64_t connect_no = 0;
    Time hello_at{};  // next HELLO while there is no session
    Time said_hello{};  // the last one
    int hellos = 0;
    std::unordered_map<Peer, SessionId> peers;  // listening ports
  };
  struct Newest {
    uint64_t connect_no = 0;
    SessionId session = SessionId::none;
  };

  void on_hello(const Packet& packet, const Incoming& in, Time now);
  void on_welcome(const Packet& packet, const Incoming& in, Time now);
  void on_link_verb(Session& session, const Packet& packet, Envelope&& envelope, Time now);
  void say_hello(Port port, PortState& state, Time now);
  void drop(SessionId id, CloseReason reason);
  void tick_dialer(Port port, PortState& state, Time now);
  Session* find(Port port, Peer peer);
  void put(Port port, Peer peer, Frames frames) {
    packets.push_back({port, peer, std::move(frames)});
  }

  LinkOptions options_;
  // Session numbers in envelopes begin somewhere else in each life, so that nothing that an earlier
  // life said can be taken for a word of this one.
  uint64_t wire_base_;
  std::unordered_map<SessionId, Session> sessions_;
  std::vector<SessionId> order_;  // open sessions in opening order: deterministic iteration
  std::unordered_map<Port, PortState> ports_;
  std::vector<Port> dialing_;
  std::unordered_map<BootId, Newest> newest_;  // rejects a late HELLO of a dead connection
  uint64_t next_session_ = 1;
  Time last_tick_{};
  Time next_tick_{};
  Time probe_at_ = kNever;
  Time probed_at_{};
  bool probe_again_ = false;  // connections ended while a probe was due
  LinkCounters counters_;
};

}  // namespace dray
