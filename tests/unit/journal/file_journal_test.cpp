// Faults only a file journal has: damaged bytes, failing calls, power loss, recycled files.
#include "common/journal/file_journal.h"

#include <algorithm>
#include <cerrno>

#include "common/journal/record_format.h"
#include "tests/unit/journal/journal_model.h"
#include "tests/unit/journal/mem_fs.h"

namespace dray::test {
namespace {

FileJournalOptions small() {
  FileJournalOptions o;
  o.dir = "j";
  o.segment_bytes = 4096 + 4096;
  o.cache_bytes = 0;
  return o;
}

// Writes until done or the first error; `sure` holds what was committed, `maybe` what was not.
Status workload(FileJournal& j, Rng& rng, Log* sure, Log* maybe, int commits) {
  for (int i = 0; i < commits; ++i) {
    for (uint64_t n = 1 + rng.below(4); n > 0; --n) {
      RecordNo no = j.next_record();
      Plain p = plain(no, rng.below(8) == 0 ? rng.below(9000) : rng.below(600));
      DRAY_TRY(append(j, p));
      (*maybe)[no] = p;
    }
    DRAY_TRY(j.commit());
    sure->merge(*maybe);
    maybe->clear();
    if (rng.below(4) != 0) continue;
    RecordNo keep = j.next_record() - std::min<uint64_t>(j.next_record() - 1, rng.below(20));
    DRAY_TRY(j.release_before(keep));
  }
  return {};
}

// Forgets from the model what a release freed.
void forget_released(Log* sure, RecordNo first) {
  sure->erase(sure->begin(), sure->lower_bound(first));
}

Status open_and_read(MemFs& fs, Log* log, RecordNo* first) {
  FileJournal j(small(), fs);
  DRAY_TRY(j.acquire());
  DRAY_TRY(replay_into(j, log));
  *first = j.first_record();
  return {};
}

std::string last_segment(MemFs& fs) {
  auto paths = fs.paths(".seg");
  REQUIRE_FALSE(paths.empty());
  return paths.back();
}

}  // namespace

// Random lives ended by power loss, with short writes: nothing committed is lost, nothing invented,
// and a torn tail is never taken for damage.
TEST_CASE("file journal: power loss at random points") {
  for (uint64_t seed = 1; seed <= 1500; ++seed) {
    INFO("seed " << seed);
    MemFs fs(seed);
    fs.set_short_writes(seed % 2 == 0);
    Rng rng(seed);
    Log sure, maybe, log;
    for (int life = 0; life < 4; ++life) {
      {
        FileJournal j(small(), fs);
        fs.fail_call(1 + rng.below(150), EIO);  // dies in the middle of some call
        auto run = [&]() -> Status {
          DRAY_TRY(j.acquire());
          DRAY_TRY(replay_into(j, &log));
          if (log.empty() && !sure.empty()) FAIL("everything lost");
          DRAY_TRY(workload(j, rng, &sure, &maybe, static_cast<int>(rng.below(12))));
          return {};
        };
        auto done = run();
        INFO(text(done));
        REQUIRE((done || code(done) == Errc::io));
      }
      if (rng.below(4) == 0)
        fs.process_exit();
      else
        fs.power_loss();
      RecordNo first = 0;
      auto opened = open_and_read(fs, &log, &first);
      INFO(text(opened));
      REQUIRE(opened);
      forget_released(&sure, first);
      REQUIRE(matches(log, sure, maybe));
      sure = log;
      maybe.clear();
      fs.process_exit();
    }
  }
}

// Every single call fails once, in order, until a run has no more calls to fail.
TEST_CASE("file journal: EIO and ENOSPC at the n-th call") {
  for (int error : {EIO, ENOSPC}) {
    uint64_t n = 1;
    for (;; ++n) {
      REQUIRE(n < 5000);
      INFO("call " << n << " fails with " << error);
      MemFs fs(n);
      Rng rng(99);
      Log sure, maybe, log;
      fs.fail_call(n, error);
      Status done;
      {
        FileJournal j(small(), fs);
        auto run = [&]() -> Status {
          DRAY_TRY(j.acquire());
          DRAY_TRY(replay_into(j, &log));
          return workload(j, rng, &sure, &maybe, 25);
        };
        done = run();
        INFO(text(done));
        REQUIRE((done || code(done) == Errc::io || code(done) == Errc::no_space));
        if (code(done) == Errc::no_space && j.health().writable && j.first_record() != 0) {
          // Nothing of the batch was written: go on in the same life.
          maybe.clear();
          if (j.replay([](const ReplayedRecord&) { return Status(); }))
            REQUIRE(workload(j, rng, &sure, &maybe, 10));
        } else if (!done) {
          CHECK_FALSE(j.commit());
        }
      }
      bool fired = fs.failed();
      if (n % 3 == 0)
        fs.process_exit();
      else
        fs.power_loss();
      RecordNo first = 0;
      auto opened = open_and_read(fs, &log, &first);
      INFO(text(opened));
      REQUIRE(opened);
      forget_released(&sure, first);
      REQUIRE(matches(log, sure, maybe));
      if (!fired) break;
    }
    CHECK(n > 100);
  }
}

TEST_CASE("file journal: every byte flipped, every length cut") {
  MemFs good;
  Log sure, maybe;
  {
    FileJournal j(small(), good);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &maybe));
    for (RecordNo no = 1; no <= 9; ++no) {
      sure[no] = plain(no, no == 4 ? 2500 : 300);
      REQUIRE_OK(append(j, sure[no]));
      if (no != 8) REQUIRE_OK(j.commit());  // 8 and 9 are one commit
    }
  }
  auto segments = good.paths(".seg");
  REQUIRE(segments.size() == 2);
  std::map<std::string, std::string> files;
  for (const auto& p : good.paths("")) files[p] = *good.content(p);
  size_t refused = 0, shortened = 0, whole = 0;
  auto check = [&](const std::string& path, std::string bytes) {
    MemFs fs;
    for (const auto& [p, content] : files) fs.put(p, p == path ? bytes : content);
    Log log;
    RecordNo first = 0;
    auto opened = open_and_read(fs, &log, &first);
    if (!opened) {
      INFO(text(opened));
      REQUIRE(code(opened) == Errc::corrupt);
      REQUIRE(opened.error().detail.find(path) != std::string::npos);
      ++refused;
      return;
    }
    REQUIRE(matches(log, {}, sure));
    if (log.size() == sure.size()) {
      ++whole;
      return;
    }
    // Only the last commit can be mistaken for one that never finished.
    REQUIRE(path == segments.back());
    REQUIRE(log.size() >= 7);
    ++shortened;
  };
  for (const auto& path : segments) {
    const std::string& bytes = files[path];
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (i >= 128 && i < 4090) continue;  // unused part of the header page
      std::string flipped = bytes;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
      check(path, flipped);
    }
    for (size_t n = 0; n < bytes.size(); n += 3) check(path, bytes.substr(0, n));
  }
  CHECK(refused > 4000);
  CHECK(shortened > 500);
  CHECK(whole > 1000);
}

