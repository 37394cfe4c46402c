// raw_client: peers that speak the wire protocol by hand. Every verb prints one JSON line.
//
//   flood   --seconds S [--batch N] [--payload P] [--bytes B] [--patience S]
//           submits as fast as credit allows, ignores every request to wait, counts the answers;
//           then asks for the result of everything that was accepted
//   mutate  --seconds S --role client|worker|router [--seed N]
//           random valid messages, most of them damaged, in a session of that role
#include <unistd.h>

#include <deque>
#include <random>
#include <thread>
#include <unordered_map>

#include "common/base/rng.h"
#include "common/wire/spec.h"
#include "tests/support/random_message.h"
#include "tests/system/arguments.h"
#include "tests/system/raw_peer.h"

using namespace dray;
using namespace storm;
using SteadyClock = std::chrono::steady_clock;

namespace {

SteadyClock::time_point in_seconds(double s) {
  return SteadyClock::now() +
         std::chrono::duration_cast<SteadyClock::duration>(std::chrono::duration<double>(s));
}

class Flood {
 public:
  explicit Flood(const Arguments& a)
      : peer_(a.text("endpoint"), Role::client, "flood"),
        seconds_(a.real("seconds", 8)),
        patience_(a.real("patience", 60)),
        batch_(a.number("batch", 64)) {
    TaskSpec spec;
    spec.handler = "witness";
    spec.queue = a.text("queue", "default");
    spec_ = encode_spec(spec);
    payload_ = a.text("payload", "/dev/null\n2\n");
    payload_.resize(std::max<size_t>(payload_.size(), a.number("bytes", 0)), 'x');
    next_.lo = std::random_device{}() * 0x1'0000'0000ull;
  }

  int run() {
    if (!peer_.dial() || !peer_.await_session(10s)) return 2;
    for (const auto until = in_seconds(seconds_); SteadyClock::now() < until;) {
      while (peer_.credit() > 0 && send_batch()) {
      }
      take();
    }
    for (const auto until = in_seconds(patience_); !open_.empty() && SteadyClock::now() < until;)
      take();
    const uint64_t unanswered = open_.size();
    collect();
    JsonLine json;
    json.add("requests", requests_).add("accepted", accepted_).add("unanswered", unanswered);
    json.add("not_fresh", not_fresh_)
        .add("refused", refused_)
        .add("limits", limits_)
        .add("overloaded_without_hint", no_hint_);
    json.add("finished", finished_).add("succeeded", succeeded_).print();
    return unanswered == 0 && no_hint_ == 0 && succeeded_ == accepted_ ? 0 : 1;
  }

 private:
  struct Span {
    TaskId first;
    uint64_t count;
  };

  bool send_batch() {
    // New ids carry the present time: the broker refuses old ones that it may have forgotten.
    next_.hi = static_cast<uint64_t>(read_clock().wall_ms) << 16 |
               (static_cast<uint64_t>(::getpid()) & 0xffff);
    Submit m;
    m.specs = {spec_};
    RowsBuilder<SubmitRow> rows;
    std::string bytes;
    const Span span{next_, batch_};
    for (uint64_t i = 0; i < batch_; ++i, ++next_.lo) {
      rows.add({next_, static_cast<uint32_t>(payload_.size()), 0, 0});
      bytes += payload_;
    }
    m.rows = rows.take();
    m.bytes = Bytes(std::move(bytes));
    if (!peer_.ask(++requests_, m)) return false;
    open_[requests_] = span;
    return true;
  }

  void take() {
    peer_.take([this](Incoming&& in) {
      auto it = open_.find(in.envelope.req);
      if (it == open_.end()) return;
      if (auto* submitted = std::get_if<Submitted>(&in.message)) {
        // Nothing is sent twice, so every task of a batch is fresh.
        not_fresh_ += submitted->rows.size() + it->second.count - submitted->accepted;
        accepted_ += submitted->accepted;
        spans_.push_back(it->second);
      } else if (auto* reject = std::get_if<Reject>(&in.message)) {
        auto code = errc_from_number(reject->code).value_or(Errc::bad_message);
        ++refused_[std::string(errc_name(code))];
        if (code == Errc::overloaded) ++limits_[reject->limit];
        no_hint_ +=
            code == Errc::overloaded && (reject->retry_after_ms == 0 || reject->limit.empty());
      } else {
        return;
      }
      open_.erase(it);
    });
  }

