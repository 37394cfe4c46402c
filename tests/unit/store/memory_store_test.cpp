// Tests of MemoryResultStore: the conformance suite and its injected faults.
#include "services/aggregator/store/memory_store.h"

#include "tests/unit/store/conformance.h"

using namespace dray;
using namespace dray::store_test;

namespace {
struct MemoryHarness {
  std::shared_ptr<MemoryStoreDisk> disk = std::make_shared<MemoryStoreDisk>();
  std::unique_ptr<ResultStore> open() { return std::make_unique<MemoryResultStore>(disk); }
};
}  // namespace

TEST_CASE("memory store conforms") {
  MemoryHarness h;
  conforms(h);
}

TEST_CASE("memory store: injected faults") {
  MemoryHarness h;
  auto store = acquired(h);
  REQUIRE(put(*store, {result(task(1, 1))}));
  const auto failing = [&](TaskId id) { return put(*store, {result(id)}).error().code; };

  SECTION("io, nothing applied") {
    h.disk->fail_next_commit(CommitFault::io_lost);
    CHECK(failing(task(1, 2)) == Errc::io);
    CHECK(failing(task(1, 3)) == Errc::io);  // poisoned
    CHECK(store->sweep(kNow, 0, 1).error().code == Errc::io);
    CHECK(!store->health().writable);
    store = acquired(h);
    CHECK(!one(*store, task(1, 2)));
    CHECK(!one(*store, task(1, 3)));
    REQUIRE(put(*store, {result(task(1, 4))}));
  }
  SECTION("io, but applied") {
    h.disk->fail_next_commit(CommitFault::io_applied);
    CHECK(failing(task(1, 2)) == Errc::io);
    CHECK(failing(task(1, 3)) == Errc::io);
    store = acquired(h);
    CHECK(one(*store, task(1, 2)));
    CHECK(!one(*store, task(1, 3)));
  }
  SECTION("full") {
    h.disk->set_full(true);
    CHECK(failing(task(1, 2)) == Errc::no_space);
    CHECK(store->health().bytes_free == 0);
    CHECK(one(*store, task(1, 1)));
    CHECK(store->sweep(kNow + 10 * kMinute, kNoBudget, 10).value_or(9u) == 1);
    h.disk->set_full(false);
    h.disk->fail_next_commit(CommitFault::no_space);
    CHECK(failing(task(1, 3)) == Errc::no_space);
    REQUIRE(put(*store, {result(task(1, 4))}));
    CHECK(!one(*store, task(1, 2)));
    CHECK(!one(*store, task(1, 3)));
  }
  SECTION("crash") {
    h.disk->crash();
    CHECK(failing(task(1, 2)) == Errc::closed);
    CHECK(store->get(std::vector<TaskId>{task(1, 1)}, kNow).error().code == Errc::closed);
    CHECK(store->row("x").error().code == Errc::closed);
    CHECK(store->scan("", 1).error().code == Errc::closed);
    CHECK(store->acquire().error().code == Errc::closed);
    store = acquired(h);
    CHECK(one(*store, task(1, 1)));
    CHECK(!one(*store, task(1, 2)));
  }
  SECTION("fence") {
    h.disk->fence();
    CHECK(failing(task(1, 2)) == Errc::fenced);
    store = acquired(h);
    REQUIRE(put(*store, {result(task(1, 2))}));
  }
}