TEST_CASE("file journal: a lost segment is noticed") {
  MemFs fs;
  Log log;
  {
    FileJournal j(small(), fs);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &log));
    for (RecordNo no = 1; no <= 30; ++no) {
      REQUIRE_OK(append(j, plain(no, 900)));
      REQUIRE_OK(j.commit());
    }
  }
  auto segments = fs.paths(".seg");
  REQUIRE(segments.size() > 4);
  fs.unlink(segments[2]);
  RecordNo first = 0;
  CHECK(code(open_and_read(fs, &log, &first)) == Errc::corrupt);
}

TEST_CASE("file journal: epoch file lost or damaged is refused") {
  MemFs fs;
  Log log;
  RecordNo first = 0;
  {
    FileJournal j(small(), fs);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &log));
    REQUIRE_OK(append(j, plain(1)));
    REQUIRE_OK(j.commit());
  }
  std::string epoch = *fs.content("j/epoch");
  fs.put("j/epoch", std::string(epoch.size(), '\0'));
  CHECK(code(open_and_read(fs, &log, &first)) == Errc::corrupt);
  fs.unlink("j/epoch");
  CHECK(code(open_and_read(fs, &log, &first)) == Errc::corrupt);
  fs.put("j/epoch", epoch);
  CHECK(code(open_and_read(fs, &log, &first)) == Errc::ok);
}

