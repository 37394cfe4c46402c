// The thread of GpuWatch: when to read, how to wait.
#include "common/gpu/watch.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "common/gpu/nvml.h"
#include "common/gpu/nvml_devices.h"

namespace dray::gpu {
namespace {
using Clock = std::chrono::steady_clock;

struct Watched {
  std::vector<NvmlDevice> devices;
  std::vector<std::string> gone;  // uuids that NVML does not list any more
};

Watched match(const Detection& found, NvmlList list) {
  Watched watched;
  for (const Device& device : found.devices) {
    const auto at = std::find_if(list.devices.begin(), list.devices.end(),
                                 [&](const auto& d) { return d.device.uuid == device.uuid; });
    if (at == list.devices.end())
      watched.gone.push_back(device.uuid);
    else
      watched.devices.push_back(*at);
  }
  return watched;
}

}  // namespace

// Kept alive by the thread, which may outlive the watch if the driver hangs.
struct GpuWatch::Shared {
  WatchOptions options;
  OnChange on_change;
  std::unique_ptr<Nvml> nvml;
  Watched watched;
  bool has_events = false;  // of some GPU at least
  bool knows_loss = false;  // the event wait said so last time
  std::atomic<bool> hears_all{false};
  std::atomic<Clock::rep> read_at{0};

  std::mutex book_mutex;
  HealthBook book{{}};

  std::mutex mutex;  // what follows
  std::condition_variable changed;
  bool is_stopping = false;
  bool has_ended = false;
  std::thread thread;

  void run();
  void renew_events();

 private:
  void read(bool is_full);
  void hear(const NvmlEvent& event);
  template <class Input>
  void tell(const Input& input);

  void wait(Clock::time_point until);
  bool pause(Clock::time_point until);
  std::string uuid_of(Nvml::Handle gpu) const;
};

void GpuWatch::Shared::run() {
  auto next_fast = Clock::now(), next_slow = next_fast;
  while (!pause(Clock::now())) {
    const auto now = Clock::now();
    if (now >= next_fast) {
      const bool is_full = now >= next_slow;
      read(is_full);
      // From now on, not from the last time: after a hang nothing is made up for.
      next_fast = Clock::now() + options.fast;
      if (is_full) next_slow = Clock::now() + options.slow;
    }
    wait(next_fast);
  }
  std::lock_guard lock(mutex);
  has_ended = true;
  changed.notify_all();
}

// Events of every GPU that is there: a lost one would end each wait at once. Only when it does, as
// XIDs that nobody took yet go with the old set.
void GpuWatch::Shared::renew_events() {
  std::vector<Device> known = book.devices();
  std::vector<Nvml::Handle> seen;
  size_t heard = 0;
  const bool is_open = nvml->open_events() == nvml::Code::ok;
  for (const NvmlDevice& d : watched.devices) {
    const bool is_lost = std::any_of(known.begin(), known.end(), [&](const Device& k) {
      return k.uuid == d.device.uuid && k.health == Health::lost;
    });
    if (is_lost || std::count(seen.begin(), seen.end(), d.gpu) > 0) continue;
    seen.push_back(d.gpu);
    if (is_open && nvml->watch(d.gpu) == nvml::Code::ok) ++heard;
  }
  has_events = heard > 0;
  hears_all = heard == seen.size();
}

void GpuWatch::Shared::read(bool is_full) {
  std::vector<Reading> readings;
  for (const NvmlDevice& d : watched.devices) readings.push_back(read_device(*nvml, d, is_full));
  for (const std::string& uuid : watched.gone)
    readings.push_back({uuid, Answer::lost, "NVML does not list it any more", {}, {}, {}, {}, {}});
  read_at.store(Clock::now().time_since_epoch().count());
  tell(readings);
}

// Until `until`, or shorter. An event wait may end early, or at once with an error: what is left of
// its slice is slept then, so that this is never a busy loop.
void GpuWatch::Shared::wait(Clock::time_point until) {
  const auto now = Clock::now();
  if (!has_events) {
    pause(until);
    return;
  }
  const auto slice = std::min<Clock::duration>(until - now, options.slice);
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(slice).count();
  const auto event = nvml->wait_event(static_cast<unsigned>(std::max<int64_t>(ms, 1)));
  if (event) return hear(event.value);
  const bool knew = std::exchange(knows_loss, is_loss(event.code));
  if (knows_loss && !knew) {
    read(true);
    renew_events();
    return;
  }
  pause(now + slice);
}

// Sleeps; true if the end has come.
bool GpuWatch::Shared::pause(Clock::time_point until) {
  std::unique_lock lock(mutex);
  return changed.wait_until(lock, until, [this] { return is_stopping; });
}

void GpuWatch::Shared::hear(const NvmlEvent& event) {
  if ((event.type & nvml::kEventXid) == 0) return;
  tell(Xid{uuid_of(event.device), event.xid, event.gpu_instance, event.compute_instance});
}

// A GPU that just left may not tell its name any more, but its handle is the same.
std::string GpuWatch::Shared::uuid_of(Nvml::Handle gpu) const {
  for (const NvmlDevice& d : watched.devices)
    if (d.gpu == gpu) return d.device.kind == Kind::mig ? d.device.parent : d.device.uuid;
  return nvml->uuid(gpu).optional().value_or("");
}

template <class Input>
void GpuWatch::Shared::tell(const Input& input) {
  Changes changes;
  {
    std::lock_guard lock(book_mutex);
    changes = book.on(input);
  }
  if (changes.empty()) return;
  {
    std::lock_guard lock(mutex);  // stop() has not returned
    if (!is_stopping) on_change(changes);
  }
  const auto has = [&](EventKind kind) {
    return std::any_of(changes.events.begin(), changes.events.end(),
                       [kind](const Event& e) { return e.kind == kind; });
  };
  if (has(EventKind::back) || (has(EventKind::lost) && knows_loss)) renew_events();
}

Status GpuWatch::start(const Detection& found, WatchOptions options, OnChange on_change) {
  if (shared_) return make_error(Errc::bad_argument, "the watch runs already");
  if (found.source != Source::nvml)
    return make_error(Errc::bad_argument, "only the devices of NVML can be watched");
  auto shared = std::make_shared<Shared>();
  DRAY_TRY_ASSIGN(shared->nvml, Nvml::open(options.nvml_library));
  shared->watched = match(found, list_devices(*shared->nvml, ""));
  shared->book = HealthBook(found.devices, options.xids);
  shared->renew_events();
  shared->options = std::move(options);
  shared->on_change = std::move(on_change);
  shared->read_at.store(Clock::now().time_since_epoch().count());
  shared_ = std::move(shared);
  shared_->thread = std::thread([s = shared_] { s->run(); });
  return {};
}

void GpuWatch::stop() {
  if (!shared_) return;
  const auto shared = std::exchange(shared_, nullptr);
  std::unique_lock lock(shared->mutex);
  shared->is_stopping = true;
  shared->changed.notify_all();
  const bool ended =
      shared->changed.wait_for(lock, shared->options.stop_limit, [&] { return shared->has_ended; });
  lock.unlock();
  if (ended)
    shared->thread.join();
  else
    shared->thread.detach();
}

bool GpuWatch::hears_xids() const { return shared_ && shared_->hears_all; }

std::vector<Device> GpuWatch::devices() const {
  if (!shared_) return {};
  std::lock_guard lock(shared_->book_mutex);
  return shared_->book.devices();
}

Duration GpuWatch::age() const {
  if (!shared_) return Duration::zero();
  return Clock::now() - Clock::time_point(Clock::duration(shared_->read_at.load()));
}

}  // namespace dray::gpu
