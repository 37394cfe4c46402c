// What workers' nodes have, and what leases take of it: the view by which tasks are placed. Each
// node's own ledger is the judge; its CAPACITY corrects this view.
#include <algorithm>

#include "broker/core/broker.h"
#include "common/base/mutant.h"

namespace dray::broker {
namespace {
constexpr size_t kPageBytes = 24 * 1024;  // an answer travels in a head of 64 KiB
constexpr size_t kWorkersNamed = 8;  // in one explanation

bool same_capacity(const NodeState& a, const NodeState& b) {
  return a.labels == b.labels &&
         std::equal(a.devices.begin(), a.devices.end(), b.devices.begin(), b.devices.end(),
                    [](const auto& x, const auto& y) { return x.device == y.device; }) &&
         std::equal(a.pools.begin(), a.pools.end(), b.pools.begin(), b.pools.end(),
                    [](const auto& x, const auto& y) {
                      return x.name == y.name && x.capacity == y.capacity;
                    });
}

PoolState* find_pool(NodeState& node, const std::string& name) {
  auto it = std::find_if(node.pools.begin(), node.pools.end(),
                         [&](const PoolState& p) { return p.name == name; });
  return it == node.pools.end() ? nullptr : &*it;
}

// Which part of what a node says is taken is that of one lease: the devices that its grant named,
// or others that have so much taken.
class Match {
 public:
  explicit Match(NodeState& taken) : taken_(taken) {}

  // Takes the grant out of what is taken; false if it can not be a part of that.
  bool take_out(const Variant& need, Grant& grant) {
    for (const auto& [name, units] : need.pools.amounts()) {
      const PoolState* pool = find_pool(taken_, name);
      if (pool == nullptr || pool->taken < units) return false;
    }
    std::vector<DeviceShare> shares = named(grant);
    if (shares.size() != need.device_count() && !search(need, shares)) return false;
    taken_.give(shares, need.pools);
    grant.pools = need.pools;
    grant.uuids.clear();
    for (const DeviceShare& s : shares) grant.uuids.push_back(taken_.devices[s.device].device.uuid);
    grant.shares = std::move(shares);
    return true;
  }

 private:
  bool covers(size_t device, uint64_t units, uint64_t mib) const {
    const DeviceState& d = taken_.devices[device];
    return d.taken_units >= units && d.taken_mib >= mib;
  }

  // The shares of the grant on the devices it named, as far as these have so much taken.
  std::vector<DeviceShare> named(const Grant& grant) const {
    std::vector<DeviceShare> out;
    for (size_t i = 0; i < grant.shares.size(); ++i)
      for (size_t d = 0; d < taken_.devices.size(); ++d)
        if (taken_.devices[d].device.uuid == grant.uuids[i] &&
            covers(d, grant.shares[i].units, grant.shares[i].memory_mib))
          out.push_back(
              {static_cast<uint32_t>(d), grant.shares[i].units, grant.shares[i].memory_mib});
    return out;
  }

  // Whole devices first, then for the part the one with least taken.
  bool search(const Variant& need, std::vector<DeviceShare>& shares) const {
    shares.clear();
    for (uint64_t i = 0; i < need.whole_devices(); ++i)
      if (!add(kResourceUnit, need.gpu_memory_mib, shares)) return false;
    return !need.has_part() || add(need.share(), need.gpu_memory_mib, shares);
  }

  bool add(uint64_t units, uint64_t mib, std::vector<DeviceShare>& shares) const {
    size_t best = taken_.devices.size();
    for (size_t d = 0; d < taken_.devices.size(); ++d) {
      const bool used = std::any_of(shares.begin(), shares.end(),
                                    [&](const DeviceShare& s) { return s.device == d; });
      if (used || !covers(d, units, mib)) continue;
      if (best == taken_.devices.size() ||
          taken_.devices[d].taken_units < taken_.devices[best].taken_units)
        best = d;
    }
    if (best == taken_.devices.size()) return false;
    shares.push_back({static_cast<uint32_t>(best), units, mib});
    return true;
  }

