// GpuWatch: looks after the GPUs that NVML showed: a thread that reads them gently and waits for
// XIDs, and tells what changed. What a change means is decided in health.h.
//
// Rates. NVML takes a lock of the whole driver, so polling slows down the very GPUs: memory and
// utilisation once a second, clocks and heat every five; XIDs by a blocking wait.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/base/time.h"
#include "common/gpu/detect.h"
#include "common/gpu/health.h"

namespace dray::gpu {

struct WatchOptions {
  std::string nvml_library = "libnvidia-ml.so.1";
  XidPolicy xids;
  Duration fast = 1s;
  Duration slow = 5s;
  Duration slice = 200ms;  // longest wait for an event, which a stop can not interrupt
  Duration stop_limit = 2s;  // then the thread is left alone: a lost GPU can hang the driver
};

class GpuWatch {
 public:
  // Called in the watch's own thread, never after stop() has returned. It must not call stop().
  using OnChange = std::function<void(const Changes&)>;

  GpuWatch() = default;
  ~GpuWatch() { stop(); }
  GpuWatch(const GpuWatch&) = delete;
  GpuWatch& operator=(const GpuWatch&) = delete;

  // Watches what detect() found; a device that is gone meanwhile is told as lost. Errors: those of
  // Nvml::open(), and bad_argument for devices of another source.
  Status start(const Detection& found, WatchOptions options, OnChange on_change);
  void stop();

  // --- any thread ---
  bool hears_xids() const;  // false: this driver or container has no events
  std::vector<Device> devices() const;  // with the newest values
  // Since the last complete reading. Much more than `fast`: the driver hangs, trust nothing.
  Duration age() const;

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;  // also the thread's
};

}  // namespace dray::gpu
