// Ports: order, waiting, overflow, what is dropped, and that nobody blocks.
#include <sys/stat.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <vector>

#include "tests/unit/net/net_support.h"

using namespace dray;
using namespace dray::test;

namespace {
// A listening and a dialing port that know each other.
struct Pair {
  explicit Pair(std::string where = fresh_ipc(), SocketOptions options = {})
      : listen(1, options), endpoint(std::move(where)) {
    REQUIRE(listen_context.open());
    REQUIRE(dial_context.open());
    REQUIRE(listen.open(listen_context));
    REQUIRE(listen.bind(endpoint));
    endpoint = listen.endpoints().front();
    dial = std::make_unique<DialPort>(2, endpoint, options);
    REQUIRE(dial->open(dial_context));
    meet();
  }
  ~Pair() {
    listen.close(Duration::zero());
    dial->close(Duration::zero());
  }
  void meet() {
    dial->send({2, 0, encode(Envelope{}, Hello{})});
    Packet packet;
    REQUIRE(wait_for(
        [&] {
          dial->retry();
          return listen.receive(packet) == Received::packet;
        },
        3s));
    peer = packet.peer;
    CHECK(packet.port == 1);
  }
  bool read(DialPort& port, Packet& packet) {
    return wait_for([&] { return port.receive(packet) == Received::packet; }, 2s);
  }
  bool read(ListenPort& port, Packet& packet) {
    return wait_for([&] { return port.receive(packet) == Received::packet; }, 2s);
  }
  Context listen_context;
  Context dial_context;
  ListenPort listen;
  std::unique_ptr<DialPort> dial;
  std::string endpoint;
  Peer peer = 0;
};

Frames beat() { return encode(Envelope{}, Beat{}); }
Frames numbered(uint64_t n) { return frames_of({std::to_string(n)}); }
}  // namespace

TEST_CASE("port: frames of every size arrive unchanged, both ways") {
  Pair pair(GENERATE(fresh_ipc(), std::string("tcp://127.0.0.1:0")));
  for (size_t size : {0u, 1u, 511u, 512u, 4095u, 4096u, 9000u, 1u << 20, 8u << 20}) {
    std::string body(size, 'b');
    for (size_t i = 0; i < size; i += 97) body[i] = static_cast<char>(i);
    pair.dial->send({2, 0, frames_of({"head", body})});
    Packet packet;
    REQUIRE(pair.read(pair.listen, packet));
    REQUIRE(packet.frames.count == 2);
    CHECK(packet.frames.frame[0].view() == "head");
    CHECK((packet.frames.frame[1].view() == body));
    CHECK(packet.peer == pair.peer);
    pair.listen.send({1, packet.peer, std::move(packet.frames)});  // sent from the received memory
    Packet back;
    REQUIRE(pair.read(*pair.dial, back));
    CHECK((back.frames.frame[1].view() == body));
  }
}

TEST_CASE("port: large frames are shared, not copied, and given back") {
  Pair pair;
  Bytes body(std::string(1 << 20, 'x'));
  Frames frames;
  frames.frame[0] = body;
  frames.count = 1;
  long most = 0;
  Packet packet;
  for (int i = 0; i < 50; ++i) {  // many, as libzmq's thread may be done with one before we look
    pair.listen.send({1, pair.peer, frames});
    most = std::max(most, body.owner().use_count());
    REQUIRE(pair.read(*pair.dial, packet));
  }
  CHECK(most >= 3);  // ours, `frames`, libzmq's
  frames = {};
  CHECK(wait_for([&] { return body.owner().use_count() == 1; }, 1s));
}

