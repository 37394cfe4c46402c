// Holdings: the tasks that are queued or running at this worker, by token and in order.
#pragma once

#include <tsl/robin_map.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/ids.h"
#include "common/base/time.h"
#include "common/resources/node_ledger.h"
#include "services/worker/core/work.h"

namespace dray::worker {

struct HeldTask {
  TaskId id;
  Token token;
  std::shared_ptr<const LocalSpec> spec;
  Bytes payload;
  Time since{};  // queued: arrival; running: handed to the executors
  Time limit_at = kNever;  // next step of the time limit
  GrantId grant{0};  // running with needs: of the node's ledger
  uint32_t prev = 0;
  uint32_t next = 0;
  uint32_t piece = 0;  // tasks with equal numbers run together; 0: alone
  uint16_t attempt = 0;
  uint8_t limit_step = 0;  // 0: cancel, 1: report, 2: stuck
  bool running = false;
  bool revoked = false;  // void: its outcome is dropped
  bool reported = false;  // time limit reported (or void); only the executor has not returned
};

class Holdings {
 public:
  using Index = uint32_t;
  static constexpr Index kNone = UINT32_MAX;

  Index add(HeldTask task);  // to the end of the queue
  Index find(Token token) const;
  HeldTask& at(Index i) { return slab_[i]; }  // until the next add
  const HeldTask& at(Index i) const { return slab_[i]; }
  void start(Index i, Time now);  // queued -> running, newest
  void requeue(Index i);  // running -> head of the queue
  void mark_reported(Index i);
  void remove(Index i);

  Index oldest_queued() const { return queue_.head; }
  Index newest_queued() const { return queue_.tail; }
  Index oldest_running() const { return run_.head; }
  Index after(Index i) const { return slab_[i].next; }
  size_t queued() const { return queue_.size; }
  size_t queued_of(uint32_t handler) const {
    return handler < queued_of_.size() ? queued_of_[handler] : 0;
  }
  size_t running() const { return run_.size; }
  size_t reported() const { return reported_; }
  size_t size() const { return queue_.size + run_.size; }
  size_t payload_bytes() const { return payload_bytes_; }
  void check() const;

 private:
  struct List {
    Index head = kNone;
    Index tail = kNone;
    size_t size = 0;
  };
  void link(List& list, Index i, Index before);
  size_t& count_of(const HeldTask& task);
  void unlink(List& list, Index i);
  size_t check_list(const List& list, bool running) const;

  std::vector<HeldTask> slab_;
  std::vector<Index> free_;
  tsl::robin_map<Token, Index, std::hash<Token>> by_token_;
  List queue_;
  List run_;
  std::vector<size_t> queued_of_;  // by handler
  size_t reported_ = 0;
  size_t payload_bytes_ = 0;
};

}  // namespace dray::worker
