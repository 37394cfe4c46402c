// Scenario: reads the statements and plays them.
#include "tests/fake_nvml/scenario.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

namespace fake_nvml {
namespace {
uint64_t to_number(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 0); }

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "fake NVML: %s\n", why.c_str());
  std::abort();
}
}  // namespace

Scenario& scenario() {
  static Scenario the;
  return the;
}

uint64_t FakeDevice::number(const std::string& name, uint64_t otherwise) const {
  const auto at = fields.find(name);
  return at == fields.end() ? otherwise : to_number(at->second);
}

std::string FakeDevice::text(const std::string& name) const {
  const auto at = fields.find(name);
  std::string out = at == fields.end() ? "" : at->second;
  std::replace(out.begin(), out.end(), '_', ' ');
  return out;
}

void Scenario::init() {
  if (users_++ > 0) return;
  devices_.clear();
  fails_.clear();
  hangs_.clear();
  timed_.clear();
  drop_events();
  calls.clear();
  is_early_ = false;
  start_ = Clock::now();
  const char* path = std::getenv("DRAY_FAKE_NVML");
  std::ifstream file(path != nullptr ? path : "");
  if (!file) give_up("DRAY_FAKE_NVML names no scenario");
  for (std::string line; std::getline(file, line);) {
    line = line.substr(0, line.find('#'));
    if (line.find_first_not_of(' ') != std::string::npos) run(line);
  }
}

void Scenario::run(const std::string& statement) {
  std::istringstream in(statement);
  std::vector<std::string> words;
  Fields fields;
  std::string word;
  while (in >> word) {
    if (words.size() == 2 && words[0] == "at") {
      std::string rest;
      std::getline(in, rest);
      timed_.push_back({start_ + std::chrono::milliseconds(to_number(words[1])), word + rest});
      return;
    }
    const size_t equals = word.find('=');
    if (equals == std::string::npos)
      words.push_back(word);
    else
      fields[word.substr(0, equals)] = word.substr(equals + 1);
  }
  const std::string& verb = words.at(0);
  if (verb == "driver") {
    driver = words.at(1);
  } else if (verb == "cuda") {
    cuda = std::stoi(words.at(1));
  } else if (verb == "gpu" || verb == "mig") {
    devices_.push_back({verb == "mig", fields});
  } else if (verb == "fail") {
    fails_.push_back({words.at(1), abi::Code{std::stoi(words.at(2))},
                      fields.contains("device") ? std::stoi(fields["device"]) : -1,
                      fields.contains("after") ? std::stoi(fields["after"]) : 0});
  } else if (verb == "set") {
    FakeDevice& device = devices_.at(to_number(fields.at("device")));
    for (const auto& [name, value] : fields) device.fields[name] = value;
  } else if (verb == "xid") {
    add_xid(words, fields);
  } else if (verb == "hang") {
    hangs_[words.at(1)] = std::chrono::milliseconds(to_number(words.at(2)));
  } else if (verb == "early") {
    is_early_ = true;
  } else {
    give_up("what is \"" + statement + "\"?");
  }
}

void Scenario::add_xid(const std::vector<std::string>& words, const Fields& fields) {
  const auto instance = [&](const char* name) {
    const auto at = fields.find(name);
    return at == fields.end() ? abi::kNoInstance : static_cast<uint32_t>(to_number(at->second));
  };
  abi::EventData data{};
  data.device = handle_of(devices_.at(to_number(fields.at("device"))));
  data.type = abi::kEventXid;
  data.data = to_number(words.at(1));
  data.gpu_instance = instance("gi");
  data.compute_instance = instance("ci");
  if (std::count(registered_.begin(), registered_.end(), data.device) > 0) events_.push_back(data);
}

void Scenario::run_due(Clock::time_point now) {
  const auto waiting = std::stable_partition(timed_.begin(), timed_.end(),
                                             [&](const Timed& t) { return t.at <= now; });
  const std::vector<Timed> due(timed_.begin(), waiting);
  timed_.erase(timed_.begin(), waiting);
  for (const Timed& t : due) run(t.statement);
}

abi::Code Scenario::enter(const std::string& function, abi::DeviceHandle handle) {
  run_due(Clock::now());
  const int calls_now = static_cast<int>(++calls[function]);
  if (const auto hang = hangs_.extract(function)) {
    mutex.unlock();  // held by the caller: only this thread hangs
    std::this_thread::sleep_for(hang.mapped());
    mutex.lock();
  }
  abi::Code code = abi::Code::ok;
  for (const Fail& fail : fails_) {
    const bool is_named = fail.function == function || (fail.function == "*" && handle != nullptr);
    const bool is_device = fail.device < 0 || fail.device == index_of(handle);
    if (is_named && is_device && calls_now > fail.after) code = fail.code;  // the last one counts
  }
  return code;
}

void Scenario::drop_events() {
  registered_.clear();
  events_.clear();
}

// "fail * 15 device=N" is how a GPU gets lost.
bool Scenario::has_lost() const {
  bool any = false;
  for (const auto handle : registered_) {
    bool is_lost = false;
    for (const Fail& fail : fails_)
      if (fail.function == "*" && (fail.device < 0 || fail.device == index_of(handle)))
        is_lost = fail.code == abi::Code::gpu_lost || fail.code == abi::Code::reset_required;
    any = any || is_lost;
  }
  return any;
}

abi::Code Scenario::wait(abi::EventData& data, unsigned timeout_ms) {
  const auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  std::unique_lock lock(mutex);
  const abi::Code code = enter("nvmlEventSetWait_v2");
  if (code != abi::Code::ok) return code;
  if (is_early_) return abi::Code::timeout;
  while (events_.empty() && !has_lost() && Clock::now() < end) {
    auto until = end;
    for (const Timed& t : timed_) until = std::min(until, t.at);
    lock.unlock();
    std::this_thread::sleep_until(until);
    lock.lock();
    run_due(Clock::now());
  }
  if (has_lost()) return abi::Code::gpu_lost;  // the worst case: whatever else waits there
  if (events_.empty()) return abi::Code::timeout;
  data = events_.front();
  events_.pop_front();
  return abi::Code::ok;
}

// A handle is the number of a device, from 1.
abi::DeviceHandle Scenario::handle_of(const FakeDevice& device) const {
  uintptr_t number = 0;
  for (const FakeDevice& d : devices_) {
    ++number;
    if (&d == &device) return std::bit_cast<abi::DeviceHandle>(number);
  }
  give_up("a device of another scenario");
}

int Scenario::index_of(abi::DeviceHandle handle) const {
  return static_cast<int>(std::bit_cast<uintptr_t>(handle)) - 1;
}

FakeDevice* Scenario::find(abi::DeviceHandle handle) {
  const auto index = static_cast<size_t>(index_of(handle));
  return index < devices_.size() ? &devices_[index] : nullptr;
}

abi::DeviceHandle Scenario::gpu(unsigned n) {
  for (FakeDevice& d : devices_)
    if (!d.is_mig && n-- == 0) return handle_of(d);
  return nullptr;
}

abi::DeviceHandle Scenario::mig(abi::DeviceHandle gpu, unsigned n) {
  for (FakeDevice& d : devices_)
    if (d.is_mig && static_cast<int>(d.number("gpu")) == index_of(gpu) && n-- == 0)
      return handle_of(d);
  return nullptr;
}

unsigned Scenario::gpu_count() const {
  return static_cast<unsigned>(
      std::count_if(devices_.begin(), devices_.end(), [](const auto& d) { return !d.is_mig; }));
}

}  // namespace fake_nvml
