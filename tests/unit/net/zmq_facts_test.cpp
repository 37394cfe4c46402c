// What we rely on in libzmq, pinned: a library upgrade that changes one of these facts is seen
// here.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <zmq.h>

#include <catch2/catch.hpp>
#include <vector>

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/net/endpoint.h"
#include "common/net/floor.h"
#include "tests/unit/net/net_support.h"

using namespace dray;
using namespace dray::test;

namespace {
int get(void* socket, int option) {
  int value = -12345;
  size_t size = sizeof value;
  REQUIRE(zmq_getsockopt(socket, option, &value, &size) == 0);
  return value;
}

// A foreign peer: a plain socket that follows none of our rules.
struct Raw {
  explicit Raw(int type) {
    REQUIRE(context.open());
    socket = zmq_socket(context.native(), type);
    int zero = 0;
    int limit = 2000;
    zmq_setsockopt(socket, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &limit, sizeof limit);
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &limit, sizeof limit);
  }
  ~Raw() { zmq_close(socket); }
  void send(const std::vector<std::string>& parts) {
    for (size_t i = 0; i < parts.size(); ++i)
      REQUIRE(zmq_send(socket, parts[i].data(), parts[i].size(),
                       i + 1 < parts.size() ? ZMQ_SNDMORE : 0) >= 0);
  }
  std::vector<std::string> receive() {
    std::vector<std::string> parts;
    zmq_msg_t message;
    zmq_msg_init(&message);
    for (bool more = true; more;) {
      if (zmq_msg_recv(&message, socket, 0) < 0) break;
      parts.emplace_back(static_cast<char*>(zmq_msg_data(&message)), zmq_msg_size(&message));
      more = zmq_msg_more(&message) != 0;
    }
    zmq_msg_close(&message);
    return parts;
  }
  Context context;
  void* socket = nullptr;
};

struct Listening {
  explicit Listening(const std::string& where) : port(1, {}) {
    REQUIRE(context.open());
    REQUIRE(port.open(context));
    REQUIRE(port.bind(where));
    endpoint = port.endpoints().front();
  }
  Context context;
  ListenPort port;
  std::string endpoint;
};

int tcp_connect(const std::string& endpoint) {
  int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint.substr(16))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return fd;
}
}  // namespace

TEST_CASE("facts: the socket sheet is set, heartbeats are not") {
  Context context;
  REQUIRE(context.open());
  for (auto type : {Socket::Type::listener, Socket::Type::dialer}) {
    Socket socket;
    REQUIRE(socket.open(context, type, {}));
    void* s = socket.native();
    CHECK(get(s, ZMQ_HEARTBEAT_IVL) == 0);
    CHECK(get(s, ZMQ_HEARTBEAT_TTL) == 0);
    CHECK(get(s, ZMQ_HEARTBEAT_TIMEOUT) == -1);
    CHECK(get(s, ZMQ_LINGER) == 0);
    CHECK(get(s, ZMQ_SNDTIMEO) == 0);
    CHECK(get(s, ZMQ_SNDHWM) == 1000);
    CHECK(get(s, ZMQ_RCVHWM) == 128);
    CHECK(get(s, ZMQ_TCP_MAXRT) == 15000);
    CHECK(get(s, ZMQ_TCP_KEEPALIVE) == 1);
    CHECK(get(s, ZMQ_HANDSHAKE_IVL) == 5000);
    int64_t largest = 0;
    size_t size = sizeof largest;
    REQUIRE(zmq_getsockopt(s, ZMQ_MAXMSGSIZE, &largest, &size) == 0);
    CHECK(largest == static_cast<int64_t>(kFrameBytesMax));
    if (type == Socket::Type::dialer) {
      CHECK(get(s, ZMQ_IMMEDIATE) == 1);
      CHECK(get(s, ZMQ_RECONNECT_IVL) == 50);
      CHECK(get(s, ZMQ_RECONNECT_IVL_MAX) == 1000);
    } else {
      CHECK(get(s, ZMQ_BACKLOG) == 4096);
    }
    size = 0;
    char id[256];
    size = sizeof id;
    REQUIRE(zmq_getsockopt(s, ZMQ_ROUTING_ID, id, &size) == 0);
    CHECK(size == 0);  // never chosen by us
  }
}