TEST_CASE("file journal: the lock keeps a second process out") {
  MemFs fs;
  FileJournal a(small(), fs), b(small(), fs);
  REQUIRE_OK(a.acquire());
  CHECK(code(b.acquire()) == Errc::unavailable);
  Log log;
  REQUIRE_OK(replay_into(a, &log));
  REQUIRE_OK(append(a, plain(1)));
  REQUIRE_OK(a.commit());  // and it did not fence us
}

TEST_CASE("file journal: an owner that is overtaken inside commit is not told ok") {
  MemFs fs;
  FileJournalOptions o = small();
  o.ignore_lock = true;
  FileJournal a(o, fs), b(o, fs);
  Log log;
  REQUIRE_OK(a.acquire());
  REQUIRE_OK(replay_into(a, &log));
  REQUIRE_OK(append(a, plain(1)));
  REQUIRE_OK(a.commit());
  REQUIRE_OK(append(a, plain(2)));
  fs.before_next_sync([&] { CHECK(b.acquire()); });
  CHECK(code(a.commit()) == Errc::fenced);
}

TEST_CASE("file journal: one write and one sync for a commit") {
  MemFs fs;
  FileJournalOptions o = small();
  o.segment_bytes = 1 << 20;
  FileJournal j(o, fs);
  Log log;
  REQUIRE_OK(j.acquire());
  REQUIRE_OK(replay_into(j, &log));
  REQUIRE_OK(append(j, plain(1)));
  REQUIRE_OK(j.commit());
  while (fs.paths("spare-").empty() && fs.paths("fill-").empty()) {
    REQUIRE_OK(append(j, plain(j.next_record(), 5000)));
    REQUIRE_OK(j.commit());
  }
  for (int i = 0; i < 20; ++i) {  // let the next segment be filled
    REQUIRE_OK(append(j, plain(j.next_record(), 30000)));
    REQUIRE_OK(j.commit());
  }
  uint64_t syncs = fs.syncs(), writes = fs.writes();
  for (int i = 0; i < 200; ++i) REQUIRE_OK(append(j, plain(j.next_record(), 1500)));
  REQUIRE_OK(j.commit());
  CHECK(fs.syncs() == syncs + 1);
  CHECK(fs.writes() <= writes + 3);  // 600 pieces in one gathering write, and zeros of the next
}

// Files are used again and again; the same record sizes put new headers exactly on old ones.
TEST_CASE("file journal: a recycled segment never replays stale records") {
  MemFs fs;
  Log sure, log;
  RecordNo first = 1;
  uint64_t recycled = 0;
  for (int life = 0; life < 12; ++life) {
    FileJournal j(small(), fs);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &log));
    REQUIRE(log == sure);
    recycled += fs.paths("spare-").size();
    for (int i = 0; i < 40 + life % 5; ++i) {
      RecordNo no = j.next_record();
      sure[no] = plain(no, 200);
      sure[no].head = "same-size";
      sure[no].rows = "";
      REQUIRE_OK(append(j, sure[no]));
      REQUIRE_OK(j.commit());
      REQUIRE_OK(j.release_before(no - std::min<uint64_t>(no - 1, 15)));
    }
    first = j.first_record();
    forget_released(&sure, first);
  }
  CHECK(recycled > 5);
  RecordNo got = 0;
  REQUIRE_OK(open_and_read(fs, &log, &got));
  CHECK(got == first);
  CHECK(log == sure);
}

// A spare whose stale bytes carry the very numbers that come next (a copied or restored directory):
// only the segment's uid tells them apart.
TEST_CASE("file journal: stale records with fitting numbers are refused by the uid") {
  MemFs fs;
  Log log;
  std::string image;
  {
    FileJournal j(small(), fs);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &log));
    for (RecordNo no = 1; no <= 9; ++no) {
      REQUIRE_OK(append(j, plain(no, 100)));
      REQUIRE_OK(j.commit());
    }
    image = *fs.content(last_segment(fs));
  }
  fs.unlink(last_segment(fs));
  for (const auto& p : fs.paths("fill-")) fs.unlink(p);
  fs.put("j/spare-1", image);
  {
    FileJournal j(small(), fs);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &log));
    REQUIRE(log.empty());
    REQUIRE_OK(append(j, plain(1, 100)));
    REQUIRE_OK(j.commit());
  }
  RecordNo first = 0;
  REQUIRE_OK(open_and_read(fs, &log, &first));
  CHECK(log == Log{{1, plain(1, 100)}});
}

