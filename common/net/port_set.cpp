// PortSet: polls the sockets' own descriptors instead of calling zmq_poll, which costs an extra
// system call per sleep.
//
// A descriptor of libzmq is an edge: any call on the socket may consume it. So a socket is `ready`
// from the moment its descriptor fires until a receive found nothing, and a socket that was touched
// since (sends) is asked once before the next sleep. A wait that runs into its time limit asks
// every socket; what it finds there was missed, and is counted.
#include "common/net/port_set.h"

#include <poll.h>

#include <algorithm>

namespace dray {
namespace {
constexpr int kBurst = 32;  // messages from one port before the next one's turn
}

struct PortSet::Slot {
  std::unique_ptr<ListenPort> listen;
  std::unique_ptr<DialPort> dial;
  bool ready = false;
  bool touched = true;  // calls were made since readable() was asked

  Socket& socket() { return listen ? listen->socket() : dial->socket(); }
  Received receive(Packet& packet) {
    return listen ? listen->receive(packet) : dial->receive(packet);
  }
  bool has_pending() const { return listen ? listen->has_pending() : dial->has_pending(); }
  std::vector<Unreachable>& unreachable() {
    return listen ? listen->unreachable : dial->unreachable;
  }
  const PortCounters& counters() const { return listen ? listen->counters() : dial->counters(); }
};

PortSet::PortSet() = default;
PortSet::~PortSet() { close(Duration::zero()); }

Status PortSet::open(const std::vector<ListenSpec>& listen, const std::vector<DialSpec>& dial,
                     const SocketOptions& options, int io_threads) {
  DRAY_TRY(context_.open(io_threads));
  for (const ListenSpec& spec : listen) {
    Slot*& slot = by_port_[spec.port];
    if (!slot) {
      slot = slots_.emplace_back(std::make_unique<Slot>()).get();
      slot->listen = std::make_unique<ListenPort>(spec.port, options);
      DRAY_TRY(slot->listen->open(context_));
    }
    if (!slot->listen) return make_error(Errc::config, "one port can not listen and dial");
    DRAY_TRY(slot->listen->bind(spec.endpoint));
  }
  for (const DialSpec& spec : dial) {
    Slot*& slot = by_port_[spec.port];
    if (slot) return make_error(Errc::config, "two uses of one port number");
    slot = slots_.emplace_back(std::make_unique<Slot>()).get();
    slot->dial = std::make_unique<DialPort>(spec.port, spec.endpoint, options);
    DRAY_TRY(slot->dial->open(context_));
  }
  return {};
}

void PortSet::close(Duration linger) {
  for (auto& slot : slots_) {
    if (slot->listen) slot->listen->close(linger);
    if (slot->dial) slot->dial->close(linger);
  }
  ready_.clear();
  slots_.clear();
  by_port_.fill(nullptr);
  context_.close();
}

std::string PortSet::endpoint(Port port, size_t index) const {
  const Slot* slot = by_port_[port];
  if (!slot || !slot->listen || index >= slot->listen->endpoints().size()) return {};
  return slot->listen->endpoints()[index];
}

void PortSet::mark_ready(Slot& slot) {
  if (slot.ready) return;
  slot.ready = true;
  ready_.push_back(&slot);
}

Received PortSet::receive(Packet& packet) {
  while (!ready_.empty()) {
    Slot& slot = *ready_.front();
    Received result = slot.receive(packet);
    if (result != Received::none) {
      if (++burst_ >= kBurst) {
        burst_ = 0;
        std::rotate(ready_.begin(), ready_.begin() + 1, ready_.end());
      }
      return result;
    }
    burst_ = 0;
    slot.ready = false;
    ready_.erase(ready_.begin());
  }
  return Received::none;
}

void PortSet::send(Packet&& packet) {
  Slot* slot = by_port_[packet.port];
  if (!slot) return;
  slot->touched = true;
  if (slot->listen)
    slot->listen->send(std::move(packet));
  else
    slot->dial->send(std::move(packet));
}

void PortSet::recreate(Port port) {
  Slot* slot = by_port_[port];
  if (!slot || !slot->dial) return;
  slot->dial->recreate();
  slot->touched = true;
}

void PortSet::retry() {
  for (auto& slot : slots_) {
    if (!slot->has_pending()) continue;
    slot->touched = true;
    if (slot->listen)
      slot->listen->retry();
    else
      slot->dial->retry();
  }
}

bool PortSet::has_pending() const {
  for (const auto& slot : slots_)
    if (slot->has_pending()) return true;
  return false;
}

bool PortSet::take_unreachable(std::vector<Unreachable>& out) {
  out.clear();
  for (auto& slot : slots_) {
    auto& list = slot->unreachable();
    if (list.empty()) continue;
    out.insert(out.end(), list.begin(), list.end());
    list.clear();
  }
  return !out.empty();
}

// Asks every socket; true if one had input that no signal announced.
bool PortSet::check_all() {
  bool found = false;
  for (auto& slot : slots_) {
    if (slot->ready || !slot->socket().readable()) continue;
    mark_ready(*slot);
    found = true;
  }
  return found;
}

bool PortSet::wait(Duration timeout, Wake& wake) {
  for (auto& slot : slots_) {
    if (!slot->touched || slot->ready) continue;
    slot->touched = false;
    if (slot->socket().readable()) mark_ready(*slot);
  }
  if (!ready_.empty() || timeout < Duration::zero()) timeout = Duration::zero();
  bool sleeps = timeout > Duration::zero();
  if (sleeps && !wake.before_sleep()) {
    timeout = Duration::zero();
  }
  polls_.clear();
  for (auto& slot : slots_) polls_.push_back({slot->socket().fd(), POLLIN, 0});
  for (auto& slot : slots_)
    polls_.push_back({slot->dial ? slot->dial->monitor_fd() : -1, POLLIN, 0});
  polls_.push_back({wake.fd(), POLLIN, 0});
  timespec limit{};
  limit.tv_sec = static_cast<time_t>(timeout.count() / 1'000'000'000);
  limit.tv_nsec = static_cast<long>(timeout.count() % 1'000'000'000);
  int n = ::ppoll(polls_.data(), polls_.size(), &limit, nullptr);
  if (sleeps) wake.after_sleep(n > 0 && polls_.back().revents != 0);
  for (size_t i = 0; i < slots_.size() && n > 0; ++i) {
    if (polls_[i].revents != 0) mark_ready(*slots_[i]);
    if (polls_[slots_.size() + i].revents != 0) slots_[i]->dial->check_connection();
  }
  if (n == 0 && timeout >= 50ms && check_all()) ++missed_;
  return sleeps;
}

PortCounters PortSet::counters() const {
  PortCounters sum;
  for (const auto& slot : slots_) {
    const PortCounters& c = slot->counters();
    sum.sent += c.sent;
    sum.received += c.received;
    sum.busy += c.busy;
    sum.bad += c.bad;
    sum.lost += c.lost;
  }
  return sum;
}

}  // namespace dray
