#include "common/gpu/fake_gpus.h"

#include <catch2/catch.hpp>

namespace dray::gpu {

TEST_CASE("fake gpus: a group, a single one, and several groups") {
  const auto two = parse_fake_gpus("2x24GiB", "node7");
  REQUIRE(two);
  REQUIRE(two->size() == 2);
  CHECK((*two)[0].uuid == "FAKE-node7-0");
  CHECK((*two)[1].uuid == "FAKE-node7-1");
  CHECK((*two)[0].kind == Kind::fake);
  CHECK((*two)[0].memory_mib == 24576);
  CHECK((*two)[0].enforcement == Enforcement::none);
  CHECK_FALSE((*two)[0].sms);
  CHECK(capacity_mib((*two)[0]) == 24576);

  const auto one = parse_fake_gpus("512MiB", "n");
  REQUIRE(one);
  REQUIRE(one->size() == 1);
  CHECK((*one)[0].memory_mib == 512);

  const auto mixed = parse_fake_gpus("1x80GiB,2x24GiB", "n");
  REQUIRE(mixed);
  REQUIRE(mixed->size() == 3);
  CHECK((*mixed)[0].memory_mib == 81920);
  CHECK((*mixed)[2].memory_mib == 24576);
  CHECK((*mixed)[2].uuid == "FAKE-n-2");
  CHECK(*mixed == *parse_fake_gpus("1x80GiB,2x24GiB", "n"));
}

TEST_CASE("fake gpus: the largest that is taken") {
  CHECK(parse_fake_gpus("128x4096GiB", "n"));
  CHECK(parse_fake_gpus("4194304MiB", "n"));
}

TEST_CASE("fake gpus: what makes no sense is refused with a reason") {
  const auto [text, why] = GENERATE(table<const char*, const char*>({
      {"", "size is not a number"},
      {"two", "size is not a number"},
      {"axb", "count before the x"},
      {"x24GiB", "count before the x"},
      {"-1x24GiB", "count before the x"},
      {"2 x24GiB", "count before the x"},
      {"2x", "size is not a number"},
      {"2x24", "unit of the size"},
      {"2x24GB", "unit of the size"},
      {"2x24GiB ", "unit of the size"},
      {"2x24.5GiB", "unit of the size"},
      {"0x24GiB", "count must be"},
      {"129x1GiB", "count must be"},
      {"99999999999999999999x1GiB", "count before the x"},
      {"100x1GiB,100x1GiB", "more than 128"},
      {"2x0GiB", "size must be"},
      {"4097GiB", "size must be"},
      {"18446744073709551615GiB", "size must be"},
      {"1x80GiB,", "size is not a number"},
      {",1x80GiB", "size is not a number"},
  }));
  const auto devices = parse_fake_gpus(text, "n");
  INFO(text);
  REQUIRE_FALSE(devices);
  CHECK(devices.error().code == Errc::bad_argument);
  CHECK_THAT(devices.error().detail, Catch::Contains(why) && Catch::Contains("2x24GiB"));
}

}  // namespace dray::gpu
