// The whole worker side on real sockets: RUN in, handler, DONE out, against a small router.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

#include "common/service/host.h"
#include "services/worker/shell/bridge.h"
#include "tests/unit/worker/call_pool.h"

namespace dray::worker {
namespace {

using Clock = CallPool::Clock;

// Sends one call after the other and measures each.
struct PingRouter {
  using Out = Outbox;
  void on_open(const SessionInfo& info, Now, Out&) { session = info.id; }
  void on_close(SessionId, CloseReason, Now, Out&) { ++closed; }
  void on_message(SessionId, const Envelope& envelope, Message&& m, Now, Out& out) {
    granted = std::max(granted, envelope.granted);
    if (const auto* offer = std::get_if<Offer>(&m)) handlers = offer->handlers.size();
    if (std::holds_alternative<Drain>(m)) out.now.push_back({session, 0, 0, 0, m, {}, 0});
    if (const auto* done = std::get_if<Done>(&m); done != nullptr && !done->rows.empty()) {
      us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - sent_at).count());
      replies += done->rows[0].status == static_cast<uint8_t>(CallEnd::reply);
      busy = false;
    }
    if (busy || handlers == 0 || sent >= wanted) return finish();
    Run run;
    run.first = sent++;
    run.keys = {""};
    run.rows = make_rows<RunRow>(std::vector<RunRow>{{sent, 5'000'000, 0, 7, handler, 0, 0, 1, 0}});
    run.bytes = Bytes::copy("payload");
    busy = true;
    sent_at = Clock::now();
    out.now.push_back({session, 0, 0, 0, std::move(run), {}, 0});
  }
  void finish() {
    if (!busy && sent >= wanted && handlers != 0) ready.store(true);
  }
  void tick(Now, Out&) {}
  Time next_deadline() const { return kNever; }

  uint64_t wanted = 0;
  uint16_t handler = 0;
  SessionId session = SessionId::none;
  size_t handlers = 0;
  uint64_t granted = 0;
  uint64_t sent = 0;
  uint64_t replies = 0;
  int closed = 0;
  bool busy = false;
  Clock::time_point sent_at{};
  std::vector<double> us;
  std::atomic<bool> ready{false};
};

struct Rig {
  explicit Rig(uint64_t n, Duration spin = {}) {
    router.wanted = n;
    router.handler = static_cast<uint16_t>(CallPool::handler("echo"));
    endpoint = "ipc:///tmp/dray_call_loop_" + std::to_string(::getpid()) + ".sock";
    HostOptions r;
    r.link = link(Role::router, "r");
    r.listen = {{0, endpoint}};
    r.spin = spin;
    router_host = std::make_unique<Host<PingRouter, NoDurable>>(r, router, durable);
    REQUIRE(router_host->open());
    HostOptions w;
    w.link = link(Role::worker, "w");
    w.dial = {{WorkerCore::kFirstRouter, endpoint, Role::router}};
    w.spin = spin;
    AgentOptions o;
    o.call_slots = 2;
    o.handlers = kCallHandlers;
    for (const std::string& name : kCallHandlers)
      o.offers.push_back(call_plugins().find(name)->info().offer);
    core = std::make_unique<PacedCore>(o);
    worker_host = std::make_unique<Host<PacedCore, NoDurable>>(w, *core, durable);
    REQUIRE(worker_host->open());
    const auto wake = [this] { worker_host->wake(); };
    tasks = std::make_unique<Executors>(call_plugins(), ExecutorOptions{1, kCallHandlers, wake});
    calls = std::make_unique<CallExecutors>(call_plugins(),
                                            CallExecutorOptions{2, kCallHandlers, spin, wake});
    bridge = std::make_unique<Bridge>(*core, *tasks, *calls);
    worker_host->set_poll([this](Now now, WorkerOut& out) { bridge->poll(now, out); });
    worker_host->set_on_turn([this](Now, WorkerOut& out) { bridge->on_turn(out); });
  }
  static LinkOptions link(Role role, const char* name) {
    LinkOptions l;
    l.role = role;
    l.name = name;
    static uint64_t boots = 0;
    l.boot = BootId{7, ++boots};
    return l;
  }
  void run() {
    std::thread r([this] { router_status = router_host->run(); });
    std::thread w([this] { worker_status = worker_host->run(); });
    const auto until = Clock::now() + 60s;
    while (!router.ready && Clock::now() < until) std::this_thread::sleep_for(5ms);
    worker_host->request_stop();  // drains: the router must answer its DRAIN
    w.join();
    router_host->request_stop();
    r.join();
    CHECK(router_status);
    CHECK(worker_status);
  }

  PingRouter router;
  NoDurable durable;
  std::string endpoint;
  std::unique_ptr<PacedCore> core;
  std::unique_ptr<Host<PingRouter, NoDurable>> router_host;
  std::unique_ptr<Host<PacedCore, NoDurable>> worker_host;
  std::unique_ptr<Executors> tasks;
  std::unique_ptr<CallExecutors> calls;
  std::unique_ptr<Bridge> bridge;
  Status router_status;
  Status worker_status;
};

}  // namespace

TEST_CASE("calls go through real sockets, without a broker, and the worker drains") {
  Rig rig(200);
  const auto begin = Clock::now();
  rig.run();
  CHECK(Clock::now() - begin < 30s);
  CHECK(rig.router.ready);
  CHECK(rig.router.replies == 200);
  CHECK(rig.router.granted >= 201);
  CHECK(rig.core->drained());
  CHECK(rig.core->exit_code() == 0);
}

TEST_CASE("RUN sent to DONE received, over ipc", "[.bench]") {
  for (const Duration spin : {Duration(0), Duration(100us)}) {
    Rig rig(20'000, spin);
    rig.run();
    std::vector<double>& us = rig.router.us;
    std::sort(us.begin(), us.end());
    REQUIRE(!us.empty());
    std::printf("RUN to DONE, spin %3lld us: p50 %.0f p99 %.0f p99.9 %.0f us\n",
                static_cast<long long>(spin / 1us), us[us.size() / 2], us[us.size() * 99 / 100],
                us[us.size() * 999 / 1000]);
  }
}

}  // namespace dray::worker
