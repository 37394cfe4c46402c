// Starts, ends and routes.
#include "tests/sim/model_processes.h"

namespace dray::sim {

size_t ModelProcesses::boot(const std::vector<worker::ReplicaHandler>& handlers) {
  plugins_.clear();
  processes_.clear();
  routes_.clear();
  events_.clear();
  lost_.clear();
  begun_ = false;
  own_ = every_ == Duration{0} ? handlers.size() : handlers.size() / 3;
  known_.clear();
  for (size_t i = 0; i < own_; ++i) known_.push_back(handlers[i].offer);
  if (own_ < handlers.size()) plugins_.resize(2);
  for (size_t i = own_; i < handlers.size(); ++i) plugins_[i % 2].push_back(handlers[i]);
  std::erase_if(plugins_, [](const auto& plugin) { return plugin.empty(); });
  return own_;
}

std::vector<ReplicaSpec> ModelProcesses::fixed() const {
  std::vector<ReplicaSpec> specs;
  for (size_t i = 0; i < plugins_.size(); ++i) {
    ReplicaSpec spec;
    spec.id = worker::kFixedBit + i;
    spec.code = "plugin" + std::to_string(i);
    specs.push_back(std::move(spec));
  }
  return specs;
}

void ModelProcesses::tell(worker::WorkerCore& core, Now now, worker::WorkerOut& out) {
  if (!begun_) core.start_replicas(now, out);
  begun_ = true;
  if (!events_.empty()) core.on_processes(std::exchange(events_, {}), now, out);
}

void ModelProcesses::say(worker::ProcessEvent event) {
  events_.push_back(std::move(event));
  node_.wake(world_.now());
}

void ModelProcesses::start(const worker::ProcessStart& order) {
  processes_[order.process] = {order.spec.id, false};
  const uint64_t life = node_.life();
  const auto here = [this, life, process = order.process] {
    return node_.alive() && node_.life() == life && processes_.count(process) != 0;
  };
  world_.after(10ms + world_.skewed(4s), [this, here, process = order.process] {
    if (!here()) return;
    Process& p = processes_.at(process);
    if (!node_.stable() && world_.one_in(5)) return end(process, false);
    p.ready = true;
    worker::ProcessEvent event;
    event.process = process;
    event.kind = worker::ProcessEvent::Kind::ready;
    event.handlers = plugins_.at(p.spec - worker::kFixedBit);
    say(std::move(event));
  });
  world_.after(world_.up_to(2 * every_), [this, here, process = order.process] {
    if (here() && !node_.stable()) end(process, false);
  });
}

void ModelProcesses::end(uint64_t process, bool told) {
  const auto it = processes_.find(process);
  if (it == processes_.end()) return;
  if (!told) world_.reach("processes of handlers that crash");
  // What a call lost with it may end as unknown.
  world_.disturb(world_.now() + 1s);
  for (const auto& [handler, route] : routes_)
    for (const worker::HandlerPlace& place : route.places)
      if (place.process == process) lost_.push_back(handler);
  processes_.erase(it);
  worker::ProcessEvent event;
  event.process = process;
  event.ok = told;
  event.text = "executor crashed";
  say(std::move(event));
}

std::vector<uint32_t> ModelProcesses::take(worker::WorkerOut& out) {
  worker::ProcessOrders& orders = out.orders;
  for (const worker::ProcessStart& order : orders.start) start(order);
  for (uint64_t process : orders.ping) {
    worker::ProcessEvent pong;
    pong.process = process;
    pong.kind = worker::ProcessEvent::Kind::pong;
    pong.ok = true;
    if (processes_.count(process) != 0) say(std::move(pong));
  }
  for (worker::HandlerRoute& route : orders.routes) {
    if (route.handler >= known_.size()) {
      for (const auto& plugin : plugins_)
        for (const worker::ReplicaHandler& handler : plugin)
          if (handler.offer.name == route.name) known_.push_back(handler.offer);
      if (route.handler + 1 != known_.size()) violate("P5", "handlers are not known in order");
    } else if (routes_[route.handler].places.empty() && !routes_[route.handler].expected) {
      world_.reach("handlers offered again");
    }
    if (route.places.empty() && !route.expected) world_.reach("handlers withdrawn");
    routes_[route.handler] = std::move(route);
  }
  for (const worker::ProcessStop& order : orders.stop) end(order.process, true);
  for (const worker::ProcessKill& order : orders.kill) end(order.process, false);
  orders.clear();
  return take_lost();
}

ModelProcesses::Way ModelProcesses::way(uint32_t handler) const {
  if (handler < own_) return Way::open;
  const auto it = routes_.find(handler);
  if (it == routes_.end()) return Way::closed;
  for (const worker::HandlerPlace& place : it->second.places)
    if (processes_.count(place.process) != 0) return Way::open;
  return it->second.expected || !it->second.places.empty() ? Way::expected : Way::closed;
}

}  // namespace dray::sim
