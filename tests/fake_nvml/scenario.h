// The machine that the fake NVML pretends to be: read from the file that DRAY_FAKE_NVML names, anew
// with each first init. One statement a line, `#` begins a comment:
//
//   driver 580.65.06
//   cuda 13000
//   gpu uuid=GPU-a name=Big memory=81559 free=80000 reserved=600 cc=9.0 cores=16896 mode=0 mig=1
//       pci=00000000:3B:00.0 throttle=0 busy=10 heat=40 events=1          (all on one line)
//   mig uuid=MIG-a gpu=0 gi=1 ci=0 memory=9856 free=9800 sms=16
//   fail FUNCTION CODE [device=N] [after=CALLS]   0 ends it; FUNCTION * is all about a device
//   set device=N free=100 throttle=64             any of a device's values
//   xid NUMBER device=N [gi=1] [ci=0]
//   hang FUNCTION MS                              its next call takes so long
//   early                                         event waits end at once with "nothing came"
//   at MS STATEMENT                               so long after the init
//
// N counts gpu and mig lines from 0, also in `gpu=` of a mig line. `_` in names is a space. MiB.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "common/gpu/nvml_abi.h"

namespace fake_nvml {

namespace abi = dray::gpu::nvml;
using Clock = std::chrono::steady_clock;
using Fields = std::map<std::string, std::string>;

struct FakeDevice {
  bool is_mig = false;
  Fields fields;
  bool has(const std::string& name) const { return fields.contains(name); }
  uint64_t number(const std::string& name, uint64_t otherwise = 0) const;
  std::string text(const std::string& name) const;
};

struct Fail {
  std::string function;
  abi::Code code = abi::Code::unknown;
  int device = -1;  // every one
  int after = 0;
};

struct Timed {
  Clock::time_point at;
  std::string statement;
};

class Scenario {
 public:
  void init();  // the first of several
  bool is_open() const { return users_ > 0; }
  void close() { --users_; }

  // Counts the call and tells how it ends; also does what is due.
  abi::Code enter(const std::string& function, abi::DeviceHandle handle = nullptr);
  // Events come from registered GPUs only, and a set takes with it what nobody waited for.
  void add_to_events(abi::DeviceHandle handle) { registered_.push_back(handle); }
  void drop_events();
  // Waits for the next XID. Ends at once, as long as a registered GPU is lost.
  abi::Code wait(abi::EventData& data, unsigned timeout_ms);

  FakeDevice* find(abi::DeviceHandle handle);
  int index_of(abi::DeviceHandle handle) const;
  abi::DeviceHandle handle_of(const FakeDevice& device) const;
  // The n-th GPU, or the n-th MIG device of a GPU; null if there is none.
  abi::DeviceHandle gpu(unsigned n);
  abi::DeviceHandle mig(abi::DeviceHandle gpu, unsigned n);
  unsigned gpu_count() const;

  std::string driver = "580.65.06";
  int cuda = 13000;
  std::mutex mutex;
  std::map<std::string, uint64_t> calls;

 private:
  void run(const std::string& statement);
  void run_due(Clock::time_point now);
  bool has_lost() const;
  void add_xid(const std::vector<std::string>& words, const Fields& fields);

  int users_ = 0;
  Clock::time_point start_;
  std::deque<FakeDevice> devices_;
  std::vector<Fail> fails_;
  std::map<std::string, std::chrono::milliseconds> hangs_;
  std::vector<Timed> timed_;
  std::vector<abi::DeviceHandle> registered_;
  std::deque<abi::EventData> events_;
  bool is_early_ = false;
};

Scenario& scenario();

}  // namespace fake_nvml
