// raw_calls: peers of the call lane that speak the wire protocol by hand and talk nonsense. Every
// verb prints one JSON line.
//
//   client --endpoint E       wishes that no client has, one after the other, in one session; what
//                             the router says to each, as {"title": "answer"}
//   worker --endpoint E --seconds S [--seed N]
//                             offers handlers that can not be and one, "evil", that can; answers
//                             what it gets for that one with anything
//   router --endpoint E --seconds S [--seed N]
//                             listens like a router and sends anything to the workers that come
#include <deque>

#include "common/base/rng.h"
#include "common/wire/offer.h"
#include "tests/support/random_message.h"
#include "tests/system/arguments.h"
#include "tests/system/raw_peer.h"

using namespace dray;
using namespace storm;
using SteadyClock = std::chrono::steady_clock;

namespace {

constexpr uint64_t kHuge[] = {0,          1,          4096,           uint64_t{1} << 31,
                              1ull << 32, 1ull << 63, UINT64_MAX - 1, UINT64_MAX};
uint64_t absurd(Rng& rng) { return kHuge[rng.below(std::size(kHuge))]; }

// Nothing that ends the session: it should go on.
Message random_of_session(Rng& rng) {
  Message m = random_message(rng);
  const bool ends = std::holds_alternative<Bye>(m) || std::holds_alternative<Who>(m) ||
                    std::holds_alternative<Welcome>(m) || std::holds_alternative<Hello>(m);
  return ends ? Message(Beat{}) : m;
}

std::string reject_text(const Reject& r) {
  return "refused: " + std::string(errc_name(errc_from_number(r.code).value_or(Errc::ok)));
}

Call call_of(std::string handler, std::vector<CallRow> rows, size_t bytes = 0) {
  Call m;
  m.handler = std::move(handler);
  m.rows = make_rows<CallRow>(rows);
  m.bytes = Bytes(std::string(bytes, 'x'));
  return m;
}

Offer offer_with(std::vector<HandlerOffer> handlers) {
  Offer m;
  m.slots = 4;
  for (const HandlerOffer& h : handlers) m.handlers.push_back(encode_offer(h));
  return m;
}

// --- client
// ----------------------------------------------------------------------------------------

class Wishes {
 public:
  explicit Wishes(const Arguments& a) : peer_(a.text("endpoint"), Role::client, "wishes") {}

  int run() {
    if (!peer_.dial() || !peer_.await_session(10s)) return 2;
    for (const auto until = SteadyClock::now() + 10s; !granted_ && SteadyClock::now() < until;)
      hear(nullptr);
    impossible_calls();
    words_of_others();
    about_nothing();
    json_.print();
    return 0;
  }

