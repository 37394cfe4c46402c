#include "common/resources/request.h"

#include <catch2/catch.hpp>

#include "common/base/limits.h"

using namespace dray;

namespace {
std::string error_of(const VariantText& text) {
  auto v = parse_variant(text);
  return v ? "" : v.error().detail;
}
std::string gpus_error(const std::string& gpus) { return error_of({gpus, "", {}, {}}); }
std::string memory_error(const std::string& memory) { return error_of({"", memory, {}, {}}); }
}  // namespace

TEST_CASE("the user's form of a request becomes exact amounts") {
  auto v = parse_variant({"0.5", "8GiB", {{"step_a_slot", "1"}, {"memory", "1.5GiB"}}, {"head"}});
  REQUIRE(v);
  CHECK(v->gpus == 5000);
  CHECK(v->gpu_memory_mib == 8192);
  CHECK(v->pools.get("step_a_slot") == kResourceUnit);
  CHECK(v->pools.get("memory") == 1536 * kResourceUnit);
  CHECK(v->labels == std::vector<std::string>{"head"});
  CHECK(parse_variant({}).value() == Variant{});
}

TEST_CASE("2.5 gpus are two whole devices and half of a third one") {
  Variant v = parse_variant({"2.5", "", {}, {}}).value();
  CHECK(v.whole_devices() == 2);
  CHECK(v.share() == 5000);
  CHECK(v.device_count() == 3);
  v = parse_variant({"", "1GiB", {}, {}}).value();
  CHECK(v.device_count() == 1);
  CHECK(v.has_part());
}

TEST_CASE("memory needs a binary unit and is rounded up to whole MiB") {
  CHECK(parse_memory_mib("512MiB").value() == 512);
  CHECK(parse_memory_mib("2TiB").value() == 2 * 1024 * 1024);
  CHECK(parse_memory_mib("0.0001MiB").value() == 1);
  CHECK(memory_error("8") == "gpu_memory: '8' needs a unit: MiB, GiB or TiB");
  CHECK(memory_error("8GB") == "gpu_memory: '8GB' needs a unit: MiB, GiB or TiB");
  CHECK(memory_error("-1GiB") == "gpu_memory: '-1' is negative");
  CHECK(memory_error("GiB") == "gpu_memory: is empty");
  CHECK(memory_error("1025TiB") == "gpu_memory: '1025TiB' is more than 1 PiB");
  CHECK(parse_memory_mib("1024TiB").value() == kMemoryMibMax);
}

TEST_CASE("a bad number of gpus is refused with its reason") {
  CHECK(gpus_error("0.12345") == "gpus: '0.12345' has more than 4 decimals");
  CHECK(gpus_error("-0.5") == "gpus: '-0.5' is negative");
  CHECK(gpus_error("1025") == "gpus: '1025' is more than 1024");
  CHECK(gpus_error("99999999999999999999") == "gpus: '99999999999999999999' is too large");
  CHECK(gpus_error(std::string(100, '9')) == "gpus: the number is too long");
  for (const char* bad : {"x", "1e3", "1.", ".5", "1.2.3", " 1", "0x1", "nan"})
    CHECK(gpus_error(bad) == "gpus: '" + std::string(bad) + "' is not a number such as 2 or 0.5");
  CHECK(parse_gpus("1024").value() == kGpusMax);
}

TEST_CASE("pools and labels are bounded, and do not shadow fields") {
  CHECK(error_of({"", "", {{"gpu", "1"}}, {}}) == "resources.gpu: has a field of its own");
  CHECK(error_of({"", "", {{"cpu", "1"}, {"cpu", "2"}}, {}}) == "resources.cpu: is given twice");
  CHECK(error_of({"", "", {{"", "1"}}, {}}) == "resources: a name is empty");
  CHECK(error_of({"", "", {{"memory", "1"}}, {}}) == "memory: '1' needs a unit: MiB, GiB or TiB");
  CHECK(error_of({"", "", {{"cpu", ""}}, {}}) == "resources.cpu: is empty");
  CHECK(error_of({"", "", {}, {std::string(kNameBytesMax + 1, 'x')}}) ==
        "labels: a name is longer than 128 bytes");
  CHECK(error_of({"", "", {}, std::vector<std::string>(kLabelsMax + 1, "x")}) ==
        "labels: more than 64");
  VariantText many;
  for (size_t i = 0; i <= kResourcesMax; ++i) many.resources.emplace_back(std::to_string(i), "1");
  CHECK(error_of(many) == "resources: more than 32");
}

TEST_CASE("a request has one to four variants and a known strategy") {
  const VariantText half{"0.5", "", {}, {}};
  CHECK(parse_request({half}, "").value().strategy == Strategy::pack);
  CHECK(parse_request({half}, "spread").value().strategy == Strategy::spread);
  CHECK(parse_request({half, half, half, half}, "strict").value().variants.size() == 4);
  CHECK(parse_request({half}, "best").error().detail ==
        "strategy: 'best' is none of pack, spread, strict");
  CHECK(parse_request({}, "").error().detail == "request: has no variant");
  CHECK(parse_request({5, half}, "").error().detail == "request: more than 4 variants");
  CHECK(parse_request({half, {"-1", "", {}, {}}}, "").error().detail ==
        "variant 2: gpus: '-1' is negative");
  CHECK(strategy_name(Strategy::strict) == "strict");
}

TEST_CASE("a request that came by another way is checked too") {
  Request r{{Variant{}}, Strategy::pack};
  CHECK(check_request(r));
  r.variants[0].gpus = kGpusMax + 1;
  CHECK_FALSE(check_request(r));
  r.variants[0] = {};
  r.variants[0].gpu_memory_mib = kMemoryMibMax + 1;
  CHECK_FALSE(check_request(r));
  r.variants[0] = {};
  r.variants[0].pools = ResourceVec({{"cpu", kPoolUnitsMax + 1}});
  CHECK_FALSE(check_request(r));
}
