// Tests of the page codec: round trip, compactness, and every kind of damage is noticed.
#include "services/aggregator/store/page_codec.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <vector>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"  // rng.h multiplies in __int128
#include "common/base/rng.h"
#pragma GCC diagnostic pop

using namespace dray;

namespace {

bool same(const PageEntry& a, const PageEntry& b) {
  return a.slot == b.slot && a.state == b.state && a.code == b.code && a.attempt == b.attempt &&
         a.exec_us == b.exec_us && a.token == b.token && a.finished_wall_ms == b.finished_wall_ms &&
         a.expires_wall_ms == b.expires_wall_ms && a.size == b.size &&
         a.blob_owner == b.blob_owner && a.blob_number == b.blob_number && a.bytes == b.bytes;
}

PageEntry random_entry(Rng& rng, const std::string& text) {
  const auto number = [&] { return rng.next() >> rng.below(64); };
  PageEntry e;
  e.slot = static_cast<uint8_t>(rng.next());
  e.state = static_cast<uint8_t>(rng.next());
  e.code = static_cast<uint8_t>(rng.next());
  e.attempt = static_cast<uint16_t>(number());
  e.exec_us = static_cast<uint32_t>(number());
  e.token = {rng.below(3), number()};
  e.finished_wall_ms = static_cast<int64_t>(number());
  e.expires_wall_ms =
      rng.below(5) == 0 ? std::numeric_limits<int64_t>::max() : static_cast<int64_t>(number());
  if (rng.below(4) == 0) {
    e.size = static_cast<uint32_t>(number());
    e.blob_owner = number() | 1;
    e.blob_number = number();
  } else {
    e.bytes = std::string_view(text).substr(0, rng.below(text.size()));
    e.size = static_cast<uint32_t>(e.bytes.size());
  }
  return e;
}

size_t count(std::string_view page, bool& damaged) {
  PageReader reader(page);
  size_t n = 0;
  for (PageEntry e; reader.next(e);) ++n;
  damaged = reader.damaged();
  return n;
}

}  // namespace

TEST_CASE("page codec: round trip over several segments") {
  Rng rng(1);
  const std::string text(200, 't');
  for (int round = 0; round < 200; ++round) {
    std::string page;
    std::vector<PageEntry> want;
    for (uint64_t segments = rng.below(4); segments > 0; --segments) {
      PageWriter writer(page);
      for (uint64_t n = rng.below(20); n > 0; --n) {
        want.push_back(random_entry(rng, text));
        writer.add(want.back());
      }
      writer.finish();
    }
    PageReader reader(page);
    PageEntry e;
    for (const auto& w : want) {
      REQUIRE(reader.next(e));
      REQUIRE(same(e, w));
    }
    CHECK(!reader.next(e));
    CHECK(!reader.damaged());
  }
}

TEST_CASE("page codec: a result of a busy stream is small") {
  std::string page;
  PageWriter writer(page);
  PageEntry e;
  e.token = {5, 1'000'000};
  e.finished_wall_ms = 1'700'000'000'000;
  e.expires_wall_ms = e.finished_wall_ms + 86'400'000;
  e.attempt = 1;
  e.exec_us = 1500;
  for (int i = 0; i < 256; ++i, ++e.slot, ++e.token.seq, ++e.expires_wall_ms) writer.add(e);
  writer.finish();
  CHECK(page.size() <= 256 * 12 + 40);
}

TEST_CASE("page codec: damage is noticed, and never read past") {
  std::string page;
  Rng rng(2);
  const std::string text(50, 't');
  std::vector<size_t> ends{0};  // places where a page may end
  for (int i = 0; i < 3; ++i) {
    PageWriter writer(page);
    PageEntry e = random_entry(rng, text);
    writer.add(e);
    writer.add(e);
    writer.finish();
    ends.push_back(page.size());
  }
  for (size_t size = 0; size <= page.size(); ++size) {
    const std::string cut = page.substr(0, size);  // its own memory, for the sanitizer
    bool damaged = false;
    count(cut, damaged);
    const bool whole = std::find(ends.begin(), ends.end(), size) != ends.end();
    CHECK(damaged == !whole);
  }
  for (int round = 0; round < 20'000; ++round) {
    std::string bad = page;
    for (uint64_t n = 1 + rng.below(4); n > 0; --n)
      bad[rng.below(bad.size())] = static_cast<char>(rng.next());
    bool damaged = false;
    CHECK(count(bad, damaged) <= bad.size());
  }
  std::string version = page;
  version[0] = 2;
  bool damaged = false;
  CHECK(count(version, damaged) == 0);
  CHECK(damaged);
}
