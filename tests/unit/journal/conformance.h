// The Journal contract as checks that run over any implementation.
//
// A Maker gives: open() -> unique_ptr<Journal> on the same storage; crash(seed);
// fail_next_commit(); fill_disk() / free_disk().
#pragma once

#include <memory>

#include "common/journal/memory_journal.h"
#include "tests/unit/journal/journal_model.h"

namespace dray::test {

template <class Maker>
std::unique_ptr<Journal> ready(Maker& maker, Log* log) {
  auto j = maker.open();
  REQUIRE_OK(j->acquire());
  REQUIRE_OK(replay_into(*j, log));
  return j;
}

template <class Maker>
void check_order_of_calls() {
  Maker maker;
  auto j = maker.open();
  CHECK(code(j->append(to_record(1, plain(1)))) == Errc::bad_argument);
  CHECK(code(j->commit()) == Errc::bad_argument);
  REQUIRE_OK(j->acquire());
  CHECK(code(j->append(to_record(1, plain(1)))) == Errc::bad_argument);
  CHECK(code(j->acquire()) == Errc::bad_argument);
  Log log;
  REQUIRE_OK(replay_into(*j, &log));
  CHECK(j->next_record() == 1);
  CHECK(j->first_record() == 1);
  CHECK(code(j->append(to_record(2, plain(2)))) == Errc::bad_argument);
  REQUIRE_OK(j->commit());
  REQUIRE_OK(j->append(to_record(1, plain(1))));
  CHECK(code(j->append(to_record(1, plain(1)))) == Errc::bad_argument);
  CHECK(j->next_record() == 2);
}

template <class Maker>
void check_reopen() {
  Maker maker;
  Log sure, log;
  uint64_t epoch = 0;
  for (int life = 0; life < 5; ++life) {
    auto j = maker.open();
    auto got = j->acquire();
    REQUIRE_OK(got);
    CHECK(*got > epoch);
    epoch = *got;
    REQUIRE_OK(replay_into(*j, &log));
    REQUIRE(log == sure);
    CHECK(j->next_record() == sure.size() + 1);
    for (int i = 0; i < 10 * life; ++i) {
      RecordNo no = j->next_record();
      sure[no] = plain(no, no * 13 % 2500);
      REQUIRE_OK(append(*j, sure[no]));
      if (i % 3 == 0) REQUIRE_OK(j->commit());
    }
    REQUIRE_OK(j->commit());
    REQUIRE_OK(replay_into(*j, &log));  // again, in the same life
    REQUIRE(log == sure);
    if (life < 3) {  // and something never committed
      REQUIRE_OK(append(*j, plain(j->next_record())));
    }
  }
}

template <class Maker>
void check_crash() {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Maker maker;
    Log sure, maybe, log;
    Rng rng(seed);
    for (int life = 0; life < 4; ++life) {
      auto j = ready(maker, &log);
      INFO("seed " << seed << " life " << life);
      REQUIRE(matches(log, sure, maybe));
      sure = log;
      maybe.clear();
      for (uint64_t i = rng.below(12); i > 0; --i) {
        RecordNo no = j->next_record();
        maybe[no] = plain(no, rng.below(2000));
        REQUIRE_OK(append(*j, maybe[no]));
        if (rng.below(3) != 0) continue;
        REQUIRE_OK(j->commit());
        sure.merge(maybe);
        maybe.clear();
      }
      maker.crash(rng.next());
      CHECK_FALSE(j->commit());
    }
  }
}

