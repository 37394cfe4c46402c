// Waits: who waits for which task. An id costs about 90 bytes per waiter.
//
// Every WAIT gets one row per id at most, and no row after it is done. What one turn brings for one
// WAIT is sent together. Iteration is by key or by order of arrival, never by hash.
#pragma once

#include <tsl/robin_map.h>

#include <compare>
#include <map>
#include <vector>

#include "common/base/ids.h"
#include "common/wire/outbox.h"
#include "services/aggregator/core/ready_batch.h"

namespace dray {

// Who asked: the router's session, the client behind it, the client's request.
struct WaitKey {
  SessionId session = SessionId::none;
  uint64_t route = 0;
  uint64_t req = 0;
  auto operator<=>(const WaitKey&) const = default;
};
inline Send to_asker(const WaitKey& key, Message message) {
  return Send{key.session, key.route, key.req, 0, std::move(message), {}, 0};
}

class Waits {
 public:
  bool empty() const { return ids_ == 0; }
  size_t ids() const { return ids_; }  // over all waits
  size_t size() const { return by_key_.size(); }

  // `ids`: distinct, none of them finished. Done when `need` (1 .. ids.size()) of them are.
  void add(const WaitKey& key, bool with_bytes, uint32_t need, std::vector<TaskId> ids);
  bool remove(const WaitKey& key);
  void remove_session(SessionId session);
  // A task ended; its bytes are body[offset, offset + row.len).
  void finish(const ResultRow& row, const Bytes& body, size_t offset);
  void flush(std::vector<Send>& out);  // after all finish() of a turn
  void check() const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Node {  // one (id, wait); chained by id
    uint32_t wait = kNone;
    uint32_t next = kNone;
  };
  struct Wait {
    WaitKey key;
    bool with_bytes = true;
    bool touched = false;
    uint32_t need = 0;
    std::vector<TaskId> ids;  // as registered, finished ones included
    ReadyBatch ready;
  };
  uint32_t new_node(Node node);
  void free_node(uint32_t n);
  void unlink(TaskId id, uint32_t wait);
  void erase(std::map<WaitKey, uint32_t>::iterator it);

  tsl::robin_map<TaskId, uint32_t, std::hash<TaskId>> first_;  // first node of an id
  std::vector<Node> nodes_;
  std::vector<uint32_t> free_nodes_;
  std::vector<Wait> waits_;
  std::vector<uint32_t> free_waits_;
  std::map<WaitKey, uint32_t> by_key_;
  std::vector<uint32_t> touched_;  // waits with something to send
  size_t ids_ = 0;
};

}  // namespace dray
