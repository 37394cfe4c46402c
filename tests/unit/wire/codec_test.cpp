#include <catch2/catch.hpp>
#include <map>

#include "common/wire/bundle.h"
#include "common/wire/compact.h"
#include "common/wire/message.h"
#include "common/wire/spec.h"
#include "tests/support/random_message.h"

using namespace dray;

TEST_CASE("every message survives encoding and decoding") {
  Rng rng(1);
  for (int i = 0; i < 20'000; ++i) {
    Message m = random_message(rng);
    Envelope e;
    e.session = rng.next();
    e.route = rng.below(100);
    e.req = rng.next();
    e.granted = rng.below(1000);
    e.trace = "00-ab-cd-01";
    Frames f = encode(e, m);
    auto in = decode(f);
    INFO(print(m));
    REQUIRE(in.has_value());
    CHECK(in->message == m);
    e.kind = in->envelope.kind;
    CHECK(in->envelope == e);
  }
}

TEST_CASE("damaged messages give an error or a valid message, never anything else") {
  Rng rng(2);
  for (int i = 0; i < 100'000; ++i) {
    Frames f = encode(Envelope{}, random_message(rng));
    auto frame = rng.below(f.count);
    std::string bytes(f.frame[frame].view());
    switch (rng.below(4)) {
      case 0:
        if (!bytes.empty()) bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
        break;
      case 1:
        bytes.resize(rng.below(bytes.size() + 1));
        break;
      case 2:
        bytes += std::string(rng.below(10), static_cast<char>(rng.next()));
        break;
      default:
        f.count = static_cast<uint8_t>(rng.below(5));
        break;
    }
    f.frame[frame] = Bytes(bytes);
    if (f.count > 3) f.count = 0;
    auto in = decode(f);
    if (in) {
      auto again = decode(encode(in->envelope, in->message));
      REQUIRE(again.has_value());
      CHECK(again->message == in->message);
    }
  }
}

TEST_CASE("the short way to read an envelope and the long one agree") {
  Rng rng(5);
  for (int i = 0; i < 20'000; ++i) {
    Envelope e;
    e.kind = Kind::beat;
    for (uint64_t* n : {&e.session, &e.route, &e.req, &e.granted, &e.deadline_us})
      *n = rng.next() >> rng.below(64);
    const Frames plain = encode(e, Beat{});
    // One more field, as a later minor version may have, takes the long way.
    std::string longer(plain.frame[0].view());
    longer[0] = static_cast<char>(0x9a);
    longer.insert(longer.size() - 1, 1, '\x07');
    Frames other = plain;
    other.frame[0] = Bytes(longer);
    const auto a = decode_envelope(plain);
    const auto b = decode_envelope(other);
    REQUIRE((a && b));
    CHECK(*a == e);
    CHECK(*b == e);
  }
}

TEST_CASE("the router can change the envelope and leave the body alone") {
  Rng rng(3);
  Message m = random_message_of<Submit>(rng);
  Envelope e;
  e.req = 5;
  Frames f = encode(e, m);
  Envelope other = decode_envelope(f).value();
  other.route = 99;
  other.session = 1234567;
  auto in = decode(with_envelope(f, other).value()).value();
  CHECK(in.envelope.route == 99);
  CHECK(in.envelope.session == 1234567);
  CHECK(in.message == m);
}

namespace {
Errc error_of(std::string head) {
  Frames f;
  f.frame[0] = Bytes(std::move(head));
  f.count = 1;
  auto in = decode(f);
  return in ? Errc::ok : in.error().code;
}
}  // namespace

