// ChildRig: a real dray-executor with the probe plugin, and what it told.
#pragma once

#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>

#include "services/worker/shell/child_process.h"

namespace dray::worker {

struct ChildRig {
  using Clock = std::chrono::steady_clock;
  static std::filesystem::path bin() {
    return std::filesystem::read_symlink("/proc/self/exe").parent_path();
  }
  static std::string probe() {
    return bin().parent_path() / "lib/dray/test_plugins/dray_test_child_probe.so";
  }
  static ChildOptions options(const std::string& config = "") {
    ChildOptions o;
    o.process = 7;
    o.program = bin() / "dray-executor";
    o.start.worker_name = "w1";
    o.start.plugins = {probe()};
    o.start.threads = 16;
    o.start.user_config = config;
    return o;
  }
  explicit ChildRig(const std::string& config = "") : ChildRig(options(config)) {}
  explicit ChildRig(ChildOptions o)
      : child(std::make_shared<ChildProcess>(
            std::move(o), ChildProcess::Hooks{[this](ProcessEvent&& n) { hear(std::move(n)); },
                                              [this](const ChildLine& line) { hear(line); }})) {}

  void hear(ProcessEvent&& n) {
    std::lock_guard lock(mutex);
    if (n.kind == ProcessEvent::Kind::ready) handlers = n.handlers;
    news.push_back(std::move(n));
    changed.notify_all();
  }
  void hear(const ChildLine& line) {
    std::lock_guard lock(mutex);
    lines.push_back(std::string(line.source) + ": " + std::string(line.text) + " | " + line.task);
    changed.notify_all();
  }
  ProcessEvent wait(ProcessEvent::Kind kind, size_t nth = 1) {
    std::unique_lock lock(mutex);
    ProcessEvent found;
    const bool heard = changed.wait_for(lock, std::chrono::seconds(20), [&] {
      size_t n = 0;
      for (const ProcessEvent& one : news)
        if (one.kind == kind && ++n == nth) {
          found = one;
          return true;
        }
      return false;
    });
    REQUIRE(heard);
    return found;
  }
  std::string wait_line(const std::string& part) {
    std::unique_lock lock(mutex);
    std::string found;
    const bool heard = changed.wait_for(lock, std::chrono::seconds(20), [&] {
      for (const std::string& line : lines)
        if (line.find(part) != std::string::npos) {
          found = line;
          return true;
        }
      return false;
    });
    REQUIRE(heard);
    return found;
  }
  ChildRig& ready() {
    wait(ProcessEvent::Kind::ready);
    return *this;
  }
  uint16_t place(const std::string& name) {
    std::lock_guard lock(mutex);
    for (size_t i = 0; i < handlers.size(); ++i)
      if (handlers[i].offer.name == name) return static_cast<uint16_t>(i);
    FAIL("no handler " << name);
    return 0;
  }
  static TaskView view(const std::string& payload) {
    TaskView v;
    v.id = {1, 2};
    v.payload = payload;
    return v;
  }
  TaskOutput run(const std::string& payload, const std::string& handler = "child.act") {
    const TaskView v = view(payload);
    TaskOutput out;
    const bool ran = child->run(place(handler), {&v, 1}, {&out, 1});
    if (!ran) out.kind = TaskOutput::Kind::not_started;
    return out;
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<ProcessEvent> news;
  std::vector<std::string> lines;
  std::vector<ReplicaHandler> handlers;
  std::shared_ptr<ChildProcess> child;
};

}  // namespace dray::worker
