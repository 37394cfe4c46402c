// The journal's small parts: checksum, blob slices, memory disk knobs, floor measurement.
#include <unistd.h>

#include <filesystem>

#include "common/journal/blob_parts.h"
#include "common/journal/crc32c.h"
#include "common/journal/floor.h"
#include "common/journal/memory_journal.h"
#include "tests/unit/journal/journal_model.h"

namespace dray::test {

TEST_CASE("crc32c: known value, both paths agree, continues") {
  CHECK(crc32c(0, "123456789") == 0xe3069283U);  // RFC 3720 B.4's polynomial, usual check value
  CHECK(crc32c_table(0, "123456789") == 0xe3069283U);
  std::string s;
  for (int i = 0; i < 300; ++i) {
    s.push_back(static_cast<char>(i * 37));
    REQUIRE(crc32c(0, s) == crc32c_table(0, s));
    REQUIRE(crc32c(crc32c(0, s.substr(0, s.size() / 3)), s.substr(s.size() / 3)) == crc32c(0, s));
  }
}

TEST_CASE("blob parts: every slice") {
  BlobParts parts;
  std::string all;
  for (const char* piece : {"a", "", "bcd", "efghij", "k"}) {
    parts.add(Bytes::copy(piece));
    all += piece;
  }
  CHECK(parts.size() == all.size());
  for (size_t at = 0; at <= all.size(); ++at)
    for (size_t n = 0; at + n <= all.size(); ++n)
      REQUIRE(parts.slice(at, n).view() == std::string_view(all).substr(at, n));
}

TEST_CASE("memory journal: an applied commit may report an error") {
  auto disk = std::make_shared<MemoryDisk>();
  disk->fail_next_commits_applied(1);
  Log log;
  {
    MemoryJournal j(disk);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &log));
    REQUIRE_OK(append(j, plain(1)));
    CHECK(code(j.commit()) == Errc::io);
    CHECK(code(j.commit()) == Errc::io);
  }
  MemoryJournal j(disk);
  REQUIRE_OK(j.acquire());
  REQUIRE_OK(replay_into(j, &log));
  CHECK(log == Log{{1, plain(1)}});
}

TEST_CASE("memory journal: a crash keeps any prefix of what was not committed") {
  std::map<size_t, int> kept;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    auto disk = std::make_shared<MemoryDisk>();
    Rng rng(seed);
    Log log;
    MemoryJournal a(disk), b(disk);
    REQUIRE_OK(a.acquire());
    REQUIRE_OK(replay_into(a, &log));
    for (RecordNo no = 1; no <= 3; ++no) REQUIRE_OK(append(a, plain(no)));
    disk->crash(rng);
    REQUIRE_OK(b.acquire());
    REQUIRE_OK(replay_into(b, &log));
    ++kept[log.size()];
  }
  CHECK(kept.size() == 4);
}

TEST_CASE("floor: measures something and leaves nothing") {
  auto dir =
      std::filesystem::temp_directory_path() / ("journal-floor-" + std::to_string(::getpid()));
  auto r = measure_journal_floor(dir.string(), 256, 4, 20ms);
  REQUIRE_OK(r);
  CHECK(r->records_per_s > 0);
  CHECK(r->p50_us > 0);
  CHECK(r->p99_us >= r->p50_us);
  CHECK(std::filesystem::is_empty(dir));
  CHECK(code(measure_journal_floor(dir.string(), 0, 4, 20ms)) == Errc::bad_argument);
  std::filesystem::remove_all(dir);
}

}  // namespace dray::test
