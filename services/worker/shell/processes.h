// Processes: carries out what the core orders about processes of handlers, makes the groups that
// run their handlers known to the executors, and collects the news.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "services/worker/core/replica_work.h"
#include "services/worker/shell/child_process.h"
#include "services/worker/shell/handler_group.h"

namespace dray::worker {

struct ProcessesOptions {
  std::string program;  // of dray-executor
  std::string worker_name;
  std::string data_dir;
  bool allow_test_handlers = false;
  uint32_t threads = 1;  // runs that one process may get at once
  std::function<void()> wake;  // any thread; something can be drained
  // Makes a handler known to the executors of both lanes; indexes come in order.
  std::function<void(const HandlerInfo& info, Runner& runner)> add_handler;
};

class Processes {
 public:
  explicit Processes(ProcessesOptions options);
  ~Processes();
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // --- loop thread ---
  void carry_out(ProcessOrders&& orders);
  void drain(std::vector<ProcessEvent>& events);
  bool wait(Duration time);  // for something to drain; false: there is nothing
  void end(Duration time);  // stops all and waits so long for their ends

 private:
  void start(const ProcessStart& order);
  void route(const HandlerRoute& route);
  void hear(ProcessEvent&& event);
  void tell_load(std::vector<ProcessEvent>& events);
  std::shared_ptr<ChildProcess> find(uint64_t process) const;

  const ProcessesOptions options_;
  // Loop thread.
  struct Child {
    std::shared_ptr<ChildProcess> process;
    uint64_t told_load = 0;
  };
  std::unordered_map<uint64_t, Child> children_;
  std::chrono::steady_clock::time_point load_at_{};
  std::vector<std::unique_ptr<HandlerGroup>> groups_;
  size_t first_group_ = 0;  // index of its handler
  bool any_group_ = false;

  std::mutex mutex_;  // of all below
  std::condition_variable heard_;
  std::vector<ProcessEvent> events_;
};

// Where dray-executor is: beside this program.
std::string executor_program();

}  // namespace dray::worker
