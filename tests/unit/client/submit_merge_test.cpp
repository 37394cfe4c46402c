#include "client/core/submit_merge.h"

#include <catch2/catch.hpp>

using namespace dray;

namespace {

SubmitCmd cmd_of(uint64_t id, const std::string& payload, const std::string& spec = "s",
                 Time deadline = Time(1s)) {
  SubmitCmd cmd;
  cmd.specs = {spec};
  RowsBuilder<SubmitRow> rows;
  rows.add({{1, id}, static_cast<uint32_t>(payload.size()), 0, 0});
  cmd.rows = rows.take();
  cmd.bytes = Bytes(payload);
  cmd.deadline = deadline;
  return cmd;
}

}  // namespace

TEST_CASE("submits with equal options leave as one message, rows and bytes in order") {
  SubmitMerge merge;
  merge.add(cmd_of(1, "a"), false);
  merge.add(cmd_of(2, ""), false);
  merge.add(cmd_of(3, "bcd", "s", Time(1s + 5ms)), false);
  const auto out = merge.take(false);
  REQUIRE(out.size() == 1);
  CHECK(out[0].parts == 3);
  CHECK(out[0].cmd.bytes.view() == "abcd");
  REQUIRE(out[0].cmd.rows.size() == 3);
  CHECK(out[0].cmd.rows[1].id.lo == 2);
  CHECK(out[0].cmd.rows[2].len == 3);
  CHECK(out[0].cmd.deadline == Time(1s + 5ms));
  CHECK(merge.empty());
  CHECK(merge.take(false).empty());
}

TEST_CASE("other options, another deadline, an own id or no watch keep submits apart, in order") {
  SubmitMerge merge;
  merge.add(cmd_of(1, "a"), false);
  merge.add(cmd_of(2, "b", "other"), false);
  merge.add(cmd_of(3, "c"), false);
  merge.add(cmd_of(4, "d", "s", Time(2s)), false);
  merge.add(cmd_of(5, "e", "s", Time(2s)), true);
  merge.add(cmd_of(6, "f", "s", Time(2s)), false);
  SubmitCmd unwatched = cmd_of(7, "g", "s", Time(2s));
  unwatched.watch = false;
  merge.add(std::move(unwatched), false);
  const auto out = merge.take(false);
  REQUIRE(out.size() == 7);
  for (size_t i = 0; i < out.size(); ++i) CHECK(out[i].cmd.rows[0].id.lo == i + 1);
}

TEST_CASE("a merged message has at most kMergeRowsMax rows and kMergeBytesMax bytes") {
  SubmitMerge merge;
  for (uint64_t i = 0; i <= kMergeRowsMax; ++i) merge.add(cmd_of(i + 1, "x"), false);
  auto out = merge.take(false);
  REQUIRE(out.size() == 2);
  CHECK(out[0].cmd.rows.size() == kMergeRowsMax);
  const std::string half(kMergeBytesMax / 2, 'h');
  for (uint64_t i = 0; i < 3; ++i) merge.add(cmd_of(i + 1, half), false);
  out = merge.take(false);
  REQUIRE(out.size() == 2);
  CHECK(out[0].cmd.bytes.size() == kMergeBytesMax);
}

TEST_CASE("when busy, a message that can still grow waits, others do not") {
  SubmitMerge merge;
  merge.add(cmd_of(1, "a", "other"), false);
  merge.add(cmd_of(2, "b"), false);
  auto out = merge.take(true);
  REQUIRE(out.size() == 1);  // the first one could not grow any more
  CHECK(out[0].cmd.rows[0].id.lo == 1);
  for (uint64_t i = 0; i < kMergeRowsMax / 2 - 1; ++i) merge.add(cmd_of(3 + i, "b"), false);
  out = merge.take(true);
  REQUIRE(out.size() == 1);
  CHECK(out[0].parts == kMergeRowsMax / 2);
  merge.add(cmd_of(900, "c"), true);
  CHECK(merge.take(true).size() == 1);  // alone
  merge.add(cmd_of(901, "d"), false);
  CHECK(merge.take(true).empty());
  CHECK(merge.take(false).size() == 1);
  CHECK(merge.empty());
}
