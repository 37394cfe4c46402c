// The router and the balancer: load, calls that wait for a first replica, suspects, admin.
#include "common/wire/fleet.h"
#include "tests/unit/router/call_bench.h"

using namespace dray;

namespace {

constexpr SessionId kBalancer{500};

struct Fleet : CallBench {
  explicit Fleet(CallOptions options = {}) : CallBench(options) {}
  void connect() {
    open(kBalancer, Router::kBalancer, Role::balancer);
    end_turn();
  }
  void view(const std::vector<std::pair<std::string, bool>>& handlers,
            std::vector<std::string> suspects = {}) {
    View m;
    m.version = ++version;
    for (const auto& [name, held] : handlers) {
      HandlerView h;
      h.handler = name;
      h.deployment = "app";
      h.held = held;
      m.handlers.push_back(encode_handler_view(h));
    }
    m.suspects = std::move(suspects);
    send(kBalancer, m);
    end_turn();
  }
  HandlerLoad told(const std::string& name) const {
    REQUIRE_FALSE(loads.empty());
    for (const std::string& blob : loads.back().second.handlers)
      if (HandlerLoad h = decode_handler_load(blob).value(); h.handler == name) return h;
    return {};
  }
  uint64_t version = 0;
};

}  // namespace

TEST_CASE("the balancer is told the load twice a second and nobody is without one") {
  Fleet f;
  f.go(3s);
  CHECK(f.loads.empty());
  f.connect();
  REQUIRE(f.loads.size() == 1);
  f.go(5s);
  CHECK(f.loads.size() == 11);
  f.close(kBalancer);
  f.go(3s);
  CHECK(f.loads.size() == 11);
  CHECK(f.router.next_deadline() == kNever);
}

TEST_CASE("what the balancer is told counts every call once") {
  Fleet f;
  f.connect();
  const SessionId c = f.client();
  const SessionId w = f.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 3; ++i) f.call(c, {.call = i, .deadline = 5s});
  f.call(c, {.call = 9, .deadline = 5s, .items = 7});  // refused
  f.go(500ms);
  HandlerLoad h = f.told("h");
  CHECK(h.ongoing == 1);
  CHECK(h.waiting == 2);
  CHECK(h.arrived == 4);
  CHECK(h.refused == 1);
  CHECK(h.answered == 0);
  CHECK(h.replicas == 1);
  f.done(w, f.run(w, 0).row.call);
  f.go(500ms);
  h = f.told("h");
  CHECK(h.answered == 1);
  CHECK(h.ongoing == 1);
  CHECK(h.waiting == 1);
  CHECK(h.arrived == 4);
}

TEST_CASE("a call to a held handler waits for the first replica and says so at once") {
  Fleet f;
  f.connect();
  f.view({{"h", true}});
  const SessionId c = f.client();
  f.go(100ms);
  const size_t loads = f.loads.size();
  f.call(c, {.call = 1, .deadline = 5s});
  CHECK(f.loads.size() == loads + 1);  // not half a second later
  CHECK(f.told("h").waiting == 1);
  // Those that follow do not make a message each.
  for (uint64_t i = 2; i <= 20; ++i) f.call(c, {.call = i, .deadline = 5s});
  CHECK(f.loads.size() == loads + 1);
  CHECK(f.answered(c) == 0);
  f.go(2s);
  const SessionId w = f.worker(20, {offer_of("h")});
  REQUIRE(f.runs(w) == 1);
  f.done(w, f.run(w, 0).row.call);
  const Answer& a = f.answer(c, 1);
  CHECK(a.row.status == static_cast<uint8_t>(CallEnd::reply));
  CHECK(a.row.queue_us >= 2'000'000);  // the wait is in its queue time
}

TEST_CASE("a call that waits for a first replica in vain expires at its deadline") {
  Fleet f;
  f.connect();
  f.view({{"h", true}});
  const SessionId c = f.client();
  f.call(c, {.call = 1, .deadline = 1s});
  f.go(990ms);
  CHECK(f.answered(c) == 0);
  f.go(20ms);
  CHECK(f.end_of(c, 1) == CallEnd::expired);
}

TEST_CASE("calls wait through the loss of the last replica too, although their cost is known") {
  Fleet f;
  f.connect();
  f.view({{"h", true}});
  const SessionId c = f.client();
  const SessionId w = f.worker(20, {offer_of("h")});
  for (uint64_t i = 1; i <= 30; ++i) {
    f.call(c, {.call = i});
    f.go(1ms);
    f.done(w, f.run(w, i - 1).row.call, {.run_us = 900});
  }
  f.close(w);
  f.call(c, {.call = 100, .deadline = 3s});
  CHECK(f.refused_in_all() == 0);
  const SessionId again = f.worker(21, {offer_of("h")});
  CHECK(f.runs(again) == 1);
}