template <class Maker>
void check_read() {
  Maker maker;
  Log log;
  auto j = ready(maker, &log);
  std::map<RecordNo, Plain> all;
  auto check_all = [&] {
    for (const auto& [no, p] : all) {
      auto rows = j->read_rows(no);
      REQUIRE_OK(rows);
      REQUIRE(rows->view() == p.rows);
      for (uint64_t at = 0; at <= p.blob.size(); at += 1 + p.blob.size() / 5)
        for (uint64_t n : {uint64_t{0}, uint64_t{1}, p.blob.size() / 2, p.blob.size() - at}) {
          if (at + n > p.blob.size()) continue;
          auto got = j->read(no, at, n);
          REQUIRE_OK(got);
          REQUIRE(got->view() == std::string_view(p.blob).substr(at, n));
        }
    }
  };
  for (RecordNo no = 1; no <= 40; ++no) {
    all[no] = plain(no, no % 9 == 0 ? 0 : no * 50);
    REQUIRE_OK(append(*j, all[no]));
    check_all();  // the newest is not committed
    if (no % 2 == 0) REQUIRE_OK(j->commit());
  }
  CHECK(code(j->read(0, 0, 1)) == Errc::not_found);
  CHECK(code(j->read(41, 0, 1)) == Errc::not_found);
  CHECK(code(j->read_rows(41)) == Errc::not_found);
  CHECK(code(j->read(2, 0, 101)) == Errc::bad_argument);
  CHECK(code(j->read(2, 101, 0)) == Errc::bad_argument);
  CHECK(code(j->read(2, UINT64_MAX, 2)) == Errc::bad_argument);
  CHECK(code(j->read(2, 2, UINT64_MAX)) == Errc::bad_argument);
  j.reset();
  j = ready(maker, &log);
  check_all();
}

template <class Maker>
void check_carry_forward() {
  Maker maker;
  Log log;
  auto j = ready(maker, &log);
  REQUIRE_OK(append(*j, plain(1, 3000)));
  REQUIRE_OK(j->commit());
  REQUIRE_OK(append(*j, plain(2, 500)));  // carried from while uncommitted
  JournalRecord r{3, 9, "h", {}, {}};
  r.blob.push_back(BlobPart{{}, 1, 100, 2000});
  r.blob.push_back(BlobPart{Bytes::copy("fresh"), 0, 0, 0});
  r.blob.push_back(BlobPart{{}, 2, 0, 500});
  r.blob.push_back(BlobPart{{}, 1, 2999, 1});
  REQUIRE_OK(j->append(r));
  JournalRecord bad{4, 9, "h", {}, {}};
  bad.blob.push_back(BlobPart{{}, 1, 2999, 2});
  CHECK(code(j->append(bad)) == Errc::bad_argument);
  bad.blob[0] = BlobPart{{}, 9, 0, 1};
  CHECK(code(j->append(bad)) == Errc::not_found);
  CHECK(j->next_record() == 4);
  REQUIRE_OK(j->commit());
  std::string one = plain(1, 3000).blob;
  std::string want = one.substr(100, 2000) + "fresh" + plain(2, 500).blob + one.substr(2999);
  REQUIRE_OK(j->release_before(3));
  for (int life = 0; life < 2; ++life) {
    auto got = j->read(3, 0, want.size());
    REQUIRE_OK(got);
    CHECK(got->view() == want);
    j.reset();
    j = ready(maker, &log);
  }
}

template <class Maker>
void check_release() {
  Maker maker;
  Log sure, log;
  auto j = ready(maker, &log);
  CHECK(code(j->release_before(2)) == Errc::bad_argument);
  for (RecordNo no = 1; no <= 60; ++no) {
    sure[no] = plain(no, 700);
    REQUIRE_OK(append(*j, sure[no]));
    REQUIRE_OK(j->commit());
    if (no % 10 != 5) continue;
    uint64_t before = j->health().bytes_used;
    REQUIRE_OK(j->release_before(no - 4));
    RecordNo first = j->first_record();
    CHECK(first <= no - 4);
    if (no > 20) CHECK(j->health().bytes_used < before);
    sure.erase(sure.begin(), sure.find(first));
    if (first > 1) CHECK(code(j->read(first - 1, 0, 1)) == Errc::not_found);
    for (const auto& [n, p] : sure) {
      auto got = j->read(n, 0, p.blob.size());
      REQUIRE_OK(got);
      REQUIRE(got->view() == p.blob);
    }
    j.reset();
    j = ready(maker, &log);
    REQUIRE(j->first_record() == first);
    REQUIRE(log == sure);
  }
  REQUIRE_OK(j->release_before(j->next_record()));
  RecordNo next = j->next_record();
  j.reset();
  j = ready(maker, &log);
  CHECK(j->next_record() == next);  // the numbering outlives the records
}