TEST_CASE("port: messages that break the rules are dropped, the next one arrives") {
  Pair pair;
  Frames four = frames_of({"1", "2", "3"});
  Packet packet;
  SECTION("too many bytes in all") {
    std::string part(5 << 20, 'x');
    pair.dial->send({2, 0, frames_of({part, part, part})});
  }
  SECTION("too many bytes the other way") {
    std::string part(5 << 20, 'x');
    pair.listen.send({1, pair.peer, frames_of({part, part, part})});
    pair.listen.send({1, pair.peer, numbered(7)});
    REQUIRE(pair.read(*pair.dial, packet));
    CHECK(packet.frames.frame[0].view() == "7");
    CHECK(pair.dial->counters().bad == 1);
    return;
  }
  pair.dial->send({2, 0, numbered(7)});
  REQUIRE(pair.read(pair.listen, packet));
  CHECK(packet.frames.frame[0].view() == "7");
  CHECK(packet.frames.count == 1);
}

TEST_CASE("port: a slow peer gets everything in order, and sending never blocks") {
  Pair pair;
  constexpr uint64_t kCount = 9000;
  Time begin = read_clock().mono;
  for (uint64_t i = 0; i < kCount; ++i) pair.listen.send({1, pair.peer, numbered(i)});
  CHECK(read_clock().mono - begin < 1s);
  CHECK(pair.listen.counters().busy > 0);
  CHECK(pair.listen.has_pending());
  uint64_t next = 0;
  Packet packet;
  REQUIRE(wait_for(
      [&] {
        while (pair.dial->receive(packet) == Received::packet) {
          REQUIRE(packet.frames.frame[0].view() == std::to_string(next));
          ++next;
        }
        pair.listen.receive(packet);  // moves libzmq's internal commands
        pair.listen.retry();
        return next == kCount;
      },
      5s));
  CHECK_FALSE(pair.listen.has_pending());
  CHECK(pair.listen.unreachable.empty());
}