 private:
  void impossible_calls() {
    wish("unknown handler", call_of("no.such", {{.call = 1}}));
    wish("deadline 0", call_of("echo", {{.call = 2}}));
    wish("deadline of an hour", call_of("echo", {{.call = 3, .deadline_us = 3'600'000'000}}));
    wish("deadline of 2^63", call_of("echo", {{.call = 4, .deadline_us = 1ull << 63}}));
    wish("no items", call_of("echo", {{.call = 5, .items = 0}}));
    wish("65535 items", call_of("echo", {{.call = 6, .items = 65535}}));
    wish("strange flags", call_of("echo", {{.call = 7, .flags = 0xfffc}}));
    wish("no handler", call_of("", {{.call = 8}}));
    wish("a long name", call_of(std::string(60'000, 'n'), {{.call = 9}}));
    Call m = call_of("echo", {{.call = 10}});
    m.key = std::string(60'000, 'k');
    wish("a long model", m);
    m = call_of("echo", {{.call = 11}});
    m.window = UINT64_MAX;
    wish("a window of 2^64-1", m);
    wish("bytes that are not there", call_of("echo", {{.call = 12, .len = 1'000'000}}));
    wish("bytes of nobody", call_of("echo", {{.call = 13}}, 9));
    wish("no call at all", call_of("echo", {}));
    wish("one number twice", call_of("echo", {{.call = 14}, {.call = 14}}));
    wish("number 2^64-1", call_of("echo", {{.call = UINT64_MAX}}));
  }
  void words_of_others() {
    wish("OFFER", offer_with({{.name = "echo"}}));
    wish("DONE", Done{make_rows<DoneRow>(std::vector<DoneRow>{{.call = 1, .status = 1}}), {}});
    Run run;
    run.keys = {""};
    run.rows = make_rows<RunRow>(std::vector<RunRow>{{.call = 1}});
    wish("RUN", run);
    wish("STOP", Stop{make_rows<CallIdRow>(std::vector<CallIdRow>{{1}})});
    wish("REPLY", Reply{UINT64_MAX, {}, {}});
    wish("DRAIN", Drain{true});
  }
  // No answer is due to any of these; the call behind them is answered.
  void about_nothing() {
    std::vector<CallIdRow> ids;
    std::vector<CallCreditRow> credits;
    for (uint64_t n : kHuge) {
      ids.push_back({n});
      for (uint64_t granted : kHuge) credits.push_back({n, granted});
    }
    peer_.send(0, CallCancel{make_rows<CallIdRow>(ids)});
    peer_.send(0, CallCredit{make_rows<CallCreditRow>(credits)});
    wish("cancels and credit for nothing", call_of("echo", {{.call = 20}}));
  }

  void hear(std::string* answer) {
    peer_.take([&](Incoming&& in) {
      if (auto* reply = std::get_if<Reply>(&in.message)) {
        granted_ = granted_ || reply->granted > 0;
        for (size_t i = 0; answer && i < reply->rows.size(); ++i) add(*answer, reply->rows[i]);
      }
      auto* reject = std::get_if<Reject>(&in.message);
      if (answer && reject && in.envelope.req == req_)
        *answer += (answer->empty() ? "" : " + ") + reject_text(*reject);
    });
  }
  static void add(std::string& answer, const ReplyRow& row) {
    if (!answer.empty()) answer += " + ";
    answer += call_end_name(static_cast<CallEnd>(row.status));
    if (row.code != 0)
      answer += ": " + std::string(errc_name(errc_from_number(row.code).value_or(Errc::ok)));
  }
  // The first answer, and what else comes soon after it.
  void wish(const std::string& title, const Message& m) {
    std::string answer;
    ++req_;
    peer_.send(req_, m);
    auto until = SteadyClock::now() + 3s;
    for (bool first = true; SteadyClock::now() < until;) {
      hear(&answer);
      if (answer.empty() || !first) continue;
      first = false;
      until = std::min(until, SteadyClock::now() + 30ms);
    }
    json_.add(title, answer.empty() ? std::string("silence") : answer);
  }

  RawPeer peer_;
  JsonLine json_;
  uint64_t req_ = 0;
  bool granted_ = false;
};

// --- worker
// ----------------------------------------------------------------------------------------

class Evil {
 public:
  explicit Evil(const Arguments& a)
      : peer_(a.text("endpoint"), Role::worker, "evil"),
        rng_(a.number("seed", 1)),
        seconds_(a.number("seconds", 4)) {}

  int run() {
    if (!peer_.dial() || !peer_.await_session(10s)) return 2;
    // A session starts with OFFER, but who knows.
    tell({{.call = 1, .status = 1}, {.call = 1, .status = 1, .flags = 3}});
    send(Call{});
    send(Run{});
    send(Reply{});
    send(call_of("echo", {{.call = 1}}));
    send(CallCancel{make_rows<CallIdRow>(std::vector<CallIdRow>{{1}})});
    send(Submit{});
    send(Attach{});
    Offer m = offer_with({{.name = "evil"},
                          {.name = "evil.none", .max_batch_size = 0},
                          {.name = "evil.large", .max_batch_size = 1'000'000'000},
                          {.name = "evil.ongoing", .max_ongoing = UINT32_MAX},
                          {.name = "evil.bytes", .max_batch_bytes = UINT64_MAX},
                          {.name = "evil.wait", .batch_wait_us = UINT32_MAX},
                          {.name = "evil.models", .max_models = UINT32_MAX},
                          {.name = ""},
                          {.name = std::string(5000, 'n')},
                          {.name = "evil"}});
    m.handlers.push_back("garbage");
    send(m);
    send(m);
    for (const auto until = SteadyClock::now() + std::chrono::seconds(seconds_);
         SteadyClock::now() < until;) {
      listen();
      if (peer_.session() == 0) return 3;
    }
    JsonLine json;
    json.add("runs", runs_).add("said", said_).add("rejects", rejects_).print();
    return 0;
  }

 private:
  void send(const Message& m) { send(m, absurd(rng_)); }
  void send(const Message& m, uint64_t granted) {
    Envelope e = peer_.envelope(++req_, m);
    e.granted = granted;
    peer_.send_frames(encode(e, m));
  }
  void tell(const std::vector<DoneRow>& rows) {
    uint64_t bytes = 0;
    for (const DoneRow& row : rows) bytes += row.len;
    said_ += rows.size();
    send(Done{make_rows<DoneRow>(rows), Bytes(std::string(bytes, 'e'))});
  }
  void listen() {
    std::vector<DoneRow> rows;
    peer_.take([&](Incoming&& in) {
      if (auto* reject = std::get_if<Reject>(&in.message)) ++rejects_[reject_text(*reject)];
      auto* run = std::get_if<Run>(&in.message);
      for (size_t i = 0; run && i < run->rows.size(); ++i) answer(run->rows[i].call, rows);
    });
    if (!rows.empty()) tell(rows);
    if (rng_.below(draining_ ? 10 : 100) == 0) send(Drain{draining_ = !draining_});
    if (rng_.below(50) == 0) send(random_of_session(rng_));
  }
  // One answer, several, or none; about this call or another.
  void answer(uint64_t call, std::vector<DoneRow>& rows) {
    ++runs_;
    for (uint64_t n = rng_.below(4); n > 0; --n) {
      DoneRow row;
      row.call = rng_.below(8) ? call : call + absurd(rng_);
      row.len = static_cast<uint32_t>(rng_.below(2) * rng_.below(1000));
      row.run_us = static_cast<uint32_t>(absurd(rng_));
      row.wait_us = static_cast<uint32_t>(absurd(rng_));
      row.status = static_cast<uint8_t>(rng_.below(rng_.below(20) ? 7 : 256));
      row.code = static_cast<uint8_t>(rng_.next());
      row.flags = static_cast<uint16_t>(rng_.below(8) ? rng_.below(4) : rng_.next());
      rows.push_back(row);
    }
  }

  RawPeer peer_;
  Rng rng_;
  uint64_t seconds_, req_ = 0, runs_ = 0, said_ = 0;
  bool draining_ = false;
  std::map<std::string, uint64_t> rejects_;
};

// --- router
// ----------------------------------------------------------------------------------------

class FalseRouter {
 public:
  explicit FalseRouter(const Arguments& a)
      : endpoint_(a.text("endpoint")),
        rng_(a.number("seed", 1)),
        seconds_(a.number("seconds", 4)) {}

  int run() {
    if (!context_.open() || !socket_.open(context_, Socket::Type::listener, SocketOptions{}) ||
        !socket_.bind(endpoint_))
      return 2;
    for (const auto until = SteadyClock::now() + std::chrono::seconds(seconds_);
         SteadyClock::now() < until;) {
      pollfd p{socket_.fd(), POLLIN, 0};
      if (!socket_.readable()) ::poll(&p, 1, 2);
      take();
      for (const std::string& worker : workers_) talk(worker);
    }
    JsonLine json;
    json.add("workers", uint64_t{workers_.size()}).add("sent", sent_).add("ends", ends_);
    json.print();
    return workers_.empty() ? 1 : 0;
  }

 private:
  void take() {
    Frames frames, part;
    std::string from;
    for (Received got; (got = socket_.receive(frames, from)) != Received::none;) {
      if (got != Received::packet) continue;
      size_t at = 0;
      bool bad = false;
      if (frames.count == 1 && is_bundle(frames.frame[0]))
        while (next_in_bundle(frames.frame[0], at, part, bad)) take_one(part, from);
      else
        take_one(frames, from);
    }
  }
  void take_one(const Frames& frames, const std::string& from) {
    auto in = decode(frames);
    if (!in) return;
    if (auto* hello = std::get_if<Hello>(&in->message)) {
      Welcome w;
      w.session = 1;
      w.role = static_cast<uint8_t>(Role::router);
      w.name = "false-router";
      w.boot = {7, static_cast<uint64_t>(::getpid())};
      w.connect_no = hello->connect_no;
      w.payload_max = kPayloadBytesMax;
      say(from, w);
      if (std::find(workers_.begin(), workers_.end(), from) == workers_.end())
        workers_.push_back(from);
    }
    if (auto* done = std::get_if<Done>(&in->message))
      for (size_t i = 0; i < done->rows.size(); ++i)
        ++ends_[std::string(call_end_name(static_cast<CallEnd>(done->rows[i].status)))];
    granted_ = std::max(granted_, in->envelope.granted);
  }
  void say(const std::string& to, const Message& m) {
    Envelope e;
    e.kind = std::visit([](const auto& x) { return std::decay_t<decltype(x)>::kind; }, m);
    e.session = 1;
    e.granted = absurd(rng_);
    sent_ += socket_.send(to, encode(e, m), in_flight_) == SendResult::sent;
  }
  void talk(const std::string& to) {
    switch (rng_.below(6)) {
      case 0:
        return say(to,
                   Stop{make_rows<CallIdRow>(std::vector<CallIdRow>{{absurd(rng_)}, {some()}})});
      case 1:
        return say(to, CallCredit{make_rows<CallCreditRow>(
                           std::vector<CallCreditRow>{{some(), absurd(rng_)}})});
      case 2:
        return say(to, Drain{rng_.below(2) == 0});
      case 3:
        return say(to, rng_.below(10) ? Message(Beat{}) : random_of_session(rng_));
      default:
        return say(to, some_run());
    }
  }
  uint64_t some() { return 1 + rng_.below(200); }
  // Some of them can be executed: what comes of it is nobody's business here.
  Run some_run() {
    Run m;
    m.first = rng_.below(4) ? granted_ - std::min(granted_, rng_.below(3)) : absurd(rng_);
    m.keys = {"", "k"};
    RowsBuilder<RunRow> rows;
    uint64_t bytes = 0;
    for (uint64_t n = 1 + rng_.below(4); n > 0; --n) {
      RunRow row;
      row.call = rng_.below(8) ? some() : absurd(rng_);
      row.deadline_us = rng_.below(2) ? rng_.below(100'000) : absurd(rng_);
      row.window = absurd(rng_);
      row.len = static_cast<uint32_t>(rng_.below(20));
      row.handler = static_cast<uint16_t>(rng_.below(8) ? rng_.below(30) : rng_.next());
      row.key = static_cast<uint16_t>(rng_.below(2));
      row.batch = static_cast<uint16_t>(rng_.below(2));
      row.items = static_cast<uint16_t>(rng_.below(8) ? 1 : rng_.next());
      bytes += row.len;
      rows.add(row);
    }
    m.rows = rows.take();
    m.bytes = Bytes(std::string(bytes, '1'));
    return m;
  }

  std::string endpoint_;
  Rng rng_;
  uint64_t seconds_, sent_ = 0, granted_ = 0;
  Context context_;
  Socket socket_;
  InFlight in_flight_ = std::make_shared<std::atomic<uint64_t>>(0);
  std::vector<std::string> workers_;  // addresses
  std::map<std::string, uint64_t> ends_;
};

}  // namespace

int main(int argc, char** argv) {
  const Arguments a(argc, argv);
  const std::string verb = argc > 1 ? argv[1] : "";
  if (verb == "client") return Wishes(a).run();
  if (verb == "worker") return Evil(a).run();
  if (verb == "router") return FalseRouter(a).run();
  return std::fprintf(stderr, "usage: raw_calls client|worker|router --endpoint E ...\n"), 64;
}