template <class Maker>
void check_poison() {
  Maker maker;
  Log log;
  auto j = ready(maker, &log);
  REQUIRE_OK(append(*j, plain(1)));
  REQUIRE_OK(j->commit());
  REQUIRE_OK(append(*j, plain(2)));
  maker.fail_next_commit();
  CHECK(code(j->commit()) == Errc::io);
  CHECK(code(j->commit()) == Errc::io);
  CHECK(code(append(*j, plain(2))) == Errc::io);
  CHECK(code(j->release_before(1)) == Errc::io);
  CHECK_FALSE(j->health().writable);
  Log sure{{1, plain(1)}}, maybe{{2, plain(2)}};
  maker.crash(7);
  j.reset();
  j = ready(maker, &log);
  CHECK(matches(log, sure, maybe));
}

template <class Maker>
void check_no_space() {
  Maker maker;
  Log sure, log;
  auto j = ready(maker, &log);
  for (RecordNo no = 1; no <= 30; ++no) {
    sure[no] = plain(no, 900);
    REQUIRE_OK(append(*j, sure[no]));
    REQUIRE_OK(j->commit());
  }
  maker.fill_disk(*j);
  RecordNo no = 31;
  for (;; ++no) {
    REQUIRE(no < 200);
    Plain p = plain(no, 900), q = plain(no + 1, 900);
    REQUIRE_OK(append(*j, p));
    REQUIRE_OK(append(*j, q));
    auto done = j->commit();
    if (done) {
      sure[no] = p;
      sure[++no] = q;
      continue;
    }
    CHECK(code(done) == Errc::no_space);
    break;
  }
  CHECK(j->next_record() == no);  // rolled back
  CHECK(j->health().writable);
  CHECK(code(j->read(no, 0, 1)) == Errc::not_found);
  REQUIRE_OK(j->release_before(25));
  sure.erase(sure.begin(), sure.find(j->first_record()));
  sure[no] = plain(no, 800);
  REQUIRE_OK(append(*j, sure[no]));
  REQUIRE_OK(j->commit());
  REQUIRE_OK(replay_into(*j, &log));
  CHECK(log == sure);
  j.reset();
  j = ready(maker, &log);
  CHECK(log == sure);
}

template <class Maker>
void check_fencing() {
  Maker maker;
  Log log;
  auto a = ready(maker, &log);
  REQUIRE_OK(append(*a, plain(1)));
  REQUIRE_OK(a->commit());
  REQUIRE_OK(append(*a, plain(2, 11)));
  auto b = ready(maker, &log);
  CHECK(log == Log{{1, plain(1)}});
  CHECK(code(a->commit()) == Errc::fenced);
  CHECK(code(a->commit()) == Errc::fenced);
  CHECK(code(a->append(to_record(2, plain(2)))) == Errc::fenced);
  CHECK(code(a->release_before(1)) == Errc::fenced);
  CHECK_FALSE(a->health().writable);
  REQUIRE_OK(append(*b, plain(2, 22)));
  REQUIRE_OK(b->commit());
  a.reset();
  b.reset();
  b = ready(maker, &log);
  CHECK(log == Log{{1, plain(1)}, {2, plain(2, 22)}});
}

template <class Maker>
void check_replay_errors() {
  Maker maker;
  Log log;
  auto j = ready(maker, &log);
  for (RecordNo no = 1; no <= 5; ++no) REQUIRE_OK(append(*j, plain(no)));
  CHECK(code(j->replay([](const ReplayedRecord&) { return Status(); })) == Errc::bad_argument);
  REQUIRE_OK(j->commit());
  j.reset();
  j = maker.open();
  REQUIRE_OK(j->acquire());
  int seen = 0;
  auto stop_at_3 = [&](const ReplayedRecord& r) -> Status {
    ++seen;
    if (r.no == 3) return make_error(Errc::conflict, "enough");
    return {};
  };
  CHECK(code(j->replay(stop_at_3)) == Errc::conflict);
  CHECK(seen == 3);
  CHECK_FALSE(append(*j, plain(6)));  // not replayed: nothing may be written
}

}  // namespace dray::test
