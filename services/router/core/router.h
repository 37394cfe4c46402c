// Router core: the only door for clients. It forwards requests to the broker or the aggregator and
// answers back to the client that asked, and owns the clients' credit and what is in flight.
//
// It keeps nothing that must survive: a client repeats what was not answered. Bodies are passed on
// unread, but for a flag here and there and the messages the router itself answers.
//
//  * Envelope.route of whatever goes to a service is the client's session here, never what the
//    client wrote. An answer goes to the session its route names, or nowhere.
//  * Credit: every message to a client grants `received + K - in flight` requests in all. A request
//    beyond what was granted is refused, so are bytes beyond the budgets.
//  * A request is in flight from its forwarding to its answer. Waits and group watches stay open
//    without costing credit; they have a bound of their own.
//  * When a service goes, whatever it owed is refused with `unavailable`. The outcome of such a
//    submit is not known; ids make repeating it safe.
//  * Every refusal adds one to exactly one counter.
//  * The balancer is told the load twice a second, and at once when a call waits for a first
//  replica.
//  * Calls are not forwarded but handled here, by CallLane. What a session may say follows from the
//    port it came in at: clients and workers do not share one.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/wire/credit.h"
#include "common/wire/doc.h"
#include "common/wire/link.h"
#include "common/wire/outbox.h"
#include "services/router/core/call_lane.h"

namespace dray {

struct Forward {
  SessionId to = SessionId::none;
  Envelope envelope;
  Frames frames;
};

struct RouterOut : Outbox {
  std::vector<Forward> forwards;
  bool has_effects() const { return !forwards.empty(); }
  void clear() {
    Outbox::clear();
    forwards.clear();
  }
};

struct RouterOptions {
  uint64_t client_credit = 256;  // requests in flight per client
  uint64_t client_bytes = uint64_t{64} << 20;  // in flight per client
  uint64_t inflight_bytes = uint64_t{512} << 20;  // in flight of all clients together
  uint64_t client_waits = 1024;  // open waits and watches per client
  uint32_t retry_ms = 200;  // hint in refusals
  CallOptions calls{};
};

enum class Refusal : uint8_t {
  bad_message,
  bad_argument,
  unavailable,
  draining,
  client_credit,
  client_bytes,
  inflight_bytes,
  client_waits,
};
constexpr size_t kRefusals = 8;
const char* refusal_name(Refusal refusal);

struct RouterCounters {
  std::map<Kind, uint64_t> requests;  // by kind, forwarded or answered here
  std::map<Kind, uint64_t> answers;  // by kind, passed on to a client
  std::array<uint64_t, kRefusals> refused{};
  uint64_t unknown_route = 0;  // answers to a client that left
  uint64_t late = 0;  // answers that nothing waits for
  uint64_t not_for_clients = 0;  // messages of a service that no client may get
  uint64_t watch_lost = 0;
};

class Router {
 public:
  using Out = RouterOut;
  static constexpr Port kClients = 0;
  static constexpr Port kBroker = 1;
  static constexpr Port kAggregator = 2;
  static constexpr Port kWorkers = 3;
  static constexpr Port kBalancer = 4;  // may be away, or not exist: then nothing is different

  explicit Router(RouterOptions options = {}) : options_(options), lane_(options.calls) {}

  void on_open(const SessionInfo& session, Now now, Out& out);
  void on_close(SessionId session, CloseReason reason, Now now, Out& out);
  void on_frames(SessionId from, const Envelope& envelope, Frames&& frames, Now now, Out& out);
  void tick(Now, Out&) {}  // end_turn() does what time moves
  void end_turn(Now now, Out& out);
  Time next_deadline() const { return std::min(lane_.next_deadline(), load_at_); }
  void begin_drain(Now now, Out& out);  // no new submits, no new calls
  bool drained() const { return told_drained_ && inflight_ == 0 && lane_.open_calls() == 0; }

  bool has_broker() const { return broker_ != SessionId::none; }
  bool has_balancer() const { return balancer_ != SessionId::none; }
  bool has_aggregator() const { return aggregator_ != SessionId::none; }
  const RouterCounters& counters() const { return counters_; }
  size_t clients() const { return clients_.size(); }
  uint64_t inflight() const { return inflight_; }
  uint64_t inflight_bytes() const { return inflight_bytes_; }
  const CallLane& lane() const { return lane_; }
  Doc to_doc() const;
  void check() const;  // tests: recomputes every total

 private:
  struct Request {
    Kind kind = Kind::beat;
    SessionId dest = SessionId::none;
    uint64_t bytes = 0;
  };
  struct Client {
    std::string name;
    CreditGiver credit;
    uint64_t published = 0;  // largest grant sent
    uint64_t bytes = 0;  // sum over inflight
    bool told_drained = false;
    bool watches = false;  // submitted with `watch` at some time
    std::map<uint64_t, Request> inflight;  // by req
    std::map<uint64_t, SessionId> waits;  // open waits and watches by req -> aggregator session
  };
  // One message of a client on its way through.
  struct Asked {
    SessionId from;
    Client& client;
    const Envelope& envelope;
    uint64_t bytes;
  };

  void on_view(Frames&& frames, Now now, Out& out);
  void say_load(Now now, Out& out);
  void on_calls(const Asked& asked, Frames&& frames, Now now, Out& out);
  void on_worker(SessionId from, const Envelope& envelope, Frames&& frames, Now now, Out& out);
  void on_request(const Asked& asked, Frames&& frames, Out& out);
  void on_answer(SessionId from, const Envelope& envelope, Frames&& frames, Out& out);
  void on_admin(const Asked& asked, Frames&& frames, Out& out);
  void on_unwait(const Asked& asked, Frames&& frames, Out& out);
  bool admit(const Asked& asked, Out& out);
  bool admit_wait(const Asked& asked, Out& out);
  SessionId service_for(Kind kind) const;
  void pass(const Asked& asked, SessionId dest, Frames&& frames, Out& out);
  void track(const Asked& asked, SessionId dest);
  bool settle(Client& client, const Envelope& envelope, SessionId from, bool last);
  void finish_request(Client& client, uint64_t req);
  void on_service_lost(SessionId service, const char* name, Out& out);
  void drop_client(SessionId id, Client& client, Out& out);
  void refuse(const Asked& asked, Refusal refusal, Message reject, Out& out);
  void refuse_away(const Asked& asked, Kind kind, Out& out);
  uint64_t grant(Client& client);
  void say(SessionId to, Client& client, uint64_t req, Message message, Out& out);

  RouterOptions options_;
  RouterCounters counters_;
  std::map<SessionId, Client> clients_;
  SessionId broker_ = SessionId::none;
  SessionId aggregator_ = SessionId::none;
  SessionId balancer_ = SessionId::none;
  Time load_at_ = kNever;  // when the balancer is told the load again
  Time load_said_{};
  uint64_t inflight_ = 0;
  uint64_t inflight_bytes_ = 0;
  bool draining_ = false;
  bool told_drained_ = false;  // every client knows that no call of it is or will be taken
  CallLane lane_;
};

}  // namespace dray