TEST_CASE("facts: a mandatory router says EAGAIN and EHOSTUNREACH, loses nothing, never blocks") {
  Listening listening(fresh_ipc());
  Raw peer(ZMQ_DEALER);
  int one = 1;
  zmq_setsockopt(peer.socket, ZMQ_RCVHWM, &one, sizeof one);
  zmq_connect(peer.socket, listening.endpoint.c_str());
  peer.send({"hello"});
  Packet packet;
  REQUIRE(wait_for([&] { return listening.port.receive(packet) == Received::packet; }, 2s));
  Socket& socket = listening.port.socket();
  std::string address("\0", 1);
  InFlight in_flight;
  CHECK(socket.send("\0nobody", frames_of({"x"}), in_flight) == SendResult::gone);
  void* s = socket.native();
  zmq_send(s, "xxxxx", 5, ZMQ_SNDMORE | ZMQ_DONTWAIT);
  CHECK(zmq_errno() == EHOSTUNREACH);
  Time begin = read_clock().mono;
  uint64_t accepted = 0;
  // 16 KiB each, so that kernel buffers do not hide the peer that does not read.
  for (; listening.port.counters().busy == 0 && accepted < 20'000; ++accepted)
    listening.port.send(
        {1, packet.peer, frames_of({std::to_string(accepted), std::string(16384, 'x')})});
  CHECK(listening.port.counters().busy == 1);
  CHECK(read_clock().mono - begin < 2s);
  for (uint64_t i = 0; i < accepted; ++i) {
    listening.port.receive(packet);
    listening.port.retry();
    REQUIRE(peer.receive().at(0) == std::to_string(i));
  }
}

TEST_CASE("facts: a dealer killed by an oversized frame lives again after recreate") {
  Raw server(ZMQ_ROUTER);
  std::string endpoint = fresh_ipc();
  REQUIRE(prepare_listen(endpoint));
  REQUIRE(zmq_bind(server.socket, endpoint.c_str()) == 0);
  Context context;
  REQUIRE(context.open());
  DialPort dial(1, endpoint, {});
  REQUIRE(dial.open(context));
  auto say_hello = [&] {
    dial.send({1, 0, encode(Envelope{}, Hello{})});
    Packet packet;
    REQUIRE(wait_for(
        [&] {
          dial.retry();
          dial.receive(packet);
          return !dial.has_pending();
        },
        2s));
    return server.receive();
  };
  auto hello = say_hello();
  REQUIRE(hello.size() == 2);
  server.send({hello[0], std::string(kFrameBytesMax + 1, 'x')});
  Packet packet;
  REQUIRE(wait_for(
      [&] {
        CHECK(dial.receive(packet) == Received::none);
        dial.check_connection();
        return !dial.unreachable.empty();
      },
      2s));
  dial.send({1, 0, encode(Envelope{}, Hello{})});
  std::this_thread::sleep_for(500ms);
  dial.retry();
  // Nearly always dead for ever (it does not reconnect); recreate() helps either way.
  dial.recreate();
  auto again = say_hello();
  REQUIRE(again.size() == 2);
  CHECK(again[0] != hello[0]);
  server.send({again[0], "welcome"});
  REQUIRE(wait_for([&] { return dial.receive(packet) == Received::packet; }, 2s));
  CHECK(packet.frames.frame[0].view() == "welcome");
}

TEST_CASE("facts: foreign peers: too many frames, chosen routing ids, empty messages") {
  Listening listening(fresh_ipc());
  Raw peer(ZMQ_DEALER);
  Raw named(ZMQ_DEALER);
  zmq_setsockopt(named.socket, ZMQ_ROUTING_ID, "admin", 5);
  zmq_connect(peer.socket, listening.endpoint.c_str());
  zmq_connect(named.socket, listening.endpoint.c_str());
  named.send({"I", "am", "admin"});
  peer.send({"1", "2", "3", "4"});
  peer.send(std::vector<std::string>(1000, "x"));
  peer.send({""});
  peer.send({"1", "2", "3"});
  std::vector<uint8_t> counts;
  std::string last_frame;
  Packet packet;
  REQUIRE(wait_for(
      [&] {
        // The two peers come in either order, and a refused packet leaves its frames behind.
        if (listening.port.receive(packet) == Received::packet) {
          counts.push_back(packet.frames.count);
          last_frame = packet.frames.frame[packet.frames.count - 1].view();
        }
        return counts.size() == 2 && listening.port.counters().bad == 3;
      },
      2s));
  CHECK(counts == std::vector<uint8_t>{1, 3});
  CHECK(last_frame == "3");
  CHECK(listening.port.peers() == 1);
}

TEST_CASE("facts: garbage on the port does no harm") {
  auto server = listener("tcp://127.0.0.1:0");
  REQUIRE(server->start());
  std::string endpoint = server->host.endpoint(1);
  Rng rng(7);
  std::vector<int> open;
  const std::string greeting("\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL", 16);
  for (int i = 0; i < 300; ++i) {
    int fd = tcp_connect(endpoint);
    std::string bytes = greeting.substr(0, rng.below(3) == 0 ? rng.below(17) : 0);
    for (uint64_t n = rng.below(400); n > 0; --n) bytes += static_cast<char>(rng.next());
    (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (i % 10 == 0)
      open.push_back(fd);  // half a handshake, then silence
    else
      ::close(fd);
  }
  // A peer that speaks ZMTP but not our protocol.
  Raw stranger(ZMQ_DEALER);
  zmq_connect(stranger.socket, endpoint.c_str());
  for (int i = 0; i < 300; ++i) {
    std::string bytes;
    for (uint64_t n = rng.below(200); n > 0; --n) bytes += static_cast<char>(rng.next());
    stranger.send({bytes, "rows"});
  }
  auto client = dialer(endpoint);
  std::atomic<bool> answered{false};
  client->core.on_opened = [](SessionId id, Lanes& out) { out.now.push_back(query(id, 1)); };
  client->core.on_answer = [&](SessionId, const Envelope&, Message&, Lanes&) { answered = true; };
  REQUIRE(client->start());
  CHECK(wait_for([&] { return answered.load(); }, 3s));
  CHECK(wait_for([&] { return server->host.counters().bad >= 300; }, 2s));
  CHECK(server->core.opened == 1);
  for (int fd : open) ::close(fd);
}

TEST_CASE("facts: linger is what we say") {
  for (auto [linger, least, most] :
       {std::tuple{0ms, 0ms, 100ms}, std::tuple{200ms, 150ms, 500ms}}) {
    auto context = std::make_unique<Context>();
    REQUIRE(context->open());
    Raw deaf(ZMQ_DEALER);
    ListenPort port(1, {});
    REQUIRE(port.open(*context));
    REQUIRE(port.bind(fresh_ipc()));
    int one = 1;
    zmq_setsockopt(deaf.socket, ZMQ_RCVHWM, &one, sizeof one);
    zmq_connect(deaf.socket, port.endpoints()[0].c_str());
    deaf.send({"x"});
    Packet packet;
    REQUIRE(wait_for([&] { return port.receive(packet) == Received::packet; }, 2s));
    for (int i = 0; i < 30; ++i)
      port.send({1, packet.peer, frames_of({std::string(1 << 20, 'x')})});
    Time begin = read_clock().mono;
    port.close(linger);
    context.reset();
    CHECK(read_clock().mono - begin >= least);
    CHECK(read_clock().mono - begin <= most);
  }
}

TEST_CASE("facts: only this machine") {
  for (const char* good : {"ipc:///run/dray/broker", "ipc://run/broker.sock", "tcp://127.0.0.1:0",
                           "tcp://127.1.2.3:65535", "tcp://[::1]:5555"})
    CHECK(check_endpoint(good));
  for (const char* bad : {"",
                          "ipc://",
                          "ipc://*",
                          "ipc://@abstract",
                          "tcp://*:5555",
                          "tcp://0.0.0.0:5555",
                          "tcp://10.0.0.1:1",
                          "tcp://192.168.1.1:5",
                          "tcp://8.8.8.8:53",
                          "tcp://localhost:5",
                          "tcp://eth0:5",
                          "tcp://[::]:5",
                          "tcp://127.0.0.1",
                          "tcp://127.0.0.1:",
                          "tcp://127.0.0.1:x",
                          "tcp://127.0.0.1:70000",
                          "tcp://127.0.0.1:*",
                          "tcp://127.0.0.1;8.8.8.8:5",
                          "tcp://1:5",
                          "udp://127.0.0.1:5",
                          "inproc://x",
                          "pgm://127.0.0.1:5",
                          "ws://127.0.0.1:5",
                          "tcp://8.8.8.8;127.0.0.1:5",
                          "TCP://127.0.0.1:5"})
    CHECK_FALSE(check_endpoint(bad));
  CHECK_FALSE(check_endpoint("ipc:///" + std::string(120, 'x')));
  Context context;
  REQUIRE(context.open());
  ListenPort port(1, {});
  REQUIRE(port.open(context));
  CHECK_FALSE(port.bind("tcp://0.0.0.0:0"));
  DialPort dial(1, "tcp://8.8.8.8:53", {});
  CHECK_FALSE(dial.open(context));
}

TEST_CASE("facts: the floor can be measured") {
  for (std::string folder : {"", "/tmp"}) {
    auto result = measure_forwarder_floor({folder, 100, 4, 10, 100ms});
    REQUIRE(result);
    CHECK(result->round_trips > 10);
    CHECK(result->p99_us >= result->p50_us);
  }
}