TEST_CASE("what is not held is refused as ever and so are calls beyond max_queued") {
  CallOptions o;
  o.max_queued = 2;
  Fleet f(o);
  f.connect();
  f.view({{"h", false}, {"held", true}});
  const SessionId c = f.client();
  f.call(c, {.call = 1});
  CHECK(f.answer(c, 1).row.code == static_cast<uint8_t>(Errc::no_replica));
  for (uint64_t i = 2; i <= 4; ++i) f.call(c, {.call = i, .handler = "held", .deadline = 5s});
  CHECK(f.refused(CallRefusal::max_queued) == 1);
  f.call(c, {.call = 5, .handler = "never"});
  CHECK(f.answer(c, 5).row.code == static_cast<uint8_t>(Errc::unknown_handler));
  // Undeployed: from now on refused again.
  f.view({});
  f.call(c, {.call = 6, .handler = "held"});
  CHECK(f.answer(c, 6).row.code == static_cast<uint8_t>(Errc::no_replica));
}

TEST_CASE("a balancer that is away changes nothing for calls") {
  Fleet f;
  f.connect();
  f.view({{"h", true}, {"z", true}}, {"peer20"});
  const SessionId c = f.client();
  const SessionId w = f.worker(20, {offer_of("h")});
  f.call(c, {.call = 1});
  CHECK(f.runs(w) == 1);
  f.close(kBalancer);
  f.call(c, {.call = 2, .handler = "z", .deadline = 5s});
  f.go(2s);
  CHECK(f.answered(c) == 1);  // the first one expired; the second waits
  CHECK(f.end_of(c, 1) != CallEnd::rejected);
}

TEST_CASE("a suspect worker gets no new work while another one is there") {
  Fleet f;
  f.connect();
  f.view({}, {"peer20"});
  const SessionId a = f.worker(20, {offer_of("h")}, 4);
  const SessionId b = f.worker(21, {offer_of("h")}, 4);
  const SessionId c = f.client();
  for (uint64_t i = 1; i <= 4; ++i) f.call(c, {.call = i, .deadline = 5s});
  CHECK(f.runs(a) == 0);
  CHECK(f.runs(b) == 4);
  f.view({}, {});
  f.call(c, {.call = 5, .deadline = 5s});
  CHECK(f.runs(a) == 1);
  // All suspect: the balancer is more likely to be wrong than everybody else.
  f.view({}, {"peer20", "peer21"});
  f.call(c, {.call = 6, .deadline = 5s});
  CHECK(f.runs(a) == 2);
  // And with the balancer its suspicion goes.
  f.view({}, {"peer20"});
  f.call(c, {.call = 7, .deadline = 5s});
  CHECK(f.runs(a) == 2);
  f.close(kBalancer);
  CHECK(f.runs(a) == 3);
}

TEST_CASE("admin for the balancer is passed on and answered from there only") {
  Fleet f;
  const SessionId c = f.client();
  Admin ask{static_cast<uint8_t>(Role::balancer), "status", Doc{Doc::Object{}}};
  f.send(c, ask);
  f.end_turn();
  REQUIRE(f.rejects.size() == 1);
  CHECK(f.rejects[0].second.detail == "balancer is away");
  f.connect();
  f.send(c, ask);
  REQUIRE(f.out.forwards.size() == 1);
  CHECK(f.out.forwards[0].to == kBalancer);
  CHECK(f.out.forwards[0].envelope.route == static_cast<uint64_t>(c));
  f.end_turn();
  CHECK(f.router.inflight() == 1);
  f.close(kBalancer);
  CHECK(f.router.inflight() == 0);
  CHECK(f.rejects.back().second.code == static_cast<uint8_t>(Errc::unavailable));
}

TEST_CASE("a view that can not be read changes nothing") {
  Fleet f;
  f.connect();
  f.view({{"h", true}});
  View bad;
  bad.handlers = {"nonsense"};
  Envelope e;
  Frames frames = encode(e, bad);
  frames.frame[0] =
      Bytes(std::string(frames.frame[0].view().substr(0, frames.frame[0].size() - 2)));
  auto seen = decode_envelope(frames);
  REQUIRE(seen);
  f.router.on_frames(kBalancer, *seen, std::move(frames), f.now, f.out);
  f.end_turn();
  const SessionId c = f.client();
  f.call(c, {.call = 1, .deadline = 5s});
  CHECK(f.answered(c) == 0);
}
