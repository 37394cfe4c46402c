// Orders to children, news to events.
#include "services/worker/shell/processes.h"

#include <algorithm>
#include <filesystem>

#include "common/base/assert.h"
#include "common/service/log.h"

namespace dray::worker {
namespace {

constexpr size_t kConfigVariableMax = 64 * 1024;  // the kernel takes 128 KiB; code can ask for it

void log_line(const ProcessStart& order, const ChildLine& line) {
  const auto level = static_cast<LogLevel>(std::clamp(line.level, 0, 3));
  const std::string name =
      order.fixed ? std::filesystem::path(order.spec.code).stem().string() : order.spec.deployment;
  log_event(level, line.source == "handler" ? "handler" : "output",
            {{"from", line.source},
             {"deployment", name},
             {"replica", order.fixed ? 0 : order.spec.id},
             {"pid", line.pid},
             {"task", line.task},
             {"text", line.text}});
}

}  // namespace

std::string executor_program() {
  std::error_code ec;
  return std::filesystem::read_symlink("/proc/self/exe", ec).parent_path() / "dray-executor";
}

Processes::Processes(ProcessesOptions options) : options_(std::move(options)) {}

// The threads of the children tell us things until their very end.
Processes::~Processes() {
  groups_.clear();
  children_.clear();
}

std::shared_ptr<ChildProcess> Processes::find(uint64_t process) const {
  const auto it = children_.find(process);
  return it == children_.end() ? nullptr : it->second.process;
}

void Processes::carry_out(ProcessOrders&& orders) {
  for (const ProcessStart& order : orders.start) start(order);
  for (const ProcessConfig& order : orders.config)
    if (const auto child = find(order.process)) child->configure(order.user_config, order.version);
  for (const uint64_t process : orders.ping)
    if (const auto child = find(process)) child->ping();
  for (const HandlerRoute& order : orders.routes) route(order);
  for (const ProcessStop& order : orders.stop)
    if (const auto child = find(order.process)) child->stop(order.grace);
  for (const ProcessKill& order : orders.kill)
    if (const auto child = find(order.process)) child->kill(order.why);
  orders.clear();
}

void Processes::start(const ProcessStart& order) {
  ChildOptions o;
  o.process = order.process;
  o.program = options_.program;
  o.start.worker_name = options_.worker_name;
  o.start.data_dir = options_.data_dir;
  o.start.deployment = order.spec.deployment;
  o.start.user_config = order.spec.user_config;
  o.start.plugins = {order.spec.code};
  o.start.handlers = order.spec.handlers;
  o.start.threads = options_.threads;
  o.start.allow_test_handlers = options_.allow_test_handlers;
  if (!order.fixed) {
    o.environment = order.environment;
    o.environment.emplace_back("DRAY_REPLICA", std::to_string(order.spec.id));
    o.environment.emplace_back("DRAY_DEPLOYMENT", order.spec.deployment);
    if (order.spec.user_config.size() <= kConfigVariableMax &&
        order.spec.user_config.find('\0') == std::string::npos)
      o.environment.emplace_back("DRAY_USER_CONFIG", order.spec.user_config);
  }
  o.memory_limit_mib = order.spec.memory_limit_mib;
  o.recycle_after = order.spec.recycle_after;
  ChildProcess::Hooks hooks{[this](ProcessEvent&& event) { hear(std::move(event)); },
                            [order](const ChildLine& line) { log_line(order, line); }};
  children_[order.process].process = std::make_shared<ChildProcess>(std::move(o), std::move(hooks));
}

// The first route of an index makes the handler known; they come in order.
void Processes::route(const HandlerRoute& route) {
  if (!any_group_) first_group_ = route.handler;
  any_group_ = true;
  DRAY_ASSERT(route.handler >= first_group_);
  const size_t i = route.handler - first_group_;
  DRAY_ASSERT(i <= groups_.size());
  if (i == groups_.size()) {
    groups_.push_back(std::make_unique<HandlerGroup>());
    HandlerInfo info;
    info.name = route.name;
    // A process runs a batch one by one if it must, and another version of it may not have to.
    info.can_batch = true;
    info.offer.name = route.name;
    options_.add_handler(info, *groups_.back());
  }
  std::vector<HandlerGroup::Place> places;
  for (const HandlerPlace& place : route.places)
    if (auto child = find(place.process))
      places.push_back({std::move(child), place.handler, place.limit});
  groups_[i]->set(std::move(places), route.expected);
}

void Processes::hear(ProcessEvent&& event) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  heard_.notify_all();
  options_.wake();
}

void Processes::drain(std::vector<ProcessEvent>& events) {
  events.clear();
  {
    std::lock_guard lock(mutex_);
    events.swap(events_);
  }
  for (const ProcessEvent& event : events)
    if (event.kind == ProcessEvent::Kind::gone) children_.erase(event.process);
  tell_load(events);
}

void Processes::tell_load(std::vector<ProcessEvent>& events) {
  const auto now = std::chrono::steady_clock::now();
  if (children_.empty() || now < load_at_) return;
  load_at_ = now + std::chrono::seconds(1);
  for (auto& [number, child] : children_) {
    const uint64_t ongoing = child.process->ongoing();
    if (std::exchange(child.told_load, ongoing) == ongoing) continue;
    ProcessEvent event;
    event.process = number;
    event.kind = ProcessEvent::Kind::load;
    event.number = ongoing;
    events.push_back(std::move(event));
  }
}

bool Processes::wait(Duration time) {
  std::unique_lock lock(mutex_);
  return heard_.wait_for(lock, time, [this] { return !events_.empty(); });
}

void Processes::end(Duration time) {
  for (auto& [number, child] : children_) child.process->stop({});
  const auto until = std::chrono::steady_clock::now() + time;
  std::vector<ProcessEvent> events;
  while (!children_.empty() && std::chrono::steady_clock::now() < until) {
    wait(std::chrono::milliseconds(50));
    drain(events);
  }
}

}  // namespace dray::worker
