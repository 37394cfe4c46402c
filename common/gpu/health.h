// HealthBook: decides what readings and XIDs mean: which devices changed enough to be told, and
// which of them still take work. No clock, no driver, no thread.
//
// A device is lost while the driver says so, or for good after an XID that says it left the bus. A
// hardware XID drains it for good: only a restart, after somebody looked, trusts it again.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/gpu/device.h"
#include "common/gpu/reading.h"

namespace dray::gpu {

// Which XIDs are the application's own fault. All others mean that the device is not well.
struct XidPolicy {
  std::set<uint64_t> also_app;  // forgiven besides
  std::set<uint64_t> also_hardware;  // not forgiven; wins if a number is in both
  bool is_app_fault(uint64_t xid) const;
};

struct Xid {
  std::string gpu;  // uuid of the whole GPU; empty: not known, so every device is meant
  uint64_t number = 0;
  std::optional<uint32_t> gpu_instance;  // absent: the whole GPU
  std::optional<uint32_t> compute_instance;
};

enum class EventKind : uint8_t { xid, lost, back };
std::string_view event_name(EventKind kind);

struct Event {
  EventKind kind = EventKind::xid;
  std::string uuid;
  uint64_t xid = 0;
  bool is_app_fault = false;  // xid: the device goes on
  std::string text;  // a sentence for people
};

struct Changes {
  std::vector<Device> devices;  // as they are now; only those that changed
  std::vector<Event> events;
  bool empty() const { return devices.empty() && events.empty(); }
};

class HealthBook {
 public:
  explicit HealthBook(std::vector<Device> devices, XidPolicy policy = {});

  Changes on(const std::vector<Reading>& readings);
  Changes on(const Xid& xid);
  std::vector<Device> devices() const;  // with the newest values, told or not

 private:
  struct Entry {
    Device now;
    Device told;
    Answer answer = Answer::ok;
    std::string reason;
    int failures = 0;  // in a row
    int answers = 0;  // in a row, of a lost device
    uint64_t xid = 0;  // the worst hardware XID so far
  };
  void take(Entry& entry, const Reading& reading);
  void note_xid(Entry& entry, const Xid& xid, Changes& out) const;
  static void judge(Entry& entry, Changes& out);
  static void tell(Entry& entry, Changes& out);

  std::vector<Entry> entries_;
  XidPolicy policy_;
};

}  // namespace dray::gpu