  // Asks for the spans in turn until each is over.
  void collect() {
    const auto until = in_seconds(patience_);
    while (!spans_.empty() && SteadyClock::now() < until) {
      Span span = spans_.front();
      RowsBuilder<IdRow> ids;
      for (uint64_t i = 0; i < span.count; ++i) ids.add({{span.first.hi, span.first.lo + i}});
      bool answered = false;
      uint64_t over = 0, good = 0;
      const uint64_t req = ++requests_;
      while (!peer_.ask(req, Fetch{ids.take()}) && SteadyClock::now() < until)
        peer_.take([](Incoming&&) {});
      const auto give_up = in_seconds(5);
      while (!answered && SteadyClock::now() < give_up)
        peer_.take([&](Incoming&& in) {
          if (in.envelope.req != req) return;
          answered = true;
          if (auto* ready = std::get_if<Ready>(&in.message))
            for (size_t i = 0; i < ready->rows.size(); ++i) {
              over += is_terminal(static_cast<TaskState>(ready->rows[i].status));
              good += ready->rows[i].status == static_cast<uint8_t>(TaskState::succeeded);
            }
        });
      if (over < span.count) {
        std::this_thread::sleep_for(50ms);
        continue;
      }
      finished_ += over;
      succeeded_ += good;
      spans_.pop_front();
    }
  }

  RawPeer peer_;
  double seconds_, patience_;
  uint64_t batch_;
  std::string spec_, payload_;
  TaskId next_;
  uint64_t requests_ = 0, accepted_ = 0, not_fresh_ = 0, no_hint_ = 0, finished_ = 0,
           succeeded_ = 0;
  std::unordered_map<uint64_t, Span> open_;
  std::deque<Span> spans_;
  std::map<std::string, uint64_t> refused_, limits_;
};

// --- damage --------------------------------------------------------------------------------------

std::string damaged(std::string text, Rng& rng) {
  for (uint64_t n = 1 + rng.below(3); n > 0; --n) {
    const size_t at = text.empty() ? 0 : rng.below(text.size());
    switch (rng.below(5)) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(rng.next());
        break;
      case 1:
        if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << rng.below(8)));
        break;
      case 2:
        text.resize(at);
        break;
      case 3:
        text.insert(at, rng.below(40), static_cast<char>(rng.next()));
        break;
      default:
        text += text.substr(at);
    }
  }
  return text;
}

Frames mutate(Frames frames, Rng& rng) {
  const uint64_t how = rng.below(10);
  if (how == 0) return frames;  // valid, out of place
  if (how == 1) {
    frames.count = static_cast<uint8_t>(1 + rng.below(3));
    return frames;
  }
  if (how == 2) {
    std::swap(frames.frame[0], frames.frame[rng.below(3)]);
    return frames;
  }
  Bytes& frame = frames.frame[rng.below(frames.count)];
  frame = Bytes(damaged(std::string(frame.view()), rng));
  return frames;
}

int mutate(const Arguments& a) {
  const std::string role = a.text("role", "client");
  RawPeer peer(a.text("endpoint"),
               role == "worker"   ? Role::worker
               : role == "router" ? Role::router
                                  : Role::client,
               "mutant-" + std::to_string(::getpid()));
  Rng rng(a.number("seed", 1));
  uint64_t sent = 0, dials = 0;
  std::map<std::string, uint64_t> answers;
  const auto until = in_seconds(a.real("seconds", 5));
  while (SteadyClock::now() < until) {
    ++dials;
    if (!peer.dial() || !peer.await_session(3s)) continue;
    for (uint64_t n = 200 + rng.below(2000); n > 0 && SteadyClock::now() < until; --n) {
      const Message m = random_message(rng);
      // A valid BYE or HELLO would end the session at once, and nothing else would be tried.
      if (std::holds_alternative<Bye>(m) && rng.below(50)) continue;
      Envelope e = peer.envelope(rng.below(4) ? rng.below(1000) : 0, m);
      e.route = rng.below(8) ? 0 : rng.next() >> rng.below(64);
      if (rng.below(20) == 0) e.session = rng.next();
      sent += peer.send_frames(mutate(encode(e, m), rng));
      if (n % 16 == 0)
        peer.take([&](Incoming&& in) {
          if (auto* r = std::get_if<Reject>(&in.message))
            ++answers[std::string(errc_name(errc_from_number(r->code).value_or(Errc::ok)))];
        });
    }
  }
  JsonLine json;
  json.add("sent", sent).add("dials", dials).add("received", peer.received());
  json.add("rejects", answers).print();
  return sent > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments a(argc, argv);
  const std::string verb = argc > 1 ? argv[1] : "";
  if (verb == "flood") return Flood(a).run();
  if (verb == "mutate") return mutate(a);
  return std::fprintf(stderr, "usage: raw_client flood|mutate --endpoint E ...\n"), 64;
}
