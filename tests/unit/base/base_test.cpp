#include <catch2/catch.hpp>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/rng.h"

using namespace dray;

TEST_CASE("task ids print, parse, and know their page and time") {
  TaskId id{0x0190'0000'0000'7000 | 0xabc, 0x8000'0000'0000'00ff};
  CHECK(task_id_from_hex(to_hex(id)) == id);
  CHECK(id.slot() == 0xff);
  CHECK(id.page().slot() == 0);
  CHECK(id.wall_ms() == 0x0190'0000'0000);
  CHECK(task_id_from_hex("01900000-0000-7abc-8000-0000000000ff") == id);
  for (const char* bad :
       {"", "1", "zz900000000070008000000000000000ff", "00000000000000000000000000000000"})
    CHECK_FALSE(task_id_from_hex(bad).has_value());
}

TEST_CASE("tokens compare by epoch, then sequence") {
  CHECK(Token{1, 9} < Token{2, 1});
  CHECK(Token{2, 1} < Token{2, 2});
}

TEST_CASE("bytes share memory and clamp slices") {
  Bytes b(std::string("hello world"));
  CHECK(b.slice(6, 5).view() == "world");
  CHECK(b.slice(6, 500).view() == "world");
  CHECK(b.slice(600, 5).empty());
  CHECK(b.slice(6, 5).data() == b.data() + 6);
  CHECK(Bytes().view().empty());
}

TEST_CASE("the error list has names and numbers that map back") {
  for (uint64_t n = 0; n < 256; ++n) {
    auto code = errc_from_number(n);
    if (code) {
      CHECK(static_cast<uint64_t>(*code) == n);
      CHECK(errc_name(*code) != "unknown");
    }
  }
  CHECK_FALSE(errc_from_number(255).has_value());
}

TEST_CASE("the generator repeats and stays in range") {
  Rng a(5), b(5);
  for (int i = 0; i < 1000; ++i) {
    CHECK(a.below(7) == b.below(7));
    CHECK(a.below(7) < 7);
    b.next();
  }
  CHECK(Rng(1).below(0) == 0);
}
