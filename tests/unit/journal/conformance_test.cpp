// Runs the contract over every implementation of Journal.
#include "tests/unit/journal/conformance.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/journal/file_journal.h"
#include "tests/unit/journal/mem_fs.h"

namespace dray::test {
namespace {

struct MemoryMaker {
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>();
  MemoryMaker() { disk->set_segment_records(4); }
  std::unique_ptr<Journal> open() { return std::make_unique<MemoryJournal>(disk); }
  void crash(uint64_t seed) {
    Rng rng(seed);
    disk->crash(rng);
  }
  void fail_next_commit() { disk->fail_next_commits(1); }
  void fill_disk(Journal& j) { disk->set_capacity_bytes(j.health().bytes_used + 5000); }
};

// File journal over a file system in memory; segments of two to eight records.
struct MemFsMaker {
  MemFs fs;
  FileJournalOptions options() {
    FileJournalOptions o;
    o.dir = "j";
    o.segment_bytes = 4096 + 4096;
    o.cache_bytes = 2000;
    o.ignore_lock = true;
    return o;
  }
  uint64_t budget = 0;
  std::unique_ptr<Journal> open() { return std::make_unique<FileJournal>(options(), fs); }
  void crash(uint64_t) { fs.power_loss(); }
  void fail_next_commit() { fs.fail_call(3, EIO); }  // epoch read, write, sync
  void fill_disk(Journal&) {
    uint64_t used = 0;
    for (const auto& path : fs.paths("")) used += fs.content(path)->size();
    fs.set_capacity(used);
  }
};

// File journal on the real disk, the default way of use.
struct DiskMaker {
  std::string dir;
  DiskMaker() {
    std::string pattern = (std::filesystem::temp_directory_path() / "journalXXXXXX").string();
    dir = ::mkdtemp(pattern.data());
  }
  ~DiskMaker() { std::filesystem::remove_all(dir); }
  FileJournalOptions options() {
    FileJournalOptions o;
    o.dir = dir + "/log";
    o.segment_bytes = 16 * 1024;
    o.cache_bytes = 5000;
    return o;
  }
  std::unique_ptr<Journal> open() { return std::make_unique<FileJournal>(options()); }
};

}  // namespace

TEMPLATE_TEST_CASE("journal: order of calls", "", MemoryMaker, MemFsMaker, DiskMaker) {
  check_order_of_calls<TestType>();
}
TEMPLATE_TEST_CASE("journal: reopen", "", MemoryMaker, MemFsMaker, DiskMaker) {
  check_reopen<TestType>();
}
TEMPLATE_TEST_CASE("journal: crash", "", MemoryMaker, MemFsMaker) { check_crash<TestType>(); }
TEMPLATE_TEST_CASE("journal: read", "", MemoryMaker, MemFsMaker, DiskMaker) {
  check_read<TestType>();
}
TEMPLATE_TEST_CASE("journal: carry forward", "", MemoryMaker, MemFsMaker, DiskMaker) {
  check_carry_forward<TestType>();
}
TEMPLATE_TEST_CASE("journal: release", "", MemoryMaker, MemFsMaker, DiskMaker) {
  check_release<TestType>();
}
TEMPLATE_TEST_CASE("journal: poison", "", MemoryMaker, MemFsMaker) { check_poison<TestType>(); }
TEMPLATE_TEST_CASE("journal: no space", "", MemoryMaker, MemFsMaker) { check_no_space<TestType>(); }
TEMPLATE_TEST_CASE("journal: fencing", "", MemoryMaker, MemFsMaker) { check_fencing<TestType>(); }
TEMPLATE_TEST_CASE("journal: replay errors", "", MemoryMaker, MemFsMaker, DiskMaker) {
  check_replay_errors<TestType>();
}

}  // namespace dray::test
