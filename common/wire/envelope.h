// What every message starts with: protocol version, roles, kinds and the envelope; and the macros
// with which message.h lists fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dray {

constexpr uint8_t kProtocolMajor = 1;
constexpr uint8_t kProtocolMinor = 0;

enum class Role : uint8_t {
  client = 1,
  router = 2,
  broker = 3,
  aggregator = 4,
  worker = 5,
  balancer = 6,
};
std::string_view role_name(Role role);

enum class Kind : uint16_t {
  // link
  hello = 1,
  welcome = 2,
  beat = 3,
  bye = 4,
  who = 5,
  // answers to any request
  reject = 10,
  ok = 11,
  states = 12,
  // client -> broker (through the router)
  submit = 20,
  submitted = 21,
  cancel = 22,
  query = 23,
  admin = 24,
  admin_reply = 25,
  // worker <-> broker
  attach = 40,
  dispatch = 41,
  results = 42,
  results_ack = 43,
  give_back = 44,
  revoke = 45,
  progress = 46,
  drain = 47,
  have = 48,
  sync = 49,
  capacity = 50,  // also worker -> router
  handlers = 51,
  // broker -> aggregator
  attach_stream = 60,
  finished = 61,
  finished_ack = 62,
  // results: client -> aggregator (through the router), ready also broker -> client
  wait = 80,
  unwait = 81,
  fetch = 82,
  ready = 83,
  forget = 84,
  watch_lost = 85,
  group_put = 90,
  group_watch = 91,
  group_state = 92,
  // calls: client <-> router
  call = 100,
  reply = 101,
  call_cancel = 102,
  call_credit = 103,  // also router -> worker
  // calls: router <-> worker
  offer = 110,
  run = 111,
  done = 112,
  stop = 113,
  want = 114,
  share = 115,
  // balancer
  node_report = 120,
  place = 121,
  load = 122,
  view = 123,
  backlog = 124,
};
std::string_view kind_name(Kind kind);

// First part of every head. Unknown trailing fields are ignored within one major version.
struct Envelope {
  uint8_t major = kProtocolMajor;
  uint8_t minor = kProtocolMinor;
  Kind kind = Kind::beat;
  uint64_t session = 0;  // given in WELCOME; 0 in HELLO and WHO
  uint64_t route = 0;  // the client's session at the router; echoed by whoever answers
  uint64_t req = 0;  // pairs an answer with its request; chosen by the asker
  uint64_t granted = 0;  // absolute credit: how many items the receiver may have sent in all
  uint64_t deadline_us = 0;  // time left for this request when it was sent; 0 = none
  std::string trace;  // W3C traceparent or empty
  bool operator==(const Envelope&) const = default;
};

#define DRAY_FIELDS(...) \
  template <class V>     \
  void fields(V& v) {    \
    v(__VA_ARGS__);      \
  }                      \
  bool operator==(const DRAY_SELF&) const = default;
#define DRAY_NO_FIELDS() \
  template <class V>     \
  void fields(V&) {}     \
  bool operator==(const DRAY_SELF&) const = default;

}  // namespace dray
