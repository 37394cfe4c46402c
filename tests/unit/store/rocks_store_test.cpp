// Tests of RocksResultStore: the conformance suite, crashes, sync errors, full and bad disks.
#include "services/aggregator/store/rocks_store.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"  // rng.h multiplies in __int128
#include "common/base/rng.h"
#pragma GCC diagnostic pop
#include "services/aggregator/store/memory_store.h"
#include "tests/unit/store/conformance.h"

using namespace dray;
using namespace dray::store_test;
namespace fs = std::filesystem;

// RocksDB syncs through this one, so that a test can count syncs and make them fail.
namespace {
std::atomic<uint64_t> g_syncs{0};
std::atomic<const char*> g_failing_suffix{nullptr};

std::string name_of(int fd) {
  char name[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t n = ::readlink(link.c_str(), name, sizeof name);
  return std::string(name, n > 0 ? static_cast<size_t>(n) : 0);
}
}  // namespace

extern "C" int fdatasync(int fd) {
  ++g_syncs;
  const char* suffix = g_failing_suffix;
  if (suffix != nullptr && name_of(fd).ends_with(suffix)) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

namespace {

struct TempDir {
  TempDir() {
    std::string name = (fs::temp_directory_path() / "dray-store-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  TempDir(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

RocksOptions small_options(const fs::path& path) {
  RocksOptions o;
  o.path = path.string();
  o.min_free_bytes = 0;
  o.write_buffer_bytes = 256 << 10;
  o.block_cache_bytes = 1 << 20;
  return o;
}

struct RocksHarness {
  TempDir dir;
  RocksOptions options = small_options(dir.path / "db");
  std::unique_ptr<ResultStore> open() {
    auto store = open_rocks_store(options);
    if (store) return std::move(store).value();
    if (store.error().code != Errc::unavailable) FAIL(store.error().detail);
    return nullptr;
  }
};

StoredResult numbered(uint64_t n, size_t size) {
  auto r = result(task(1 + n / 256, n % 256), std::to_string(n));
  r.bytes = Bytes(std::to_string(n) + std::string(size, '.'));
  return r;
}

// A small file system of its own, if we may mount one.
struct Tmpfs {
  explicit Tmpfs(const char* size) {
    const std::string options = std::string("size=") + size;
    mounted =
        ::geteuid() == 0 && ::mount("tmpfs", dir.path.c_str(), "tmpfs", 0, options.c_str()) == 0;
    if (!mounted) WARN("SKIPPED: needs root and the right to mount a tmpfs");
  }
  ~Tmpfs() {
    if (mounted) ::umount2(dir.path.c_str(), MNT_DETACH);
  }
  TempDir dir;
  bool mounted = false;
};

}  // namespace

TEST_CASE("rocks store conforms") {
  RocksHarness h;
  conforms(h);
}

TEST_CASE("rocks store: every commit is synced before it is acknowledged") {
  RocksHarness h;
  auto store = acquired(h);
  for (uint64_t i = 0; i < 20; ++i) {
    const uint64_t before = g_syncs;
    REQUIRE(put(*store, {numbered(i, 10)}));
    CHECK(g_syncs > before);
  }
  CHECK(store->health().commits == 20);
  CHECK(store->health().sync_us_p50 > 0);
  CHECK(store->health().sync_us_p99 >= store->health().sync_us_p50);
}

TEST_CASE("rocks store: a failed sync is final") {
  RocksHarness h;
  auto store = acquired(h);
  REQUIRE(put(*store, {numbered(1, 10)}));
  g_failing_suffix = ".log";
  CHECK(put(*store, {numbered(2, 10)}).error().code == Errc::io);
  g_failing_suffix = nullptr;
  CHECK(put(*store, {numbered(3, 10)}).error().code == Errc::io);  // the disk is fine again
  CHECK(store->sweep(kNow, 0, 10).error().code == Errc::io);
  CHECK(!store->health().writable);
  store.reset();
  store = acquired(h);
  CHECK(one(*store, numbered(1, 0).id));
  CHECK(!one(*store, numbered(3, 0).id));
  REQUIRE(put(*store, {numbered(3, 10)}));
}

TEST_CASE("rocks store: an error in the background is final") {
  RocksHarness h;
  auto store = acquired(h);
  g_failing_suffix = ".sst";
  uint64_t acked = 0;
  Status last;
  while (acked < 3000 && (last = put(*store, {numbered(acked, 1000)}))) ++acked;
  g_failing_suffix = nullptr;
  REQUIRE(!last);
  CHECK(last.error().code == Errc::io);
  CHECK(put(*store, {numbered(acked, 10)}).error().code == Errc::io);
  CHECK(!store->health().writable);
  store.reset();
  store = acquired(h);
  for (uint64_t i = 0; i < acked; ++i) REQUIRE(one(*store, numbered(i, 0).id));
}

TEST_CASE("rocks store: damage inside the log is an error, not silence") {
  RocksHarness h;
  auto store = acquired(h);
  for (uint64_t i = 0; i < 200; ++i) REQUIRE(put(*store, {numbered(i, 500)}));
  store.reset();
  fs::path log;
  for (const auto& f : fs::directory_iterator(h.options.path))
    if (f.path().extension() == ".log" && f.file_size() > 50'000) log = f.path();
  REQUIRE(!log.empty());
  SECTION("in the middle") {
    std::fstream f(log, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(20'000);
    f.write("DAMAGE", 6);
    f.close();
    const auto opened = open_rocks_store(h.options);
    REQUIRE(!opened);
    CHECK(opened.error().code == Errc::corrupt);
  }
  SECTION("a torn tail was never acknowledged") {
    std::ofstream f(log, std::ios::app | std::ios::binary);
    f.write("\x11\x22\x33\x44\xff\x00\x01torn", 11);
    f.close();
    store = acquired(h);
    for (uint64_t i = 0; i < 200; ++i) REQUIRE(one(*store, numbered(i, 0).id));
  }
}

TEST_CASE("rocks store: opening says what is wrong") {
  SECTION("no such place") {
    TempDir dir;
    std::ofstream(dir.path / "file") << "x";
    const auto opened = open_rocks_store(small_options(dir.path / "file" / "db"));
    REQUIRE(!opened);
    CHECK(opened.error().code == Errc::io);
    CHECK_THAT(opened.error().detail, Catch::Contains((dir.path / "file" / "db").string()));
    CHECK_THAT(opened.error().detail, Catch::Contains("Not a directory"));
  }
  SECTION("read-only file system") {
    Tmpfs disk("8m");
    if (!disk.mounted) return;
    REQUIRE(::mount("tmpfs", disk.dir.path.c_str(), "", MS_REMOUNT | MS_RDONLY, "") == 0);
    const auto opened = open_rocks_store(small_options(disk.dir.path / "db"));
    REQUIRE(!opened);
    CHECK(opened.error().code == Errc::io);
    CHECK_THAT(opened.error().detail, Catch::Contains((disk.dir.path / "db").string()));
    CHECK_THAT(opened.error().detail, Catch::Contains("Read-only file system"));
  }
  SECTION("already open") {
    RocksHarness h;
    auto store = acquired(h);
    const auto second = open_rocks_store(h.options);
    REQUIRE(!second);
    CHECK(second.error().code == Errc::unavailable);
  }
}

TEST_CASE("rocks store: a full disk refuses before it writes, and resumes") {
  Tmpfs disk("96m");
  if (!disk.mounted) return;
  RocksOptions o = small_options(disk.dir.path / "db");
  o.write_buffer_bytes = 1 << 20;
  o.min_free_bytes = 24 << 20;
  auto store = std::move(open_rocks_store(o)).value();
  REQUIRE(store->acquire());
  std::ofstream(disk.dir.path / "filler") << std::string(32 << 20, 'f');
  uint64_t acked = 0;
  Status last;
  while (acked < 100'000 && (last = put(*store, {numbered(acked, 100'000)}))) ++acked;
  REQUIRE(!last);
  CHECK(last.error().code == Errc::no_space);
  CHECK(store->health().writable);
  CHECK(acked > 50);
  CHECK(!one(*store, numbered(acked, 0).id));
  for (uint64_t i = 0; i < acked; ++i) REQUIRE(one(*store, numbered(i, 0).id));
  fs::remove(disk.dir.path / "filler");
  for (int i = 0; i < 20; ++i) {
    REQUIRE(put(*store, {numbered(acked, 100'000)}));
    ++acked;
  }
  store.reset();
  store = std::move(open_rocks_store(o)).value();
  REQUIRE(store->acquire());
  for (uint64_t i = 0; i < acked; ++i) REQUIRE(one(*store, numbered(i, 0).id));
}

TEST_CASE("rocks store: a disk that fills up during a write acknowledges nothing it may lose") {
  Tmpfs disk("64m");
  if (!disk.mounted) return;
  RocksOptions o = small_options(disk.dir.path / "db");  // no reserve
  o.write_buffer_bytes = 1 << 20;
  auto store = std::move(open_rocks_store(o)).value();
  REQUIRE(store->acquire());
  // Leaves 16 MB to fill; once it is gone, a compaction has room for all of them.
  std::ofstream(disk.dir.path / "filler") << std::string(48 << 20, 'f');
  uint64_t acked = 0;
  Status last;
  while (acked < 100'000 && (last = put(*store, {numbered(acked, 30'000)}))) ++acked;
  REQUIRE(!last);
  const bool told_before = last.error().code == Errc::no_space;  // statvfs saw it first
  CHECK((told_before || last.error().code == Errc::io));
  fs::remove(disk.dir.path / "filler");
  if (!told_before) CHECK(put(*store, {numbered(acked, 10)}).error().code == Errc::io);
  store.reset();
  store = std::move(open_rocks_store(o)).value();
  REQUIRE(store->acquire());
  for (uint64_t i = 0; i < acked; ++i) REQUIRE(one(*store, numbered(i, 0).id));
  REQUIRE(put(*store, {numbered(acked + 1, 10)}));
}

TEST_CASE("rocks store: swept results give their space back") {
  RocksHarness h;
  auto store = acquired(h);
  for (uint64_t n = 0; n < 1600; ++n) {  // 48 MB in rows of their own, at most 1 MB alive
    REQUIRE(put(*store, {numbered(n, 30'000)}));
    if (n % 32 == 31) REQUIRE(store->sweep(kNow, 0, 1000).value_or(0u) == 32);
  }
  uint64_t on_disk = 0;
  for (int wait = 0; wait < 100; ++wait) {  // compaction runs in the background
    on_disk = 0;
    std::error_code gone;
    for (const auto& f : fs::directory_iterator(h.options.path))
      if (const auto size = f.file_size(gone); !gone && f.path().extension() == ".sst")
        on_disk += size;
    if (on_disk < (16 << 20)) break;
    ::usleep(50'000);
  }
  CHECK(on_disk < (16 << 20));
}

// --- SIGKILL
// --------------------------------------------------------------------------------------

// The child: commits for ever and reports each acknowledged batch as 8 bytes on stdout.
TEST_CASE("rocks store: child that is killed", "[.][kill-child]") {
  const char* path = std::getenv("DRAY_STORE_TEST_DIR");
  REQUIRE(path != nullptr);
  auto store = std::move(open_rocks_store(small_options(path))).value();
  REQUIRE(store->acquire());
  for (uint64_t n = store->stream_pos().pos;; ++n) {
    StoreBatch b;
    for (uint64_t i = 0; i < 5; ++i) b.results.push_back(numbered(n * 5 + i, 100 * i));
    b.results.push_back(numbered(1'000'000 + n, 5000));
    b.puts = {{"n", std::to_string(n)}};
    b.stream = {1, n + 1};
    if (n > 3) b.forget = {numbered((n - 4) * 5, 0).id};
    if (!store->commit(std::move(b))) ::_exit(1);
    if (::write(STDOUT_FILENO, &n, sizeof n) != sizeof n) ::_exit(2);
    if (n % 50 == 49) (void)store->sweep(kNow, kNoBudget, 10);
  }
}

namespace {
// Runs the child, kills it after some acknowledged batches; returns the last acknowledged number.
uint64_t run_and_kill(const fs::path& dir, uint64_t batches) {
  int fds[2];
  REQUIRE(::pipe2(fds, O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::setenv("DRAY_STORE_TEST_DIR", dir.c_str(), 1);
    ::dup2(fds[1], STDOUT_FILENO);
    ::execl("/proc/self/exe", "unit_store", "[kill-child]", nullptr);
    ::_exit(127);
  }
  ::close(fds[1]);
  uint64_t acked = 0, last = 0;
  for (uint64_t n = 0; ::read(fds[0], &n, sizeof n) == sizeof n; last = n)
    if (++acked == batches) ::kill(child, SIGKILL);
  ::close(fds[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(acked >= batches);
  return last;
}
}  // namespace

TEST_CASE("rocks store: every acknowledged commit survives SIGKILL, whole") {
  RocksHarness h;
  Rng rng(3);
  for (int round = 0; round < 6; ++round) {
    const uint64_t last = run_and_kill(h.options.path, 20 + rng.below(150));
    auto store = acquired(h);
    const uint64_t at = store->stream_pos().pos;  // batches below are in
    CHECK(at >= last + 1);
    CHECK(at <= last + 2);  // the one in flight may be in as well
    CHECK(store->row("n").value_or(std::nullopt) == std::to_string(at - 1));
    uint64_t bytes = 0, results = 0;
    for (uint64_t n = 0; n < at; ++n) {
      for (uint64_t i = 0; i < 5; ++i) {
        const auto want = numbered(n * 5 + i, 100 * i);
        const bool forgotten = i == 0 && n + 4 < at;
        REQUIRE(one(*store, want.id).has_value() == !forgotten);
        if (forgotten) continue;
        REQUIRE(one(*store, want.id) == want);
        bytes += stored_cost(want);
        ++results;
      }
      const auto large = numbered(1'000'000 + n, 5000);
      REQUIRE(one(*store, large.id) == large);
      bytes += stored_cost(large);
      ++results;
    }
    CHECK(!one(*store, numbered(at * 5 + 1, 0).id));
    CHECK(store->health().bytes == bytes);
    CHECK(store->health().results == results);
  }
}

// --- the two implementations agree
// ----------------------------------------------------------------

TEST_CASE("rocks store and memory store agree on random histories") {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    RocksHarness h;
    auto disk = std::make_shared<MemoryStoreDisk>();
    auto a = acquired(h);
    std::unique_ptr<ResultStore> b = std::make_unique<MemoryResultStore>(disk);
    REQUIRE(b->acquire());
    Rng rng(seed);
    std::vector<TaskId> ids;
    for (unsigned page = 1; page <= 6; ++page)
      for (unsigned slot = 0; slot < 40; ++slot) ids.push_back(task(page, slot));
    std::vector<bool> stored(ids.size());  // no duplicates: those count differently until swept
    int64_t now = kNow;
    for (int step = 0; step < 150; ++step) {
      now += static_cast<int64_t>(rng.below(40'000));
      StoreBatch x;
      for (uint64_t n = rng.below(12); n > 0; --n) {
        const size_t i = rng.below(ids.size());
        if (stored[i]) continue;
        stored[i] = true;
        x.results.push_back(result(ids[i],
                                   std::string(rng.below(rng.chance(200'000) ? 9000 : 90), 'r'),
                                   now + static_cast<int64_t>(rng.below(600'000))));
      }
      for (uint64_t n = rng.below(3); n > 0; --n) x.forget.push_back(ids[rng.below(ids.size())]);
      StoreBatch y = x;
      REQUIRE(a->commit(std::move(x)));
      REQUIRE(b->commit(std::move(y)));
      const uint64_t budget = rng.chance(300'000) ? rng.below(60'000) : kNoBudget;
      const size_t pages = 1 + rng.below(8);
      if (rng.chance(500'000))
        REQUIRE(a->sweep(now, budget, pages).value_or(999u) ==
                b->sweep(now, budget, pages).value_or(998u));
      if (rng.chance(50'000)) {
        a.reset();
        a = acquired(h);
      }
      REQUIRE(a->health().bytes == b->health().bytes);
      REQUIRE(a->health().results == b->health().results);
      if (step % 10 == 0) {
        REQUIRE(a->get(ids, now).value() == b->get(ids, now).value());
      }
    }
  }
}

// --- speed (not run by default)
// -------------------------------------------------------------------

namespace {
double cpu_us() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) / 1e3;
}
double wall_us() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) / 1e3;
}

void measure(uint64_t batches, uint64_t per_batch, size_t bytes, bool random, bool lz4) {
  TempDir dir;
  RocksOptions o;
  o.path = (dir.path / "db").string();
  o.lz4 = lz4;
  auto store = std::move(open_rocks_store(o)).value();
  REQUIRE(store->acquire());
  Rng rng(1);
  const Bytes payload(std::string(bytes, 'p'));
  double commit_cpu = 0;
  const double cpu0 = cpu_us(), wall0 = wall_us();
  for (uint64_t n = 0; n < batches; ++n) {
    StoreBatch b;
    b.stream = {1, n + 1};
    for (uint64_t i = 0; i < per_batch; ++i) {
      const TaskId id = random ? TaskId{rng.next(), rng.next()} : task(n + 1, unsigned(i));
      b.results.push_back(result(id, ""));
      b.results.back().bytes = payload;
      b.results.back().expires_wall_ms = kNow + 86'400'000 + static_cast<int64_t>(n / 10);
    }
    timespec t0{}, t1{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0);
    REQUIRE(store->commit(std::move(b)));
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
    commit_cpu += static_cast<double>(t1.tv_sec - t0.tv_sec) * 1e6 +
                  static_cast<double>(t1.tv_nsec - t0.tv_nsec) / 1e3;
  }
  const auto total = static_cast<double>(batches * per_batch);
  const double cpu = cpu_us() - cpu0, wall = wall_us() - wall0;
  std::printf(
      "%6.0f results, %3d/batch, %4zu B, %s%s: commit thread %.3f us CPU/result, "
      "process %.3f us, wall %.3f us/result, commit p50 %d us p99 %d us\n",
      total, int(per_batch), bytes, random ? "random" : "consecutive", lz4 ? ", lz4" : "",
      commit_cpu / total, cpu / total, wall / total, int(store->health().sync_us_p50),
      int(store->health().sync_us_p99));
}
}  // namespace

TEST_CASE("rocks store: speed", "[.][speed]") {
  for (size_t bytes : {size_t{0}, size_t{32}, size_t{256}})
    for (bool lz4 : {false, true}) measure(8000, 256, bytes, false, lz4);
  measure(1000, 4096, 32, false, false);
  measure(1000, 256, 32, true, false);
  measure(20'000, 1, 32, true, false);
}
