// Traces and parameters of the autoscaler as text.
#include "common/deploy/scale_params.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "common/deploy/scale_model.h"

using namespace dray;

TEST_CASE("a trace of lines becomes loads over time") {
  auto trace = parse_trace("time_s,ongoing,backlog\n# a comment\n0,4\r\n1.5, 7 , 3\n\n10,2\n");
  REQUIRE(trace);
  const LoadOverTime load = load_of(*trace);
  CHECK(load(0).calls == 4);
  CHECK(load(1'499).calls == 4);
  CHECK(load(1'500).calls == 7);
  CHECK(load(1'500).backlog == 3);
  CHECK(load(99'000).calls == 2);
}

TEST_CASE("a bad trace is refused with the line") {
  const std::pair<const char*, const char*> bad[] = {
      {"", "no points in it"},
      {"0,1\n5\n", "line 2: expected time_s,ongoing[,backlog]"},
      {"0,1\nx,2\n", "line 2: expected time_s,ongoing[,backlog]"},
      {"0,-1\n", "line 1: ongoing is no number"},
      {"0,1,z\n", "line 1: backlog is no number"},
      {"0,1,2,3\n", "line 1: more than three columns"},
      {"5,1\n4,1\n", "line 2: times must rise"},
      {"99999999999,1\n", "line 1: the time is over a year"}};
  for (const auto& [text, why] : bad) {
    auto trace = parse_trace(text);
    REQUIRE_FALSE(trace);
    CHECK(trace.error().detail == why);
  }
}

// --- parameters by name ------------------------------------------------------------------------

TEST_CASE("parameters are read by their names and written as they were read") {
  ScaleParams p;
  for (const ScaleField& field : scale_fields()) {
    const int64_t value = std::max(field.unit, (field.min + field.max) / 2) / field.unit;
    CHECK(set_scale_field(p, field.name, static_cast<double>(value)));
  }
  p.max_replicas = 99'000;
  p.initial_replicas = 70'000;
  CHECK(p.upscale_delay_ms == 43'200'000);
  auto again = parse_scale(scale_doc(p));
  REQUIRE(again);
  p.max_ongoing_requests = 5;  // a setting of the deployment, not one of these
  CHECK(*again == p);
  CHECK(parse_scale({}).value() == ScaleParams{});
}

TEST_CASE("a wrong parameter is refused with its name and what may be given") {
  ScaleParams p;
  const auto why = [&](const char* name, double value) {
    return set_scale_field(p, name, value).error().detail;
  };
  CHECK(why("min_replicas", -1) == "min_replicas must be a whole number from 0 to 100000");
  CHECK(why("max_replicas", 1.5) == "max_replicas must be a whole number from 1 to 100000");
  CHECK(why("tolerance", 1.5) == "tolerance must be from 0 to 1");
  CHECK(why("tolerance", std::nan("")) == "tolerance must be from 0 to 1");
  CHECK(why("metrics_interval_s", 10).find("unknown field 'metrics_interval_s'; there are: min_") ==
        0);
  CHECK(p == ScaleParams{});
  CHECK(parse_scale(Doc{}.set("tolerance", "x")).error().detail == "tolerance must be a number");
  CHECK(parse_scale(Doc{5}).error().detail == "must be a table");
  Doc crossed;
  crossed.set("min_replicas", 3).set("max_replicas", 2);
  CHECK(parse_scale(crossed).error().detail == "min_replicas is over max_replicas");
  Doc outside;
  outside.set("initial_replicas", 3).set("max_replicas", 2);
  CHECK_FALSE(parse_scale(outside));
}
