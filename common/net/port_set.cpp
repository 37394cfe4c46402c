// PortSet: polls the sockets' own descriptors instead of calling zmq_poll, which costs an extra
// system call per sleep.
//
// A descriptor of libzmq is an edge: any call on the socket may consume it. So a socket is `ready`
// from the moment its descriptor fires until a receive found nothing, and a socket that was touched
// since (sends) is asked once before the next sleep. A wait that runs into its time limit asks
// every socket; what it finds there was missed, and is counted.
//
// Each asking is a system call inside libzmq. While messages come one at a time (kCalmAfter sleeps
// in a row that ended with one), a port is asked once for a message, after what the message caused
// was sent, instead of before and after.
#include "common/net/port_set.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

namespace dray {
namespace {
constexpr int kBurst = 32;  // messages from one port before the next one's turn
constexpr int kCalmAfter = 16;
constexpr int kEventsMax = 64;  // the rest comes with the next wait
constexpr uint32_t kWakeEvent = UINT32_MAX;

int wait_events(int epoll, epoll_event* events, Duration timeout) {
  // Linux 5.11, and not forbidden: then it gets as far as to look at the arguments.
  static const bool precise =
      ::epoll_pwait2(-1, nullptr, 0, nullptr, nullptr) < 0 && (errno == EBADF || errno == EINVAL);
  if (precise) {
    timespec limit{};
    limit.tv_sec = static_cast<time_t>(timeout.count() / 1'000'000'000);
    limit.tv_nsec = static_cast<long>(timeout.count() % 1'000'000'000);
    return ::epoll_pwait2(epoll, events, kEventsMax, &limit, nullptr);
  }
  const auto ms = (timeout + Duration(1ms) - Duration(1)) / Duration(1ms);
  return ::epoll_wait(epoll, events, kEventsMax, static_cast<int>(ms));
}
}  // namespace

struct PortSet::Slot {
  std::unique_ptr<ListenPort> listen;
  std::unique_ptr<DialPort> dial;
  bool ready = false;
  bool touched = true;  // calls were made since readable() was asked

  Socket& socket() { return listen ? listen->socket() : dial->socket(); }
  Received receive(Packet& packet) {
    return listen ? listen->receive(packet) : dial->receive(packet);
  }
  int monitor_fd() const { return listen ? listen->monitor_fd() : dial->monitor_fd(); }
  bool check_connections() {
    if (listen) return listen->take_departures();
    dial->check_connection();
    return false;
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
  if (epoll_ >= 0) ::close(std::exchange(epoll_, -1));
  watched_generation_ = 0;
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

Received PortSet::receive(Packet& packet, bool all) {
  while (!ready_.empty()) {
    Slot& slot = *ready_.front();
    Received result = slot.receive(packet);
    if (result != Received::none) {
      if (++since_sleep_ == 1 && calm_ >= kCalmAfter && !all) {
        slot.ready = false;
        slot.touched = true;
        ready_.erase(ready_.begin());
        return result;
      }
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

// A socket that was opened anew has other descriptors; then everything is watched anew.
void PortSet::watch(int wake_fd) {
  uint64_t generation = 1;
  for (auto& slot : slots_) generation += slot->socket().generation();
  if (generation == watched_generation_ && wake_fd == watched_wake_) return;
  watched_generation_ = generation;
  watched_wake_ = wake_fd;
  if (epoll_ >= 0) ::close(epoll_);
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  auto add = [this](int fd, size_t what) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = static_cast<uint32_t>(what);
    if (fd >= 0) ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  };
  for (size_t i = 0; i < slots_.size(); ++i) {
    add(slots_[i]->socket().fd(), i);
    add(slots_[i]->monitor_fd(), slots_.size() + i);
  }
  add(wake_fd, kWakeEvent);
}

bool PortSet::wait(Duration timeout, Wake& wake) {
  for (auto& slot : slots_) {
    if (!slot->touched || slot->ready) continue;
    slot->touched = false;
    if (!slot->socket().readable()) continue;
    mark_ready(*slot);
    calm_ = 0;
  }
  if (!ready_.empty() || timeout < Duration::zero()) timeout = Duration::zero();
  bool sleeps = timeout > Duration::zero();
  if (sleeps && !wake.before_sleep()) {
    timeout = Duration::zero();
  }
  watch(wake.fd());
  std::array<epoll_event, kEventsMax> events;
  const int n = wait_events(epoll_, events.data(), timeout);
  bool woken = false;
  for (int i = 0; i < n; ++i) {
    const uint32_t what = events[static_cast<size_t>(i)].data.u32;
    if (what == kWakeEvent)
      woken = true;
    else if (what < slots_.size())
      mark_ready(*slots_[what]);
    else
      departures_ = slots_[what - slots_.size()]->check_connections() || departures_;
  }
  if (sleeps) {
    wake.after_sleep(woken);
    calm_ = since_sleep_ == 1 ? calm_ + 1 : since_sleep_ == 0 ? calm_ : 0;
    since_sleep_ = 0;
  }
  if (n == 0 && timeout >= 50ms && check_all()) ++missed_;
  if (n < 0 && errno != EINTR) {  // no descriptors left for the set: ask in person
    watched_generation_ = 0;
    std::this_thread::sleep_for(std::min(timeout, Duration(1ms)));
    check_all();
  }
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