  NodeState& taken_;
};

}  // namespace

const TaskClass& Broker::class_of(const Task& t) const {
  const SpecTable& specs = ledger_.specs();
  return specs.task_class(specs.lane(specs[t.spec].lane).task_class);
}

bool Broker::take_needs(Worker& w, Handle h, const Request& request) {
  auto placed = dray::place(w.node, request, mix_.classes());
  auto* placement = std::get_if<Placement>(&placed);
  if (placement == nullptr) return false;
  Grant grant{placement->variant,
              std::move(placement->shares),
              {},
              request.variants[placement->variant].pools};
  for (const DeviceShare& s : grant.shares)
    grant.uuids.push_back(w.node.devices[s.device].device.uuid);
  if (!grant.shares.empty()) mix_.note(request);
  w.node.take(grant.shares, grant.pools);
  w.grants.emplace(h, std::move(grant));
  return true;
}

void Broker::give_needs(Worker& w, Handle h) {
  auto it = w.grants.find(h);
  if (it == w.grants.end()) return;
  if (!DRAY_MUTANT(lease_keeps_devices)) w.node.give(it->second.shares, it->second.pools);
  w.grants.erase(it);
}

std::vector<Handle> Broker::leases_with_needs(const Worker& w) const {
  std::vector<Handle> out;
  for (Handle h = w.head; h != kNil; h = ledger_.tasks()[h].next)
    if (class_of(ledger_.tasks()[h]).has_needs) out.push_back(h);
  std::reverse(out.begin(), out.end());  // oldest first
  return out;
}

void Broker::on_capacity(uint32_t index, const CapacityNews& m, Out& out) {
  Worker& w = workers_[index];
  if (!DRAY_MUTANT(capacity_ignored)) take_node(w, m, out);
  CatalogRec news;
  note_largest(w, news);
  if (!news.resources.empty()) commit(news, {}, out);
}

// A node whose words make no sense keeps its handlers and has nothing.
void Broker::take_node(Worker& w, const CapacityNews& m, Out& out) {
  auto read = read_advertised(m);
  if (!read) {
    out.note("bad_capacity", "detail=" + read.error().detail);
    out.now.push_back(
        {w.session, 0, 0, 0, make_reject(Errc::bad_argument, read.error().detail), {}, 0});
    read = Advertised{};
  }
  if (!same_capacity(w.node, read->state)) ++placement_gen_;
  w.devices = std::move(read->devices);
  settle(w, std::move(read->state), m.received);
}

// What the node says is taken includes the leases that had reached it and were started. Those are
// found in it; what remains is taken by others. Leases that it may not know of come on top.
void Broker::settle(Worker& w, NodeState told, uint64_t received) {
  auto before = std::move(w.grants);
  w.grants.clear();
  w.node = told;
  std::vector<Handle> on_top;
  Match match(told);
  for (Handle h : leases_with_needs(w)) {
    const Task& t = ledger_.tasks()[h];
    const Request& request = class_of(t).request;
    auto known = before.find(h);
    Grant grant = known == before.end() ? Grant{} : std::move(known->second);
    bool found = false;
    for (size_t v = 0; v < request.variants.size() && !found && t.sent_no <= received; ++v) {
      if (known != before.end() && v != grant.variant) continue;
      found = match.take_out(request.variants[v], grant);
      if (found) grant.variant = v;
    }
    if (found)
      w.grants.emplace(h, std::move(grant));
    else
      on_top.push_back(h);
  }
  w.others = std::move(told);
  for (DeviceState& d : w.others.devices) d.held_whole = d.taken_units >= kResourceUnit;
  for (size_t i = 0; i < w.node.devices.size(); ++i)
    w.node.devices[i].held_whole = w.others.devices[i].held_whole;
  for (const auto& [h, grant] : w.grants)
    for (const DeviceShare& s : grant.shares)
      if (s.is_whole()) w.node.devices[s.device].held_whole = true;
  for (Handle h : on_top) take_needs(w, h, class_of(ledger_.tasks()[h]).request);
}

void Broker::note_largest(const Worker& w, CatalogRec& news) const {
  const ResourceVec largest = largest_of(w.node);
  if (!ledger_.catalog_resources().fits(largest)) news.resources = largest.amounts();
}

// Exact at any time: what is taken is that of the others and of each lease, once.
void Broker::check_grants(const Worker& w) const {
  std::vector<uint64_t> units(w.node.devices.size(), 0), mib(w.node.devices.size(), 0);
  ResourceVec pools;
  for (const auto& [h, grant] : w.grants) {
    DRAY_ASSERT(ledger_.tasks()[h].in_use && ledger_.tasks()[h].state == TaskState::leased);
    DRAY_ASSERT(&workers_[ledger_.tasks()[h].worker] == &w);
    for (const DeviceShare& s : grant.shares) {
      units[s.device] += s.units;
      mib[s.device] += s.memory_mib;
    }
    pools.give(grant.pools);
  }
  for (size_t i = 0; i < units.size(); ++i) {
    DRAY_ASSERT(w.node.devices[i].taken_units == w.others.devices[i].taken_units + units[i]);
    DRAY_ASSERT(w.node.devices[i].taken_mib == w.others.devices[i].taken_mib + mib[i]);
  }
  for (size_t i = 0; i < w.node.pools.size(); ++i)
    DRAY_ASSERT(w.node.pools[i].taken == w.others.pools[i].taken + pools.get(w.node.pools[i].name));
}

// --- what people see ---------------------------------------------------------------------------

Doc Broker::list_gpus(const Doc& args) const {
  auto skip = static_cast<size_t>(std::max<int64_t>(0, args["after"].as_int(0)));
  Doc list{Doc::List{}}, doc{Doc::Object{}};
  size_t seen = 0, bytes = 0;
  for (uint32_t i = 0; i < workers_.size(); ++i) {
    const Worker& w = workers_[i];
    if (w.session == SessionId::none) continue;
    std::string node;
    for (const std::string& label : w.node.labels)
      if (label.starts_with("node:")) node = label.substr(5);
    for (size_t k = 0; k < w.devices.size(); ++k) {
      if (seen++ < skip) continue;
      if (bytes > kPageBytes) return doc.set("gpus", std::move(list)).set("next", seen - 1);
      const DeviceInfo& g = w.devices[k];
      const DeviceState& s = w.node.devices[k];
      Doc d{Doc::Object{}};
      d.set("worker", ledger_.holder(i).name).set("node", node).set("index", k);
      d.set("uuid", g.uuid).set("kind", g.kind).set("name", g.name).set("sms", g.sms);
      d.set("cc_major", g.cc_major).set("cc_minor", g.cc_minor).set("numa", g.numa);
      d.set("memory_mib", g.memory_mib).set("used_mib", g.used_mib).set("taken_mib", s.taken_mib);
      d.set("units", g.units).set("taken_units", s.taken_units);
      d.set("health", g.health).set("reason", g.reason).set("throttle", g.throttle);
      d.set("enforcement", g.enforcement).set("utilisation", g.utilisation);
      d.set("temperature_c", g.temperature_c).set("group", g.group);
      bytes += to_json(d).size();
      list.push(std::move(d));
    }
  }
  return doc.set("gpus", std::move(list));
}

// Which constraint keeps the class from each worker that is there.
void Broker::explain_workers(const TaskClass& c, Doc& why) const {
  size_t up = 0, handler = 0, label = 0, room = 0, credit = 0, draining = 0, gpu = 0;
  std::vector<std::string> texts;
  for (const auto& [session, index] : worker_sessions_) {
    const Worker& w = workers_[index];
    ++up;
    if (w.draining) ++draining;
    if (w.handlers.count(c.handler) == 0) {
      ++handler;
      continue;
    }
    auto placed = dray::place(w.node, c.request, {});
    const auto* refusal = std::get_if<PlacementRefusal>(&placed);
    if (refusal == nullptr) {
      if (w.credit.available() == 0 || (c.has_devices && w.grants.size() >= w.slots)) ++credit;
    } else if (refusal->code == Shortage::label) {
      ++label;
    } else if (refusal->code == Shortage::pool) {
      ++room;
    } else {
      ++gpu;
      const std::string who = "worker " + ledger_.holder(index).name + ": ";
      texts.push_back(who + explain_on(w.node, c.request.variants[0], *refusal));
      for (const DeviceInfo& d : w.devices)
        if (d.units == 0) texts.push_back(who + d.uuid + " gives nothing: " + d.reason);
    }
  }
  auto count = [&](size_t n, const std::string& what) {
    if (n) why.push(std::to_string(n) + " of " + std::to_string(up) + " workers: " + what);
  };
  if (up == 0) why.push("no worker is connected; dray workers");
  count(draining, "draining");
  count(handler, "do not have handler " + c.handler);
  count(label, "lack a label it asks for");
  count(room, "have too little left of a resource it asks for");
  count(gpu, "have too little left of their GPUs; dray gpus");
  for (size_t i = 0; i < std::min(texts.size(), kWorkersNamed); ++i) why.push(texts[i]);
  count(credit, "are busy (no credit or slot)");
}

}  // namespace dray::broker
