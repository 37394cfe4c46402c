// Conformance suite: what every ResultStore must do; run over each implementation by a harness.
#pragma once

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "services/aggregator/store/result_store.h"

namespace dray::store_test {

// A harness H has: `std::unique_ptr<ResultStore> open()` (a new store on the same disk; the test
// has destroyed the one before, or wants a second owner) which may return null when it is kept out.

constexpr int64_t kNow = 1'700'000'000'000;
constexpr int64_t kMinute = kExpiryStepMs;
constexpr uint64_t kNoBudget = ~uint64_t{0};

inline TaskId task(uint64_t page, unsigned slot) { return {page << 16, (page << 8) | slot}; }

inline StoredResult result(TaskId id, std::string bytes = "v", int64_t expires = kNow + kMinute) {
  StoredResult r;
  r.id = id;
  r.state = 3;
  r.code = 20;
  r.attempt = 2;
  r.exec_us = 1234;
  r.token = {7, id.lo};
  r.finished_wall_ms = kNow - 5;
  r.expires_wall_ms = expires;
  r.bytes = Bytes(std::move(bytes));
  return r;
}

inline Status put(ResultStore& store, std::vector<StoredResult> results) {
  StoreBatch b;
  b.results = std::move(results);
  return store.commit(std::move(b));
}

inline std::optional<StoredResult> one(ResultStore& store, TaskId id, int64_t now = kNow) {
  auto got = store.get(std::vector<TaskId>{id}, now);
  REQUIRE(got);
  return (*got)[0];
}

inline std::string text(const std::optional<StoredResult>& r) {
  return r ? std::string(r->bytes.view()) : "(none)";
}

template <class H>
std::unique_ptr<ResultStore> acquired(H& h) {
  auto store = h.open();
  REQUIRE(store);
  REQUIRE(store->acquire());
  return store;
}

template <class H>
void conforms_keeps_results(H& h) {
  auto store = acquired(h);
  std::vector<StoredResult> all;
  std::vector<TaskId> ids;
  for (unsigned i = 0; i < 256; ++i)
    all.push_back(result(task(9, i), std::string(i, 'a'), kNow + int64_t{i} * 1000 + 1));
  all.push_back(result(task(2, 1), std::string(300'000, 'b')));  // another page, a large one
  all.push_back(result(task(9, 0), "dup"));
  all[5].expires_wall_ms = kNeverExpires;
  all[6].token = {~uint64_t{0}, ~uint64_t{0}};
  all[7].attempt = 65535;
  all[7].exec_us = ~uint32_t{0};
  all[8].finished_wall_ms = -1;
  const auto want = all;
  REQUIRE(put(*store, all));
  for (const char* when : {"now", "after reopening"}) {
    CAPTURE(when);
    for (size_t i = 0; i + 1 < want.size(); ++i) REQUIRE(one(*store, want[i].id) == want[i]);
    // Many at once: any order, repeated and unknown ids, answers in place.
    const std::vector<TaskId> mixed{task(9, 200), task(1, 1), task(2, 1), task(9, 200), task(2, 2)};
    auto got = store->get(mixed, kNow);
    REQUIRE(got);
    CHECK((*got)[0] == want[200]);
    CHECK(!(*got)[1]);
    CHECK((*got)[2] == want[256]);
    CHECK((*got)[3] == want[200]);
    CHECK(!(*got)[4]);
    store.reset();
    store = acquired(h);
  }
}

template <class H>
void conforms_first_wins(H& h) {
  auto store = acquired(h);
  for (size_t size : {size_t{3}, size_t{100'000}}) {  // inside the page, and in a row of its own
    const TaskId a = task(size, 1), b = task(size, 2);
    const std::string first(size, '1'), second(size, '2');
    // In one batch, and across batches; the pages interleave so that the store has to regroup.
    REQUIRE(put(*store, {result(a, first), result(task(size + 1, 1)), result(a, second)}));
    REQUIRE(put(*store, {result(a, second), result(b, first)}));
    REQUIRE(put(*store, {result(b, second)}));
    CHECK(text(one(*store, a)) == first);
    CHECK(text(one(*store, b)) == first);
    // A rewrite of the page (forget of a neighbour) must not bring a later one up.
    StoreBatch drop;
    drop.forget = {b, task(size, 77)};
    REQUIRE(store->commit(std::move(drop)));
    CHECK(text(one(*store, a)) == first);
    CHECK(text(one(*store, b)) == "(none)");
    // Also when the second one comes in the next life, as the first large result of both.
    store.reset();
    store = acquired(h);
    const TaskId c = task(size, 3);
    REQUIRE(put(*store, {result(c, first)}));
    store.reset();
    store = acquired(h);
    REQUIRE(put(*store, {result(c, second)}));
    CHECK(text(one(*store, c)) == first);
  }
}

template <class H>
void conforms_expiry(H& h) {
  auto store = acquired(h);
  // A minute border, so that the sweep's granularity is visible.
  const int64_t t = (kNow / kMinute) * kMinute;
  REQUIRE(
      put(*store, {result(task(1, 1), "soon", t + 10), result(task(1, 2), "late", t + kMinute),
                   result(task(1, 3), "never", kNeverExpires), result(task(4, 1), "past", -5)}));
  CHECK(text(one(*store, task(1, 1), t + 9)) == "soon");
  CHECK(text(one(*store, task(1, 1), t + 10)) == "(none)");
  CHECK(text(one(*store, task(4, 1), t)) == "(none)");
  const auto swept = [&](int64_t now) { return store->sweep(now, kNoBudget, 100).value_or(999u); };
  CHECK(swept(t) == 1);  // "past"
  CHECK(swept(t + kMinute - 1) == 0);
  CHECK(store->health().results == 3);
  CHECK(swept(t + kMinute) == 1);
  CHECK(text(one(*store, task(1, 1), t)) == "(none)");  // really gone, whatever the clock says
  CHECK(text(one(*store, task(1, 2), t)) == "late");
  // An older expiry than what was swept already is found too.
  REQUIRE(put(*store, {result(task(5, 1), "old", t - 10 * kMinute)}));
  CHECK(swept(t + kMinute) == 1);
  CHECK(swept(t + 2 * kMinute) == 1);
  CHECK(swept(t + 1000 * kMinute) == 0);
  CHECK(text(one(*store, task(1, 3), t + 1000 * kMinute)) == "never");
  CHECK(store->health().results == 1);
  CHECK(store->health().bytes == kStoredOverhead + 5);
}

// The first of a slot expires before a refused duplicate of it: the duplicate must not surface.
template <class H>
void conforms_duplicate_never_surfaces(H& h) {
  auto store = acquired(h);
  const TaskId id = task(3, 3);
  REQUIRE(put(*store, {result(id, "first", kNow + 1)}));
  REQUIRE(put(*store, {result(id, "second", kNow + 60 * kMinute)}));
  CHECK(text(one(*store, id, kNow + 1)) == "(none)");
  REQUIRE(store->sweep(kNow + 2 * kMinute, kNoBudget, 100));
  CHECK(text(one(*store, id, kNow)) == "(none)");
  REQUIRE(store->sweep(kNow + 200 * kMinute, kNoBudget, 100));
  CHECK(store->health().results == 0);
  CHECK(store->health().bytes == 0);
}

template <class H>
void conforms_size_budget(H& h) {
  auto store = acquired(h);
  std::vector<StoredResult> all;
  for (unsigned page = 1; page <= 20; ++page)  // page 20 expires first
    for (unsigned slot = 0; slot < 4; ++slot)
      all.push_back(result(task(page, slot), std::string(968, 'x'), kNow + (40 - page) * kMinute));
  REQUIRE(put(*store, all));
  REQUIRE(put(*store, {result(task(99, 0), std::string(500'000, 'y'), kNow + 50 * kMinute)}));
  CHECK(store->health().bytes == 80 * 1000 + 500'032);
  CHECK(store->sweep(kNow, 580'032, 100).value_or(999u) == 0);  // exactly at the budget
  CHECK(store->sweep(kNow, 580'031, 100).value_or(999u) == 4);
  CHECK(!one(*store, task(20, 0)));
  CHECK(one(*store, task(19, 3)));
  CHECK(store->sweep(kNow, 510'032, 3).value_or(999u) == 12);  // bounded work
  CHECK(store->sweep(kNow, 510'032, 100).value_or(999u) == 56);
  CHECK(store->health().bytes == 508'032);
  CHECK(one(*store, task(2, 0)));
  CHECK(!one(*store, task(3, 0)));
  store.reset();
  store = acquired(h);
  CHECK(store->health().bytes == 508'032);
  CHECK(store->health().results == 9);
  CHECK(store->sweep(kNow, 0, 100).value_or(999u) == 9);
  CHECK(store->health().bytes == 0);
}

template <class H>
void conforms_accounting_survives(H& h) {
  auto store = acquired(h);
  uint64_t bytes = 0;
  for (unsigned round = 0; round < 5; ++round) {  // several commits touch one page and minute
    std::vector<StoredResult> some;
    for (unsigned i = 0; i < 30; ++i) {
      some.push_back(result(task(7, round * 30 + i), std::string(i * 100, 'q')));
      bytes += stored_cost(some.back());
    }
    REQUIRE(put(*store, some));
  }
  StoreBatch b;
  b.forget = {task(7, 29), task(7, 0), task(7, 0), task(8, 1)};
  b.results = {result(task(7, 29), "again")};  // forget comes first
  REQUIRE(store->commit(std::move(b)));
  bytes -= 2 * kStoredOverhead + 2900;
  bytes += kStoredOverhead + 5;
  CHECK(text(one(*store, task(7, 29))) == "again");
  CHECK(!one(*store, task(7, 0)));
  CHECK(store->health().bytes == bytes);
  store.reset();
  store = acquired(h);
  CHECK(store->health().bytes == bytes);
  CHECK(store->health().results == 149);
  REQUIRE(store->sweep(kNow + 60 * kMinute, kNoBudget, 10).value_or(999u) == 149);
  CHECK(store->health().bytes == 0);
  store.reset();
  store = acquired(h);
  CHECK(store->health().bytes == 0);
  CHECK(store->health().results == 0);
}

template <class H>
void conforms_rows(H& h) {
  auto store = acquired(h);
  StoreBatch b;
  b.puts = {{"g/2", "two"}, {"g/1", "one"}, {"g/3", ""}, {"h", "other"}, {"f", "before"}};
  b.puts.emplace_back(std::string("g/\xff\0z", 5), std::string("\0bin", 4));
  REQUIRE(store->commit(std::move(b)));
  const auto scan = [&](std::string_view prefix, size_t limit, std::string_view after = {}) {
    auto rows = store->scan(prefix, limit, after);
    REQUIRE(rows);
    std::string keys;
    for (const auto& [key, value] : *rows) keys += key + "=" + value + " ";
    return keys;
  };
  const std::string binary = std::string("g/\xff\0z", 5) + "=" + std::string("\0bin", 4) + " ";
  CHECK(scan("g/", 10) == "g/1=one g/2=two g/3= " + binary);
  CHECK(scan("g/", 2) == "g/1=one g/2=two ");
  CHECK(scan("g/", 2, "g/2") == "g/3= " + binary);
  CHECK(scan("g/", 10, "a") == "g/1=one g/2=two g/3= " + binary);
  CHECK(scan("g/", 10, "h") == "");
  CHECK(scan("g/", 0) == "");
  CHECK(scan("i", 10) == "");
  CHECK(scan("", 1) == "f=before ");
  StoreBatch c;
  c.puts = {{"g/1", "uno"}, {"g/2", "dos"}};
  c.dels = {"g/3", "g/2", "nothing"};  // dels come first
  REQUIRE(store->commit(std::move(c)));
  store.reset();
  store = acquired(h);
  CHECK(scan("g/", 10) == "g/1=uno g/2=dos " + binary);
  CHECK(store->row("g/1").value_or(std::nullopt) == "uno");
  auto missing = store->row("g");
  REQUIRE(missing);
  CHECK(!*missing);
}

template <class H>
void conforms_stream_position(H& h) {
  auto store = acquired(h);
  CHECK(store->stream_pos() == StreamPos{});
  const auto commit = [&](StreamPos pos) {
    StoreBatch b;
    b.stream = pos;
    b.puts = {{"at", std::to_string(pos.pos)}};
    return store->commit(std::move(b));
  };
  REQUIRE(commit({3, 100}));
  REQUIRE(commit({3, 100}));  // nothing new is fine
  REQUIRE(commit({0, 0}));  // unchanged
  CHECK(store->stream_pos() == StreamPos{3, 100});
  const auto back = commit({3, 99});
  REQUIRE(!back);
  CHECK(back.error().code == Errc::bad_argument);
  CHECK(store->row("at").value_or(std::nullopt) == "0");  // nothing of it was written
  store.reset();
  store = acquired(h);
  CHECK(store->stream_pos() == StreamPos{3, 100});
  REQUIRE(commit({4, 1}));
  CHECK(store->stream_pos() == StreamPos{4, 1});
  CHECK(store->health().writable);
}

template <class H>
void conforms_ownership(H& h) {
  auto store = h.open();
  REQUIRE(store);
  const auto early = put(*store, {result(task(1, 1))});
  REQUIRE(!early);
  CHECK(early.error().code == Errc::fenced);
  CHECK(store->sweep(kNow, 0, 1).error().code == Errc::fenced);
  const uint64_t first = store->acquire().value_or(0u);
  REQUIRE(first > 0);
  REQUIRE(put(*store, {result(task(1, 2))}));
  auto second = h.open();
  if (!second) {  // kept out: the first owner goes on
    REQUIRE(put(*store, {result(task(1, 3))}));
    store.reset();
    second = h.open();
    REQUIRE(second);
  }
  CHECK(second->acquire().value_or(0u) > first);
  if (store) {
    const auto late = put(*store, {result(task(1, 4))});
    REQUIRE(!late);
    CHECK(late.error().code == Errc::fenced);
    CHECK(store->sweep(kNow, 0, 1).error().code == Errc::fenced);
  }
  CHECK(!one(*second, task(1, 1)));
  CHECK(one(*second, task(1, 2)));
  CHECK(!one(*second, task(1, 4)));
  REQUIRE(put(*second, {result(task(1, 5))}));
}

template <class H>
void conforms_refuses_bad_batches(H& h) {
  auto store = acquired(h);
  const auto large =
      put(*store, {result(task(1, 1)), result(task(1, 2), std::string(9 << 20, 'L'))});
  REQUIRE(!large);
  CHECK(large.error().code == Errc::too_large);
  const auto null_id = put(*store, {result(task(1, 1)), result(TaskId{})});
  REQUIRE(!null_id);
  CHECK(null_id.error().code == Errc::bad_argument);
  CHECK(!one(*store, task(1, 1)));
  REQUIRE(store->commit(StoreBatch{}));
  REQUIRE(put(*store, {result(task(1, 1))}));
}

template <class H>
void conforms(H& h) {
  SECTION("keeps results") { conforms_keeps_results(h); }
  SECTION("first wins") { conforms_first_wins(h); }
  SECTION("expiry") { conforms_expiry(h); }
  SECTION("a refused duplicate never surfaces") { conforms_duplicate_never_surfaces(h); }
  SECTION("size budget") { conforms_size_budget(h); }
  SECTION("accounting survives") { conforms_accounting_survives(h); }
  SECTION("rows") { conforms_rows(h); }
  SECTION("stream position") { conforms_stream_position(h); }
  SECTION("ownership") { conforms_ownership(h); }
  SECTION("refuses bad batches") { conforms_refuses_bad_batches(h); }
}

}  // namespace dray::store_test
