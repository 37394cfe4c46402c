// HandlerGroup: one handler that several children run: each run goes to the one with the fewest
// runs of it. While none can take it, but one is expected back, runs wait in their threads.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "services/worker/shell/child_process.h"
#include "services/worker/shell/plugin_host.h"

namespace dray::worker {

class HandlerGroup : public Runner {
 public:
  struct Place {
    std::shared_ptr<ChildProcess> child;
    uint16_t handler = 0;  // its place in the child
    uint32_t limit = 0;  // runs at once; 0: any
  };
  // Who takes new runs from now on. `expected`: more may come soon, so that runs wait for them.
  void set(std::vector<Place> places, bool expected);
  void run(const Handler& handler, std::span<const TaskView> tasks,
           std::span<TaskOutput> outs) override;

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kLook{5};  // cancel flags are looked at so often
  struct Member {
    Place place;
    uint32_t ongoing = 0;
    bool gone = false;  // it takes no more
  };
  std::shared_ptr<Member> choose() const;
  bool can_wait(std::span<const TaskView> tasks) const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Member>> members_;
  bool expected_ = true;
};

}  // namespace dray::worker