TEST_CASE("file journal: record and batch larger than a segment") {
  MemFs fs;
  Log sure, log;
  {
    FileJournal j(small(), fs);
    REQUIRE_OK(j.acquire());
    REQUIRE_OK(replay_into(j, &log));
    for (size_t bytes : {100, 50'000, 100, 3000, 3000, 3000, 100}) {
      RecordNo no = j.next_record();
      sure[no] = plain(no, bytes);
      REQUIRE_OK(append(j, sure[no]));
      if (bytes != 3000) REQUIRE_OK(j.commit());
    }
  }
  RecordNo first = 0;
  REQUIRE_OK(open_and_read(fs, &log, &first));
  CHECK(log == sure);
}

TEST_CASE("file journal: budget and free space limits refuse before writing") {
  MemFs fs;
  FileJournalOptions o = small();
  SECTION("budget") { o.disk_budget_bytes = 3 * o.segment_bytes; }
  SECTION("min free") {
    o.min_free_bytes = 1000;
    fs.set_free(4 * 8192);
  }
  FileJournal j(o, fs);
  Log log, sure;
  REQUIRE_OK(j.acquire());
  REQUIRE_OK(replay_into(j, &log));
  for (;;) {
    RecordNo no = j.next_record();
    REQUIRE(no < 40);
    if (o.min_free_bytes != 0) fs.set_free(4 * 8192 - static_cast<int64_t>(no / 4) * 8192);
    REQUIRE_OK(append(j, plain(no, 900)));
    auto done = j.commit();
    if (!done) {
      CHECK(code(done) == Errc::no_space);
      CHECK(j.next_record() == no);
      break;
    }
    sure[no] = plain(no, 900);
  }
  CHECK(sure.size() >= 8);
  REQUIRE_OK(j.release_before(5));  // a used-up segment becomes the next one
  forget_released(&sure, j.first_record());
  RecordNo no = j.next_record();
  sure[no] = plain(no, 3000);
  REQUIRE_OK(append(j, sure[no]));
  REQUIRE_OK(j.commit());
  REQUIRE_OK(replay_into(j, &log));
  CHECK(log == sure);
}

TEST_CASE("file journal: recent payloads are not copied, old ones are read once") {
  MemFs fs;
  FileJournalOptions o = small();
  o.segment_bytes = 1 << 20;
  o.cache_bytes = 60'000;
  FileJournal j(o, fs);
  Log log;
  REQUIRE_OK(j.acquire());
  REQUIRE_OK(replay_into(j, &log));
  Bytes blob = Bytes::copy(plain(1, 50'000).blob);
  JournalRecord r{1, 1, "h", {}, {BlobPart{blob, 0, 0, 0}}};
  REQUIRE_OK(j.append(r));
  REQUIRE_OK(j.commit());
  auto got = j.read(1, 1000, 500);
  REQUIRE_OK(got);
  CHECK(got->data() == blob.data() + 1000);
  r.no = 2;
  REQUIRE_OK(j.append(r));
  REQUIRE_OK(j.commit());  // pushes record 1 out
  uint64_t reads = fs.reads();
  for (uint64_t at = 0; at < 50'000; at += 500) {
    got = j.read(1, at, 500);
    REQUIRE_OK(got);
    REQUIRE(got->view() == blob.view().substr(at, 500));
  }
  CHECK(fs.reads() == reads + 2);
}

TEST_CASE("file journal: damage after replay is found when a record is loaded") {
  MemFs fs;
  FileJournal j(small(), fs);
  Log log;
  REQUIRE_OK(j.acquire());
  REQUIRE_OK(replay_into(j, &log));
  REQUIRE_OK(append(j, plain(1, 1000)));
  REQUIRE_OK(j.commit());
  (*fs.content(last_segment(fs)))[kRecordsAt + 500] ^= 1;
  CHECK(code(j.read(1, 0, 1000)) == Errc::corrupt);
  // And damage below the end of the active segment is no torn tail either.
  CHECK(code(replay_into(j, &log)) == Errc::corrupt);
}

}  // namespace dray::test
