// GpuOracle: the GPUs of one worker machine, and what executions have of them: at any time 0 <=
// taken
// <= capacity on each, a whole device for one only, and exactly what each task asked for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/wire/fleet.h"
#include "services/worker/core/work.h"

namespace dray::sim {

class GpuOracle {
 public:
  GpuOracle(const std::string& node, size_t count);

  bool empty() const { return devices_.empty(); }
  size_t size() const { return devices_.size(); }
  bool lose(size_t i);  // false: it is lost
  void mend(size_t i);

  std::vector<DeviceInfo> boot();  // a new process: nothing of the old one runs any more
  bool has_news() const { return has_news_; }
  std::vector<DeviceInfo> tell();  // what ran on lost ones is gone
  // Whether the process was told that a device of the grant is lost.
  bool is_lost(const Grant& grant) const;

  void take(const worker::Start& start);  // handed to the executors
  void give(Token token);

 private:
  struct Held {
    Token token;
    DeviceShare share;
  };
  void check(const std::string& uuid) const;

  std::vector<DeviceInfo> devices_;
  std::vector<std::string> told_lost_;
  bool has_news_ = false;
  std::map<std::string, std::vector<Held>> held_;  // by uuid
};

}  // namespace dray::sim
