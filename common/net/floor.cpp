// Floor: the raw forwarder, its worker and its client.
#include "common/net/floor.h"

#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#include "common/net/clock.h"
#include "common/net/context.h"

namespace dray {
namespace {
constexpr size_t kHeadBytes = 64;

// A plain socket with its own context; blocking receives end after 100 ms.
class RawSocket {
 public:
  ~RawSocket() {
    if (socket_) zmq_close(socket_);
  }
  Status open(int type) {
    DRAY_TRY(context_.open());
    socket_ = zmq_socket(context_.native(), type);
    return socket_ ? prepare() : failure("socket");
  }
  Status share(RawSocket& other, int type) {
    socket_ = zmq_socket(other.context_.native(), type);
    return socket_ ? prepare() : failure("socket");
  }
  Status bind(const std::string& endpoint) {
    if (zmq_bind(socket_, endpoint.c_str()) != 0) return failure("bind " + endpoint);
    return {};
  }
  Status connect(const std::string& endpoint) {
    if (zmq_connect(socket_, endpoint.c_str()) != 0) return failure("connect " + endpoint);
    return {};
  }
  std::string endpoint() const {
    char text[256];
    size_t size = sizeof text;
    return zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, text, &size) == 0 ? text : "";
  }
  void* get() const { return socket_; }

 private:
  static Status failure(const std::string& what) {
    return make_error(Errc::io, what + ": " + zmq_strerror(zmq_errno()));
  }
  Status prepare() {
    int zero = 0;
    int limit = 100;
    int high_water = 100'000;
    zmq_setsockopt(socket_, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &limit, sizeof limit);
    zmq_setsockopt(socket_, ZMQ_SNDTIMEO, &limit, sizeof limit);
    zmq_setsockopt(socket_, ZMQ_SNDHWM, &high_water, sizeof high_water);
    zmq_setsockopt(socket_, ZMQ_RCVHWM, &high_water, sizeof high_water);
    return {};
  }
  Context context_;
  void* socket_ = nullptr;
};

// Moves the rest of the current message.
void pass_on(void* from, void* to) {
  zmq_msg_t part;
  zmq_msg_init(&part);
  for (bool more = true; more;) {
    if (zmq_msg_recv(&part, from, 0) < 0) break;
    more = zmq_msg_more(&part) != 0;
    if (zmq_msg_send(&part, to, more ? ZMQ_SNDMORE : 0) < 0) break;
  }
  zmq_msg_close(&part);
}

void run_worker(RawSocket& socket, std::atomic<bool>& stop) {
  zmq_send(socket.get(), "ready", 5, 0);
  zmq_msg_t part;
  zmq_msg_init(&part);
  while (!stop.load(std::memory_order_relaxed)) {
    if (zmq_msg_recv(&part, socket.get(), 0) < 0) continue;
    int more = zmq_msg_more(&part);
    zmq_msg_send(&part, socket.get(), more ? ZMQ_SNDMORE : 0);
  }
  zmq_msg_close(&part);
}

void run_forwarder(RawSocket& front, RawSocket& back, std::atomic<bool>& stop) {
  char worker[256];
  int worker_size = -1;
  char id[256];
  zmq_pollitem_t items[] = {{back.get(), 0, ZMQ_POLLIN, 0}, {front.get(), 0, ZMQ_POLLIN, 0}};
  while (!stop.load(std::memory_order_relaxed)) {
    if (zmq_poll(items, worker_size < 0 ? 1 : 2, 100) <= 0) continue;
    for (int n = 0; n < 256; ++n) {  // worker -> client: drop the worker's id, keep the client's
      int size = zmq_recv(back.get(), id, sizeof id, ZMQ_DONTWAIT);
      if (size < 0) break;
      if (worker_size < 0) {
        std::memcpy(worker, id, static_cast<size_t>(size));
        worker_size = size;
        zmq_recv(back.get(), id, sizeof id, 0);
        continue;
      }
      pass_on(back.get(), front.get());
    }
    for (int n = 0; n < 256 && worker_size >= 0; ++n) {
      int size = zmq_recv(front.get(), id, sizeof id, ZMQ_DONTWAIT);
      if (size < 0) break;
      zmq_send(back.get(), worker, static_cast<size_t>(worker_size), ZMQ_SNDMORE);
      zmq_send(back.get(), id, static_cast<size_t>(size), ZMQ_SNDMORE);
      pass_on(front.get(), back.get());
    }
  }
}

bool send_one(void* socket, const std::string& body) {
  char head[kHeadBytes] = {};
  if (zmq_send(socket, head, sizeof head, body.empty() ? 0 : ZMQ_SNDMORE) < 0) return false;
  return body.empty() || zmq_send(socket, body.data(), body.size(), 0) >= 0;
}

bool receive_one(void* socket, std::vector<char>& buffer) {
  for (int more = 1; more;) {
    if (zmq_recv(socket, buffer.data(), buffer.size(), 0) < 0) return false;
    size_t size = sizeof more;
    zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size);
  }
  return true;
}