TEST_CASE("hostile msgpack is refused before memory is taken for it") {
  CHECK(error_of("") == Errc::bad_message);
  CHECK(error_of(std::string("\xdd\xff\xff\xff\xff", 5)) == Errc::bad_message);  // array32, 2^32-1
  CHECK(error_of(std::string("\xdf\xff\xff\xff\xff", 5)) == Errc::bad_message);  // map32
  CHECK(error_of(std::string("\xc6\xff\xff\xff\xff", 5)) == Errc::bad_message);  // bin32
  CHECK(error_of(std::string(60'000, '\x91')) == Errc::bad_message);  // depth bomb
  CHECK(error_of(std::string(70'000, '\xc0')) == Errc::too_large);
  std::string nils = "\xdc\x0f\xff";
  nils += std::string(4095, '\xc0');
  CHECK(error_of(nils) == Errc::bad_message);
}

TEST_CASE("another protocol major is named") {
  Envelope e;
  e.major = 9;
  auto in = decode(encode(e, Beat{}));
  REQUIRE_FALSE(in.has_value());
  CHECK(in.error().code == Errc::bad_version);
}

TEST_CASE("rows and bytes must agree, and indexes must exist") {
  Submit s;
  s.specs = {"x"};
  s.rows = make_rows<SubmitRow>(std::vector<SubmitRow>{{{1, 1}, 5, 0, 0}});
  s.bytes = Bytes(std::string("12345"));
  CHECK(decode(encode({}, s)).has_value());
  s.bytes = Bytes(std::string("1234"));
  CHECK_FALSE(decode(encode({}, s)).has_value());
  s.rows = make_rows<SubmitRow>(std::vector<SubmitRow>{{{1, 1}, 4, 7, 0}});
  CHECK_FALSE(decode(encode({}, s)).has_value());
  s.rows = make_rows<SubmitRow>(std::vector<SubmitRow>{{{0, 0}, 4, 0, 0}});
  CHECK_FALSE(decode(encode({}, s)).has_value());
  Results r;
  r.rows =
      make_rows<ResultRow>(std::vector<ResultRow>{ResultRow{{1, 1}, {1, 1}, 0, 0, 0, 0, 99, 0}});
  CHECK_FALSE(decode(encode({}, r)).has_value());
}

TEST_CASE("task options: every bound has an error that names the field") {
  TaskSpec good;
  good.handler = "echo";
  good.resources = {{"cpu", 5000}};
  good.header = std::string("\0\xff", 2);
  CHECK(decode_spec(encode_spec(good)).value() == good);
  auto error = [&](auto change) {
    TaskSpec s = good;
    change(s);
    auto r = decode_spec(encode_spec(s));
    return r ? std::string() : r.error().detail;
  };
  CHECK(error([](TaskSpec& s) { s.handler = ""; }).find("handler") != std::string::npos);
  CHECK(error([](TaskSpec& s) { s.handler = "a b"; }).find("handler") != std::string::npos);
  CHECK(error([](TaskSpec& s) { s.queue = std::string(200, 'q'); }).find("queue") !=
        std::string::npos);
  CHECK(error([](TaskSpec& s) { s.priority = 10; }).find("priority") != std::string::npos);
  CHECK(error([](TaskSpec& s) { s.delay_ms = UINT64_MAX; }).find("delay") != std::string::npos);
  CHECK(error([](TaskSpec& s) { s.max_failures = 0; }).find("max_failures") != std::string::npos);
  CHECK(error([](TaskSpec& s) { s.max_lost = 100000; }).find("max_lost") != std::string::npos);
  CHECK(error([](TaskSpec& s) {
          s.resources = {{"a", 0}};
        }).find("resources") != std::string::npos);
  CHECK(error([](TaskSpec& s) {
          s.resources = {{"a", 1}, {"a", 2}};
        }).find("twice") != std::string::npos);
  CHECK(error([](TaskSpec& s) { s.header = std::string(5000, 'h'); }).find("header") !=
        std::string::npos);
  CHECK_FALSE(decode_spec("\xc1garbage").has_value());
}

TEST_CASE("small messages travel as one frame and come out as they were") {
  Rng rng(9);
  for (int i = 0; i < 20'000; ++i) {
    Frames f = encode(Envelope{}, random_message(rng));
    size_t size = compact_size(f);
    if (f.count == 1) CHECK(size == 0);
    if (size == 0) continue;
    std::string bytes(size, 'x');
    write_compact(f, bytes.data());
    Bytes whole(bytes);
    REQUIRE(is_compact(whole));
    Frames back;
    REQUIRE(split_compact(whole, back));
    REQUIRE(back.count == f.count);
    for (uint8_t k = 0; k < f.count; ++k) CHECK(back.frame[k] == f.frame[k]);
    bytes[rng.below(12)] = static_cast<char>(rng.next());
    (void)split_compact(Bytes(bytes), back);  // no crash; sizes are checked
    (void)split_compact(Bytes(bytes.substr(0, rng.below(bytes.size()))), back);
  }
  Frames large;
  large.count = 2;
  large.frame[1] = Bytes(std::string(4000, 'a'));
  CHECK(compact_size(large) == 0);
}

TEST_CASE("a bundle gives back every message, per peer in order") {
  Rng rng(11);
  for (int round = 0; round < 300; ++round) {
    Bundler bundler;
    std::vector<Packet> sent;
    auto send = [&](Packet&& p) { sent.push_back(std::move(p)); };
    std::map<Peer, std::vector<Message>> said, heard;
    for (int i = 0; i < 60; ++i) {
      Message m = random_message(rng);
      if (rng.below(20) == 0) m = AdminReply{Doc(std::string(3000, 'x'))};
      Peer peer = rng.below(3);
      said[peer].push_back(m);
      bundler.add({0, peer, encode(Envelope{}, m)}, send);
    }
    bundler.flush(send);
    CHECK(sent.size() < 60);
    for (Packet& p : sent) {
      if (!is_bundle(p.frames.frame[0])) {
        heard[p.peer].push_back(decode(p.frames).value().message);
        continue;
      }
      Frames part;
      size_t at = 0;
      bool bad = false;
      while (next_in_bundle(p.frames.frame[0], at, part, bad))
        heard[p.peer].push_back(decode(part).value().message);
      CHECK_FALSE(bad);
      std::string damaged(p.frames.frame[0].view());
      damaged[4 + rng.below(damaged.size() - 4)] = static_cast<char>(rng.next());
      at = 0;
      while (next_in_bundle(Bytes(damaged), at, part, bad)) (void)decode(part);
    }
    CHECK(said == heard);
  }
}
