// Gpus: the GPUs that this worker offers: found at its start, chosen by its settings, its own among
// the workers of this folder, and watched.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/gpu/detect.h"
#include "common/gpu/watch.h"
#include "common/service/config.h"
#include "common/wire/fleet.h"

namespace dray::worker {

DeviceInfo to_info(const gpu::Device& device);

class Gpus {
 public:
  ~Gpus();
  // Before the first thread, as it may start a child process. Errors: config.
  Status find(const Config& config);
  // Starts to look after them. `wake` is called from the watch's thread when poll() has news.
  void watch(const Config& config, std::function<void()> wake);
  void stop() { watch_.stop(); }

  std::vector<DeviceInfo> devices() const;

  // --- loop thread ---
  struct News {
    std::vector<DeviceInfo> devices;
    bool for_routers = false;  // what can be given, or why not, has changed
  };
  // What changed since the last call; mere readings are told every kRefresh.
  std::optional<News> poll(Time now);

 private:
  static constexpr Duration kRefresh = 5s;
  Status choose(const Config& config);
  Status lock(const Config& config);
  void report() const;

  gpu::Detection found_;
  std::vector<int> locks_;  // held until the process ends
  gpu::GpuWatch watch_;
  bool is_watched_ = false;
  std::atomic<bool> changed_{false};
  std::vector<DeviceInfo> told_;
  Time next_refresh_{};
};

}  // namespace dray::worker
