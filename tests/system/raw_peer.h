// RawPeer: a dialer that speaks the wire protocol by hand, so that a test sees every answer as it
// came (the client library would repeat a refused request by itself) and can send what it likes.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <string>

#include "common/net/clock.h"
#include "common/net/context.h"
#include "common/net/socket.h"
#include "common/wire/bundle.h"
#include "common/wire/credit.h"

namespace dray {

class RawPeer {
 public:
  using SteadyClock = std::chrono::steady_clock;

  // `context`: shared by many peers, and open; null: one of its own.
  RawPeer(std::string endpoint, Role role, std::string name, Context* context = nullptr)
      : endpoint_(std::move(endpoint)),
        role_(role),
        name_(std::move(name)),
        context_(context == nullptr ? own_context_ : *context) {
    static std::atomic<uint64_t> peers{0};
    boot_ = {static_cast<uint64_t>(read_clock().wall_ms) + 1,
             static_cast<uint64_t>(::getpid()) + (++peers << 32)};
  }

  // A new socket. Until it is connected nothing can be sent.
  bool dial() {
    if (!context_.native() && !context_.open()) return false;
    socket_.close(Duration::zero());
    session_ = 0;
    credit_ = CreditTaker{};
    if (!socket_.open(context_, Socket::Type::dialer, SocketOptions{})) return false;
    return socket_.connect(endpoint_).has_value();
  }
  bool say_hello() {
    Hello hello;
    hello.role = static_cast<uint8_t>(role_);
    hello.name = name_;
    hello.boot = boot_;
    hello.connect_no = ++connect_no_;
    return send(0, hello);
  }
  bool await_session(Duration patience) {
    const auto until = SteadyClock::now() + patience;
    bool greeted = false;
    while (session_ == 0 && SteadyClock::now() < until) {
      greeted = greeted || say_hello();
      take([](Incoming&&) {});
    }
    return session_ != 0;
  }

  bool send(uint64_t req, const Message& message) {
    return send_frames(encode(envelope(req, message), message));
  }
  Envelope envelope(uint64_t req, const Message& message) const {
    Envelope e;
    e.kind = std::visit([](const auto& m) { return std::decay_t<decltype(m)>::kind; }, message);
    e.session = e.kind == Kind::hello ? 0 : session_;
    e.req = req;
    return e;
  }
  bool send_frames(const Frames& frames) {
    last_sent_ = SteadyClock::now();
    return socket_.send("", frames, in_flight_) == SendResult::sent;
  }
  // A request counts against the credit of the listener.
  bool ask(uint64_t req, const Message& message) {
    if (credit_.available() == 0 || !send(req, message)) return false;
    credit_.on_sent(1);
    return true;
  }
  uint64_t credit() const { return session_ == 0 ? 0 : credit_.available(); }

  // Handles what has arrived, waiting up to 2 ms for the first; keeps the session alive.
  void take(const std::function<void(Incoming&&)>& f) {
    if (!socket_.readable()) {
      pollfd p{socket_.fd(), POLLIN, 0};
      ::poll(&p, 1, 2);
    }
    take_ready(f);
  }
  // The same without waiting.
  void take_ready(const std::function<void(Incoming&&)>& f) {
    Frames frames;
    for (Received got; (got = socket_.receive(frames, address_)) != Received::none;) {
      if (got != Received::packet) continue;
      size_t at = 0;
      Frames part;
      bool bad = false;
      if (frames.count == 1 && is_bundle(frames.frame[0]))
        while (next_in_bundle(frames.frame[0], at, part, bad)) take_one(part, f);
      else
        take_one(frames, f);
    }
    if (session_ != 0 && SteadyClock::now() - last_sent_ > 200ms) send(0, Beat{});
  }
  uint64_t received() const { return received_; }
  uint64_t session() const { return session_; }

 private:
  void take_one(const Frames& frames, const std::function<void(Incoming&&)>& f) {
    ++received_;
    auto in = decode(frames);
    if (!in) return;
    credit_.on_granted(in->envelope.granted);
    if (auto* welcome = std::get_if<Welcome>(&in->message)) session_ = welcome->session;
    if (std::holds_alternative<Who>(in->message) && SteadyClock::now() - hello_at_ > 100ms) {
      hello_at_ = SteadyClock::now();
      say_hello();
    }
    f(std::move(in).value());
  }

  std::string endpoint_;
  Role role_;
  std::string name_;
  BootId boot_;
  uint64_t connect_no_ = 0;
  Context own_context_;
  Context& context_;
  Socket socket_;
  InFlight in_flight_ = std::make_shared<std::atomic<uint64_t>>(0);
  CreditTaker credit_;
  uint64_t session_ = 0;
  uint64_t received_ = 0;
  std::string address_;
  SteadyClock::time_point last_sent_ = SteadyClock::now();
  SteadyClock::time_point hello_at_{};
};

}  // namespace dray
