// What the router knows of the GPUs of its workers.
#include "tests/unit/router/call_bench.h"

using namespace dray;

TEST_CASE("router: a lost GPU counts for nothing as soon as its worker says so") {
  CallBench b;
  const SessionId w = b.worker(20, {offer_of("h")});
  const auto say = [&](uint64_t units, const std::string& reason) {
    DeviceInfo first, second;
    first.uuid = "GPU-0";
    first.units = units;
    first.reason = reason;
    second.uuid = "GPU-1";
    second.units = 10'000;
    CapacityNews news;
    news.devices = {encode_device(first), encode_device(second), "nonsense"};
    b.send(w, news);
    b.end_turn();
    return to_json(b.router.to_doc()["gpus"]);
  };
  CHECK(say(10'000, "") == R"({"devices":2,"usable":2,"units":20000,"unusable":[]})");
  CHECK(say(0, "XID 79") == R"({"devices":2,"usable":1,"units":10000,"unusable":[)"
                            R"({"worker":"peer20","uuid":"GPU-0","reason":"XID 79"}]})");
  b.close(w);
  CHECK(to_json(b.router.to_doc()["gpus"]) ==
        R"({"devices":0,"usable":0,"units":0,"unusable":[]})");
}
