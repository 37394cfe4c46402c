// FakeRouter: a router for calls on a real socket, scripted by the name of the handler.
#pragma once

#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "common/net/clock.h"
#include "common/service/host.h"

namespace dray::test {

inline std::string fresh_endpoint() {
  static std::atomic<int> next{0};
  return "ipc:///tmp/dray-client-" + std::to_string(::getpid()) + "/s" + std::to_string(++next);
}

inline bool wait_for(const std::function<bool()>& done) {
  for (int i = 0; i < 25'000 && !done(); ++i) std::this_thread::sleep_for(200us);
  return done();
}

struct RouterOut : Outbox {};

// Handlers: echo answers; hold never does; leave says draining; stream sends parts within credit.
struct FakeRouter {
  using Out = RouterOut;
  static constexpr uint64_t kCalls = 1'000'000;
  static constexpr size_t kPart = 100;

  void on_open(const SessionInfo& s, Now, Out& out) { send(s.id, Reply{kCalls, {}, {}}, out); }
  void on_close(SessionId, CloseReason, Now, Out&) { streams.clear(); }
  void on_message(SessionId from, const Envelope&, Message&& m, Now, Out& out) {
    if (auto* call = std::get_if<Call>(&m)) on_call(from, *call, out);
    if (auto* c = std::get_if<CallCancel>(&m))
      for (size_t i = 0; i < c->rows.size(); ++i) {
        ++cancels;
        answer(from, c->rows[i].call, 5, Errc::cancelled, {}, out);
      }
    if (auto* c = std::get_if<CallCredit>(&m))
      for (size_t i = 0; i < c->rows.size(); ++i) {
        auto it = streams.find(c->rows[i].call);
        if (it == streams.end()) continue;
        it->second.granted = std::max(it->second.granted, c->rows[i].granted);
        pump(from, it->first, out);
      }
  }
  void tick(Now, Out&) {}
  Time next_deadline() const { return kNever; }

  void on_call(SessionId from, const Call& call, Out& out) {
    ++messages;
    size_t at = 0;
    for (size_t i = 0; i < call.rows.size(); ++i) {
      CallRow row = call.rows[i];
      std::string payload(call.bytes.view().substr(at, row.len));
      at += row.len;
      ++calls;
      if (call.handler == "echo") answer(from, row.call, 1, Errc::ok, payload, out);
      if (call.handler == "fail") answer(from, row.call, 2, Errc::app_fatal, "no good", out);
      if (call.handler == "leave") answer(from, row.call, 3, Errc::draining, {}, out);
      if (call.handler != "stream") continue;
      streams[row.call] = {std::stoul(payload), 0, call.window};
      pump(from, row.call, out);
    }
  }
  void pump(SessionId to, uint64_t call, Out& out) {
    Stream& s = streams.at(call);
    for (; s.left > 0 && s.sent + kPart <= s.granted; --s.left) {
      s.sent += kPart;
      answer(to, call, 0, Errc::ok, std::string(kPart, static_cast<char>('a' + s.left % 26)), out);
    }
    unread = std::max<uint64_t>(unread, s.sent);
    if (s.left > 0) return;
    streams.erase(call);
    answer(to, call, 1, Errc::ok, "end", out);
  }
  void answer(SessionId to, uint64_t call, uint8_t status, Errc code, const std::string& bytes,
              Out& out) {
    ReplyRow row;
    row.call = call;
    row.status = status;
    row.code = static_cast<uint8_t>(code);
    row.len = static_cast<uint32_t>(bytes.size());
    RowsBuilder<ReplyRow> rows;
    rows.add(row);
    send(to, Reply{0, rows.take(), Bytes(bytes)}, out);
  }
  void send(SessionId to, Message m, Out& out) {
    Send s;
    s.to = to;
    s.message = std::move(m);
    out.now.push_back(std::move(s));
  }

  struct Stream {
    size_t left = 0;
    uint64_t sent = 0;
    uint64_t granted = 0;
  };
  std::map<uint64_t, Stream> streams;
  std::atomic<uint64_t> calls{0}, messages{0}, cancels{0}, unread{0};
};

struct RouterThread {
  explicit RouterThread(const std::string& endpoint, uint64_t boot = 1)
      : host(options(endpoint, boot), core, durable) {
    REQUIRE(host.open());
    thread = std::thread([this] { (void)host.run(); });
  }
  ~RouterThread() { stop(); }
  void stop() {
    if (!thread.joinable()) return;
    host.request_stop();
    thread.join();
  }
  static HostOptions options(const std::string& endpoint, uint64_t boot) {
    HostOptions o;
    o.link.role = Role::router;
    o.link.name = "router";
    o.link.boot = {0x77, boot};
    o.listen = {{1, endpoint}};
    return o;
  }
  FakeRouter core;
  NoDurable durable;
  Host<FakeRouter, NoDurable> host;
  std::thread thread;
};

}  // namespace dray::test
