// Helpers for tests of common/net: endpoints, small cores, hosts in threads.
#pragma once

#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "common/net/clock.h"
#include "common/service/host.h"

namespace dray::test {

inline std::string fresh_ipc() {
  static std::atomic<int> next{0};
  return "ipc:///tmp/dray-net-" + std::to_string(::getpid()) + "/s" + std::to_string(++next);
}

inline bool wait_for(const std::function<bool()>& done, Duration limit) {
  Time until = read_clock().mono + limit;
  while (!done()) {
    if (read_clock().mono > until) return false;
    std::this_thread::sleep_for(200us);
  }
  return true;
}

inline Frames frames_of(std::initializer_list<std::string> parts) {
  Frames frames;
  for (const std::string& part : parts) frames.frame[frames.count++] = Bytes(part);
  return frames;
}

struct Lanes : Outbox {};

// Answers every QUERY with OK carrying the same number.
struct EchoCore {
  using Out = Lanes;
  void on_open(const SessionInfo& info, Now, Out& out) {
    ++opened;
    last = info.id;
    if (on_opened) on_opened(info.id, out);
  }
  void on_close(SessionId, CloseReason why, Now, Out&) {
    reason = why;
    ++closed;
  }
  void on_message(SessionId from, const Envelope& e, Message&& m, Now, Out& out) {
    if (std::holds_alternative<Query>(m)) out.now.push_back(reply_to(from, e, Ok{}));
    if (on_answer) on_answer(from, e, m, out);
  }
  void tick(Now, Out&) {}
  Time next_deadline() const { return kNever; }

  std::atomic<int> opened{0};
  std::atomic<int> closed{0};
  std::atomic<CloseReason> reason{CloseReason::timeout};
  SessionId last = SessionId::none;
  std::function<void(SessionId, Out&)> on_opened;
  std::function<void(SessionId, const Envelope&, Message&, Out&)> on_answer;
};

inline LinkOptions link_options(Role role, uint64_t boot) {
  LinkOptions options;
  options.role = role;
  options.name = role == Role::client ? "dialer" : "listener";
  options.boot = {0x1234, boot};
  return options;
}

// A host with an EchoCore in a thread of its own.
struct Runner {
  explicit Runner(HostOptions options) : host(std::move(options), core, durable) {}
  ~Runner() { stop(); }
  Status start() {
    DRAY_TRY(host.open());
    thread = std::thread([this] {
      Status status = host.run();
      ok = status.has_value();
    });
    return {};
  }
  void stop() {
    if (!thread.joinable()) return;
    host.request_stop();
    thread.join();
  }
  EchoCore core;
  NoDurable durable;
  Host<EchoCore, NoDurable> host;
  std::thread thread;
  std::atomic<bool> ok{false};
};

inline std::unique_ptr<Runner> listener(const std::string& endpoint, uint64_t boot = 1) {
  HostOptions options;
  options.link = link_options(Role::broker, boot);
  options.listen = {{1, endpoint}};
  return std::make_unique<Runner>(options);
}
inline std::unique_ptr<Runner> dialer(const std::string& endpoint, uint64_t boot = 2) {
  HostOptions options;
  options.link = link_options(Role::client, boot);
  options.dial = {{1, endpoint, Role::broker}};
  return std::make_unique<Runner>(options);
}

inline Send query(SessionId to, uint64_t req) {
  Send send;
  send.to = to;
  send.req = req;
  send.message = Query{};
  return send;
}

}  // namespace dray::test
