// TaskBatch: where the ends of tasks that were submitted together are kept for their Task handles;
// TaskRegistry: finds the place of a task id.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "client/src/convert.h"

namespace dray {
inline namespace client_v1 {

struct TaskBatch {
  struct Slot {
    std::string bytes;
    uint32_t exec_us = 0;
    uint16_t attempt = 0;
    State state = State::unknown;
    Code code = Code::ok;
    bool over = false;
  };
  using Callback = std::function<void(const TaskOutcome&)>;

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Slot> slots;
  size_t messages_open = 0;  // submits that were not answered
  std::optional<ClientError> error;  // of the first submit that was refused
  std::unordered_multimap<uint32_t, Callback> callbacks;  // by slot
  Millis timeout{0};  // default of the client
  std::thread::id client_thread;

  TaskOutcome outcome(uint32_t index, Id id) const {  // with the mutex held
    const Slot& s = slots[index];
    return {id, s.state, s.code, s.attempt, std::chrono::microseconds(s.exec_us), s.bytes};
  }
};

}  // namespace client_v1

// Callbacks and outcomes collected under locks, to be called without them.
using DueCallbacks = std::vector<std::pair<TaskBatch::Callback, TaskOutcome>>;

// Not locked: the owner does that.
class TaskRegistry {
 public:
  struct Place {
    TaskBatch* batch = nullptr;
    uint32_t index = 0;
  };
  // Registers ids[i] as slot base + i. False (and nothing is done) if one of them is there already.
  bool add(std::span<const TaskId> ids, const std::shared_ptr<TaskBatch>& batch, uint32_t base);
  bool has(TaskId id) const;
  // Closes the task's slot; false if the id is not registered here.
  // The caller passes one Session for many calls: batches are locked once per run of rows.
  class Session;
  void remove(TaskId id);
  std::vector<std::pair<TaskId, std::shared_ptr<TaskBatch>>> all() const;

 private:
  friend class Session;
  struct Range {
    uint32_t first = 0;  // slot of the page
    uint32_t count = 0;
    uint32_t left = 0;
    uint32_t base = 0;
    std::shared_ptr<TaskBatch> batch;
  };
  using Page = std::vector<Range>;
  std::unordered_map<TaskId, Page> pages_;
};

class TaskRegistry::Session {
 public:
  Session(TaskRegistry& registry, DueCallbacks& due) : registry_(registry), due_(due) {}
  ~Session() { leave(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  bool close(const ResultRow& row, std::string_view bytes);

 private:
  void leave();
  Range* find(TaskId id);

  TaskRegistry& registry_;
  DueCallbacks& due_;
  std::shared_ptr<TaskBatch> batch_;
  std::unique_lock<std::mutex> lock_;
  TaskId page_id_;
  Page* page_ = nullptr;
};

}  // namespace dray
