// Blobs of capacity, replicas and load: round trips, bounds, and what a newer minor version adds.
#include "common/wire/fleet.h"

#include <catch2/catch.hpp>

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/wire/message.h"

namespace dray {
namespace {

DeviceInfo a_device() {
  DeviceInfo d;
  d.uuid = "GPU-1";
  d.reason = "XID 79";
  d.health = 3;
  d.units = 10'000;
  d.memory_mib = 24'576;
  d.numa = -1;
  return d;
}
ReplicaSpec a_replica() {
  ReplicaSpec s;
  s.id = 7;
  s.deployment = "embed";
  s.version = 3;
  s.code = "/opt/embed.so";
  s.handlers = {"embed", "embed.query"};
  s.needs = {encode_need({5000, 8192, {{"cpu", 10'000}}, {"node:a"}})};
  s.user_config = R"({"k":1})";
  return s;
}

}  // namespace

TEST_CASE("fleet blobs: what was encoded is decoded") {
  const DeviceInfo device = a_device();
  CHECK(decode_device(encode_device(device)).value() == device);
  const NeedInfo need{2500, 1024, {{"slot", 10'000}}, {"head"}};
  CHECK(decode_need(encode_need(need)).value() == need);
  const ReplicaSpec replica = a_replica();
  CHECK(decode_replica(encode_replica(replica)).value() == replica);
  const ReplicaStatus status{7, "embed", 3, 1, 1, "", {"embed"}, {"GPU-1"}, 2, 1500, 4};
  CHECK(decode_replica_status(encode_replica_status(status)).value() == status);
  const HandlerLoad load{"embed", 1, 2, 3, 4, 5, 6, 7, 8};
  CHECK(decode_handler_load(encode_handler_load(load)).value() == load);
  const HandlerView view{"embed", "e", 1, 2, 3, true};
  CHECK(decode_handler_view(encode_handler_view(view)).value() == view);
}

TEST_CASE("fleet blobs: values out of range are refused by name") {
  const auto refused = [](const auto& result, const char* word) {
    REQUIRE_FALSE(result);
    CHECK(result.error().detail.find(word) != std::string::npos);
  };
  DeviceInfo device = a_device();
  device.uuid = "";
  refused(decode_device(encode_device(device)), "uuid");
  device = a_device();
  device.kind = 3;
  refused(decode_device(encode_device(device)), "kind");
  device = a_device();
  device.units = 10'001;
  refused(decode_device(encode_device(device)), "units");
  device = a_device();
  device.reason = std::string(kErrorTextMax + 1, 'x');
  refused(decode_device(encode_device(device)), "reason");

  NeedInfo need;
  need.labels.assign(kLabelsMax + 1, "l");
  refused(decode_need(encode_need(need)), "labels");
  need = {};
  need.pools = {{"", 1}};
  refused(decode_need(encode_need(need)), "resource");
  need.pools.assign(kResourcesMax + 1, {"p", 1});
  refused(decode_need(encode_need(need)), "resources");

  const auto broken = [&](auto change, const char* word) {
    ReplicaSpec s = a_replica();
    change(s);
    refused(decode_replica(encode_replica(s)), word);
  };
  broken([](ReplicaSpec& s) { s.id = 0; }, "id");
  broken([](ReplicaSpec& s) { s.deployment.clear(); }, "deployment");
  broken([](ReplicaSpec& s) { s.code = std::string(5000, 'c'); }, "code");
  broken([](ReplicaSpec& s) { s.handlers = {""}; }, "handlers");
  broken([](ReplicaSpec& s) { s.strategy = 3; }, "strategy");
  broken([](ReplicaSpec& s) { s.needs.assign(5, s.needs[0]); }, "needs");
  broken([](ReplicaSpec& s) { s.needs = {"x"}; }, "");
  broken([](ReplicaSpec& s) { s.max_batch_size = kItemsMax + 1; }, "max_batch_size");
  broken([](ReplicaSpec& s) { s.max_ongoing = kItemsMax + 1; }, "max_ongoing");
  broken([](ReplicaSpec& s) { s.user_config = std::string(kMsgpackStrMax, 'u') + "u"; }, "");

  ReplicaStatus status{7, "embed", 3, 1, 6, "", {}, {}, 0, 0, 0};
  refused(decode_replica_status(encode_replica_status(status)), "state");
  status.state = 1;
  status.deployment = "";
  refused(decode_replica_status(encode_replica_status(status)), "deployment");
  status.deployment = "e";
  status.error = std::string(kErrorTextMax + 1, 'x');
  refused(decode_replica_status(encode_replica_status(status)), "error");
  status.error = "";
  status.handlers = {std::string(200, 'h')};
  refused(decode_replica_status(encode_replica_status(status)), "handlers");
  refused(decode_handler_load(encode_handler_load({})), "handler");
  refused(decode_handler_view(encode_handler_view({"h", "", 0, 0, 0, false})), "deployment");
}

TEST_CASE("fleet blobs: bytes that are no blob are errors and nothing else") {
  Rng rng(5);
  const std::string blobs[] = {encode_device(a_device()), encode_replica(a_replica()),
                               encode_handler_load({"h", 1, 2, 3, 4, 5, 6, 7, 8})};
  for (int i = 0; i < 20'000; ++i) {
    std::string blob = blobs[rng.below(3)];
    for (uint64_t n = rng.below(4) + 1; n > 0; --n) {
      if (blob.empty()) break;
      blob[rng.below(blob.size())] = static_cast<char>(rng.next());
      if (rng.below(4) == 0) blob.resize(rng.below(blob.size() + 1));
    }
    (void)decode_device(blob);
    (void)decode_replica(blob);
    (void)decode_replica_status(blob);
    (void)decode_handler_load(blob);
    (void)decode_handler_view(blob);
    (void)decode_need(blob);
  }
  CHECK_FALSE(decode_need(encode_need({}) + "x"));
}

TEST_CASE("fleet messages: bounds of a node's lists") {
  const auto refused = [](Message m) { return !decode(encode(Envelope{}, m)).has_value(); };
  NodeReport report;
  CHECK_FALSE(refused(report));
  report.devices.assign(kDevicesMax + 1, "d");
  CHECK(refused(report));
  CapacityNews news;
  news.taken = {{"", 1}};
  CHECK(refused(news));
  CHECK(refused(Handlers{1, {""}}));
  CHECK(refused(View{1, {}, {""}}));
  CHECK(refused(Backlog{{{"h", UINT64_MAX}}, {}}));
  Attach attach;
  attach.devices.assign(kDevicesMax + 1, "d");
  CHECK(refused(attach));
}

}  // namespace dray
