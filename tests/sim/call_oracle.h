// CallOracle: promise P5, judged from outside the cores. It knows every call from the moment a
// caller makes it, and every execution from the moment an executor begins it.
//
// * A call ends exactly once at its client, by its deadline, and says the truth: rejected and
//   expired ones are never executed, a reply is what an execution of that very call returned,
//   `unknown` was sent.
// * Only idempotent calls are executed twice.
// * Parts come in order, without gaps, from one execution, and only as many as the reader granted.
// * Executions that nobody waits for are asked to stop; a stream whose reader reads goes on.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "client/core/events.h"
#include "common/wire/rows.h"
#include "tests/sim/world.h"

namespace dray::sim {

class Node;

struct CallOrder {
  const Node* client = nullptr;
  std::string handler;
  std::string key;
  uint64_t window = 0;
  uint16_t items = 1;
  uint16_t flags = 0;
  bool may_repeat = false;  // by the caller's flag or the handler's
  size_t size = 0;
  Duration deadline{0};
  bool easy = false;  // in a seed of graceful leaves only: nothing may stop it
};

struct CallTruth {
  CallOrder order;
  std::vector<uint64_t> executions;
  uint64_t sends = 0;  // sendings of its client
  bool cancelled = false;
  bool ended = false;
  CallEnd end = CallEnd::part;
  Duration end_at{0};
  std::vector<uint64_t> parts_of;  // executions they may come from: short parts may look alike
  uint64_t part_bytes = 0;  // told to the reader
  uint64_t taken = 0;  // by the reader
  Duration taken_at{0};
};

struct CallExecution {
  uint64_t call = 0;
  const Node* worker = nullptr;
  bool stop_asked = false;
  bool returned = false;
  bool replied = false;  // else it failed
  bool lost = false;  // its process died
  uint64_t stream = 0;  // bytes of parts sent
  Duration blocked_at{-1};  // waits for a reader since
};

class CallOracle {
 public:
  explicit CallOracle(World& world) : world_(world) {}

  // --- callers
  uint64_t made(CallOrder order);
  std::string payload(uint64_t call) const;
  uint64_t left(std::string_view payload);  // it is on its way; which call it is
  void cancels(uint64_t call) { calls_[call - 1].cancelled = true; }
  void takes(uint64_t call, uint64_t bytes);
  // Part or end. `latest`: the client was not able to say it earlier.
  void told(uint64_t call, const CallEvent& event);
  void client_died(const Node& client);

  // --- executors
  uint64_t id_of(std::string_view payload) const;
  uint64_t begins(uint64_t call, std::string_view handler, std::string_view key,
                  const Node& worker);
  void stops(uint64_t execution) { executions_[execution - 1].stop_asked = true; }
  void sends(uint64_t execution, uint64_t bytes) { executions_[execution - 1].stream += bytes; }
  void blocks(uint64_t execution, bool on);
  std::string returns(uint64_t execution, bool ok);  // the bytes to return
  void dies(uint64_t execution);
  static std::string stream_bytes(uint64_t execution, uint64_t offset, uint64_t size);

  const CallTruth& call(uint64_t id) const { return calls_[id - 1]; }
  const std::set<uint64_t>& open() const { return open_; }
  void check_running() const;  // now and then
  void check_open() const;

 private:
  void check_end(uint64_t id, const CallTruth& c, const CallEvent& event) const;
  void check_reply(uint64_t id, const CallTruth& c, CallEnd end, const Bytes& bytes) const;
  void check_unknown(uint64_t id, const CallTruth& c) const;
  void check_repeats(uint64_t id, const CallTruth& c) const;
  void check_easy(uint64_t id, const CallTruth& c, const CallEvent& event) const;
  void on_part(uint64_t id, CallTruth& c, const CallEvent& event);
  void count(const CallTruth& c, const CallEvent& event);
  Duration calm_since(Duration at) const;

  World& world_;
  std::vector<CallTruth> calls_;  // id - 1
  std::vector<CallExecution> executions_;
  std::set<uint64_t> open_;  // calls
  std::set<uint64_t> running_;  // executions
};

}  // namespace dray::sim