// The first round trip waits for the connections.
Status warm_up(void* socket) {
  std::vector<char> buffer(1024);
  if (!send_one(socket, "")) return make_error(Errc::io, "floor: can not send");
  for (int i = 0; i < 50; ++i)
    if (receive_one(socket, buffer)) return {};
  return make_error(Errc::io, "floor: no answer");
}

Result<FloorResult> run_client(void* socket, const FloorOptions& options,
                               std::vector<int64_t>& trips) {
  const std::string body(options.payload_bytes * options.items_per_message, 'x');
  const size_t window = std::max(options.window, size_t{1});
  const uint64_t limit = options.round_trips ? options.round_trips : UINT64_MAX;
  std::vector<char> buffer(std::max(body.size(), size_t{1024}));
  std::deque<Time> sent;
  const size_t first = trips.size();
  uint64_t started = 0;
  const Time start = read_clock().mono;
  Time now = start;
  do {
    for (; sent.size() < window && started < limit && now - start < options.duration; ++started) {
      sent.push_back(read_clock().mono);
      if (!send_one(socket, body)) return make_error(Errc::io, "floor: can not send");
    }
    if (sent.empty()) break;
    if (!receive_one(socket, buffer)) return make_error(Errc::io, "floor: answer lost");
    now = read_clock().mono;
    trips.push_back((now - sent.front()).count());
    sent.pop_front();
  } while (true);
  std::vector<int64_t> own(trips.begin() + static_cast<ptrdiff_t>(first), trips.end());
  if (own.empty()) return make_error(Errc::io, "floor: no round trip");
  std::sort(own.begin(), own.end());
  FloorResult result;
  result.round_trips = own.size();
  result.msgs_per_s =
      static_cast<double>(own.size()) / std::chrono::duration<double>(now - start).count();
  result.p50_us = static_cast<double>(own[own.size() / 2]) / 1000;
  result.p99_us = static_cast<double>(own[own.size() * 99 / 100]) / 1000;
  return result;
}
}  // namespace

class FloorClient::Socket : public RawSocket {};

FloorClient::FloorClient() : socket_(std::make_unique<Socket>()) {}
FloorClient::~FloorClient() = default;

Status FloorClient::open(const std::string& forwarder) {
  DRAY_TRY(socket_->open(ZMQ_DEALER));
  DRAY_TRY(socket_->connect(forwarder));
  return warm_up(socket_->get());
}

Result<FloorResult> FloorClient::run(const FloorOptions& options, std::vector<int64_t>& trips) {
  return run_client(socket_->get(), options, trips);
}

Status run_floor_forwarder(const std::string& clients, const std::string& workers,
                           std::atomic<bool>& stop) {
  RawSocket front;
  RawSocket back;
  DRAY_TRY(front.open(ZMQ_ROUTER));
  DRAY_TRY(back.share(front, ZMQ_ROUTER));
  DRAY_TRY(front.bind(clients));
  DRAY_TRY(back.bind(workers));
  run_forwarder(front, back, stop);
  return {};
}

Status run_floor_worker(const std::string& forwarder, std::atomic<bool>& stop) {
  RawSocket worker;
  DRAY_TRY(worker.open(ZMQ_DEALER));
  DRAY_TRY(worker.connect(forwarder));
  run_worker(worker, stop);
  return {};
}

Result<FloorResult> measure_forwarder_floor(const FloorOptions& options) {
  std::string base = options.ipc_folder + "/floor" + std::to_string(::getpid());
  bool tcp = options.ipc_folder.empty();
  RawSocket front;
  RawSocket back;
  RawSocket worker;
  RawSocket client;
  DRAY_TRY(front.open(ZMQ_ROUTER));
  DRAY_TRY(back.share(front, ZMQ_ROUTER));
  DRAY_TRY(front.bind(tcp ? "tcp://127.0.0.1:0" : "ipc://" + base + ".front"));
  DRAY_TRY(back.bind(tcp ? "tcp://127.0.0.1:0" : "ipc://" + base + ".back"));
  DRAY_TRY(worker.open(ZMQ_DEALER));
  DRAY_TRY(worker.connect(back.endpoint()));
  DRAY_TRY(client.open(ZMQ_DEALER));
  DRAY_TRY(client.connect(front.endpoint()));
  std::atomic<bool> stop{false};
  std::thread forwarding([&] { run_forwarder(front, back, stop); });
  std::thread echoing([&] { run_worker(worker, stop); });
  std::vector<int64_t> trips;
  const Status up = warm_up(client.get());
  Result<FloorResult> result =
      up ? run_client(client.get(), options, trips) : Result<FloorResult>(up.error());
  stop.store(true);
  echoing.join();
  forwarding.join();
  return result;
}

}  // namespace dray