TEST_CASE("port: overflow reports the peer and sends nothing more for the old session") {
  Pair pair;
  uint64_t sent = 0;
  for (; pair.listen.unreachable.empty() && sent < 30'000; ++sent)
    pair.listen.send({1, pair.peer, numbered(sent)});
  REQUIRE(pair.listen.unreachable.size() == 1);
  CHECK(pair.listen.unreachable[0].peer == pair.peer);
  CHECK(sent < kPendingPacketsMax + 5000);
  CHECK_FALSE(pair.listen.has_pending());
  uint64_t next = 0;
  Packet packet;
  while (wait_for([&] { return pair.dial->receive(packet) == Received::packet; }, 100ms)) {
    CHECK(packet.frames.frame[0].view() == std::to_string(next));
    ++next;
    pair.listen.send({1, pair.peer, numbered(1'000'000)});  // no gap, no late packet
  }
  CHECK(next < sent);
  pair.meet();  // the same connection, seen as a new peer
  CHECK(pair.peer != pair.listen.unreachable[0].peer);
}

TEST_CASE("port: overflow of a dialing port mutes it until the next hello") {
  Pair pair;
  uint64_t sent = 0;
  for (; pair.dial->unreachable.empty() && sent < 40'000; ++sent)
    pair.dial->send({2, 0, numbered(sent)});
  REQUIRE(pair.dial->unreachable.size() == 1);
  pair.dial->send({2, 0, numbered(1'000'000)});
  pair.dial->send({2, 0, encode(Envelope{}, Hello{})});
  uint64_t next = 0;
  Packet packet;
  while (wait_for(
      [&] {
        pair.dial->retry();
        pair.dial->receive(packet);
        return pair.listen.receive(packet) == Received::packet;
      },
      200ms)) {
    if (auto e = decode_envelope(packet.frames)) {
      CHECK(e->kind == Kind::hello);
      next = UINT64_MAX;
      continue;
    }
    REQUIRE(packet.frames.frame[0].view() == std::to_string(next));
    ++next;
  }
  CHECK(next == UINT64_MAX);  // the HELLO came, and came last
}

TEST_CASE("port: nothing piles up while nobody listens") {
  Context context;
  REQUIRE(context.open());
  std::string endpoint = fresh_ipc();
  DialPort dial(2, endpoint, {});
  REQUIRE(dial.open(context));
  dial.send({2, 0, numbered(1)});
  for (int i = 0; i < 100; ++i) dial.send({2, 0, beat()});
  Hello hello{static_cast<uint8_t>(Role::client), "me", {1, 2}, 0};
  for (hello.connect_no = 1; hello.connect_no <= 50; ++hello.connect_no)
    dial.send({2, 0, encode(Envelope{}, hello)});
  CHECK(dial.counters().lost == 51);  // "1", one BEAT, 49 HELLOs
  Context listen_context;
  REQUIRE(listen_context.open());
  ListenPort listen(1, {});
  REQUIRE(listen.open(listen_context));
  REQUIRE(listen.bind(endpoint));
  Packet packet;
  REQUIRE(wait_for(
      [&] {
        dial.retry();
        return listen.receive(packet) == Received::packet;
      },
      2s));
  auto in = decode(packet.frames);
  REQUIRE(in);
  CHECK(std::get<Hello>(in->message).connect_no == 50);
  std::this_thread::sleep_for(20ms);
  CHECK(listen.receive(packet) == Received::none);
}

TEST_CASE("port: a peer that left is unreachable; handles are never used again") {
  Pair pair;
  Peer old = pair.peer;
  pair.dial->recreate();
  CHECK(wait_for(
      [&] {
        pair.listen.send({1, old, beat()});
        return !pair.listen.unreachable.empty();
      },
      1s));
  pair.meet();
  CHECK(pair.peer > old);
  Packet packet;
  CHECK(pair.listen.receive(packet) == Received::none);  // all is read: the old one is forgotten
  CHECK(pair.listen.peers() == 1);
}

TEST_CASE("port: what a peer said before it left is read under its handle") {
  Pair pair(GENERATE(fresh_ipc(), std::string("tcp://127.0.0.1:0")));
  const Peer old = pair.peer;
  pair.dial->send({2, 0, numbered(1)});
  pair.dial->send({2, 0, numbered(2)});
  pair.dial->close(1s);
  CHECK(wait_for(  // nothing is read meanwhile
      [&] {
        pair.listen.send({1, old, beat()});
        return !pair.listen.unreachable.empty();
      },
      1s));
  CHECK(pair.listen.unreachable.at(0).peer == old);
  for (const char* text : {"1", "2"}) {
    Packet packet;
    REQUIRE(pair.read(pair.listen, packet));
    CHECK(packet.peer == old);
    CHECK(packet.frames.frame[0].view() == text);
  }
  Packet none;
  CHECK(pair.listen.receive(none) == Received::none);
  CHECK(pair.listen.peers() == 0);
}

TEST_CASE("port: ipc folders, stale files, and live listeners") {
  std::string folder = "/tmp/dray-net-" + std::to_string(::getpid());
  std::string path = folder + "/deep/er/sock";
  Context context;
  REQUIRE(context.open());
  ListenPort first(1, {});
  REQUIRE(first.open(context));
  REQUIRE(first.bind("ipc://" + path));
  struct stat info {};
  REQUIRE(::stat((folder + "/deep").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0700);
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  ListenPort second(1, {});
  REQUIRE(second.open(context));
  CHECK_FALSE(second.bind("ipc://" + path));  // libzmq alone would steal it
  REQUIRE(::link(path.c_str(), (path + ".stale").c_str()) == 0);
  first.close(Duration::zero());
  // libzmq closes in the background and leaves the file behind.
  CHECK(wait_for([&] { return second.bind("ipc://" + path).has_value(); }, 1s));
  CHECK(second.bind("ipc://" + path + ".stale"));
  CHECK(second.bind("tcp://127.0.0.1:0"));
  CHECK(second.endpoints().size() == 3);
  CHECK(second.endpoints()[2].rfind("tcp://127.0.0.1:", 0) == 0);
  CHECK(second.endpoints()[2] != "tcp://127.0.0.1:0");
}
