// What tasks take of the node: needs, devices that are lost, and CAPACITY, which says it all.
#include <algorithm>

#include "common/base/assert.h"
#include "common/base/mutant.h"
#include "services/worker/core/agent.h"

namespace dray::worker {
namespace {
constexpr Duration kLostGrace = 6s;  // for a handler whose device is lost to notice its cancel flag
constexpr Duration kTellAfter = 100ms;  // from a change of what is taken to CAPACITY
constexpr uint32_t kDeviceRow = 0;  // of what tasks wait for; then pools
}  // namespace

uint32_t Agent::wait_row(const std::string& pool) const {
  const Amounts& pools = options_.resources;
  const auto at =
      std::find_if(pools.begin(), pools.end(), [&](const auto& p) { return p.first == pool; });
  return kDeviceRow + 1 + static_cast<uint32_t>(at - pools.begin());
}

void Agent::set_needs(LocalSpec& local) const {
  local.request = request_of(local.spec);
  for (const Variant& v : local.request.variants) {
    if (v.device_count() > 0) local.waits_on.push_back(kDeviceRow);
    local.has_devices = local.has_devices || v.device_count() > 0;
    local.has_needs = local.has_needs || v.device_count() > 0 || !v.pools.empty();
    for (const auto& [name, units] : v.pools.amounts()) local.waits_on.push_back(wait_row(name));
  }
}

// All it needs, or nothing. Most tasks need nothing, and then the ledger is not asked.
bool Agent::take_needs(HeldTask& task) {
  if (!task.spec->has_needs) return true;
  const GrantId id = node_.next_id();
  if (node_.reserve(id, task.spec->request)) return false;
  task.grant = id;
  return true;
}

bool Agent::waits_for_devices(const HeldTask& task) const {
  return task.spec->has_devices && !node_.fits_now(task.spec->request);
}

void Agent::give_needs(HeldTask& task) {
  if (task.spec->has_needs && !DRAY_MUTANT(grant_kept)) node_.release(task.grant);
  task.grant = GrantId{0};
}

void Agent::note_takings(Now now) {
  if (attached() && told_takings_ != node_.takings())
    tell_at_ = std::min(tell_at_, now.mono + kTellAfter);
}

void Agent::tell_capacity(Now now, Out& out) {
  tell_at_ = kNever;
  told_takings_ = node_.takings();
  if (attached()) send(node_.news(credit_.received()), now, out);
}

void Agent::set_devices(std::vector<DeviceInfo> devices, Now now, Out& out) {
  if (!node_.set_devices(std::move(devices))) {
    out.note("bad_devices", "the readings of the GPUs make no sense; the last ones stay");
    return;
  }
  specs_.clear();  // what is possible here may have changed
  const uint64_t results_from = results_.next();
  const std::vector<GrantId> lost = node_.lost();
  for (Index i = held_.oldest_running(); !lost.empty() && i != Holdings::kNone;
       i = held_.after(i)) {
    const GrantId id = held_.at(i).grant;
    if (std::find(lost.begin(), lost.end(), id) == lost.end()) continue;
    if (DRAY_MUTANT(loss_not_reported)) continue;
    out.note("device_lost", "task=" + to_hex(held_.at(i).id) + " " + node_.loss_text(id));
    if (!held_.at(i).revoked) cancel(i, out);
    lose_device_task(i, now);
  }
  // First the capacity: the results free leases, and nothing new must be placed on what is gone.
  tell_capacity(now, out);
  send_results(results_from, now, out);
  give_back_impossible(now, out);
  start_ready(now, out);
}

// Its attempt is over whatever the handler still does; the broker runs it elsewhere and counts it
// as one that lost its worker. Until the handler returns it keeps its slot and pools.
void Agent::lose_device_task(Index i, Now now) {
  HeldTask& t = held_.at(i);
  const std::string text = node_.loss_text(t.grant);
  node_.release_devices(t.grant);
  if (t.revoked || t.reported) return;
  const auto ran = std::min<int64_t>(to_us(now.mono - t.since), UINT32_MAX);
  finish(i, Verdict::crashed, Errc::worker_lost, static_cast<uint32_t>(ran), Bytes(text));
  held_.mark_reported(i);
  ++counters_.device_lost;
  t.limit_step = 2;  // then it is stuck
  t.limit_at = now.mono + kLostGrace;
  limit_at_ = std::min(limit_at_, t.limit_at);
}

void Agent::give_back_impossible(Now now, Out& out) {
  if (!attached()) return;
  std::vector<TokenRow> rows;
  Index next = Holdings::kNone;
  for (Index i = held_.oldest_queued(); i != Holdings::kNone; i = next) {
    next = held_.after(i);
    const HeldTask& t = held_.at(i);
    if (!t.spec->has_devices || node_.could_ever(t.spec->request)) continue;
    rows.push_back({t.id, t.token});
    held_.remove(i);
  }
  give_back(Errc::infeasible, rows, now, out);
}

Doc Agent::resources_doc() const {
  Doc resources;
  const auto add = [&](const std::string& name, uint64_t total, uint64_t taken) {
    Doc row;
    row.set("total", total).set("taken", taken);
    resources.set(name, std::move(row));
  };
  for (const PoolState& p : node_.state().pools) add(p.name, p.capacity, p.taken);
  for (const DeviceState& d : node_.state().devices)
    add(d.device.uuid, d.device.usable ? d.device.units : 0, d.taken_units);
  return resources;
}

}  // namespace dray::worker
