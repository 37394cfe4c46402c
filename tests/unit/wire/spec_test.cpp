// Task options: fields of a later version, and their bounds.
#include "common/wire/spec.h"

#include <catch2/catch.hpp>

#include "common/wire/fleet.h"

using namespace dray;

namespace {
TaskSpec plain() {
  TaskSpec spec;
  spec.handler = "echo";
  return spec;
}
}  // namespace

TEST_CASE("spec: without GPUs the bytes are those of before there were any") {
  const std::string blob = encode_spec(plain());
  CHECK(static_cast<unsigned char>(blob[0]) == 0x9e);  // an array of 14
  CHECK(decode_spec(blob).value() == plain());
}

TEST_CASE("spec: GPU fields travel, and those at the end may be missing") {
  TaskSpec spec = plain();
  spec.gpus = 5'000;
  spec.gpu_memory_mib = 8'192;
  spec.strategy = 2;
  spec.variants = {encode_need({0, 0, {{"cpu", 10'000}}, {"head"}})};
  std::string blob = encode_spec(spec);
  CHECK(decode_spec(blob).value() == spec);
  // Cut after `gpus`: 15 fields instead of 18, the last two bytes of which are 0x13 0x88.
  const std::string fourteen = encode_spec(plain()).substr(1);
  const auto some = decode_spec("\x9f" + fourteen + std::string("\xcd\x13\x88", 3));
  REQUIRE(some.has_value());
  CHECK(some->gpus == 5'000);
  CHECK(some->variants.empty());
  CHECK_FALSE(decode_spec("\x9d" + fourteen).has_value());
}

TEST_CASE("spec: bounds of the GPU fields") {
  const auto refused = [](auto change) {
    TaskSpec spec = plain();
    change(spec);
    return !decode_spec(encode_spec(spec)).has_value();
  };
  CHECK_FALSE(refused([](TaskSpec& s) { s.gpus = 10'240'000; }));
  CHECK(refused([](TaskSpec& s) { s.gpus = 10'240'001; }));
  CHECK(refused([](TaskSpec& s) { s.gpu_memory_mib = (uint64_t{1} << 30) + 1; }));
  CHECK(refused([](TaskSpec& s) { s.strategy = 3; }));
  CHECK(refused([](TaskSpec& s) { s.variants.assign(4, encode_need({})); }));
  CHECK(refused([](TaskSpec& s) { s.variants = {"nonsense"}; }));
  CHECK(refused([](TaskSpec& s) { s.variants = {encode_need({10'240'001, 0, {}, {}})}; }));
  CHECK(refused([](TaskSpec& s) { s.variants = {encode_need({0, 0, {{"cpu", 0}}, {}})}; }));
}
