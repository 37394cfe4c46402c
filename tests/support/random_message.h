// Random but valid messages of every kind, for round-trip and fuzz tests.
#pragma once

#include <utility>

#include "common/base/rng.h"
#include "common/wire/message.h"

namespace dray {

class RandomFields {
 public:
  explicit RandomFields(Rng& rng) : rng_(rng) {}
  template <class... T>
  void operator()(T&... fields) {
    (put(fields), ...);
  }

 private:
  void put(bool& v) { v = rng_.below(2) != 0; }
  template <class T>
  requires std::is_unsigned_v<T>
  void put(T& v) { v = static_cast<T>(rng_.next() >> rng_.below(64)); }
  void put(int64_t& v) { v = static_cast<int64_t>(rng_.next()) >> rng_.below(63); }
  void put(std::string& v) {
    v.clear();
    for (uint64_t n = rng_.below(20) + 1; n > 0; --n) v += static_cast<char>(rng_.next());
  }
  void put(Doc& v) {
    v = Doc(Doc::Object{});
    v.set("a", static_cast<int64_t>(rng_.below(1000))).set("b", Doc(Doc::List{}).push("x"));
  }
  template <class T>
  void put(std::vector<T>& v) {
    v.resize(rng_.below(5));
    for (T& x : v) put(x);
  }
  template <class A, class B>
  void put(std::pair<A, B>& p) {
    put(p.first);
    put(p.second);
    if constexpr (std::is_unsigned_v<B>) p.second %= 1'000'000;
  }
  Rng& rng_;
};

template <class Row>
Rows<Row> random_rows(Rng& rng, uint64_t& bytes) {
  RowsBuilder<Row> builder;
  bytes = 0;
  for (uint64_t n = rng.below(6); n > 0; --n) {
    Row row;
    if constexpr (requires { row.call; }) {
      row.call = rng.next();
      if constexpr (requires { row.items; }) row.items = static_cast<uint16_t>(rng.below(9) + 1);
    } else if constexpr (requires { row.id; }) {
      row.id = {rng.next() | 1, rng.next()};
    }
    if constexpr (requires { row.len; }) {
      row.len = static_cast<uint32_t>(rng.below(50));
      bytes += row.len;
    }
    if constexpr (std::is_same_v<Row, ResultRow>) row.status = 0;
    builder.add(row);
  }
  return builder.take();
}

template <class M>
Message random_message_of(Rng& rng) {
  M m;
  RandomFields fields(rng);
  m.fields(fields);
  if constexpr (std::is_same_v<M, Hello>) {
    m.role = 1;
    m.boot = {1, rng.next()};
    m.connect_no |= 1;
  }
  if constexpr (std::is_same_v<M, Submit>) m.specs.resize(1);
  if constexpr (std::is_same_v<M, Dispatch>) m.specs.resize(1);
  if constexpr (std::is_same_v<M, Run>) m.keys.resize(1);
  if constexpr (std::is_same_v<M, Call>) {
    m.handler = "h";
    m.window %= kStreamWindowMax;
  }
  uint64_t bytes = 0;
  if constexpr (HasRows<M>)
    m.rows = random_rows<typename std::decay_t<decltype(m.rows)>::Row>(rng, bytes);
  if constexpr (HasBytes<M>) m.bytes = Bytes(std::string(bytes, 'b'));
  return m;
}

template <size_t... I>
Message random_message(Rng& rng, size_t which, std::index_sequence<I...>) {
  Message out;
  ((which == I ? (out = random_message_of<std::variant_alternative_t<I, Message>>(rng), 0) : 0),
   ...);
  return out;
}
inline Message random_message(Rng& rng) {
  return random_message(rng, rng.below(std::variant_size_v<Message>),
                        std::make_index_sequence<std::variant_size_v<Message>>());
}

}  // namespace dray
