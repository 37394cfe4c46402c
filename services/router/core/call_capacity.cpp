// The GPUs of the workers that take calls, as these tell them: CAPACITY.
#include <map>

#include "services/router/core/call_lane.h"

namespace dray {
namespace {
constexpr size_t kListed = 64;
}

void CallLane::on_capacity(Worker& w, const CapacityNews& m, Outbox& out) {
  w.devices.clear();
  for (const std::string& blob : m.devices) {
    auto device = decode_device(blob);
    if (device)
      w.devices.push_back(std::move(*device));
    else
      out.note("bad_device", "name=" + w.name + " detail=" + device.error().detail);
  }
}

// Sums, and by name those that give nothing.
Doc CallLane::gpus_doc() const {
  uint64_t devices = 0, usable = 0, units = 0;
  Doc unusable{Doc::List{}};
  std::map<uint64_t, uint32_t> in_order(worker_ids_.begin(), worker_ids_.end());
  for (const auto& [id, i] : in_order) {
    for (const DeviceInfo& d : workers_[i].devices) {
      ++devices;
      usable += d.units > 0;
      units += d.units;
      if (d.units > 0 || unusable.list().size() >= kListed) continue;
      Doc row;
      row.set("worker", workers_[i].name).set("uuid", d.uuid).set("reason", d.reason);
      unusable.push(std::move(row));
    }
  }
  Doc doc;
  doc.set("devices", devices).set("usable", usable).set("units", units);
  doc.set("unusable", std::move(unusable));
  return doc;
}

}  // namespace dray
